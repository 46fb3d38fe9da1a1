r"""Nugget, Dropout and weight decay on one residual network, with the same seconds each.

The network lifts the standardised inputs to at least 32 columns by zeros, carries them through ten
layers :math:`q + w_s\psi(q)` with :math:`\psi = (\tanh, 1)`, and reads :math:`A\psi(q)`. Over the n
training rows it minimises

.. math:: \sum_i\ell_i + \frac\nu2\Big(L\sum_s\|w_s\|^2 + \|A\|^2\Big)
          \;\Big[+ \frac{\nu L}2\sum_{s,i}|z_{s,i}|^2\Big]

by Adam on all rows, its rate falling to zero over the seconds of the budget. With the nugget r,
layers are :math:`q + w_s\psi(q) + \sqrt r z_s` in training and lose :math:`z` after it; with
Dropout each tanh is left out with probability p in training and the others are divided by 1 - p.

Every method first tunes ν alone, then spends four more fits on what it adds: p, r, or finer ν.
A fifth of the training rows decides; the choice is then fitted on all of them.
"""

from __future__ import annotations

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array
from sklearn.preprocessing import StandardScaler

from ideareg.bench.suite import Case, Column, Suite, Task

WIDTH, DEPTH = 32, 10
SECONDS = 2.0
RATE = 1e-2
CHUNK = 20  # steps between two looks at the clock
TUNING_SHARE = 0.2
INPUT_NOISE, NOISY_COPIES = 0.5, 10
DECAYS = (0.1, 1.0, 10.0, 100.0)
FINER = (0.3, 0.55, 1.8, 3.3)  # times the best decay
STRENGTHS = {
    "decay": (),
    "dropout": (0.1, 0.2, 0.35, 0.5),
    "nugget": (0.1, 1.0, 10.0, 100.0),
}
CLASSES = ("sonar", "ionosphere", "breast_cancer", "pima")


class Setting(NamedTuple):
    """ν, and the probability p or the nugget r."""

    nu: Any
    strength: Any = 0.0


class Network(NamedTuple):
    """Weights (L, D, D + 1), readout (D + 1, k), and the slack of the training rows (L, n, D)."""

    w: Array
    A: Array
    z: Array


class Training(NamedTuple):
    """Standardised rows (n, d), targets (n, k) and weights (n,): 0 keeps a row out."""

    X: np.ndarray
    Y: np.ndarray
    weight: np.ndarray


def _lift(X: Any) -> Array:
    X = jnp.asarray(X, jnp.float32)
    return jnp.pad(X, ((0, 0), (0, max(WIDTH - X.shape[1], 0))))


def outputs(net: Network, X: Any, nudges: Any = None, masks: Any = None) -> Array:
    """Carry rows through the network; ``nudges`` and ``masks`` are for training."""
    q = _lift(X)
    if nudges is None:
        nudges = jnp.zeros((DEPTH, 1, 1))
    if masks is None:
        masks = jnp.ones((DEPTH + 1, 1, 1))

    def psi(q: Array, mask: Array) -> Array:
        return jnp.hstack([jnp.tanh(q) * mask, jnp.ones((len(q), 1))])

    def layer(q: Array, parts: tuple[Array, Array, Array]) -> tuple[Array, None]:
        w, nudge, mask = parts
        return q + psi(q, mask) @ w.T + nudge, None

    q, _ = jax.lax.scan(layer, q, (net.w, nudges, masks[:-1]))
    return psi(q, masks[-1]) @ net.A


def losses(f: Array, Y: Any, classes: bool) -> Array:
    """Return what each row charges: cross-entropy, or the squared error."""
    if classes:
        return jax.nn.logsumexp(f, axis=1) - (f * Y).sum(1)
    return ((f - Y) ** 2).sum(1)


@functools.partial(jax.jit, static_argnames=("method", "classes"))
def _steps(
    net: Network, state: Any, key: Array, data: Training, setting: Setting, rate: Array,
    method: str, classes: bool,
) -> tuple[Network, Any, Array]:  # fmt: skip
    """Take `CHUNK` steps of Adam."""
    optimiser = optax.scale_by_adam()

    def value(net: Network, key: Array) -> Array:
        nudges = masks = None
        if method == "dropout":
            shape = (DEPTH + 1, len(data.X), net.w.shape[1])
            kept = 1 - setting.strength
            masks = jax.random.bernoulli(key, kept, shape) / kept
        if method == "nugget":
            nudges = jnp.sqrt(setting.strength) * net.z
        charge = data.weight @ losses(outputs(net, data.X, nudges, masks), data.Y, classes)
        size = DEPTH * ((net.w**2).sum() + (net.z**2).sum()) + (net.A**2).sum()
        return (charge + 0.5 * setting.nu * size) / data.weight.sum()

    def step(carry: Any, _: None) -> tuple[Any, None]:
        net, state, key = carry
        key, now = jax.random.split(key)
        updates, state = optimiser.update(jax.grad(value)(net, now), state)
        net = jax.tree.map(lambda a, u: a - rate * u, net, updates)
        return (net, state, key), None

    return jax.lax.scan(step, (net, state, key), length=CHUNK)[0]


def fit(
    data: Training, method: str, setting: Setting, *, classes: bool, seed: int, seconds: float
) -> Network:
    """Train for a number of seconds, compilation aside."""
    data = Training(*(np.asarray(a, np.float32) for a in data))
    n, width, k = len(data.X), max(WIDTH, data.X.shape[1]), data.Y.shape[1]
    rng = np.random.default_rng(seed)
    start = Network(
        jnp.asarray(rng.normal(size=(DEPTH, width, width + 1)) / (DEPTH * width) ** 0.5, "float32"),
        jnp.asarray(rng.normal(size=(width + 1, k)) / width**0.5, "float32"),
        jnp.zeros((DEPTH, n, width) if method == "nugget" else (0,), "float32"),
    )
    state, key = optax.scale_by_adam().init(start), jax.random.key(seed)
    take = functools.partial(_steps, method=method, classes=classes)
    setting = Setting(*map(np.float32, setting))
    jax.block_until_ready(take(start, state, key, data, setting, jnp.zeros(())))
    net, begin, share = start, time.perf_counter(), 0.0
    while share < 1:
        rate = jnp.asarray(RATE * 0.5 * (1 + np.cos(np.pi * share)), "float32")
        net, state, key = take(net, state, key, data, setting, rate)
        jax.block_until_ready(net)
        share = (time.perf_counter() - begin) / seconds
    return net


def tune(
    data: Training, method: str, *, classes: bool, seed: int, seconds: float
) -> tuple[Setting, Network]:
    """Choose the setting on a fifth of the rows, and fit it on all."""
    held = np.random.default_rng(seed).random(len(data.X)) < TUNING_SHARE
    part = data._replace(weight=np.where(held, 0.0, data.weight))

    def judge(setting: Setting) -> float:
        how = method if setting.strength else "decay"
        net = fit(part, how, setting, classes=classes, seed=seed, seconds=seconds)
        f = outputs(net, data.X[held])
        return float(losses(f, jnp.asarray(data.Y[held], jnp.float32), classes).mean())

    trials = {setting: judge(setting) for setting in map(Setting, DECAYS)}
    nu = min(trials, key=trials.__getitem__).nu
    more = [Setting(nu, s) for s in STRENGTHS[method]] or [Setting(nu * f) for f in FINER]
    trials |= {setting: judge(setting) for setting in more}
    best = min(trials, key=lambda s: trials[s] if np.isfinite(trials[s]) else np.inf)
    how = method if best.strength else "decay"
    return best, fit(data, how, best, classes=classes, seed=seed, seconds=seconds)


def score(case: Case, task: Task) -> dict[str, float]:
    """Return ``clean`` and ``noisy``: the error without and with noise on the test inputs.

    Errors are the share of wrong classes, or the RMSE in standard deviations of the target. The
    noise has half the standard deviation of each column. Beside them the setting that was chosen.
    """
    classes, seed = task.set in CLASSES, task.split
    scaler = StandardScaler().fit(case.X)
    X, X_test = scaler.transform(case.X), scaler.transform(case.X_test)
    centre, scale = case.y.mean(), case.y.std()
    labels = np.unique(case.y)
    numbers = (case.y[:, None] - centre) / scale
    Y = (case.y[:, None] == labels).astype(float) if classes else numbers
    setting, net = tune(
        Training(X, Y, np.ones(len(X))), task.method, classes=classes, seed=seed, seconds=SECONDS
    )

    def error(X: np.ndarray, y: np.ndarray) -> float:
        f = np.asarray(outputs(net, X), np.float64)
        if classes:
            return float((labels[f.argmax(1)] != y).mean())
        return float(np.sqrt(np.mean((f[:, 0] - (y - centre) / scale) ** 2)))

    noise = np.random.default_rng(seed).normal(size=(NOISY_COPIES, *X_test.shape))
    noisy = (X_test + INPUT_NOISE * noise).reshape(-1, X_test.shape[1])
    return {
        "clean": error(X_test, case.y_test),
        "noisy": error(noisy, np.tile(case.y_test, NOISY_COPIES)),
        **setting._asdict(),
    }


DROPOUT = Suite(
    sets={name: f"cls_{name}" for name in CLASSES}
    | {"boston": "uci_boston", "concrete": "uci_concrete"},
    methods=tuple(STRENGTHS),
    columns=(Column("clean", "error", 3), Column("noisy", "error, noisy inputs", 3)),
    score=score,
)
