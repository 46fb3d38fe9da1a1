r"""Inducing patches learned from labels: Adam on what a kernel ridge says of rows it leaves out.

On a batch of rows, with features F of the layers, standardised, and
:math:`A = e^{-\gamma|F_i-F_j|^2} + \lambda I`, the prediction for a row by the others is

.. math:: f_i = Y_i - (A^{-1}Y)_i / (A^{-1})_{ii},

and the loss is that of these predictions: softmax for classes, the square for numbers. It judges
the features by the head that follows them, needs no weights of its own, and a row cannot vote for
itself. Patches Z, sharpness α, γ and λ move; the whitening follows from Z and α, so the layers stay
the Nyström features of a kernel.

A step depends on the state and its own number alone, batches included. A checkpoint is the state,
so a run that is killed and started again makes the steps that it would have made.
"""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Float
from sklearn.exceptions import ConvergenceWarning

from ideareg import persistence
from ideareg._types import Result, Scalar
from ideareg.convolution import WHITENING_RIDGE, AbstractLayer, Floats, Layers, Maps, root_gram
from ideareg.nystrom import Ints

# Rows of a step: a few of each class must be among them.
BATCH = 128
RATE = 1e-2
# Where γ, λ and the slope of the softmax begin, and what keeps A positive in float32.
FIRST_GAMMA, FIRST_RIDGE, FIRST_SLOPE, LEAST_RIDGE = 0.2, 1e-2, 4.0, 1e-4
# Beside features of root mean square 1: their signed roots F / (|F| + SMOOTH)^½ have a slope at 0.
SMOOTH = 1e-3
ADAM = optax.scale_by_adam()
# Between checkpoints.
SECONDS = 5.0


class Refinement(NamedTuple):
    """What is asked of a refinement: passes over the rows, and whether targets are classes (±1)."""

    epochs: int
    classes: bool


class Learned(NamedTuple):
    """What moves: for each layer Z and log α; log γ, log λ and the log of the slope."""

    patches: tuple[Array, ...]
    sharpness: tuple[Array, ...]
    head: Float[Array, "3"]


class State(NamedTuple):
    """After some steps: what is learned, and the memory of Adam."""

    learned: Learned
    memory: Any


def refine(
    layers: Layers,
    rows: Callable[[Ints, np.random.RandomState], Floats],
    Y: Floats,
    task: Refinement,
    seed: int,
    report: Callable[..., Any],
    checkpoint: Checkpoint,
) -> Layers:
    """Train the inducing patches of layers, and return the layers with them.

    Parameters
    ----------
    layers : tuple of AbstractLayer
        Where to begin.
    rows : callable
        Returns the images of given numbers; it may move them at random.
    Y : ndarray, shape (n, k)
        Targets of mean near 0; of classes, positive in the column of the class, or for one column
        positive in the second class.
    task : Refinement
    seed : int
        Decides the batches.
    report : callable
        Called with "refine" and the loss of each step.
    checkpoint : Checkpoint

    Returns
    -------
    tuple of AbstractLayer
        After the last step. Ctrl-C ends the training, with a warning: the layers are those of the
        steps so far, and the checkpoint goes on from there.
    """
    n = len(Y)
    batch = min(BATCH, n)
    in_epoch = n // batch
    steps = task.epochs * in_epoch
    # The rate falls to zero, so that the end is a minimum and not a cloud about it.
    rate = optax.cosine_decay_schedule(RATE, steps)
    targets = np.asarray(Y, dtype=layers[0].whitening.dtype)
    start = _start(layers)
    state, done = checkpoint.resume(State(start, ADAM.init(start)))
    try:
        for step in range(done, steps):
            epoch, place = divmod(step, in_epoch)
            random = np.random.RandomState([seed, epoch])
            chosen = random.permutation(n)[place * batch : (place + 1) * batch]
            images = rows(chosen, np.random.RandomState([seed, epoch, place]))
            state, loss = _advance(
                state, layers, images, targets[chosen], np.asarray(rate(step), targets.dtype),
                task.classes,
            )  # fmt: skip
            done = step + 1
            checkpoint.write(state, done, last=done == steps)
            report("refine", loss=float(loss))
    except KeyboardInterrupt:
        warnings.warn(Result.interrupted.message, ConvergenceWarning, stacklevel=5)
        checkpoint.write(state, done, last=True)
    return tuple(_finished(layer, state.learned, i) for i, layer in enumerate(layers))


@eqx.filter_jit
def _advance(
    state: State, layers: Layers, images: Any, targets: Any, rate: Any, classes: bool
) -> tuple[State, Scalar]:
    loss, slope = jax.value_and_grad(_loss)(state.learned, layers, images, targets, classes)
    move, memory = ADAM.update(slope, state.memory)
    learned = jax.tree.map(lambda at, by: at - rate * by, state.learned, move)
    return State(learned, memory), loss


def _start(layers: Layers) -> Learned:
    dtype = layers[0].whitening.dtype
    sharpness = tuple(jnp.asarray(np.log(layer.alpha), dtype) for layer in layers)
    head = np.log([FIRST_GAMMA, FIRST_RIDGE, FIRST_SLOPE])
    patches = tuple(jnp.asarray(layer.inducing) for layer in layers)
    return Learned(patches, sharpness, jnp.asarray(head, dtype))


def _loss(
    learned: Learned, layers: Layers, images: Maps, targets: Float[Array, "b k"], classes: bool
) -> Scalar:
    for layer, Z, alpha in zip(layers, learned.patches, learned.sharpness, strict=True):
        images = with_patches(layer, Z, jnp.exp(alpha))(images)
    gamma, ridge, slope = jnp.exp(learned.head)
    if not classes:
        return ((left_out(_standard(images), targets, gamma, ridge) - targets) ** 2).mean()
    own = targets > 0
    if targets.shape[1] == 1:
        own = jnp.concatenate([~own, own], axis=1)
    signs = jnp.where(own, 1.0, -1.0).astype(targets.dtype)
    f = left_out(_standard(images), signs, gamma, ridge)
    return -jnp.where(own, jax.nn.log_softmax(slope * f), 0.0).sum() / len(f)


def _standard(maps: Maps) -> Float[Array, "b d"]:
    """Return the signed roots of maps as rows, of mean 0 and root mean square norm 1."""
    F = maps.reshape(len(maps), -1)
    F = F / jnp.sqrt((F**2).mean())
    F = F / jnp.sqrt(jnp.abs(F) + SMOOTH)
    F = F - F.mean(0)
    return F / jnp.sqrt((F**2).sum(1).mean())


def left_out(
    F: Float[Array, "b d"], Y: Float[Array, "b k"], gamma: Scalar, ridge: Scalar
) -> Float[Array, "b k"]:
    """Return for each row the prediction of a Gaussian kernel ridge on the others.

    Examples
    --------
    >>> F, Y = jnp.array([[0.0], [0.0], [9.0]]), jnp.array([[1.0], [1.0], [-2.0]])
    >>> left_out(F, Y, 1.0, 1.0).round(3).tolist()
    [[0.5], [0.5], [0.0]]
    """
    square = (F**2).sum(1)
    gap = jnp.maximum(square[:, None] + square - 2 * F @ F.T, 0.0)
    mean = Y.mean(0)
    A = jnp.exp(-gamma * gap) + (ridge + LEAST_RIDGE) * jnp.eye(len(F), dtype=F.dtype)
    inverse = cho_solve((jnp.linalg.cholesky(A), True), jnp.eye(len(F), dtype=F.dtype))
    return Y - inverse @ (Y - mean) / jnp.diagonal(inverse)[:, None]


def with_patches(layer: AbstractLayer, Z: Array, alpha: Scalar) -> AbstractLayer:
    """Return the layer with other inducing patches, in any length, and another sharpness."""
    unit = _unit(layer, Z)
    flat = unit.reshape(-1, unit.shape[-1])
    gram = jnp.exp(alpha * (jnp.minimum(flat.T @ flat, 1.0) - 1.0))
    parts = unit, inverse_root(gram), alpha
    return eqx.tree_at(lambda one: (one.inducing, one.whitening, one.alpha), layer, parts)


def _unit(layer: AbstractLayer, Z: Array) -> Array:
    axes = tuple(range(Z.ndim - 1))
    if layer.centred:
        Z = Z - Z.mean(axes, keepdims=True)
    return Z / jnp.sqrt((Z**2).sum(axes, keepdims=True))


def _finished(layer: AbstractLayer, learned: Learned, i: int) -> AbstractLayer:
    """Return the layer with what was learned, as `fit_layers` would make it of such patches."""
    unit = np.asarray(_unit(layer, learned.patches[i]))
    alpha = float(np.exp(np.float64(learned.sharpness[i])))
    whitening = root_gram(unit.reshape(-1, unit.shape[-1]).T.astype(np.float64), alpha)
    parts = unit, whitening.astype(unit.dtype), alpha
    return eqx.tree_at(lambda one: (one.inducing, one.whitening, one.alpha), layer, parts)


@jax.custom_vjp
def inverse_root(A: Float[Array, "M M"]) -> Float[Array, "M M"]:
    r"""Return (A + ε)^(-1/2) of a positive matrix, with a derivative where eigenvalues meet.

    .. math:: dA^{-1/2} = V\Big[V^TdA\,V\circ\frac{-1}{s_is_j(s_i+s_j)}\Big]V^T,
        \qquad s = \sqrt{\lambda + \epsilon}.
    """
    return _root_and_parts(A)[0]


def _root_and_parts(A: Array) -> tuple[Array, tuple[Array, Array]]:
    values, V = jnp.linalg.eigh(A)
    s = jnp.sqrt(jnp.maximum(values, 0.0) + WHITENING_RIDGE)
    return (V / s) @ V.T, (V, s)


def _root_back(parts: tuple[Array, Array], pushed: Array) -> tuple[Array]:
    V, s = parts
    share = -1 / (s[:, None] * s * (s[:, None] + s))
    return (V @ ((V.T @ pushed @ V) * share) @ V.T,)


inverse_root.defvjp(_root_and_parts, _root_back)


class Checkpoint:
    """The state of a training in one file, which is replaced as a whole.

    Parameters
    ----------
    path : path-like or None
        The file; None keeps nothing.
    fingerprint : str
        Of all that decides the steps.

    Raises
    ------
    OSError
        If the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str] | None, fingerprint: str) -> None:
        self.path, self.fingerprint = None if path is None else Path(path), fingerprint
        if self.path is not None:
            persistence.check_writable(self.path)
        self.written = time.monotonic()

    def resume(self, start: State) -> tuple[State, int]:
        """Return the state in the file and how many steps led there, or ``start`` and 0.

        Raises
        ------
        ModelFileError
            If the file is damaged, no checkpoint, or that of another training.
        """
        if self.path is None or not self.path.exists():
            return start, 0
        kind, header, arrays = persistence.read(self.path)
        wanted = _named(start)
        shapes = {name: (array.shape, array.dtype) for name, array in arrays.items()}
        good = kind == persistence.CHECKPOINT and header.get("fingerprint") == self.fingerprint
        good = good and shapes == {name: (a.shape, a.dtype) for name, a in wanted.items()}
        if not good or not all(np.isfinite(array).all() for array in arrays.values()):
            raise persistence.ModelFileError(
                f"{self.path} is not a checkpoint of this fit (other data, settings or version): "
                "remove it, or name another file."
            )
        leaves = [
            jnp.asarray(arrays[name], leaf.dtype)
            for name, leaf in zip(wanted, jax.tree.leaves(start), strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(start), leaves), int(header["step"])

    def write(self, state: State, step: int, *, last: bool) -> None:
        """Write the state if it is the last one, or the one in the file is some seconds old."""
        if self.path is None or (not last and time.monotonic() - self.written < SECONDS):
            return
        header = {"fingerprint": self.fingerprint, "step": step}
        persistence.write(self.path, persistence.CHECKPOINT, header, _named(state))
        self.written = time.monotonic()


def _named(state: State) -> dict[str, Any]:
    """Return the leaves as arrays of types that a file holds."""
    paths, _ = jax.tree_util.tree_flatten_with_path(state)
    named = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in paths}
    return {
        name: array.astype(np.int64) if array.dtype.kind == "i" else array
        for name, array in named.items()
    }


def fingerprint(layers: Layers, images: Floats, Y: Floats, *settings: Any) -> str:
    """Return a digest of all that decides the steps of a training."""
    said = (persistence.library_version(), BATCH, RATE, images.shape, *settings)
    digest = hashlib.sha256(repr(said).encode())
    for array in (*jax.tree.leaves(layers), images, Y):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
