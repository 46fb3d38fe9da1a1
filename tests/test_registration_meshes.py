"""Currents and varifolds against closed forms, and registration of curves and surfaces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ideareg import kernels as ik
from ideareg.registration import Attachment, Registration, Shape
from ideareg.registration.attachments import cells_of, inner_product

pytestmark = pytest.mark.usefixtures("double_precision")


def circle(n, stretch=(1.0, 1.0), backwards=False):
    t = 2 * np.pi * np.arange(n) / n
    edges = np.c_[np.arange(n), (np.arange(n) + 1) % n]
    return Shape.of(np.c_[np.cos(t), np.sin(t)] * stretch, edges[:, ::-1] if backwards else edges)


def sphere(rounds, stretch=(1.0, 1.0, 1.0)):
    """An octahedron whose triangles are cut in four, ``rounds`` times."""
    points = [np.array(p, float) for p in np.vstack([np.eye(3), -np.eye(3)])]
    cells = [(0, 1, 2), (1, 3, 2), (3, 4, 2), (4, 0, 2), (1, 0, 5), (3, 1, 5), (4, 3, 5), (0, 4, 5)]
    for _ in range(rounds):
        middles, finer = {}, []
        for a, b, c in cells:
            ends = []
            for i, j in ((a, b), (b, c), (c, a)):
                key = (min(i, j), max(i, j))
                if key not in middles:
                    middle = points[i] + points[j]
                    middles[key] = len(points)
                    points.append(middle / np.linalg.norm(middle))
                ends.append(middles[key])
            ab, bc, ca = ends
            finer += [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
        cells = finer
    return Shape.of(np.array(points) * stretch, cells)


def loss(one, other, name="varifold", kernel=None):
    found = Attachment.between(one, other, name, kernel or ik.Gaussian(0.5))
    return float(found(one.points)) / float(found.scale)


# ------------------------------------------------------------------ closed forms


@pytest.mark.parametrize("oriented", [True, False])
def test_inner_product_of_two_segments(oriented):
    """k(c, c') times n·n', or its square over the lengths: |c - c'|² = 13, n·n' = 2."""
    one = cells_of(jnp.array([[0.0, 0.0], [2.0, 0.0]]), jnp.array([[0, 1]]))
    other = cells_of(jnp.array([[3.5, 2.0], [4.5, 4.0]]), jnp.array([[0, 1]]))
    expected = np.exp(-(3.0**2 + 3.0**2) / 2 / 4) * (2 if oriented else 4 / (2 * np.sqrt(5)))
    found = inner_product(ik.Gaussian(2.0), one, other, oriented)
    assert float(found) == pytest.approx(expected, rel=1e-14)


def test_sizes_of_cells():
    assert circle(400).sizes().sum() == pytest.approx(2 * np.pi, rel=1e-4)
    assert sphere(3).sizes().sum() == pytest.approx(4 * np.pi, rel=2e-2)
    normals = cells_of(jnp.asarray(sphere(1).points), jnp.asarray(sphere(1).cells)).directions
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), sphere(1).sizes(), rtol=1e-12)


def test_orientation_is_seen_by_currents_alone():
    one, back = circle(40, (1.2, 1.0)), circle(40, (1.2, 1.0), backwards=True)
    assert loss(one, back) == pytest.approx(0, abs=1e-12)
    assert loss(one, back, "current") == pytest.approx(4, rel=1e-12)  # |μ - (-μ)|² = 4 |μ|²
    turned = Shape(one.points, one.cells[::-1])
    assert loss(one, turned, "current") == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", ["varifold", "current"])
def test_how_a_shape_is_cut_hardly_matters(name):
    """Second order in the length of the cells: half of them, a sixteenth of the square."""
    target = circle(640)
    coarse, fine = (loss(circle(n), target, name) for n in (40, 80))
    assert coarse < 1e-4 and fine < coarse / 10
    assert loss(sphere(2), sphere(3), name) < 0.01 < loss(sphere(2), sphere(3, (1, 1, 1.2)), name)


def test_tiles_change_nothing(monkeypatch):
    one, other = circle(60), circle(80, (1.3, 0.8))
    whole = loss(one, other)
    slope = jax.grad(Attachment.between(one, other, "varifold", ik.Gaussian(0.5)))(one.points)
    monkeypatch.setattr("ideareg.kernels.base.TILE_ENTRIES", 640)  # eight rows at a time
    assert loss(one, other) == pytest.approx(whole, rel=1e-12)
    tiled = jax.grad(Attachment.between(one, other, "varifold", ik.Gaussian(0.5)))(one.points)
    np.testing.assert_allclose(tiled, slope, atol=1e-12)


# ------------------------------------------------------------------ fits


@pytest.mark.parametrize("name", ["varifold", pytest.param("current", marks=pytest.mark.slow)])
def test_closed_curves_of_different_number_of_points(name):
    source, target = circle(40), circle(56, (1.3, 0.8))
    fit = Registration(nu=1e-3, attachment=name, depth=4).fit(source, target)
    assert fit.converged_ and fit.residual_ < 5e-3
    ellipse = (fit.warped_source_.points / [1.3, 0.8]) ** 2
    np.testing.assert_allclose(ellipse.sum(1), 1, atol=0.05)
    assert (fit.jacobian_determinant(source.points) > 0).all()


def test_open_curves_and_given_control_points():
    t = np.linspace(0, 1, 30)
    line = Shape.of(np.c_[t, 0 * t], np.c_[np.arange(29), np.arange(1, 30)])
    bow = Shape.of(np.c_[t, 0.3 * t * (1 - t)], np.c_[np.arange(29), np.arange(1, 30)])
    control = np.c_[np.linspace(0, 1, 5), np.zeros(5)]
    fit = Registration(0.3, nu=1e-3, control_points=control, depth=4).fit(line, bow)
    assert fit.momentum_.shape == (5, 2) and fit.residual_ < 0.01
    middle = fit.transform_points([[0.5, 0.0]])
    np.testing.assert_allclose(middle, [[0.5, 0.075]], atol=0.01)


@pytest.mark.parametrize("dtype", [pytest.param("float64", marks=pytest.mark.slow), "float32"])
def test_surfaces(dtype):
    source, target = sphere(2), sphere(2, (1.0, 1.0, 1.4))
    settings = {"control_points": 20, "depth": 2, "dtype": dtype, "attachment_kernel": 0.5}
    fit = Registration(nu=1e-3, **settings).fit(source, target)
    assert fit.residual_ < 0.02 and len(fit.momentum_) == 20
    np.testing.assert_allclose(fit.warped_source_.points[[2, 5], 2], [1.4, -1.4], atol=0.1)


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nu": 0.0}, "needs nu > 0"),
        ({"align": "rigid"}, "align needs points that correspond"),
        ({"attachment": "points"}, "attachment must be one of"),
        ({"control_points": 0}, "at least 1"),
        ({"control_points": np.zeros((2, 3))}, "control_points have 3 coordinates"),
        ({"control_points": [[0.0, np.nan]]}, "NaN"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Registration(**settings).fit(circle(5), circle(6))


def test_a_current_that_vanishes_is_refused():
    points = [[0.0, 0.0], [1.0, 0.0]]
    both_ways = Shape.of(points, [[0, 1], [1, 0]])
    with pytest.raises(ValueError, match="current vanishes"):
        Registration(attachment="current").fit(Shape.of(points, [[0, 1]]), both_ways)


def test_an_operator_valued_attachment_kernel_is_refused():
    kernel = ik.Separable(ik.Gaussian(), np.eye(2))
    with pytest.raises(TypeError, match="scalar kernel"):
        Registration(attachment_kernel=kernel).fit(circle(5), circle(6))
