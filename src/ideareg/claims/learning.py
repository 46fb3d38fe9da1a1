"""Claims on what is learned: nuggets, robustness, sparsity, warped kernels, Gaussian processes."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np

from ideareg import kernels as ik
from ideareg.claims.claim import Claim, largest, row, some_state
from ideareg.estimators.classifier import WarpingClassifier
from ideareg.estimators.warping import WarpingRegressor
from ideareg.hamiltonian import Hamiltonian, State
from ideareg.integrators import RK4
from ideareg.prior import sample_flows
from ideareg.relaxation import Relaxation, relax
from ideareg.robustness import continuous_lipschitz
from ideareg.shooting import shoot, transport


def nugget() -> Iterator[Claim]:
    """Relaxed training: the nugget r on Γ and ρ on K."""
    name, rng = "nugget", np.random.default_rng(4)
    X = rng.normal(size=(6, 2))
    path = np.concatenate([X[None], rng.normal(size=(5, 6, 2))])
    Y = rng.normal(size=(6, 1))
    lam, rho = 0.3, 0.15
    numbers = {"nu": 0.7, "penalty": lam, "nugget": 0.2, "head_nugget": rho}
    problem = Relaxation(ik.Activation("tanh"), ik.Activation("sigmoid"), **numbers)
    reduced = problem.value(path, Y)
    forms = [
        problem.slack_value(path, Y, problem.best_slack(path, Y)),
        problem.weight_value(X, Y, problem.best_weights(path, Y)),
    ]
    off = largest(*[form / reduced - 1 for form in forms])
    yield row(name, "slack, weight and reduced form have one value", off, 0, 1e-12)
    weights, p = problem.best_weights(path, Y), np.asarray(problem.momenta(path))
    off = largest(weights.z - np.sqrt(0.2) * p / 5)
    yield row(name, "the slack of a layer is √r h p", off, 0, 1e-12)

    ham, state = Hamiltonian(ik.Gaussian(), 0.3), some_state(4)
    joined = State(np.concatenate([state.q, X]), np.concatenate([state.p, np.zeros((6, 2))]))
    alone, crowd = (shoot(ham, each, 5, RK4()) for each in (state, joined))
    rows = transport(ham, RK4(), alone, X)
    off = largest(crowd.q[:, :4] - alone.q, crowd.q[-1, 4:] - rows)
    yield row(name, "rows without momentum change nothing and follow the flow", off, 0, 1e-12)

    plain = Relaxation(ik.Gaussian(), ik.Gaussian(), **numbers)
    ratios = []
    for gap in (1.0, 1e-2, 1e-4, 1e-8):
        pair = np.array([[0.0], [gap]])
        opposite = np.array([[1.0], [-1.0]])
        ratios.append(float(plain.value(np.stack([pair, pair]), opposite)) * rho / (2 * lam))
    yield row(
        name, "opposite labels merge: value over its bound λ|Y|²/ρ is at most 1",
        max(ratios), 0.5, 0.5,
    )  # fmt: skip


def robustness() -> Iterator[Claim]:
    """The value of relaxed training as the data move."""
    name, r, rho = "robustness", 0.1, 0.1
    start = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 0.5], [0.5, 0.5]])
    Y = np.array([[1.0], [-1.0], [1.0], [-1.0]])
    problem = Relaxation(ik.Gaussian(), ik.Gaussian(), 1.0, 1.0, r, rho, "optimal_recovery")
    merged = relax(problem, start, Y, 4)
    V, by_inputs, by_targets = float(merged.value), [], []
    for gap in (0.05, 0.2):
        X = start + gap * np.array([[0.0], [0.0], [0.0], [1.0]]) * [1.0, 0.0]
        near = float(relax(problem, X, Y, 4, start=merged.path).value)
        bound = np.sqrt(2 * max(V, near) / r) * gap + gap**2 / (2 * r)
        by_inputs.append(abs(near - V) / bound)
        other = Y + gap * np.array([[1.0], [0.0], [0.0], [0.0]])
        near = float(relax(problem, start, other, 4, start=merged.path).value)
        by_targets.append(abs(np.sqrt(near) - np.sqrt(V)) / (np.sqrt(1 / rho) * gap))
    yield row(
        name, "change of the minimal value over its bound, inputs moved, is at most 1",
        max(by_inputs), 0.5, 0.5,
    )  # fmt: skip
    yield row(
        name, "change of its root over its bound, targets moved, is at most 1",
        max(by_targets), 0.5, 0.5,
    )  # fmt: skip


def certificates() -> Iterator[Claim]:
    """Bounds from norms alone, against what happens."""
    name, ham, state = "robustness", Hamiltonian(ik.Gaussian()), some_state(6)
    path = shoot(ham, state, 100, RK4())
    rng = np.random.default_rng(7)
    x, u = 1.5 * rng.normal(size=(400, 2)), 1e-6 * rng.normal(size=(400, 2))
    moved = np.asarray(transport(ham, RK4(), path, x + u) - transport(ham, RK4(), path, x))
    seen = (np.linalg.norm(moved, axis=1) / np.linalg.norm(u, axis=1)).max()
    bound = continuous_lipschitz(ham, state)
    yield row(
        name, "stretch of the flow over its certificate e^(κ√2H) is at most 1",
        seen / bound, 0.5, 0.5,
    )  # fmt: skip


def sparsity() -> Iterator[Claim]:
    """Two classes with a margin, the squared hinge, and a control point on every row."""
    name, rng = "sparsity", np.random.default_rng(0)
    X = rng.normal(size=(40, 2))
    side = np.sin(2 * X[:, 0]) + X[:, 1]
    X, y = X[np.abs(side) > 0.3], np.sign(side[np.abs(side) > 0.3])
    model = WarpingClassifier(
        loss="squared_hinge", n_control_points="rows", learn_head=False, nu=0.5, depth=2,
        kernel="matern52", random_state=0, verbose=0,
    ).fit(X, y)  # fmt: skip
    off = np.setdiff1d(np.arange(len(X)), model.support_)
    yield row(
        name, "share of rows in the support is strictly between 0 and 1",
        len(model.support_) / len(X), 0.5, 0.4999,
    )  # fmt: skip
    yield row(
        name, "momentum of the rows that are satisfied is zero",
        largest(model.momentum_norms_[off]), 0, 0.0,
    )  # fmt: skip
    at = rng.normal(size=(50, 2))
    change = largest(model.prune().decision_function(at) - model.decision_function(at))
    yield row(name, "pruning them changes predictions by", change, 0, 1e-10)


def warped_kernels() -> Iterator[Claim]:
    """A fitted regressor is kernel regression with the kernel that its flow warps."""
    name, rng = "warping kernels", np.random.default_rng(3)
    X = rng.normal(size=(40, 2))
    y = np.tanh(4 * X[:, 0]) + 0.1 * X[:, 1]
    model = WarpingRegressor(nu=1.0, n_control_points=6, max_iter=20, random_state=0, verbose=0)
    model.fit(X, y)
    K = model.warping_kernel(X)
    dual = np.linalg.solve(K + model.noise_ * np.eye(40), (y - y.mean()) / y.std())
    at = rng.normal(size=(9, 2))
    predicted = y.mean() + y.std() * model.warping_kernel(at, X) @ dual
    yield row(
        name, "ridge regression with the warping kernel is predict",
        largest(predicted - model.predict(at)), 0, 1e-8,
    )  # fmt: skip
    radius = model.certified_radius(at, 0.1)
    yield row(
        "robustness", "certified radius over the nearest attack that succeeds is at most 1",
        (radius / model.attacked_radius(at, 0.1)).max(), 0.5, 0.5,
    )  # fmt: skip

    # The worst function at a point, seen without noise at the rows, by the same warp.
    h = np.linalg.solve(K + model.noise_ * np.eye(40), model.warping_kernel(X, at[:1])[:, 0])
    centres, c = np.vstack([at[:1], X]), np.append(1.0, -h)
    norm = y.std() * np.sqrt(c @ model.warping_kernel(centres) @ c)

    def known(A: np.ndarray) -> np.ndarray:
        return y.mean() + y.std() * model.warping_kernel(A, centres) @ c

    predicted, bound = model.condition(X, known(X)).predict(at, return_bound=True, norm=norm)
    yield row(
        name, "error over power function times norm is at most 1",
        (np.abs(known(at) - predicted) / bound).max(), 0.5, 0.5,
    )  # fmt: skip


def random_layers() -> Iterator[Claim]:
    """The prior that the decay is the density of: layers of independent Gaussian processes."""
    nu, samples, d = 2.0, 4000, 2
    start = np.random.default_rng(9).normal(size=(3, d))
    paths = sample_flows(jax.random.key(9), ik.Gaussian(), start, nu=nu, depth=5, count=samples)
    moved = np.asarray((paths[:, -1] - start) ** 2).sum(-1).mean(1) * nu / d
    error = 3 * moved.std() / np.sqrt(samples)
    yield row(
        "deep Gaussian processes", "prior displacement E|φ(x) - x|² over d k(0)/ν",
        moved.mean(), 1, float(f"{error:.1g}"),
    )  # fmt: skip
