"""Registration of landmarks against closed forms, and what a fitted map can do."""

import jax
import numpy as np
import pytest
from sklearn.base import clone

from ideareg import kernels as ik
from ideareg.hamiltonian import Hamiltonian, State
from ideareg.integrators import RK4
from ideareg.registration import Registration, align, pairwise
from ideareg.registration.shapes import Shape, as_shape
from ideareg.shooting import shoot

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 2))
Y = X + 0.3 * RNG.normal(size=(6, 2))


@pytest.fixture(scope="module")
def exact():
    return Registration(1.0, nu=0.0, depth=20).fit(X, Y)


# ------------------------------------------------------------------ closed forms


@pytest.mark.parametrize(
    ("kernel", "a", "b", "action"),
    [
        (ik.Laplacian(), 1.0, 0.4, 0.493336504225),
        pytest.param(ik.Gaussian(), 1.0, 0.4, 0.641787254522, marks=pytest.mark.slow),
        # Nearly a collision, at finite cost: (arcosh e^a - arcosh e^b)^2.
        (ik.Laplacian(), 1.0, 0.2, (np.arccosh(np.e) - np.arccosh(np.exp(0.2))) ** 2),
    ],
)
def test_action_of_two_points(kernel, a, b, action):
    fit = Registration(kernel, nu=0.0, depth=200).fit([[-a], [a]], [[-b], [b]])
    assert fit.converged_
    assert fit.distance_**2 / 2 == pytest.approx(action, abs=1e-9)


def test_peakons_and_their_passive_points():
    """Camassa-Holm: the momentum, and points beside and between that never had any."""
    source = [[-4.043700829403], [-1.049822124499]]
    target = [[-1.630276136813], [0.353897563186]]
    fit = Registration(ik.Laplacian(), nu=0.0, depth=200).fit(source, target)
    np.testing.assert_allclose(fit.momentum_.ravel(), [2.40625, 1.09375], atol=1e-9)
    moved = fit.transform_points([[-5.0], [-2.5], [0.0]]).ravel()
    np.testing.assert_allclose(moved, [-4.569350309431, -1.243936652772, 0.729772821045], atol=1e-9)


def test_head_on_peakons_show_the_order_of_the_integrator():
    """q = ± log cosh τ and p = ∓ coth τ with τ = t* - t, from τ = 1.5 to 0.5."""
    ends = [np.log(np.cosh(tau)) * np.array([[-1.0], [1.0]]) for tau in (1.5, 0.5)]
    errors = []
    for depth in (10, 20):
        fit = Registration(ik.Laplacian(), nu=0.0, depth=depth).fit(*ends)
        errors.append(abs(fit.momentum_[0, 0] - 1 / np.tanh(1.5)))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.3)


def test_constant_kernel_moves_everything_rigidly():
    fit = Registration(ik.Constant(), nu=0.0).fit(X, X + np.array([1.0, -2.0]))
    assert fit.converged_
    np.testing.assert_allclose(fit.transform_points(Y), Y + np.array([1.0, -2.0]), atol=1e-8)
    np.testing.assert_allclose(fit.momentum_.sum(0), [1.0, -2.0], atol=1e-8)


def test_inexact_matching_pays_for_the_action():
    """One point and k(0) = 1: the end is Y - νp/2, so p = (Y - X) / (1 + ν/2)."""
    fit = Registration(1.0, nu=1.0).fit([[0.0, 0.0]], [[3.0, 0.0]])
    np.testing.assert_allclose(fit.momentum_, [[2.0, 0.0]], atol=1e-9)
    assert fit.residual_ == pytest.approx(1 / 9)
    assert fit.converged_


def test_distance_is_symmetric(exact):
    back = clone(exact).fit(Y, X)
    assert back.distance_ == pytest.approx(exact.distance_, abs=1e-6)
    end = back.geodesic(0.5)
    np.testing.assert_allclose(end, exact.geodesic(0.5), atol=1e-5)


def test_all_pairs_are_those_of_single_fits(exact):
    shapes = np.stack([X, Y, (X + Y) / 2 + 0.1])
    found = pairwise(shapes, exact.kernel_, depth=exact.depth, n_jobs=2)
    assert found.converged.all() and found.residual.max() < 1e-6
    np.testing.assert_array_equal(found.distance, found.distance.T)
    assert found.distance[0, 1] == pytest.approx(exact.distance_, abs=1e-9)
    np.testing.assert_allclose(found.momentum[0, 1], exact.momentum_, atol=1e-7)
    for i, j in ((1, 0), (2, 1)):
        alone = clone(exact).fit(shapes[i], shapes[j], momentum=found.momentum[i, j])
        np.testing.assert_allclose(alone.momentum_, found.momentum[i, j], atol=1e-5)


def test_both_ways_arrive_however_coarse_the_time_steps(exact):
    found = pairwise(np.stack([X, Y]), exact.kernel_, depth=2)
    assert found.converged.all() and found.residual.max() < 1e-7
    with jax.enable_x64(True):
        ham, rk4 = Hamiltonian(exact.kernel_), RK4()
        end = shoot(ham, State(X, found.momentum[0, 1]), 2, rk4).final
        back = shoot(ham, State(end.q, -end.p), 2, rk4).final.q
    assert np.abs(np.asarray(back) - X).max() > 1e-4  # which running backwards would leave


def test_conserved_momenta_and_turned_problems(exact):
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    turned = clone(exact).fit(X @ turn.T + 1, Y @ turn.T + 1)
    np.testing.assert_allclose(turned.momentum_, exact.momentum_ @ turn.T, atol=1e-8)
    with jax.enable_x64(True):
        path = exact.flow_.path()
    p, q = np.asarray(path.p), np.asarray(path.q)
    np.testing.assert_allclose(p.sum(1), p[:1].sum(1).repeat(21, 0), atol=1e-10)
    spin = (q[..., 0] * p[..., 1] - q[..., 1] * p[..., 0]).sum(1)
    np.testing.assert_allclose(spin, spin[0], atol=1e-5)


def test_two_points_that_swap_have_two_mirrored_flows():
    ends, found = np.array([[-1.0, 0.0], [1.0, 0.0]]), []
    for side in (1.0, -1.0):
        guess = side * np.array([[0.5, 3.0], [-0.5, -3.0]])
        fit = Registration(ik.Gaussian(), nu=0.0, depth=20).fit(ends, -ends, momentum=guess)
        assert fit.converged_
        found.append(fit)
    one, other = found
    assert one.distance_ == pytest.approx(other.distance_, abs=1e-9)
    np.testing.assert_allclose(one.momentum_, other.momentum_ * [1, -1], atol=1e-8)
    assert abs(one.momentum_[0, 1]) > 1


# ------------------------------------------------------------------ the map


def test_inverse_jacobian_and_displacement(exact):
    points = 2 * RNG.normal(size=(6, 2))
    assert np.abs(exact.inverse(exact.transform_points(points)) - points).max() < 1e-12
    h = 1e-5
    sides = [exact.transform_points(points + h * e) for e in np.vstack([np.eye(2), -np.eye(2)])]
    slopes = np.stack([(sides[0] - sides[2]), (sides[1] - sides[3])], axis=-1) / (2 * h)
    determinant = exact.jacobian_determinant(points)
    np.testing.assert_allclose(determinant, np.linalg.det(slopes), atol=1e-8)
    assert (determinant > 0).all()
    field = exact.displacement_field([0.0, 1.0, 2.0], [-1.0, 0.5])
    moved = exact.transform_points([[1.0, 0.5]])[0]
    assert field.shape == (3, 2, 2)
    np.testing.assert_allclose(field[1, 1], moved - [1.0, 0.5], atol=1e-12)


def test_geodesic_begins_and_ends_where_it_should(exact):
    np.testing.assert_allclose(exact.geodesic(0), X, atol=1e-14)
    np.testing.assert_allclose(exact.geodesic(1), Y, atol=1e-7)
    np.testing.assert_allclose(exact.warped_source_.points, Y, atol=1e-7)
    np.testing.assert_allclose(exact.trajectories(X)[10], exact.geodesic(0.5), atol=1e-5)


@pytest.mark.parametrize("kind", ["rigid", "similarity", "affine"])
def test_affine_maps_come_first_and_are_undone(kind):
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    matrix = {"rigid": turn, "similarity": 2 * turn, "affine": turn @ [[2.0, 1.0], [0, 1.0]]}[kind]
    target = X @ matrix.T + [3.0, 1.0]
    fit = Registration(1.0, nu=0.0, depth=20, align=kind).fit(X, target)
    assert fit.distance_ < 1e-8 and fit.converged_
    np.testing.assert_allclose(fit.affine_.matrix, matrix, atol=1e-12)
    np.testing.assert_allclose(fit.transform_points(Y), Y @ matrix.T + [3.0, 1.0], atol=1e-7)
    np.testing.assert_allclose(fit.inverse(fit.transform_points(Y)), Y, atol=1e-12)
    np.testing.assert_allclose(fit.jacobian_determinant(Y), np.linalg.det(matrix), rtol=1e-7)


@pytest.mark.parametrize(
    "kernel",
    [
        [2.0, 0.5],
        pytest.param(ik.Separable(ik.Matern52(), np.diag([1.0, 2, 1])), marks=pytest.mark.slow),
    ],
    ids=["multiscale", "operator"],
)
def test_other_kernels_match_exactly_in_space(kernel):
    source = RNG.normal(size=(4, 3))
    target = source + 0.3 * RNG.normal(size=(4, 3))
    fit = Registration(kernel, nu=0.0, depth=5).fit(source, target)
    assert fit.converged_
    np.testing.assert_allclose(fit.transform_points(source), target, atol=1e-7)


def test_nothing_to_do_and_no_fit():
    fit = Registration(nu=0.0).fit(X, X)
    assert fit.converged_ and fit.distance_ == 0 and fit.residual_ == 0
    with pytest.raises(ValueError, match="not fitted"):
        Registration().transform_points(X)


def test_not_converged_is_said():
    """Two points on a line cannot pass each other."""
    fit = Registration(ik.Gaussian(0.5), nu=0.0).fit([[-1.0], [1.0]], [[1.0], [-1.0]])
    assert not fit.converged_ and "limit" in fit.result_.message


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (X, np.c_[Y, Y[:, 0]], "source has 2 coordinates and target 3"),
        (X, Y[:4], "6 landmarks and target 4"),
        (X[:0], Y[:0], r"source: points need the shape \(n, d\)"),
        (
            X,
            np.where(np.arange(6)[:, None] == 2, np.nan, Y),
            r"target: points in rows \[2\] are NaN",
        ),
        (X, (Y, [[0, 1]]), "source is a landmarks and target a curve"),
        ((X, [[0, 6]]), (Y, [[0, 1]]), "integers from 0 to 5"),
        ((X, [[0, 1, 2]]), (Y, [[0, 1, 2]]), "triangles need points in 3 dimensions"),
        ((X, [[0, 1], [2, 2]]), (Y, [[0, 1]]), r"cells \[1\] have no extent"),
        ((X, np.zeros((0, 2), int)), (Y, [[0, 1]]), "cells need the shape"),
    ],
)
def test_bad_shapes_are_refused(source, target, message):
    with pytest.raises(ValueError, match=message):
        Registration().fit(source, target)


def test_degenerate_triangles_are_refused():
    flat = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 1, 0]])
    with pytest.raises(ValueError, match=r"cells \[0\] have no extent"):
        Shape.of(flat, [[0, 1, 2], [0, 1, 3]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nu": -1}, "nu must be"),
        ({"depth": 0}, "depth must be"),
        ({"align": "elastic"}, "align must be one of"),
        ({"integrator": "euler"}, "integrator must be one of"),
        ({"dtype": "float16"}, "dtype must be"),
        ({"kernel": []}, "at least one length"),
        ({"control_points": 3}, "sits on the landmarks"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Registration(**settings).fit(X, Y)


def test_bad_points_are_refused(exact):
    with pytest.raises(ValueError, match="points have 3 coordinates, the fit had 2"):
        exact.transform_points(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="momentum has the shape"):
        clone(exact).fit(X, Y, momentum=np.zeros((2, 2)))
    with pytest.raises(ValueError, match="lie in a plane"):
        align(np.zeros((4, 2)), np.zeros((4, 2)), "affine")
    assert as_shape((X, [[0, 1]]), "x").kind == "curve"
