"""Worst-case bounds: they hold for every function of known norm, and are what they say."""

import copy

import numpy as np
import pytest

from ideareg import WarpingRegressor

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 2)) * [1, 3] + [0, 5]
Y = 50 + 9 * np.tanh(4 * X[:, 0]) + 0.3 * X[:, 1]
AT = RNG.normal(size=(60, 2)) * [1.5, 4] + [0, 5]
SMALL = {"nu": 0.5, "n_control_points": 5, "depth": 2, "max_iter": 12, "random_state": 0}


@pytest.fixture(scope="module")
def model():
    return WarpingRegressor(**SMALL).fit(X, Y)


@pytest.fixture(scope="module")
def sparse():
    return WarpingRegressor(head="sparse", n_inducing=8, **SMALL).fit(X, np.column_stack([Y, -Y]))


def known(model, seed):
    """A random function of the warped space, and its norm in units of y."""
    rng = np.random.default_rng(seed)
    centres = X[rng.choice(len(X), 6)] + rng.normal(size=(6, 2))
    c = rng.normal(size=6)
    scale = Y.std()
    norm = scale * np.sqrt(c @ model.warping_kernel(centres) @ c)
    return (lambda A: Y.mean() + scale * model.warping_kernel(A, centres) @ c), norm


def test_two_hundred_functions_of_known_norm_are_all_within(model):
    ratios = []
    for seed in range(200):
        function, norm = known(model, seed)
        mean, bound = model.condition(X, function(X)).predict(AT, return_bound=True, norm=norm)
        ratios.append(np.abs(function(AT) - mean) / bound)
    assert np.max(ratios) <= 1
    assert np.max(ratios) > 0.2  # and not by being idle


def test_noisy_observations_are_within(model):
    lam, rng = model.noise_, np.random.default_rng(1)
    for seed in range(20):
        function, norm = known(model, seed)
        e, e_at = rng.normal(size=40), rng.normal(size=60)  # in units of y
        seen = model.condition(X, function(X) + e)
        norms = np.sqrt(norm**2 + (e @ e + e_at**2) / lam)
        bound = norms * seen.error_bound(AT, 1.0, noisy=True)
        assert (np.abs(function(AT) + e_at - seen.predict(AT)) <= bound).all()


def test_worst_function_attains_the_bound_but_for_the_ridge(model):
    """It is the kernel at x less its own regression, g; its error there is its squared norm."""
    at, lam = AT[:1], model.noise_
    K, k = model.warping_kernel(X), model.warping_kernel(at, X)[0]
    own = model.warping_kernel(at)[0, 0]
    h = np.linalg.solve(K + lam * np.eye(40), k)
    squared = own - 2 * h @ k + h @ K @ h
    seen = model.condition(X, Y.mean() + Y.std() * (k - K @ h))
    mean, bound = seen.predict(at, return_bound=True, norm=Y.std() * np.sqrt(squared))
    error = abs(Y.mean() + Y.std() * (own - h @ k) - mean[0])
    assert error == pytest.approx(Y.std() * squared, rel=1e-5)
    assert error / bound[0] == pytest.approx(np.sqrt(1 - lam * (h @ h) / (own - k @ h)), rel=1e-5)


def test_default_norm_is_that_of_the_regressor(model):
    K = model.warping_kernel(X)
    dual = np.linalg.solve(K + model.noise_ * np.eye(40), (Y - Y.mean()) / Y.std())
    norm = Y.std() * np.sqrt(dual @ K @ dual)
    assert model.bound_norm_ == pytest.approx(norm, rel=1e-6)
    _, bound = model.predict(AT, return_bound=True)
    cross = model.warping_kernel(AT, X)
    solved = np.linalg.solve(K + model.noise_ * np.eye(40), cross.T)
    sigma = np.sqrt(np.diag(model.warping_kernel(AT)) - (cross * solved.T).sum(1))
    np.testing.assert_allclose(bound, sigma * norm, rtol=1e-5)
    np.testing.assert_allclose(bound, model.error_bound(AT))


def test_sparse_heads_and_several_outputs(sparse):
    mean, bound = sparse.predict(AT, return_bound=True)
    assert bound.shape == mean.shape == (60, 2)
    assert sparse.bound_norm_.shape == (1, 2)
    np.testing.assert_allclose(bound[:, 0], bound[:, 1], rtol=1e-6)
    doubled = sparse.error_bound(AT, 2 * sparse.bound_norm_[0])
    np.testing.assert_allclose(doubled, 2 * bound)


def test_conditioning_on_the_rows_of_the_fit_changes_nothing(model, sparse):
    again = model.condition(X[::-1], Y[::-1])
    np.testing.assert_allclose(again.predict(AT), model.predict(AT), rtol=1e-9)
    np.testing.assert_allclose(
        again.predict(AT, return_std=True)[1], model.predict(AT, return_std=True)[1], rtol=1e-6
    )
    assert again is not model
    both = np.column_stack([Y, -Y])
    weighted = sparse.condition(X, both, sample_weight=np.ones(40))
    np.testing.assert_allclose(weighted.predict(AT), sparse.predict(AT), rtol=1e-9)


def test_fewer_rows_leave_more_to_be_wrong_about(model):
    fewer = model.condition(X[:20], Y[:20])
    assert (fewer.error_bound(AT, 1.0) > model.error_bound(AT, 1.0)).all()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"return_std": True, "return_bound": True}, "at most one of return_std"),
        ({"norm": 1.0}, "norm goes with return_bound"),
        ({"return_bound": True, "norm": -1.0}, "norm must be non-negative"),
        ({"return_bound": True, "norm": np.nan}, "norm must be non-negative"),
        ({"return_bound": True, "norm": [1.0, 2.0]}, "expected a number or one per output"),
    ],
)
def test_bad_requests_are_refused(model, arguments, match):
    with pytest.raises(ValueError, match=match):
        model.predict(AT, **arguments)


def test_what_cannot_be_bounded_is_refused(model, sparse):
    with pytest.raises(ValueError, match="noisy=True needs one"):
        model.error_bound(AT, noisy=True)
    with pytest.raises(ValueError, match="y: expected 2 outputs as in the fit"):
        sparse.condition(X, Y)
    svr = copy.copy(model).set_params(loss="epsilon_insensitive")
    with pytest.raises(ValueError, match="is not linear in the targets"):
        svr.predict(AT, return_bound=True)
