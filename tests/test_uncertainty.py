"""The variance of the warp against dense Jacobians."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import make_problem, sample

from ideareg.readout import Batch
from ideareg.uncertainty import conclude, predict_covariance, predict_mean, predict_moments

pytestmark = pytest.mark.usefixtures("double_precision")


class Case:
    """A model away from the identity, its posteriors, and points to predict at."""

    def __init__(self, head, integrator="symplectic_euler", nu=0.5):
        rows = sample(outputs=2)
        self.rows = rows._replace(weight=np.array([2.0, 0.0] + 14 * [1.0]))
        self.model = make_problem(head, integrator, rows=self.rows, nu=nu, size=0.7).model
        self.fitted = conclude(self.model, self.rows)
        self.posterior, self.spread = self.fitted.posterior, self.fitted.spread
        self.at = sample(6, seed=7).X

    def moments(self, at):
        return predict_moments(self.fitted, at)

    def warp_variance(self, at):
        """What the warp adds to the variance of the head."""
        head = self.posterior.variance(self.model.warp(at))
        return self.moments(at)[1] - head[:, None]


HEADS = [
    ("exact", "symplectic_euler"),
    ("sparse", "symplectic_euler"),
    pytest.param(("sparse", "implicit_midpoint"), marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=HEADS, ids="-".join)
def case(request):
    with jax.enable_x64(True):
        return Case(*request.param)


def dense(case):
    """Precision of z and the sensitivity of each prediction, (k, R, R) and (k, n, R)."""
    warp, posterior = case.model.warp, case.posterior
    seen = case.rows.weight > 0
    X = case.rows.X[seen]

    @jax.jit
    @jax.jacfwd
    def derivative(z):
        moved = eqx.tree_at(lambda w: w.momentum, warp, z)
        return posterior.mean(moved(np.vstack([X, case.at]))).T

    jacobian = np.asarray(derivative(jnp.asarray(warp.momentum)))
    J, j = np.split(jacobian.reshape(2, -1, warp.momentum.size), [len(X)], axis=1)

    head = case.model.head
    q, q_at = warp(X), warp(case.at)
    C = np.asarray(head.similarity(q, q)) + np.diag(float(head.noise) / case.rows.weight[seen])
    A = np.eye(J.shape[-1]) + sum(each.T @ np.linalg.solve(C, each) for each in J)
    follow = np.asarray(head.similarity(q_at, q)) @ np.linalg.solve(C, J)
    return A, j - follow


def test_precision_and_variance_match_dense_algebra(case):
    A, j = dense(case)
    np.testing.assert_allclose(case.spread.log_volume, 0.5 * np.linalg.slogdet(A)[1], rtol=1e-4)
    expected = np.einsum("onr,rs,ons->no", j, np.linalg.inv(A), j)
    assert expected.max() > 1e-3
    np.testing.assert_allclose(
        case.warp_variance(case.at), expected, rtol=1e-3, atol=1e-6 * expected.max()
    )


def test_moments_mean_and_covariance_agree(case):
    mean, variance = case.moments(case.at)
    covariance = predict_covariance(case.fitted, case.at)
    np.testing.assert_allclose(mean, predict_mean(case.fitted, case.at), atol=1e-12)
    np.testing.assert_allclose(variance, jnp.diagonal(covariance, axis1=1, axis2=2).T, atol=1e-10)
    for each in covariance:
        np.testing.assert_allclose(each, each.T, atol=1e-12)
        assert np.linalg.eigvalsh(each).min() > -1e-9


def test_precision_only_exceeds_that_of_the_prior(case):
    assert case.spread.log_volume > 0.1


def test_more_data_leave_less_variance(case):
    """Weights a hundredfold: the momentum is known better."""
    rows = case.rows._replace(weight=100 * case.rows.weight)
    sharp = conclude(case.model, rows).spread
    assert sharp.log_volume > case.spread.log_volume


def test_the_rows_of_a_sample_stand_for_all_rows():
    """Every row twice, half of them seen: the spread is that of all; the head always sees all."""
    few = sample(outputs=2)
    twice = Batch(*(np.concatenate([part, part]) for part in few))
    model = make_problem("sparse", rows=few, nu=0.5, size=0.7).model
    whole, part = conclude(model, twice), conclude(model, twice, sample=few)
    np.testing.assert_allclose(part.spread.log_volume, whole.spread.log_volume, rtol=1e-9)
    at = sample(6, seed=7).X
    for one, same in zip(predict_moments(part, at), predict_moments(whole, at), strict=True):
        np.testing.assert_allclose(one, same, rtol=1e-8)


def test_no_warp_adds_no_variance():
    still = Case("sparse", nu=np.inf)
    np.testing.assert_allclose(still.warp_variance(still.at), 0.0, atol=1e-15)
    assert not np.any(still.spread.stages) and still.spread.log_volume == 0
