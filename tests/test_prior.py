"""Draws of the prior: moments in closed form, joint consistency, and what is refused."""

import jax
import numpy as np
import pytest

from ideareg import kernels as ik
from ideareg.prior import sample_flows, sample_networks

pytestmark = pytest.mark.usefixtures("double_precision")

X = np.array([[0.0, 0.0], [0.3, 0.1], [2.0, -1.0]])
COUNT = 4000


def displacement(paths):
    """Mean of |φ(x) - x|² over draws and points, and its standard error."""
    moved = np.asarray((paths[:, -1] - paths[:, 0]) ** 2).sum(-1).mean(1)
    return moved.mean(), moved.std() / np.sqrt(len(moved))


@pytest.mark.parametrize("depth", [3, *(pytest.param(d, marks=pytest.mark.slow) for d in (1, 12))])
def test_displacement_does_not_depend_on_depth(depth):
    kernel = 3.0 * ik.Matern52(0.7)
    paths = sample_flows(jax.random.key(depth), kernel, X, nu=2.0, depth=depth, count=COUNT)
    mean, error = displacement(paths)
    assert abs(mean - 2 * 3.0 / 2.0) < 4 * error < 0.2


def test_displacement_with_a_nugget_and_a_coupling():
    paths = sample_flows(jax.random.key(0), ik.Gaussian(), X, nu=2.0, nugget=0.5, count=COUNT)
    mean, error = displacement(paths)
    assert abs(mean - 2 * 1.5 / 2.0) < 4 * error
    A = np.array([[2.0, 0.9], [0.9, 0.5]])
    paths = sample_flows(
        jax.random.key(1), ik.Separable(ik.Gaussian(), A), X, nu=2.0, depth=2, count=COUNT
    )
    mean, error = displacement(paths)
    assert abs(mean - np.trace(A) / 2.0) < 4 * error
    step = np.asarray(paths[:, 1] - paths[:, 0])[:, 0]  # the first layer is normal: N(0, A/νL)
    np.testing.assert_allclose(np.cov(step.T), A / 4, atol=0.04)


@pytest.mark.slow
def test_the_first_layer_has_the_covariance_of_the_kernel():
    paths = sample_flows(jax.random.key(2), ik.Gaussian(), X, nu=1.0, depth=1, count=COUNT)
    step = np.asarray(paths[:, 1] - paths[:, 0])
    for column in range(2):
        cov = np.cov(step[:, :, column].T)
        np.testing.assert_allclose(cov, ik.Gaussian().gram(X), atol=0.08)


def test_points_of_one_draw_are_of_one_function():
    """Coinciding points stay together, near ones near; a nugget separates them."""
    line = np.array([[0.0], [0.0], [1e-3]])
    paths = np.asarray(sample_flows(jax.random.key(3), ik.Gaussian(), line, depth=6, count=20))
    assert np.abs(paths[:, :, 0] - paths[:, :, 1]).max() < 1e-6
    assert np.abs(paths[:, :, 0] - paths[:, :, 2]).max() < 0.1
    apart = np.asarray(sample_flows(jax.random.key(3), ik.Gaussian(), line, nugget=0.1, count=20))
    assert np.abs(apart[:, -1, 0] - apart[:, -1, 1]).min() > 1e-6


def test_values_have_the_variance_of_the_head_whatever_the_flow():
    values, paths = sample_networks(
        jax.random.key(4), ik.Gaussian(), 2.0 * ik.Matern32(), X, penalty=4.0, head_nugget=0.5,
        depth=3, outputs=2, count=COUNT,
    )  # fmt: skip
    assert values.shape == (COUNT, 3, 2)
    assert paths.shape == (COUNT, 4, 3, 2)
    np.testing.assert_allclose(np.var(values, axis=0), 2.5 / 8, rtol=0.1)
    # Given the flow they are correlated as the kernel says at where it leads.
    close = np.linalg.norm(paths[:, -1, 0] - paths[:, -1, 1], axis=1) < 0.3
    both = np.asarray(values)[close][:, :2, 0]
    assert np.corrcoef(both.T)[0, 1] > 0.6


def test_many_near_points_are_drawn():
    line = np.linspace(0, 1, 300)[:, None]
    values, _ = sample_networks(jax.random.key(5), ik.Gaussian(), ik.Gaussian(), line, depth=3)
    assert np.isfinite(values).all()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"nu": 0.0}, "nu must be positive, got 0.0"),
        ({"depth": 0}, "depth must be >= 1"),
        ({"count": 0}, "count must be >= 1"),
        ({"nugget": -1.0}, "nugget must be >= 0"),
        ({"penalty": np.nan}, "penalty must be positive"),
        ({"outputs": 0}, "outputs must be >= 1"),
        ({"X": [[np.nan]]}, "X: expected finite points"),
        ({"X": [0.0, 1.0]}, r"X: expected finite points of shape \(n, d\), got \(2,\)"),
    ],
)
def test_bad_numbers_are_refused(changes, match):
    arguments = {"X": X} | changes
    with pytest.raises(ValueError, match=match):
        sample_networks(jax.random.key(0), ik.Gaussian(), ik.Gaussian(), **arguments)


def test_what_is_no_covariance_is_refused():
    def distance(a, b):
        return -abs(a - b).sum()

    with pytest.raises(ValueError, match="is no covariance at these points"):
        sample_flows(jax.random.key(0), ik.as_kernel(distance), X, depth=1)
