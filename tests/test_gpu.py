"""What a GPU computes is what the CPU computes; skipped, with the reason, where there is none."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ideareg import REMClassifier, WarpingClassifier, WarpingRegressor, load
from ideareg.hamiltonian import Hamiltonian, State
from ideareg.integrators import INTEGRATORS
from ideareg.kernels import Gaussian, Matern52
from ideareg.registration import Registration
from ideareg.shooting import shoot

pytestmark = pytest.mark.gpu

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
Y = np.tanh(3 * X[:, 0]) + 0.1 * RNG.normal(size=60)


@pytest.fixture(scope="module")
def gpu():
    with contextlib.suppress(RuntimeError):
        return jax.devices("gpu")[0]
    pytest.skip("JAX sees no GPU here")


def on_both(gpu, compute):
    """Return what a function computes on the GPU, and on the CPU."""
    found = []
    for device in (gpu, jax.devices("cpu")[0]):
        with jax.default_device(device), jax.enable_x64(True):
            found.append(compute())
    return found


@pytest.mark.parametrize("kernel", [Gaussian(), Matern52(0.7)])
def test_products_stay_on_the_device(gpu, kernel):
    points = RNG.normal(size=(3000, 3))
    there, here = on_both(gpu, lambda: jax.jit(lambda x: kernel.apply(x, None, jnp.sin(x)))(points))
    assert there.devices() == {gpu}
    np.testing.assert_allclose(there, here, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", sorted(INTEGRATORS))
def test_flows_and_their_gradients(gpu, name):
    def gradient():
        def end(p):
            path = shoot(Hamiltonian(Gaussian()), State(jnp.asarray(X), p), 5, INTEGRATORS[name]())
            return (path.final.q**2).sum()

        return jax.jit(jax.value_and_grad(end))(jnp.asarray(X) / 100)

    (value, slope), (expected, expected_slope) = on_both(gpu, gradient)
    assert float(value) == pytest.approx(float(expected), rel=1e-10)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("head", ["exact", "sparse"])
def test_regressors(gpu, head, tmp_path):
    def fitted():
        model = WarpingRegressor(nu=5.0, max_iter=5, head=head, random_state=0, verbose=0)
        return model.fit(X, Y)

    models = on_both(gpu, fitted)
    for there, here in zip(*(m.predict(X, return_std=True) for m in models), strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-5)
    models[0].save(tmp_path / "model.ideareg")
    np.testing.assert_allclose(
        load(tmp_path / "model.ideareg").predict(X), models[0].predict(X), rtol=1e-10
    )


def test_classifiers(gpu):
    labels = np.where(Y > 0, "up", "down")

    def probabilities():
        model = WarpingClassifier(nu=5.0, max_iter=5, random_state=0, verbose=0)
        return model.fit(X, labels).predict_proba(X)

    np.testing.assert_allclose(*on_both(gpu, probabilities), atol=1e-5)


def test_layers(gpu):
    images = RNG.normal(size=(40, 64)) + np.arange(40)[:, None] % 2

    def probabilities():
        model = REMClassifier((8, 8), n_patches=(8, 16), dtype="float64", random_state=0, verbose=0)
        return model.fit(images, np.arange(40) % 2).predict_proba(images)

    np.testing.assert_allclose(*on_both(gpu, probabilities), atol=1e-6)


def test_landmarks(gpu):
    def momentum():
        return Registration(1.0, nu=0.0, depth=5).fit(X[:6], X[:6] + 0.1 * X[6:12]).momentum_

    np.testing.assert_allclose(*on_both(gpu, momentum), atol=1e-7)
