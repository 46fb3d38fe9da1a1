"""Distributions of bent targets against samples, closed forms, and mixtures that are not bent."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import lognorm

from ideareg._rows import Scaling
from ideareg.bent import BentMixture, unbend
from ideareg.calibration import Mixture

RNG = np.random.default_rng(0)
N = 5
LATENT = Mixture(np.array([0.7, 0.3]), RNG.normal(size=(2, N)), 0.2 + 0.5 * RNG.random(size=(2, N)))


def scaling(*powers):
    """Bend columns by given powers, with a unit, a mean and a scale of their own."""
    k = len(powers)
    ones = np.ones(k)
    return Scaling(0.5 * ones, np.array(powers), 0.3 * ones, 1.4 * ones, np.ones(k, bool))


def test_a_straight_one_is_the_mixture():
    straight = scaling(1.0)
    bent, scale = BentMixture(LATENT, (straight,) * 2), 0.5 * 1.4
    plain = Mixture(
        LATENT.weight, straight.backward(LATENT.mean[..., None])[..., 0], scale * LATENT.std
    )
    y = RNG.normal(size=N)
    for one, other in zip(bent.moments(), plain.moments(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    np.testing.assert_allclose(bent.pit(y), plain.pit(y), rtol=1e-12)
    np.testing.assert_allclose(bent.log_density(y), plain.log_density(y), rtol=1e-12)
    np.testing.assert_allclose(bent.quantile([0.1, 0.6]), plain.quantile([0.1, 0.6]), rtol=1e-12)
    np.testing.assert_allclose(bent.crps(y), plain.crps(y), rtol=1e-3)


@pytest.mark.parametrize("powers", [(0.0, 0.0), (0.5, 0.5), (1.7, 1.7), (0.3, 1.0)])
def test_scores_are_those_of_the_density(powers):
    """Each of two components has a map of its own."""
    bent = BentMixture(LATENT, tuple(scaling(power) for power in powers))
    y = bent.quantile([0.3])[0]
    low, high = bent.quantile([1e-9, 1 - 1e-9])

    def density(t, i):
        return np.exp(bent.log_density(np.full(N, t))[i])

    for i in range(N):
        ends = {"limit": 500, "points": [y[i]]}
        total = quad(density, low[i], high[i], args=(i,), **ends)[0]
        mean = quad(lambda t, i=i: t * density(t, i), low[i], high[i], **ends)[0]
        square = quad(lambda t, i=i: t**2 * density(t, i), low[i], high[i], **ends)[0]
        assert total == pytest.approx(1, abs=1e-6)
        assert bent.moments()[0][i] == pytest.approx(mean, rel=1e-4)
        assert bent.moments()[1][i] == pytest.approx(np.sqrt(square - mean**2), rel=1e-3)
        assert bent.pit(y)[i] == pytest.approx(0.3, abs=1e-9)

        def gap(t, i=i):
            return (bent.pit(np.full(N, t))[i] - (t >= y[i])) ** 2

        assert bent.crps(y)[i] == pytest.approx(quad(gap, low[i], high[i], **ends)[0], rel=5e-3)


def test_power_zero_above_zero_is_log_normal():
    g = Scaling(*(np.array([a]) for a in (1.0, 0.0, 0.0, 1.0, True)))
    forecast = BentMixture(Mixture.normal([3.0], [0.5]), (g,))
    known = lognorm(0.5, loc=-1, scale=np.exp(3))
    mean, std = forecast.moments()
    assert mean[0] == pytest.approx(known.mean(), rel=1e-9)
    assert std[0] == pytest.approx(known.std(), rel=1e-9)
    assert forecast.log_density([20.0])[0] == pytest.approx(known.logpdf(20.0), rel=1e-9)


def test_columns_have_maps_of_their_own():
    each = [Mixture(LATENT.weight, LATENT.mean + k, LATENT.std) for k in (0, 1)]
    both = Mixture(LATENT.weight, *(np.stack([m[i] for m in each], -1) for i in (1, 2)))
    forecast, y = BentMixture(both, (scaling(0.0, 0.6),) * 2), RNG.normal(size=(N, 2))
    for k, power in enumerate((0.0, 0.6)):
        alone = BentMixture(each[k], (scaling(power),) * 2)
        for name in ("pit", "crps", "log_density"):
            one, other = getattr(forecast, name)(y)[:, k], getattr(alone, name)(y[:, k])
            np.testing.assert_allclose(one, other, rtol=1e-12)
        for one, other in zip(forecast.moments(), alone.moments(), strict=True):
            np.testing.assert_allclose(one[:, k], other, rtol=1e-12)
        np.testing.assert_allclose(
            forecast.quantile([0.2, 0.9])[..., k], alone.quantile([0.2, 0.9])
        )
        np.testing.assert_allclose(forecast.interval()[1][:, k], alone.interval()[1])


def test_the_covariance_is_that_of_samples():
    A = RNG.normal(size=(4, 4)) * 0.15
    covariance, mean, g = A @ A.T + 0.01 * np.eye(4), RNG.normal(size=4), scaling(0.0)
    means, (found,) = unbend(mean[:, None], covariance[None], g)
    draws = RNG.multivariate_normal(mean, covariance, 400_000)
    np.testing.assert_allclose(found, np.cov(g.backward(draws[..., None])[..., 0].T), rtol=0.05)
    both = BentMixture(Mixture.normal(mean, np.sqrt(np.diag(covariance))), (g,)).moments()
    np.testing.assert_allclose(means[:, 0], both[0], rtol=1e-12)
    np.testing.assert_allclose(np.sqrt(np.diag(found)), both[1], rtol=1e-6)


def test_slopes_are_those_of_the_map():
    g, A, step = scaling(0.0, 1.0, 1.6), RNG.normal(size=(7, 3)), 1e-6
    slope = (g.forward(A + step) - g.forward(A - step)) / (2 * step)
    np.testing.assert_allclose(np.exp(g.log_slope(A)), slope, rtol=1e-7)
    assert g.bends and not scaling(1.0).bends
