"""Claims on networks of finite depth, their limit, and their minimisers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from ideareg import kernels as ik
from ideareg._types import Points
from ideareg.claims.claim import Claim, largest, row
from ideareg.hamiltonian import State
from ideareg.integrators import RK4
from ideareg.leastaction import Distance, LeastAction, Regression, solve
from ideareg.limit import depth_study
from ideareg.resnet import from_trajectory, train


def landmarks(kernel: Any = None, nu: float = 1.0, nugget: float = 0.0) -> LeastAction:
    """Return four points in the plane with targets nearby."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4, 2))
    loss = Distance(X + 0.8 * rng.normal(size=(4, 2)), 2.0)
    return LeastAction(kernel or ik.Gaussian(), X, loss, nu, nugget)


def tanh_problem(regression: bool = False, nu: float = 0.5, nugget: float = 0.0) -> LeastAction:
    """Return twenty points in the plane and a tanh network: more points than features."""
    rng = np.random.default_rng(12)
    X = rng.normal(size=(20, 2))
    Y = 1.5 * np.column_stack([X[:, 0] + 0.5 * np.sin(2 * X[:, 1]), X[:, 1] - 0.4 * X[:, 0] ** 2])
    loss: Any = Regression(ik.Activation(), Y, 0.1) if regression else Distance(Y)
    return LeastAction(ik.Activation("tanh"), X, loss, nu, nugget)


def least_action() -> Iterator[Claim]:
    """A network of ten layers that minimises decay and loss."""
    name, problem = "discrete least action", landmarks()
    best = solve(problem, 10)
    t, ham = best.trajectory, problem.hamiltonian
    forces = [np.asarray(ham.force(State(t.q[s + 1], t.p[s + 1]))) for s in range(9)]
    off = np.diff(t.p[:-1], axis=0) - np.array(forces) / 10
    yield row(name, "momenta obey p' = p - h H_q(q', p'), with a minus", largest(off), 0, 1e-10)
    yield row(name, "the last momentum is the scaled gradient of the loss", best.gap, 0, 1e-10)


def networks() -> Iterator[Claim]:
    """A tanh network with more points than features, in weight and in momentum space."""
    name = "residual networks"
    for regression in (False, True):
        problem = tanh_problem(regression)
        what = "with a regressor" if regression else "to targets"
        weights, momentum = train(problem, 10), solve(problem, 10)
        network = weights.network
        other = from_trajectory(ik.Activation("tanh"), momentum.trajectory)
        yield row(
            name, f"one minimum in weights and in momenta, {what}",
            weights.value - momentum.value, 0, 1e-8,
        )  # fmt: skip
        gap = largest(np.asarray(network.weights) - np.asarray(other.weights))
        yield row(name, f"one network in weights and in momenta, {what}", gap, 0, 1e-6)
        p = network.momenta(problem.start, problem.loss, problem.nu)
        back = network.weights_from(problem.start, p)
        yield row(
            name, f"weights are sums of back-propagated gradients, {what}",
            largest(np.asarray(network.weights) - np.asarray(back)), 0, 1e-6,
        )  # fmt: skip


def limit() -> Iterator[Claim]:
    """Five to eighty layers beside the continuous flow."""
    name = "limit of infinite depth"
    study = depth_study(landmarks(), (10, 20, 40, 80))
    before, last = study.rows[-2:]
    extrapolated = 2 * last.excess - before.excess
    yield row(
        name, "L (V_L - V) tends to the predicted constant", extrapolated, study.constant, 1e-3
    )
    rate = np.log2(2 * before.momentum_error / last.momentum_error) - 1
    yield row(name, "p_1 tends to p(0) at rate 1/L: the exponent", 1 + rate, 1, 0.05)
    yield row(
        name, "L times the spread of the layers' norms settles: ratio of 80 layers to 40",
        last.spread / before.spread, 1, 0.05,
    )  # fmt: skip
    yield row(
        name, "first-order formula of the norms: what is left, times L²", last.remainder, 0, 0.1
    )


def uniqueness() -> Iterator[Claim]:
    """Minimisers need not be unique, and not all of them are limits of networks."""
    name = "minimisers"
    X = np.array([[-1.0, 0.0], [1.0, 0.0]])
    swap = LeastAction(ik.Gaussian(), X, Distance(-X, 50.0), 1.0, nugget=0.01)
    guess = np.array([[2.0, 4.0], [-2.0, -4.0]])
    up, down = (solve(swap, 20, start=guess * [1, sign]) for sign in (1, -1))
    yield row(name, "two points swap places: the minimal value", up.value, 8.914842673, 1e-8)
    yield row(name, "... which two mirrored flows attain", up.value - down.value, 0, 1e-10)

    def wells(q: Points) -> Any:
        return 50 * ((jnp.log(q) ** 2 - 0.25) ** 2).sum()

    double = LeastAction(ik.Linear(), np.ones((1, 1)), wells, 1.0)
    starts = (0.5, -0.5)
    A = abs(float(solve(double, 100, RK4(), start=[[starts[0]]]).momentum[0, 0]))
    gaps = []
    for L in (40, 80):
        values = [solve(double, L, start=[[a]]).value for a in starts]
        gaps.append(L * (values[0] - values[1]))
    yield row(
        name, "a continuous minimiser that no network tends to: L times its disadvantage",
        2 * gaps[1] - gaps[0], A**3, 1e-3,
    )  # fmt: skip
