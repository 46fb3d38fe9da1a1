"""Images: the layers against the exact REM kernel, the read-out, and the estimators' contract."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.datasets import load_digits
from sklearn.utils.estimator_checks import parametrize_with_checks

import ideareg
from ideareg import REMClassifier, REMRegressor
from ideareg.convolution import Plan, fit_layers, in_batches, layer_of, pooling
from ideareg.kernelmachine import fold_numbers, slices
from ideareg.kernels import REM, as_kernel, groups
from ideareg.nystrom import Basis, Regressor, Ridge, Standard, Sums, choose_ridge, climb, judge

SMALL = {"n_patches": (8, 12), "random_state": 0, "verbose": 0}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    some = np.random.default_rng(0).permutation(len(y))[:500]
    return X[some], y[some]


# ---------------------------------------------------------------- layers


def run(layers, images):
    """The maps after the last layer, compiled as the estimators do."""
    return np.concatenate(list(in_batches(layers, images)))


def dot_product_kernel(alpha, centred):
    """The base kernel of a layer, written out for one pair of patches."""

    def k(u, v):
        if centred:
            u, v = u - u.mean(), v - v.mean()
        size = jnp.sqrt((u @ u) * (v @ v))
        return size * jnp.exp(alpha * (u @ v / size - 1))

    return as_kernel(k)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize(("sides", "channels"), [((4, 6), 2), ((1, 7), 1)])
def test_a_layer_with_all_patches_is_the_rem_kernel(sides, channels, centred, double_precision):
    """No pooling, no ridge, all patches as inducing ones: the kernel itself."""
    plan = Plan(3, 0, 1.5, 1, 0.0, centred)
    images = normal(2, *sides, channels)
    window = [(-((min(3, s) - 1) // 2), min(3, s)) for s in sides]
    kernel_window = [
        (i % sides[0]) * sides[1] + j % sides[1]
        for i in range(window[0][0], window[0][0] + window[0][1])
        for j in range(window[1][0], window[1][0] + window[1][1])
    ]
    G = groups.translations(sides)
    exact = REM(G, kernel_window, dot_product_kernel(1.5, centred), channels=channels)
    rows = jnp.asarray(images.reshape(2, -1))
    patches = np.asarray(exact.patches(rows)).reshape(-1, 3 * window[0][1] * channels)
    if centred:
        patches = patches - patches.mean(1, keepdims=True)
    unit = patches / np.linalg.norm(patches, axis=1, keepdims=True)
    layer = layer_of(unit, sides, channels, plan, True, np.float64, ridge=1e-13)
    features = run((layer,), images).reshape(2 * sides[0] * sides[1], -1)
    np.testing.assert_allclose(features @ features.T, exact.gram(rows), rtol=1e-6, atol=1e-8)


def test_fewer_inducing_patches_come_closer_as_they_are_more(double_precision):
    images = normal(4, 6, 6, 1)

    def gram(count):
        plan = Plan(3, count, 2.0, 1, 0.0, True)
        (layer,) = fit_layers(images, (plan,), True, np.random.RandomState(0))
        F = run((layer,), images).reshape(4 * 36, -1)
        return F @ F.T

    exact = gram(144)
    errors = [np.linalg.norm(gram(count) - exact) / np.linalg.norm(exact) for count in (9, 36, 100)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_layers_commute_with_translations_by_their_strides(double_precision):
    images = normal(3, 12, 12, 1)
    plans = Plan(3, 10, 3.0, 2, 1.0, True), Plan(3, 8, 4.0, 3, 1.5, False)
    layers = fit_layers(images, plans, True, np.random.RandomState(0))

    moved = run(layers, np.roll(images, 6, axis=1))
    np.testing.assert_allclose(moved, np.roll(run(layers, images), 1, axis=1), atol=1e-12)
    assert moved.shape == (3, 2, 2, 8)


def test_away_from_the_border_zeros_outside_change_nothing(double_precision):
    images = np.zeros((2, 20, 20, 1))
    images[:, 6:11, 6:11] = normal(2, 5, 5, 1)
    plans = (Plan(3, 10, 3.0, 2, 0.5, True),)
    (layer,) = fit_layers(images, plans, False, np.random.RandomState(0))
    moved, here = run((layer,), np.roll(images, 2, axis=2)), run((layer,), images)
    np.testing.assert_allclose(moved, np.roll(here, 1, axis=2), atol=1e-9)


def test_brightness_is_not_seen_and_contrast_scales(double_precision):
    images = normal(3, 8, 8, 2)
    plans = Plan(3, 10, 3.0, 2, 1.0, True), Plan(3, 8, 4.0, 1, 0.0, False)
    layers = fit_layers(images, plans, True, np.random.RandomState(0))
    first = run(layers[:1], images)
    np.testing.assert_allclose(run(layers[:1], images + 5.0), first, atol=1e-4)
    np.testing.assert_allclose(run(layers, 3 * images), 3 * run(layers, images), rtol=1e-4)


@pytest.mark.parametrize("periodic", [True, False])
def test_pooling_weights(periodic):
    P = pooling(31, 3, 1.2, periodic)
    assert P.shape == (11, 31)
    np.testing.assert_allclose(P[5].sum(), 1.0, atol=1e-6)
    np.testing.assert_array_equal(pooling(9, 1, 0.0, periodic), np.eye(9))
    if not periodic:
        np.testing.assert_allclose(P, P[::-1, ::-1])


# ---------------------------------------------------------------- the read-out


def test_the_read_out_with_all_centres_is_kernel_ridge():
    F, Y = normal(60, 5), normal(60, 2, seed=1)
    K = np.exp(-0.3 * cdist(F, F, "sqeuclidean"))
    fold = np.arange(60) % 3
    basis = Basis.of(F, 0.3)
    sums = Sums.of(basis, slices(F[None]), Y, fold)
    new = normal(7, 5, seed=2)
    k = np.exp(-0.3 * cdist(new, F, "sqeuclidean"))
    A = np.linalg.inv(K + 0.1 * np.eye(60))
    mean, variance = Regressor.of(basis, sums, 0.1, variance=True).moments(new[None])
    np.testing.assert_allclose(mean, k @ A @ Y, atol=1e-6)
    np.testing.assert_allclose(variance, 1.1 - np.einsum("ij,jk,ik->i", k, A, k), atol=1e-6)
    held = judge(sums, Y, 0.1, lambda f, rows: 0.0)
    test = fold == 1
    inverse = np.linalg.inv(K[~test][:, ~test] + 0.1 * np.eye(40))
    wanted = K[test][:, ~test] @ inverse @ Y[~test]
    np.testing.assert_allclose(held.predicted[np.isin(held.rows, np.flatnonzero(test))], wanted,
                               atol=1e-6)  # fmt: skip


def test_averaging_over_a_group_is_ridge_on_augmented_data():
    """The ridge of the augmented data is that of the averaged kernel, times the group's order."""
    F = normal(2, 20, 3)  # what two elements make of 20 rows
    Y = normal(20, 1, seed=1)
    both = F.reshape(40, 3)
    basis = Basis.of(both, 0.5)
    sums = Sums.of(basis, [(np.arange(20), F)], Y, np.zeros(20, int))
    found = Regressor.of(basis, sums, 0.1, variance=False)(F)
    K = np.exp(-0.5 * cdist(both, both, "sqeuclidean"))
    swap = np.roll(np.arange(40), 20)
    invariant = (K + K[swap]) / 2  # of a pair that the group does not carry isometrically: both
    averaged = (invariant + invariant[:, swap]) / 2
    dual = np.linalg.solve(averaged[:20, :20] + 0.1 * np.eye(20), Y)
    np.testing.assert_allclose(found, averaged[:20, :20] @ dual, atol=1e-6)


def test_the_search_climbs_from_either_side():
    def attempt(value):
        return Ridge(value, -1.0 - (np.log2(value) + 3) ** 2, np.empty(0), np.empty(0, int))

    assert climb(attempt, 1.0, 2.0, 0.0)[0] == 0.125
    assert climb(attempt, 2.0**-5, 2.0, 0.0)[0] == 0.125


def test_the_search_stays_on_a_plateau_if_it_must_gain():
    def attempt(value):
        return Ridge(value, -1 + 1e-5 * value, np.empty(0), np.empty(0, int))

    assert climb(attempt, 1.0, 2.0, 1e-3)[0] == 1
    assert climb(attempt, 1.0, 2.0, 0.0)[0] == 2.0**8


def test_the_ridge_of_the_best_held_out_score():
    random = np.random.RandomState(3)
    X = random.normal(size=(120, 2))
    Y = np.sin(X[:, :1]) + 0.3 * random.normal(size=(120, 1))
    basis = Basis.of(X[:60], 0.5)
    sums = Sums.of(basis, [(np.arange(120), X[None])], Y, np.arange(120) % 5)

    def score(f, rows):
        return -float(np.mean((f - Y[rows]) ** 2))

    found = choose_ridge(sums, Y, score, 1e-3)
    grid = 10 ** np.arange(-6, 4.5, 0.5)
    scores = [judge(sums, Y, ridge, score).score for ridge in grid]
    assert found.ridge == pytest.approx(grid[np.argmax(scores)])
    assert found.ridge > 1e-2


def test_one_centre_for_many_more_rows_than_are_held_in_memory(monkeypatch):
    monkeypatch.setattr("ideareg.kernelmachine.KEPT_ROWS", 20)
    X = np.random.default_rng(0).normal(size=(60, 36))
    model = REMClassifier((6, 6), n_centres=1, **SMALL).fit(X, np.arange(60) % 2)
    assert np.isfinite(model.predict_proba(X)).all()


def test_of_many_rows_one_fold_is_held_out():
    random = np.random.RandomState(0)
    assert np.bincount(fold_numbers(103, random)).tolist() == [21, 21, 21, 20, 20]
    assert (fold_numbers(60_000, random) == 0).sum() == 5_000
    assert set(fold_numbers(6_000, random)) == {0, -1}


def test_standard():
    F = normal(200, 4) * 3 + 10
    new = Standard.of(F)(F)
    np.testing.assert_allclose(new.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose((new**2).sum(1).mean(), 1)


# ---------------------------------------------------------------- the estimators


def test_digits(digits):
    X, y = digits
    model = REMClassifier(n_patches=(32, 64), random_state=0).fit(X[:350], y[:350])
    assert model.score(X[350:], y[350:]) > 0.93
    assert model.image_shape_ == (8, 8, 1)
    P = model.predict_proba(X[350:])
    np.testing.assert_allclose(P.sum(1), 1, atol=1e-12)
    log_loss = -np.log(P[np.arange(150), y[350:]]).mean()
    assert log_loss < 0.2
    assert model.transform(X[:3]).shape == (3, 4 * 4 * 64)


@pytest.mark.slow
def test_all_digits_in_five_folds():
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    scores = cross_val_score(REMClassifier(random_state=0), *load_digits(return_X_y=True), cv=folds)
    assert scores.mean() >= 0.99


def test_a_fit_is_deterministic_and_its_file_whole(digits, tmp_path):
    X, y = digits[0][:150], digits[1][:150].astype(str)
    model = REMClassifier(**SMALL).fit(X, y)
    again = REMClassifier(**SMALL).fit(X, y)
    np.testing.assert_array_equal(model.predict_proba(X), again.predict_proba(X))
    model.save(tmp_path / "m")
    back = ideareg.load(tmp_path / "m")
    # On some processors a product rounds by the layout of its factors, which a file does not keep.
    np.testing.assert_allclose(back.predict_proba(X), model.predict_proba(X), atol=1e-10)
    np.testing.assert_allclose(back.transform(X), model.transform(X), rtol=1e-5)
    assert back.get_params() == model.get_params() | {"random_state": None}
    assert back.gamma_ == model.gamma_


@pytest.mark.parametrize("group", [None, "p4", "object"])
def test_files_of_a_regressor(group, tmp_path):
    X = normal(80, 36)
    Y = np.stack([X[:, 0] * X[:, 1], X.sum(1)], axis=1)
    named = groups.quarter_turns(6) if group == "object" else group
    model = REMRegressor(group=named, dtype="float64", **SMALL).fit(X, Y)
    model.save(tmp_path / "m")
    back = ideareg.load(tmp_path / "m")
    for one, other in zip(back.predict(X, return_std=True), model.predict(X, return_std=True),
                          strict=True):  # fmt: skip
        np.testing.assert_array_equal(one, other)
        assert one.shape == (80, 2)


def test_a_damaged_file_is_refused(digits, tmp_path):
    model = REMClassifier(**SMALL).fit(digits[0][:60], digits[1][:60])
    header, arrays = model.get_state()
    with pytest.raises(ValueError, match=r"array 'layer0.whitening' has shape"):
        REMClassifier.from_state(header, arrays | {"layer0.whitening": np.ones((2, 2), "float32")})
    with pytest.raises(ValueError, match="do not fit together"):
        REMClassifier.from_state(header, {k: v for k, v in arrays.items() if k != "dual"})


def test_a_group_makes_predictions_invariant(digits):
    X, y = digits[0][:200], digits[1][:200]
    model = REMClassifier(group="p4", dtype="float64", **SMALL).fit(X, y)
    turned = np.rot90(X.reshape(-1, 8, 8), axes=(1, 2)).reshape(-1, 64)
    np.testing.assert_allclose(model.predict_proba(turned), model.predict_proba(X), atol=1e-9)
    plain = REMClassifier(dtype="float64", **SMALL).fit(X, y)
    assert np.abs(plain.predict_proba(turned) - plain.predict_proba(X)).max() > 0.1


def test_a_periodic_series():
    """A wave of one of two shapes, at any phase: the group of the circle knows them apart."""
    random = np.random.default_rng(0)
    t = np.arange(24)
    phase, kind = random.integers(24, size=200), random.integers(2, size=200)
    wave = np.exp(3 * np.cos(2 * np.pi * (t - phase[:, None]) / 24) - 3)
    X = np.where(kind[:, None] == 1, wave, wave[:, ::-1] ** 2) + 0.05 * random.normal(
        size=(200, 24)
    )
    model = REMClassifier(
        (1, 24), periodic=True, group=groups.translations((1, 24)), n_patches=(10,), window=(5,),
        sharpness=(3.0,), stride=(4,), random_state=0,
    ).fit(X[:100], kind[:100])  # fmt: skip
    assert model.score(X[100:], kind[100:]) > 0.95
    moved = np.roll(X[100:], 7, axis=1)
    np.testing.assert_allclose(model.predict_proba(moved), model.predict_proba(X[100:]), atol=1e-4)


def test_the_regressor_is_honest():
    X = normal(500, 25)
    y = np.tanh(X[:, 12]) + 0.3 * normal(500, seed=1)
    model = REMRegressor(n_patches=(16,), window=(3,), sharpness=(2.0,), random_state=0)
    mean, std = model.fit(X[:300], y[:300]).predict(X[300:], return_std=True)
    assert 0.7 < np.sqrt((((y[300:] - mean) / std) ** 2).mean()) < 1.4
    assert model.score(X[300:], y[300:]) > 0.2


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"image_shape": (7, 9)}, ValueError, r"has 63 pixels, but rows of X have 64 columns"),
        ({"image_shape": (64,)}, ValueError, r"must be \(height, width\)"),
        ({"image_shape": (8, -8)}, ValueError, "image_shape must be an integer"),
        ({"image_shape": (4, 16), "group": "p4"}, ValueError, "square grids only, got shape"),
        ({"group": groups.quarter_turns(7)}, ValueError, r"grid of shape \(7, 7\), but the images"),
        ({"group": "p5"}, ValueError, "group must be one of 'p4', 'p4m'"),
        ({"group": 4}, TypeError, "group must be a name or a group"),
        ({"sharpness": (1.0,)}, ValueError, "sharpness has 1 values, but n_patches makes 2 layers"),
        ({"sharpness": (1.0, -1.0)}, ValueError, "sharpness must be a positive number"),
        ({"dtype": "float16"}, ValueError, "dtype must be one of"),
        ({"ridge": 0.0}, ValueError, "ridge must be a positive number"),
        ({"n_centres": 0}, ValueError, "n_centres must be an integer"),
    ],
)
def test_parameters_are_checked(digits, options, error, match):
    with pytest.raises(error, match=match):
        REMClassifier(**options).fit(digits[0][:30], digits[1][:30])


def test_data_are_checked(digits):
    X, y = digits[0][:30], digits[1][:30]
    with pytest.raises(ValueError, match="at least two classes are needed, got one class"):
        REMClassifier().fit(X, np.zeros(30))
    with pytest.warns(UserWarning, match="X has 63 columns, no square"):
        assert REMClassifier(**SMALL).fit(X[:, :63], y).machine_.extractor.layers == ()
    with pytest.raises(ValueError, match="every patch of the images is flat"):
        REMClassifier(periodic=True, **SMALL).fit(np.ones((30, 64)), y)


def test_more_rows_than_centres(digits):
    """The same rows whether they are in memory or streamed, and centres that are a few of them."""
    X, y = digits
    model = REMClassifier(n_centres=100, **SMALL).fit(X[:350], y[:350])
    assert len(model.machine_.regressor.centres) == 100
    assert model.score(X[350:], y[350:]) > 0.9


def test_precision_is_not_changed_for_others(digits):
    REMClassifier(dtype="float64", **SMALL).fit(digits[0][:50], digits[1][:50])
    assert not jax.config.jax_enable_x64


@pytest.mark.filterwarnings("ignore:image_shape is None")
@parametrize_with_checks([REMClassifier(n_patches=(8, 8))])
def test_contract(estimator, check):
    check(estimator)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:image_shape is None")
@parametrize_with_checks([REMRegressor(n_patches=(8, 8))])
def test_contract_of_the_regressor(estimator, check):
    check(estimator)
