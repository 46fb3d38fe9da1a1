"""Residual networks in weight space are the same as in momentum space."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ideareg import kernels as ik
from ideareg._types import Result
from ideareg.claims.layers import tanh_problem
from ideareg.leastaction import Distance, LeastAction, solve
from ideareg.resnet import ResNet, from_trajectory, train

pytestmark = pytest.mark.usefixtures("double_precision")

NU = 0.5


@pytest.mark.parametrize(
    "loss, depth",
    [
        ("distance", 5),
        ("regression", 10),
        pytest.param("distance", 10, marks=pytest.mark.slow),
        pytest.param("distance", 20, marks=pytest.mark.slow),
        pytest.param("distance", 40, marks=pytest.mark.slow),
    ],
)
def test_weights_and_momenta_train_to_the_same_network(loss, depth):
    it = tanh_problem(loss == "regression")
    by_weights, by_momentum = train(it, depth), solve(it, depth)
    assert by_momentum.result is Result.converged
    np.testing.assert_allclose(by_weights.value, by_momentum.value, atol=1e-8)
    network = from_trajectory(it.kernel, by_momentum.trajectory)
    np.testing.assert_allclose(by_weights.network.weights, network.weights, atol=1e-6)
    at = np.random.default_rng(0).normal(size=(7, 2))
    np.testing.assert_allclose(by_weights.network(at), network(at), atol=1e-5)


@pytest.fixture(scope="module")
def trained():
    with jax.enable_x64(True):
        return train(tanh_problem(), 10)


def test_momenta_are_scaled_gradients_and_give_the_weights_back(trained):
    it, network = tanh_problem(), trained.network
    p = network.momenta(it.start, it.loss, NU)
    np.testing.assert_allclose(network.weights_from(it.start, p), network.weights, atol=1e-6)
    final = jax.grad(it.loss)(network(it.start))
    np.testing.assert_allclose(p[-1], -final / NU, rtol=1e-12)


def test_momenta_obey_the_recursion_of_the_flow(trained):
    """p_s = (I + ∇v_{s+1}(q_{s+1}))ᵀ p_{s+1}: an identity of back-propagation, trained or not."""
    it, network = tanh_problem(), trained.network
    q, p = network.states(it.start), network.momenta(it.start, it.loss, NU)

    def layer(x):
        return x + it.kernel.feature_matrix(x) @ network.weights[4].T

    _, pull_back = jax.vjp(layer, q[4])
    np.testing.assert_allclose(p[3], pull_back(p[4])[0], rtol=1e-12)


def test_norms_are_nearly_equal(trained):
    norms = np.asarray(trained.network.norms)
    np.testing.assert_allclose(10 * np.ptp(norms) / norms.mean(), 6.457, atol=1e-3)


def test_adam_finds_the_same_minimum():
    it = tanh_problem(nu=2.0)
    by_adam = train(it, 3, solver="adam", max_iter=3000)
    np.testing.assert_allclose(by_adam.value, train(it, 3).value, rtol=1e-5)
    assert by_adam.history[0] > by_adam.history[-1]


def test_identity_before_training():
    network = ResNet(jnp.zeros((4, 2, 3)), ik.Activation())
    np.testing.assert_array_equal(network(np.eye(2)), np.eye(2))
    assert network.states(np.eye(2)).shape == (5, 2, 2)


def test_bad_arguments():
    with pytest.raises(ValueError, match="solver must be 'lbfgs' or 'adam'"):
        train(tanh_problem(), 3, solver="sgd")
    with pytest.raises(ValueError, match="depth must be"):
        train(tanh_problem(), 0)
    with pytest.raises(ValueError, match="no nugget"):
        train(tanh_problem(nugget=0.1), 3)
    with pytest.raises(TypeError, match="kernel with features"):
        train(LeastAction(ik.Gaussian(), np.zeros((1, 1)), Distance(np.ones((1, 1))), 1.0), 3)
