"""Rows that come in pieces count as if they had come at once."""

import copy

import jax
import numpy as np
import pandas as pd
import pytest

import ideareg
from ideareg import WarpingRegressor
from ideareg._numerics import numerics
from ideareg._rows import bucket, pad
from ideareg.readout import Batch, Posterior


def wave(n, seed, outputs=1, noise=0.1):
    random = np.random.default_rng(seed)
    X = random.uniform(-1, 1, size=(n, 2))
    clean = np.column_stack([np.tanh(6 * X[:, 0] + k) + X[:, 1] ** 2 for k in range(outputs)])
    y = clean + noise * random.normal(size=clean.shape)
    return X, y[:, 0] if outputs == 1 else y


def first_fit(X, y, **parameters):
    settings = {"nu": 5.0, "max_iter": 15, "random_state": 0, "verbose": 0} | parameters
    return WarpingRegressor(**settings).partial_fit(X, y)


def posterior_of_all(model, X, y, weight=None):
    """Condition the head of the first warp on all rows at once, by `SparseHead.conditioned`."""
    with numerics():
        (warp,) = model.warps_
        n = bucket(len(X))
        Y = model._scalings[0].forward(y.reshape(len(y), -1))
        weight = np.ones(len(X)) if weight is None else weight
        rows = Batch(pad(model._standardised(X), n), pad(Y, n), pad(weight, n))
        carry = warp.predictor.warp.along(warp.predictor.trajectory)
        found, _ = jax.jit(lambda rows: warp.model.head.conditioned(carry, rows))(rows)
        return jax.tree.map(np.asarray, found)


def moments(posterior: Posterior, model, X):
    with numerics():
        q = model.warps_[0].predictor.flow(model._standardised(X))
        return np.asarray(posterior.mean(q)), np.asarray(posterior.variance(q))


@pytest.mark.parametrize(
    "outputs, parameters",
    [
        (1, {}),
        (2, {}),
        (1, {"n_inducing": 30}),
        (1, {"target_power": True}),
        (1, {"nu": np.inf, "noise": 1e-7, "learn_head": False}),
    ],
)
def test_pieces_count_like_the_whole(outputs, parameters):
    X, y = wave(900, 0, outputs)
    if "target_power" in parameters:
        y = np.exp(y)
    model = first_fit(X[:300], y[:300], **parameters)
    before = moments(model.warps_[0].predictor.posterior, model, X[:50])
    whole = posterior_of_all(model, X, y)
    for start in range(300, 900, 200):
        assert model.partial_fit(X[start : start + 200], y[start : start + 200]) is model
    new = wave(50, 1)[0]
    exact = moments(whole, model, new)
    mean, variance = moments(model.warps_[0].predictor.posterior, model, new)
    np.testing.assert_allclose(mean, exact[0], atol=1e-7)
    np.testing.assert_allclose(variance, exact[1], rtol=1e-4, atol=1e-12)
    assert np.abs(before[0] - moments(whole, model, X[:50])[0]).max() > 1e-4  # it was worth telling


def test_order_does_not_matter_and_weights_are_repetitions():
    X, y = wave(300, 0)
    model = first_fit(X[:150], y[:150])
    one, other = copy.deepcopy(model), copy.deepcopy(model)
    one.partial_fit(X[150:200], y[150:200]).partial_fit(X[200:], y[200:])
    other.partial_fit(X[200:], y[200:]).partial_fit(X[150:200], y[150:200])
    new = wave(40, 1)[0]
    np.testing.assert_allclose(one.predict(new), other.predict(new), atol=1e-8)

    weight = np.arange(150) % 3.0
    again = np.repeat(np.arange(150, 300), weight.astype(int))
    weighed = copy.deepcopy(model).partial_fit(X[150:], y[150:], sample_weight=weight)
    repeated = copy.deepcopy(model).partial_fit(X[again], y[again])
    np.testing.assert_array_equal(weighed.predict(new), repeated.predict(new))


def test_more_rows_predict_better_and_doubt_less():
    X, y = wave(4000, 0, noise=0.5)
    new = wave(500, 1, noise=0.0)
    model = first_fit(X[:200], y[:200], max_iter=40)

    def judged():
        mean, std = model.predict(new[0], return_std=True)
        function = std**2 - model.noise_ * model._scale_y.scale**2
        return np.sqrt(np.mean((mean - new[1]) ** 2)), function.mean()

    error, doubt = judged()
    model.partial_fit(X[200:], y[200:])
    later, left = judged()
    assert later < 0.75 * error
    assert left < doubt


def test_nothing_is_selected_anew(tmp_path):
    X, y = wave(260, 0)
    model = WarpingRegressor(max_iter=5, random_state=0, verbose=0, n_folds=1)
    model.partial_fit(X[:200], y[:200])
    weights, momentum = model.warp_weights_.copy(), model.momentum_.copy()
    model.save(tmp_path / "before.ideareg")
    model.partial_fit(X[200:], y[200:])
    np.testing.assert_array_equal(model.warp_weights_, weights)
    np.testing.assert_array_equal(model.momentum_, momentum)
    assert not model.local_share_.any()
    loaded = ideareg.load(tmp_path / "before.ideareg").partial_fit(X[200:], y[200:])
    np.testing.assert_allclose(loaded.predict(X[:9]), model.predict(X[:9]), atol=1e-12)


def test_the_price_of_a_row_has_a_bound():
    X, y = wave(2400, 0)
    (warp,) = first_fit(X, y, max_iter=2).warps_
    assert len(warp.model.head.inducing) == 512


def test_first_rows_may_be_few():
    X, y = wave(60, 0)
    model = WarpingRegressor(max_iter=5, random_state=0, verbose=0)
    for row in range(0, 60, 12):
        model.partial_fit(X[row : row + 12], y[row : row + 12])
    assert np.isfinite(model.predict(X)).all()
    assert model.score(X, y) > 0.5


def test_an_exact_head_goes_on_from_its_rows():
    X, y = wave(200, 0)
    model = WarpingRegressor(nu=5.0, max_iter=15, verbose=0, local=False).fit(X[:60], y[:60])
    before = model.predict(wave(40, 1)[0], return_std=True)
    nothing = copy.deepcopy(model).partial_fit(X[:1], y[:1], sample_weight=[1e-12])
    for old, new in zip(before, nothing.predict(wave(40, 1)[0], return_std=True), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-4)
    whole = posterior_of_all(nothing, X, y)
    model.partial_fit(X[60:], y[60:])
    new = wave(50, 1)[0]
    mean, variance = moments(model.warps_[0].predictor.posterior, model, new)
    np.testing.assert_allclose(mean, moments(whole, model, new)[0], atol=1e-4)
    np.testing.assert_allclose(variance, moments(whole, model, new)[1], rtol=1e-2)


@pytest.mark.parametrize(
    "parameters, words",
    [
        ({"local": True}, "local=True keeps all rows"),
        ({"n_control_points": "rows"}, "n_control_points='rows' keeps all rows"),
        (
            {"loss": "epsilon_insensitive", "learn_head": False, "nu": 1.0},
            "loss='epsilon_insensitive' keeps all rows",
        ),
    ],
)
def test_refuses_what_keeps_rows(parameters, words):
    X, y = wave(30, 0)
    with pytest.raises(ValueError, match=words):
        first_fit(X, y, **parameters)


def test_refuses_a_fit_with_corrections_from_near_rows():
    near = np.repeat(wave(60, 0, noise=0.0)[0], 3, axis=0)
    targets = np.repeat(np.random.default_rng(0).normal(size=60), 3)
    kept = WarpingRegressor(nu=1.0, max_iter=3, verbose=0, head="sparse", local=True)
    kept.fit(near, targets)
    kept.set_params(local="auto")
    with pytest.raises(ValueError, match="near rows correct"):
        kept.partial_fit(near, targets)


def test_refuses_other_columns_and_outputs():
    X, y = wave(40, 0)
    model = first_fit(pd.DataFrame(X, columns=["a", "b"]), y)
    with pytest.raises(ValueError, match="feature names"):
        model.partial_fit(pd.DataFrame(X, columns=["b", "a"]), y)
    with pytest.raises(ValueError, match="expected 1 outputs"):
        model.partial_fit(pd.DataFrame(X, columns=["a", "b"]), np.column_stack([y, y]))
    with pytest.raises(ValueError, match="weight"):
        model.partial_fit(pd.DataFrame(X, columns=["a", "b"]), y, sample_weight=np.zeros(40))
