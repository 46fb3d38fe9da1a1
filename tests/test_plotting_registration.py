"""Figures of a registration: they show what the fit says."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from ideareg import Registration, plotting
from ideareg.registration import Image


@pytest.fixture(scope="module")
def fit():
    t = 2 * np.pi * np.arange(6) / 6
    source = np.c_[np.cos(t), np.sin(t)]
    return Registration(nu=0.0, depth=4, align="similarity").fit(source, source * [2.0, 1.2] + 1)


@pytest.fixture
def ax():
    return Figure().subplots()


def test_before_and_after(fit, ax):
    goal = fit.warped_source_.points + 0.5
    assert plotting.before_after(fit, goal, ax=ax) is ax
    drawn = {line.get_label(): line.get_xydata() for line in ax.lines}
    np.testing.assert_allclose(drawn["target"], goal)
    np.testing.assert_allclose(drawn["after"], fit.geodesic(1), atol=1e-12)


def test_trajectories_begin_and_end_where_they_should(fit, ax):
    plotting.trajectories(fit, ax=ax)
    ways = [line.get_xydata() for line in ax.lines if len(line.get_xdata()) == 5]
    np.testing.assert_allclose([way[0] for way in ways], fit.geodesic(0), atol=1e-12)
    np.testing.assert_allclose([way[-1] for way in ways], fit.geodesic(1), atol=1e-12)


def test_grid_is_pushed_forward(fit, ax):
    plotting.deformed_grid(fit, ax=ax)
    lines = [line.get_xydata() for line in ax.lines if len(line.get_xdata()) > 50]
    assert len(lines) == 38
    # Undone, each is straight along one axis.
    for line in (lines[0], lines[-1]):
        assert np.ptp(fit.inverse(line), axis=0).min() < 1e-10


def test_map_of_stretching(fit, ax):
    plotting.jacobian_map(fit, ax=ax)
    values = np.asarray(ax.collections[0].get_array())
    assert 0 < values.max() < 4  # doublings


def test_what_is_not_in_the_plane_is_refused(ax):
    rng = np.random.default_rng(0)
    solid = Registration(nu=0.0, depth=4).fit(*rng.normal(size=(2, 2, 3)))
    assert plotting.trajectories(solid, ax=ax, dims=(0, 2)) is ax
    with pytest.raises(ValueError, match="shows the plane"):
        plotting.deformed_grid(solid, ax=ax)


def test_images(ax):
    x, y = np.mgrid[:16, :16] - 7.5
    discs = [1 / (1 + np.exp(2 * (np.sqrt(x**2 + a * y**2) - 4))) for a in (1.0, 0.7)]
    warp = Registration(4.0, depth=4).fit(*map(Image.of, discs))
    plotting.image_mismatch(warp, after=False, ax=ax)
    np.testing.assert_allclose(ax.collections[0].get_array(), discs[0] - discs[1], atol=1e-12)
    after = plotting.image_mismatch(warp, ax=Figure().subplots()).collections[0]
    np.testing.assert_allclose(after.get_array(), warp.transform_image() - discs[1], atol=1e-9)
    assert after.get_clim() == ax.collections[0].get_clim()
    shown = plotting.jacobian_map(warp, ax=Figure().subplots()).collections[0].get_array()
    assert 0 < np.max(shown) < 4
    assert len(plotting.deformed_grid(warp, ax=Figure().subplots()).lines) == 38
