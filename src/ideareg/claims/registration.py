"""Claims on registration and on the mean field of many particles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from ideareg import kernels as ik
from ideareg.claims.claim import Claim, largest, row, some_state
from ideareg.hamiltonian import Hamiltonian, State
from ideareg.integrators import RK4
from ideareg.meanfield import (
    Grid,
    epdiff,
    particles,
    quadrature,
    rate,
    weak_residual,
    with_passive,
)
from ideareg.registration import Registration
from ideareg.shooting import shoot, transport


def landmarks() -> Iterator[Claim]:
    """Exact matching of points."""
    name, a = "registration", np.array([[-1.0, 0.0], [1.0, 0.0]])
    guess = np.array([[0.5, 3.0], [-0.5, -3.0]])
    one, other = (
        Registration(ik.Gaussian(), nu=0.0, depth=20).fit(a, -a, momentum=side * guess)
        for side in (1, -1)
    )
    off = largest(one.momentum_ - other.momentum_ * [1, -1], one.distance_ - other.distance_)
    yield row(name, "two points swap places exactly, by two mirrored flows", off, 0, 1e-8)
    start = some_state(2, size=0.3)
    ends, step = (start.q, start.q + start.p), np.asarray(start.p)
    there, back = (
        Registration(ik.Gaussian(), nu=0.0, depth=20).fit(*pair, momentum=first)
        for pair, first in ((ends, step), (ends[::-1], -step))
    )
    gap = there.distance_ - back.distance_
    yield row(name, "the distance there is the distance back", gap, 0, 1e-6)


def mean_field() -> Iterator[Claim]:
    """Particles are solutions of EPDiff, and samples of its smooth ones."""
    name, state, ham = "mean field", some_state(5, size=1.0), Hamiltonian(ik.Gaussian())
    missed = weak_residual(ham, shoot(ham, state, 400, RK4()), _field)
    yield row(name, "particles solve EPDiff in the weak form", missed, 0, 1e-8)

    ham, sizes = Hamiltonian(ik.Gaussian(0.3)), (25, 50, 100)
    at = np.array([[-0.3], [0.21], [0.77], [1.4]])

    def flow(state: State) -> Any:
        path = shoot(ham, _filled(state, sizes[-1]), 10, RK4())
        return np.asarray(transport(ham, RK4(), path, at))

    limit = flow(quadrature(_density, 0, 1, 400))
    errors = [largest(flow(quadrature(_density, 0, 1, n)) - limit) for n in sizes]
    yield row(name, "flow of N quadrature points: exponent", rate(sizes, errors), 2, 0.1)
    rng, spread = np.random.default_rng(0), []
    for n in sizes:
        draws = [rng.uniform(size=(n, 1)) for _ in range(60)]
        ends = [flow(particles(x, _density(x), np.full(n, 1 / n))) for x in draws]
        spread.append(np.sqrt(np.mean(np.square(np.stack(ends) - limit))))
    yield row(name, "flow of N independent samples: exponent", rate(sizes, spread), 0.5, 0.15)


def camassa_holm() -> Iterator[Claim]:
    """EPDiff with the exponential kernel, on a grid and by particles."""
    grid, ham = Grid.of(ik.Laplacian(), 40.0, 2048), Hamiltonian(ik.Laplacian())
    at, sizes = np.arange(256, 2048, 256), (32, 64, 128)
    v = grid.velocity(epdiff(grid, _bump(grid.x), 100))[at]
    errors = []
    for n in sizes:
        start = _filled(quadrature(_bump, 14, 26, n), sizes[-1])
        end = shoot(ham, start, 20, RK4()).final
        errors.append(largest(np.asarray(ham.velocity(grid.x[at, None], end))[:, 0] - v))
    found = rate(sizes, errors)
    yield row("mean field", "Camassa-Holm on a grid against N particles: exponent", found, 2, 0.1)


def _filled(state: State, count: int) -> State:
    """Return the state with passive rows up to a number: they change nothing, and compile once."""
    missing = max(count - len(state.q), 0)
    return with_passive(state, np.zeros((missing, state.q.shape[1])))


def _field(x: Any) -> Any:
    return jnp.stack([jnp.sin(x[0] + 2 * x[1]), jnp.cos(x[0] * x[1])])


def _density(x: Any) -> Any:
    return 2 * np.sin(2 * np.pi * x) + 0.5


def _bump(x: Any) -> Any:
    return 2 * np.exp(-((x - 20) ** 2))
