"""Populations: the template, its principal geodesics, and parallel transport."""

import jax
import numpy as np
import pytest
from sklearn.base import clone

from ideareg._types import Result
from ideareg.hamiltonian import Hamiltonian, State
from ideareg.integrators import RK4
from ideareg.kernels import Matern52
from ideareg.registration import Registration, atlas, parallel_transport, population
from ideareg.registration.flows import PointFlow
from ideareg.shooting import shoot

KERNEL = Matern52(1.0)
RNG = np.random.default_rng(0)
X = np.array([[0.0, 0.0], [1.0, 0.1], [0.2, 1.1], [1.2, 1.0], [0.5, 0.4]])
MOMENTUM = 0.4 * RNG.normal(size=X.shape)
PLACES = np.array([-1.0, -0.3, 0.4, 0.9])  # whose mean is 0
EXACT = Registration(KERNEL, nu=0.0)


def ends(momenta, start=X, depth=10):
    with jax.enable_x64(True):
        ham = Hamiltonian(KERNEL)
        return [np.asarray(shoot(ham, State(start, p), depth, RK4()).q[-1]) for p in momenta]


def inner(points, p, r):
    with jax.enable_x64(True):
        return float((p * np.asarray(KERNEL.apply(points, None, r))).sum())


@pytest.fixture(scope="module")
def line():
    """Shapes along one geodesic, the mean of which is its middle."""
    return atlas(ends([a * MOMENTUM for a in PLACES]), EXACT, tol=1e-7)


# ------------------------------------------------------------------ the template


def test_template_of_shapes_along_a_geodesic(line):
    assert line.converged and line.gap <= 1e-7
    np.testing.assert_allclose(line.template.points, X, atol=1e-6)
    np.testing.assert_allclose(line.momentum, PLACES[:, None, None] * MOMENTUM, atol=1e-5)
    length = np.sqrt(inner(X, MOMENTUM, MOMENTUM))
    np.testing.assert_allclose(line.distance, np.abs(PLACES) * length, atol=1e-6)
    assert line.history[-1] == pytest.approx((line.distance**2).mean() / 2)
    assert (np.diff(line.history) <= 1e-6 * line.history[0]).all()


@pytest.mark.parametrize("newton", [True, False])
def test_mean_of_two_is_the_middle_of_their_geodesic(line, newton, monkeypatch):
    if not newton:
        monkeypatch.setattr(population, "LARGEST_NEWTON", 0)
    pair = ends([MOMENTUM, RNG.normal(size=X.shape) / 4])
    middle = clone(EXACT).fit(*pair).geodesic(0.5)
    found = atlas(pair, EXACT, template=pair[0], tol=1e-6)
    assert found.converged
    np.testing.assert_allclose(found.template.points, middle, atol=1e-4)
    assert found.distance[0] == pytest.approx(found.distance[1], rel=1e-5)


def test_inexact_template_is_a_minimum():
    rng = np.random.default_rng(1)
    shapes = X + 0.2 * rng.normal(size=(4, *X.shape))
    settings = Registration(KERNEL, nu=0.5)
    found = atlas(shapes, settings)
    assert found.converged and np.abs(found.momentum.mean(0)).max() < 1e-3
    for _ in range(3):
        near = found.template.points + 0.05 * rng.normal(size=X.shape)
        beside = atlas(shapes, settings, template=near, max_iter=1)
        assert beside.history[0] > found.history[-1]
        assert beside.result is Result.max_steps and not beside.converged


def test_match_is_that_of_the_population(line):
    again = line.match(line.fits[1].warped_source_.points)
    np.testing.assert_allclose(again.momentum_, line.momentum[1], atol=1e-6)


def test_interruption_keeps_the_template_so_far(monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(population, "_moved", stop)
    shapes = ends([MOMENTUM, -0.2 * MOMENTUM])
    found = atlas(shapes, EXACT)
    assert found.result is Result.interrupted and len(found.fits) == 2
    np.testing.assert_allclose(found.template.points, np.mean(shapes, axis=0))


@pytest.mark.slow
def test_template_of_curves():
    t = 2 * np.pi * np.arange(16) / 16
    ring = np.stack([np.arange(16), (np.arange(16) + 1) % 16], axis=1)
    # A different start on each, so that no point corresponds.
    turned = [np.c_[s * np.cos(t + s), np.sin(t + s) / s] for s in (0.8, 1.0, 1.25)]
    found = atlas([(q, ring) for q in turned], Registration(1.0, nu=1e-3, max_iter=500), tol=0.02)
    assert found.fits[0].converged_ and found.converged and found.gap <= 0.02
    assert found.history[-1] < 0.7 * found.history[0]
    reach = np.ptp(found.template.points, axis=0)
    np.testing.assert_allclose(reach, 2.0, atol=0.1)
    # From narrow to wide, with the round one in the middle.
    scores = found.modes(1).scores[:, 0] * np.sign(found.modes(1).scores[2, 0])
    assert scores[0] < -0.2 and abs(scores[1]) < 0.2 * scores[2] and scores[2] > 0.2


# ------------------------------------------------------------------ modes


def test_one_geodesic_is_one_mode(line):
    modes = line.modes()
    assert modes.explained[0] > 0.999
    length = np.sqrt(inner(X, MOMENTUM, MOMENTUM))
    sign = np.sign(modes.scores[0, 0] / PLACES[0])
    np.testing.assert_allclose(sign * modes.scores[:, 0], PLACES * length, atol=1e-6)
    np.testing.assert_allclose(
        modes.shape_at(modes.scores[1, :1]).points, line.fits[1].warped_source_.points, atol=1e-6
    )
    np.testing.assert_array_equal(modes.shape_at([]).points, line.template.points)


def test_modes_are_orthonormal_and_keep_distances():
    found = atlas(ends(0.3 * RNG.normal(size=(4, *X.shape))), EXACT)
    modes, T = found.modes(), found.template.points
    gram = [[inner(T, p, r) for r in modes.directions] for p in modes.directions]
    # Four momenta without a mean have three directions.
    np.testing.assert_allclose(np.array(gram)[:3, :3], np.eye(3), atol=1e-6)
    np.testing.assert_allclose((modes.scores**2).sum(1), found.distance**2, atol=1e-6)
    np.testing.assert_allclose(modes.explained.sum(), 1)
    assert modes.explained[3] < 1e-6
    few = found.modes(2)
    np.testing.assert_allclose(few.project(found.momentum), modes.scores[:, :2], atol=1e-8)
    np.testing.assert_allclose(few.project(found.momentum[0]), modes.scores[0, :2], atol=1e-8)
    np.testing.assert_allclose(few.deviation, np.sqrt((few.scores**2).mean(0)))


# ------------------------------------------------------------------ parallel transport


def flow_of(momentum, depth=10):
    """A registration whose flow is known."""
    fit = Registration(KERNEL, depth=depth)
    fit.flow_ = PointFlow(KERNEL, X, momentum, depth, RK4())
    return fit


def test_own_momentum_becomes_that_at_the_end():
    fit = flow_of(MOMENTUM)
    with jax.enable_x64(True):
        end = fit.flow_.path().final
    both = np.stack([MOMENTUM, X])
    there = parallel_transport(fit, both)
    np.testing.assert_allclose(there[0], end.p, atol=1e-9)
    np.testing.assert_allclose(parallel_transport(fit, there, reverse=True), both, atol=1e-4)


def test_norms_and_angles_are_kept_to_fourth_order():
    (one, other), errors = RNG.normal(size=(2, *X.shape)), []
    for depth in (5, 10):
        fit = flow_of(2 * MOMENTUM, depth)
        (end,) = ends([2 * MOMENTUM], depth=depth)
        there = parallel_transport(fit, [one, other])
        errors.append(
            [
                abs(inner(end, *after) - inner(X, *before))
                for after, before in (((there[0], there[0]), (one, one)), (there, (one, other)))
            ]
        )
    assert max(errors[1]) < 1e-4
    assert np.log2(np.divide(*errors)).min() > 3.5


def test_transport_has_no_torsion():
    """Over a short time h a Jacobi field is h times what is carried along, up to h cubed."""
    other, step, errors = RNG.normal(size=X.shape), 1e-4, []
    for h in (0.2, 0.1):
        fit = flow_of(h * MOMENTUM)
        forth, back = ends([h * (MOMENTUM + step * other), h * (MOMENTUM - step * other)])
        field = (forth - back) / (2 * step * h)
        (end,) = ends([h * MOMENTUM])
        with jax.enable_x64(True):
            carried = np.asarray(
                KERNEL.apply(end, None, parallel_transport(fit, [other, other])[1])
            )
        errors.append(np.abs(field - carried).max())
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.3)


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("shapes", "settings", "message"),
    [
        ([X], {}, "at least two"),
        ([X, X[:4]], {}, "5 landmarks and target 4"),
        ([X, (X, [[0, 1]])], {}, "source is a landmarks and target a curve"),
        ([X, X + 1], {"align": "rigid"}, "bring the shapes together"),
        ([(X, [[0, 1]])] * 2, {"control_points": 3}, "sits on its template"),
    ],
)
def test_bad_populations_are_refused(shapes, settings, message):
    with pytest.raises(ValueError, match=message):
        atlas(shapes, Registration(**settings))


def test_bad_modes_and_momenta_are_refused(line):
    with pytest.raises(ValueError, match="between 1 and 4"):
        line.modes(5)
    with pytest.raises(ValueError, match="at most 1 numbers"):
        line.modes(1).shape_at([1.0, 2.0])
    with pytest.raises(ValueError, match="there is no direction"):
        atlas([X, X], EXACT).modes()
    with pytest.raises(ValueError, match=r"expected \(5, 2\)"):
        parallel_transport(line.fits[0], np.zeros((4, 2)))
    with pytest.raises(ValueError, match="a fitted registration of shapes"):
        parallel_transport(Registration(), np.zeros((5, 2)))
