"""Sampling of the momentum against quadrature over its one unknown."""

import copy
import sys

import equinox as eqx
import jax
import numpy as np
import pytest
from scipy.stats import norm

from ideareg import WarpingRegressor, sample_posterior
from ideareg.posterior import log_density, moments_of_draws

RNG = np.random.default_rng(0)
X = np.sort(RNG.uniform(-2, 2, size=(40, 1)), axis=0)
Y = 7 + np.tanh(5 * X[:, 0]) + 0.2 * RNG.normal(size=40)
AT = np.linspace(-2.5, 2.5, 7)[:, None]


@pytest.fixture(scope="module")
def model():
    return WarpingRegressor(
        nu=10.0, n_control_points=1, depth=2, max_iter=20, random_state=0, noise=0.05
    ).fit(X, Y)


@pytest.fixture(scope="module")
def grid(model):
    """Momenta on a line, their probabilities, and what each predicts."""
    fitted = model.warps_[0].model
    z = np.zeros((161, *fitted.warp.momentum.shape))
    z[:, 0, 0] = np.linspace(-5, 5, 161)
    with jax.enable_x64(True):
        rows = model._batch(X, Y, None, model.warps_[0])
        density = jax.jit(lambda z: jax.lax.map(lambda one: log_density(one, fitted, rows), z))(z)
        mean, variance = moments_of_draws(fitted, rows, z, model._inputs(AT))
    density, mean, variance = (np.asarray(part) for part in (density, mean, variance))
    # A mirrored warp is a second mode, 1.5 % of the mass, which no chain finds from this one.
    p = np.where(z[:, 0, 0] > -1, np.exp(density - density.max()), 0.0)
    return z[:, 0, 0], p / p.sum(), density, mean, variance


def test_density_is_prior_times_evidence(model, grid):
    z, _, density, _, _ = grid
    fitted = model.warps_[0]
    still = int(np.argmin(np.abs(z)))  # no momentum: the head alone
    head = fitted.model.head
    with jax.enable_x64(True):
        Z = model._inputs(X)
        K = np.asarray(head.similarity(Z, Z)) + float(head.noise) * np.eye(40)
    target = (Y - Y.mean()) / Y.std()
    evidence = -0.5 * (target @ np.linalg.solve(K, target) + np.linalg.slogdet(2 * np.pi * K)[1])
    assert density[still] == pytest.approx(evidence, rel=1e-8)


def test_draws_have_the_moments_of_the_posterior(model, grid):
    pytest.importorskip("blackjax", reason="the optional sampler is not installed")
    z, p, _, mean, variance = grid
    samples = sample_posterior(model, X, Y, n_warmup=150, n_samples=400)
    draws = samples.draws_
    assert draws.divergences < 8
    assert draws.rhat.shape == draws.ess.shape == (1,)
    assert draws.rhat[0] < 1.03 and draws.ess[0] > 80
    x = draws.momentum[:, :, 0, 0]
    exact = p @ z
    spread = np.sqrt(p @ (z - exact) ** 2)
    assert abs(x.mean() - exact) < 4 * spread / np.sqrt(draws.ess[0])
    assert x.std() == pytest.approx(spread, rel=0.2)
    assert not draws.momentum[:, :, :, 1:].any()  # columns that pad stay where they are

    first = np.tensordot(p, mean, 1)[:, 0]
    second = np.tensordot(p, variance + (mean - first[:, None]) ** 2, 1)[:, 0]
    std = Y.std() * np.sqrt(second + model.noise_)
    got_mean, got_std = samples.predict(AT, return_std=True)
    np.testing.assert_allclose(got_std, std, rtol=0.05)
    np.testing.assert_allclose(got_mean, Y.mean() + Y.std() * first, atol=0.2 * std.min())
    mixture = samples.predict_mixture(AT)
    assert mixture.mean.shape == (200, 7)
    assert (norm.cdf(0) < mixture.pit(got_mean + got_std)).all()


def test_what_has_no_momentum_is_refused(model):
    still, first = copy.copy(model), model.warps_[0]
    head_alone = eqx.tree_at(lambda m: m.warp.temper, first.model, np.float64(0.0))
    still.warps_ = [first._replace(model=head_alone)]
    with pytest.raises(ValueError, match="the heaviest warp moves nothing"):
        sample_posterior(still, X, Y)


@pytest.mark.parametrize("name", ["n_warmup", "n_samples", "n_chains"])
def test_counts_are_checked(model, name):
    with pytest.raises(ValueError, match=name):
        sample_posterior(model, X, Y, **{name: 1})


def test_without_the_sampler_it_says_how_to_get_it(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "blackjax", None)
    with pytest.raises(ImportError, match=r"pip install 'ideareg\[bayes\]'"):
        sample_posterior(model, X, Y)
