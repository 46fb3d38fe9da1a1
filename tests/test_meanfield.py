"""EPDiff on a grid against particles, rates of the mean field, and particles without momentum."""

import jax.numpy as jnp
import numpy as np
import pytest

from ideareg import kernels as ik
from ideareg.hamiltonian import Hamiltonian, State
from ideareg.integrators import RK4
from ideareg.meanfield import (
    Grid,
    coarsen,
    epdiff,
    particles,
    quadrature,
    rate,
    settle,
    weak_residual,
    with_passive,
)
from ideareg.shooting import shoot, transport

pytestmark = pytest.mark.usefixtures("double_precision")


def bump(x):
    return 2 * np.exp(-((x - 20) ** 2))


def swirl(x):
    return jnp.stack([jnp.sin(x[0] + 2 * x[1]), jnp.cos(x[0] * x[1])])


def some_state(n=5):
    rng = np.random.default_rng(7)
    return State(rng.normal(size=(n, 2)), rng.normal(size=(n, 2)))


def test_particles_are_weak_solutions():
    ham, state = Hamiltonian(ik.Gaussian(0.5)), some_state()
    coarse, fine = (weak_residual(ham, shoot(ham, state, n, RK4()), swirl) for n in (40, 80))
    assert fine < 1e-6 and np.log2(coarse / fine) == pytest.approx(4, abs=0.5)


def test_camassa_holm_on_a_grid_against_particles():
    """Second order in the number of particles, for a kernel with a kink."""
    grid = Grid.of(ik.Laplacian(), 40.0, 2048)
    m = epdiff(grid, bump(grid.x), 100)
    assert m.sum() == pytest.approx(bump(grid.x).sum(), rel=1e-10)  # the total is kept
    ham, at = Hamiltonian(ik.Laplacian()), np.arange(256, 2048, 256)
    v, errors = grid.velocity(m)[at], []
    for count in (32, 64, 128):
        end = shoot(ham, quadrature(bump, 14, 26, count), 50, RK4()).final
        errors.append(np.abs(np.asarray(ham.velocity(grid.x[at, None], end))[:, 0] - v).max())
    assert rate([32, 64, 128], errors) == pytest.approx(2, abs=0.1)
    assert errors[-1] < 1e-3


def test_epdiff_is_exact_in_space_for_a_smooth_kernel():
    """Spectral: twice the nodes change nothing but rounding; RK4 in time."""
    ends = []
    for n, steps in ((512, 50), (1024, 50), (512, 100), (512, 200)):
        grid = Grid.of(ik.Gaussian(), 40.0, n)
        smooth = np.exp(-((grid.x - 20) ** 2) / 4)
        ends.append(epdiff(grid, smooth, steps)[:: n // 512])
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-7)
    errors = [np.abs(a - ends[3]).max() for a in (ends[0], ends[2])]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.3)


def test_rates_of_quadrature_and_of_samples():
    def density(x):
        return 2 * np.sin(2 * np.pi * x) + 0.5

    ham, at = Hamiltonian(ik.Gaussian(0.3)), np.array([[-0.3], [0.21], [0.77], [1.4]])

    def flow(state):
        return np.asarray(transport(ham, RK4(), shoot(ham, state, 20, RK4()), at))

    limit = flow(quadrature(density, 0, 1, 400))
    sizes = [25, 50, 100]
    errors = [np.abs(flow(quadrature(density, 0, 1, n)) - limit).max() for n in sizes]
    assert rate(sizes, errors) == pytest.approx(2, abs=0.1)
    rng, spread = np.random.default_rng(0), []
    for n in sizes:
        draws = []
        for _ in range(40):
            x = rng.uniform(size=(n, 1))
            draws.append(flow(particles(x, density(x), np.full(n, 1 / n))) - limit)
        spread.append(np.sqrt(np.mean(np.square(draws))))
    assert rate(sizes, spread) == pytest.approx(0.5, abs=0.15)


def test_passive_rows_leave_the_flow_unchanged():
    ham, state = Hamiltonian(ik.Matern52(), 0.3), some_state()
    X = np.random.default_rng(1).normal(size=(4, 2))
    alone, crowd = (shoot(ham, s, 10, RK4()) for s in (state, with_passive(state, X)))
    np.testing.assert_allclose(crowd.q[:, :5], alone.q, atol=1e-12)
    np.testing.assert_allclose(crowd.p[:, :5], alone.p, atol=1e-12)
    np.testing.assert_allclose(crowd.q[-1, 5:], transport(ham, RK4(), alone, X), atol=1e-12)


def test_flow_settles_with_the_number_of_particles():
    x = np.random.default_rng(0).uniform(size=(400, 1))
    state = particles(x, np.sin(6 * x) + 1, np.full(400, 1 / 400))
    sizes = [5, 10, 20]
    quick = settle(state, ik.Gaussian(0.3), sizes, tolerance=1e-2)
    slow = settle(state, ik.Gaussian(0.3), sizes, how="sample", repeats=4)
    assert rate(sizes, quick.flow_error) > 1.2
    assert (slow.flow_error > 5 * quick.flow_error).all() and slow.enough is None
    assert quick.enough in sizes
    assert quick.weight_norm[-1] == pytest.approx(quick.full_norm, rel=1e-3)


@pytest.mark.parametrize("how", ["centres", "sample"])
def test_coarsening_to_everything_is_everything(how):
    state = some_state(12)
    few = coarsen(state, 12, how)
    order, other = (np.lexsort(np.asarray(s.q).T) for s in (state, few))
    np.testing.assert_allclose(few.p[other], state.p[order], atol=1e-14)
    total = coarsen(state, 3).p.sum(0)
    np.testing.assert_allclose(total, state.p.sum(0), atol=1e-12)


def test_bad_input_is_refused():
    state, grid = some_state(), Grid.of(ik.Gaussian(), 10.0, 16)
    with pytest.raises(ValueError, match="between 1 and the 5 particles, got 6"):
        coarsen(state, 6)
    with pytest.raises(ValueError, match="how must be one of centres, sample"):
        coarsen(state, 2, "thin")
    with pytest.raises(ValueError, match="even number of nodes"):
        Grid.of(ik.Gaussian(), 10.0, 17)
    with pytest.raises(ValueError, match="16 finite numbers"):
        epdiff(grid, np.full(16, np.nan), 2)
    ham = Hamiltonian(ik.Gaussian())
    with pytest.raises(ValueError, match="even number of steps"):
        weak_residual(ham, shoot(ham, state, 3, RK4()), swirl)
    with pytest.raises(FloatingPointError, match="more steps"), np.errstate(all="ignore"):
        epdiff(grid, 1e200 * np.sin(grid.x), 2)
