"""`WarpingClassifier` end to end, and the sparsity of both estimators under flat losses."""

import jax
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import log_loss

import ideareg
from ideareg import WarpingClassifier, WarpingRegressor
from ideareg._numerics import numerics
from ideareg.convex import risk
from ideareg.labels import encode
from ideareg.pointwise import POINTWISE


def table(seed=0, n=60, gap=0.3):
    """Two classes with a margin on either side of a sine, and the distance from it."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    g = np.sin(2 * X[:, 0]) + X[:, 1]
    X, g = X[np.abs(g) > gap], g[np.abs(g) > gap]
    return X, g, np.where(g > 0, "up", "down")


X, G, Y = table()
AT = table(seed=1, gap=0.0)[0]
THREE = np.array(["u", "v", "w"])[np.digitize(G, [-0.6, 0.6])]
THEORY = {"n_control_points": "rows", "learn_head": False, "nu": 0.5, "depth": 2, "n_folds": 2}


def joint(loss, **changes):
    given = {"kernel": "matern52", "loss": loss, "max_iter": 60, "random_state": 0, **THEORY}
    return WarpingClassifier(**{**given, **changes})


def machine(**changes):
    """A kernel machine without warp, which is quick."""
    return WarpingClassifier(**{"nu": np.inf, "n_folds": 2, "random_state": 0, **changes})


def answers(model):
    return model.predict_proba(AT), model.decision_function(AT), model.transform(AT)


@pytest.fixture(
    scope="module", params=[pytest.param("hinge", marks=pytest.mark.slow), "squared_hinge"]
)
def sparse(request):
    return joint(request.param).fit(X, Y)


@pytest.fixture(scope="module")
def tube():
    """Support vector regression after a warp."""
    given = {**THEORY, "loss": "epsilon_insensitive", "max_iter": 60, "random_state": 0}
    given.pop("n_folds")
    return WarpingRegressor(**given, epsilon=0.15, head="exact").fit(X, G)


@pytest.fixture(scope="module")
def stack():
    return WarpingClassifier(nu=(np.inf, 3.0), max_iter=15, n_folds=2, random_state=0).fit(X, Y)


# ---------------------------------------------------------------- sparsity


def test_the_support_is_a_strict_subset(sparse):
    assert 0 < len(sparse.support_) < len(X)
    assert sparse.score(X, Y) == 1.0
    off = np.setdiff1d(np.arange(len(X)), sparse.support_)
    np.testing.assert_array_equal(sparse.momentum_norms_[off], 0)
    assert (sparse.momentum_norms_[sparse.support_] > 0).all()
    assert np.abs(sparse.transform(AT) - AT).max() > 0.02


def test_pruning_changes_nothing(sparse):
    pruned = sparse.prune()
    for ours, theirs in zip(answers(pruned), answers(sparse), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)
    for size in (len(pruned.momentum_), len(pruned.warps_[0].predictor.posterior.points)):
        assert size == len(sparse.support_)


def test_satisfied_rows_have_no_momentum(sparse):
    """The support is that of the duals: where the loss is flat, nothing pushes."""
    model = sparse.warps_[0].model
    with numerics():
        f = np.asarray(sparse.warps_[0].predictor.posterior.mean(_warped(sparse, X)))[:, 0]
    margin = np.where(Y == "up", f, -f)
    assert (margin[sparse.momentum_norms_ > 0] < 1 + 1e-6).all()
    assert (sparse.momentum_norms_[margin > 1 + 1e-6] == 0).all()
    assert float(model.warp.present.sum()) == len(sparse.support_)


def _warped(model, X):
    return model.warps_[0].predictor.flow(model._inputs(X))


@pytest.mark.parametrize("name", [pytest.param("hinge", marks=pytest.mark.slow), "squared_hinge"])
def test_momentum_is_the_push_of_the_head(name):
    """ν p(1) = −∂R/∂q, row by row, and 0 in both for the rows without a dual."""
    grid = 1.2 * np.stack(np.meshgrid(np.arange(4.0), np.arange(4.0)), -1).reshape(-1, 2)
    y = np.where(np.sin(grid[:, 0]) + grid[:, 1] > 2.2, 1, 0)
    model = joint(
        name, nu=0.3, depth=8, integrator="rk4", max_iter=300, tol=1e-9, standardize=False,
        kernel="gaussian",
    ).fit(grid, y)  # fmt: skip
    fitted = model.warps_[0]
    loss, trajectory = POINTWISE[name](), fitted.predictor.trajectory
    with numerics():
        head = fitted.model.head
        places = np.lexsort(grid.T[::-1])
        targets = encode(loss, y[places], 2)

        def charge(q):
            return risk(loss, head.similarity(q, q), targets, np.ones(len(q)), head.noise)

        push = -np.asarray(jax.grad(charge)(trajectory.q[-1])) / model.nu_
    off = (trajectory.p[0] == 0).all(1)
    assert 0 < off.sum() < len(grid)
    scale = np.abs(push).max()
    np.testing.assert_allclose(trajectory.p[-1] / scale, push / scale, atol=2e-3)
    np.testing.assert_array_equal(push[off], 0)


@pytest.mark.slow
def test_a_row_that_counts_twice_shares_its_point():
    model = joint("hinge", max_iter=15).fit(np.vstack([X, X[:5]]), np.append(Y, Y[:5]))
    np.testing.assert_array_equal(model.momentum_norms_[:5], model.momentum_norms_[-5:])
    in_support = np.isin(np.arange(len(X) + 5), model.support_)
    np.testing.assert_array_equal(in_support[:5], in_support[-5:])


def test_support_vector_regression_is_sparse(tube):
    assert 0 < len(tube.support_) < len(X)
    assert tube.score(X, G) > 0.95
    np.testing.assert_allclose(tube.prune().predict(AT), tube.predict(AT), rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="no predictive distribution"):
        tube.predict(AT, return_std=True)


def test_support_vector_regression_is_saved_and_pruned(tube, tmp_path):
    for name, model in (("full", tube), ("pruned", tube.prune())):
        model.save(tmp_path / name)
        loaded = ideareg.load(tmp_path / name)
        np.testing.assert_array_equal(loaded.predict(AT), model.predict(AT))


def test_smooth_losses_have_no_support():
    model = joint("softmax", max_iter=5).fit(X, Y)
    assert not hasattr(model, "support_")
    assert (model.momentum_norms_ > 0).all()
    with pytest.raises(ValueError, match="dispensable"):
        model.prune()


def test_no_warp_has_the_duals_of_the_support_vector_machine():
    model = joint("hinge", nu=np.inf).fit(X, Y)
    warp = model.warps_[0]
    dual = np.asarray(warp.predictor.posterior.dual)[: len(X)]
    assert 0 < np.count_nonzero(dual) == len(model.support_) < len(X)
    np.testing.assert_array_equal(model.momentum_norms_, 0)
    np.testing.assert_allclose(model.prune().predict_proba(AT), model.predict_proba(AT), atol=1e-12)


# ---------------------------------------------------------------- what users may expect


@pytest.mark.parametrize("loss", ["softmax", "logistic", "hinge", "squared_hinge"])
@pytest.mark.parametrize("labels", [Y, THREE], ids=["two", "three"])
def test_every_loss_gives_labels_and_probabilities(loss, labels):
    model = machine(loss=loss).fit(X, labels)
    probability = model.predict_proba(AT)
    np.testing.assert_allclose(probability.sum(1), 1, rtol=1e-12)
    np.testing.assert_array_equal(model.classes_[probability.argmax(1)], model.predict(AT))
    np.testing.assert_allclose(np.log(probability), model.predict_log_proba(AT), atol=1e-12)
    two = len(model.classes_) == 2
    assert model.decision_function(AT).shape == (len(AT),) if two else (len(AT), 3)
    assert model.score(X, labels) > 0.9
    share = np.mean(labels[:, None] == model.classes_, 0)
    assert log_loss(labels, model.predict_proba(X)) < -np.log(share) @ share


def test_the_stack_mixes_and_beats_nothing_less(stack):
    assert stack.warp_weights_.sum() == pytest.approx(1)
    assert stack.score_ >= stack.baseline_score_ - 1e-9
    found = stack.cv_results_
    assert found["param_nu"].tolist() == [np.inf] * 5 + [3.0]
    np.testing.assert_equal(found["param_length"], [0.35, 0.7, 1.4, 2.8, 5.6, np.nan])
    assert stack.baseline_score_ == pytest.approx(found["mean_test_log_density"][:5].max())
    assert stack.score(*table(seed=2)[::2]) > 0.9
    moved = stack.transform(AT)
    np.testing.assert_allclose(stack.inverse_transform(moved), AT, atol=1e-8)
    one = stack.member(0)
    assert len(one.warps_) == 1 and one.warp_weights_.tolist() == [1.0]


def test_a_fit_repeats_itself(stack):
    again = clone(stack).fit(X[::-1], Y[::-1])
    np.testing.assert_allclose(again.predict_proba(AT), stack.predict_proba(AT), atol=1e-12)


def test_class_weights_are_sample_weights():
    weight = np.where(Y == "up", 3.0, 1.0)
    by_class = machine(class_weight={"up": 3.0}).fit(X, Y)
    by_row = machine().fit(X, Y, sample_weight=weight)
    np.testing.assert_allclose(by_class.predict_proba(AT), by_row.predict_proba(AT), rtol=1e-12)
    plain = machine().fit(X, Y)
    assert by_class.predict_proba(AT)[:, 1].mean() > plain.predict_proba(AT)[:, 1].mean()


def test_a_class_without_weight_does_not_exist():
    weight = (THREE != "v").astype(float)
    assert machine().fit(X, THREE, sample_weight=weight).classes_.tolist() == ["u", "w"]


def test_probabilities_are_calibrated():
    """Labels drawn with known odds: the log-loss comes close to their entropy."""
    rng = np.random.default_rng(3)
    x = rng.uniform(-2, 2, size=(600, 1))
    p = 1 / (1 + np.exp(-2 * np.sin(2 * x[:, 0])))
    y = rng.uniform(size=600) < p
    for loss in ("softmax", "squared_hinge"):
        model = machine(loss=loss, n_folds=2).fit(x[:300], y[:300])
        q = model.predict_proba(x[300:])[:, 1]
        t = p[300:]
        apart = t * np.log(t / q) + (1 - t) * np.log((1 - t) / (1 - q))
        assert apart.mean() < 0.05


def test_warm_start_goes_on(stack):
    more = clone(stack).set_params(warm_start=True, max_iter=5).fit(X, Y)
    first = more.history_["loss"][-1] if more.history_ else None
    more.fit(X, Y)
    np.testing.assert_allclose(more.predict_proba(AT).sum(1), 1)
    if first is not None:
        assert more.history_["loss"][-1] <= first + 1e-6
    with pytest.raises(ValueError, match="classes changed"):
        more.fit(X, THREE)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"loss": "evidence"}, "loss must be one of"),
        ({"ridge": 0.0, "learn_head": False, "nu": 1.0}, "ridge must be a positive"),
        ({"ridge": 0.1}, "ridge is chosen"),
        ({"learn_head": False}, "one nu"),
        ({"n_control_points": "rows"}, "learn_head=False"),
    ],
)
def test_wrong_parameters_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        WarpingClassifier(**changes).fit(X, Y)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="two classes"):
        machine().fit(X, np.zeros(len(X)))


def test_epsilon_insensitive_takes_one_nu():
    with pytest.raises(ValueError, match="one nu"):
        WarpingRegressor(loss="epsilon_insensitive", learn_head=False).fit(X, G)


def test_warping_kernel_makes_the_same_machine(stack):
    """A kernel machine on the precomputed kernel of the heaviest warp has its predictions."""
    one = stack.member(0)
    K = one.warping_kernel(X)
    np.testing.assert_allclose(np.diag(K), 1.0, atol=1e-12)
    assert np.linalg.eigvalsh(K)[0] > -1e-9
    tuned = one.warps_[0].tuned
    scale, shift = tuned.calibration.scale, tuned.calibration.shift[0]
    f = (one.decision_function(X) - shift) / scale
    y = np.where(Y == "up", 1.0, -1.0)
    # Stationarity of λ|f|² + Σ ℓ: the duals are the slopes, K applied to them is the regressor.
    dual = y * np.maximum(0, 1 - y * f) / tuned.ridge
    np.testing.assert_allclose(f - tuned.offset[0], K @ dual, atol=1e-6)
    assert 0 < np.count_nonzero(dual > 1e-9) < len(X)


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("of", ["stack", "three-hinge", "joint"])
def test_saved_and_loaded_models_agree(tmp_path, request, of):
    if of == "stack":
        model = request.getfixturevalue("stack")
    elif of == "joint":
        model = joint("squared_hinge", max_iter=5).fit(X, Y)
    else:
        model = machine(loss="hinge").fit(X, THREE)
    model.save(tmp_path / "m")
    again = ideareg.load(tmp_path / "m")
    assert type(again) is WarpingClassifier
    np.testing.assert_array_equal(again.classes_, model.classes_)
    assert again.classes_.dtype == model.classes_.dtype
    for ours, theirs in zip(answers(again), answers(model), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(again.warping_kernel(AT), model.warping_kernel(AT))
    for name in ("ridge_", "nu_", "score_", "baseline_score_", "n_iter_"):
        np.testing.assert_equal(getattr(again, name), getattr(model, name))
    assert again.get_params()["loss"] == model.loss


@pytest.mark.parametrize("labels", [[3, 7], [False, True], [0.0, 2.0], ["a", "b"]])
def test_labels_of_any_plain_kind_are_saved(tmp_path, labels):
    y = np.asarray(labels, dtype=object if isinstance(labels[0], str) else None)[
        (G > 0).astype(int)
    ]
    model = machine().fit(X, y)
    model.save(tmp_path / "m")
    again = ideareg.load(tmp_path / "m").predict(AT)
    assert again.dtype == model.predict(AT).dtype
    np.testing.assert_array_equal(again, model.predict(AT))


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda h, a: h["classes"].update(values=["up", "down"]), "labels are not sorted"),
        (lambda h, a: h["classes"].update(kind="V"), "do not fit together"),
        (lambda h, a: h["warps"][0].pop("tuned"), "warps are not those of such a model"),
        (lambda h, a: h["warps"][0].update(head="pickle"), "unknown head 'pickle'"),
        (lambda h, a: a.update({"warp0.shift": np.ones(3)}), "warp0.shift' has shape"),
        (lambda h, a: a["warp0[0].head.log_scale"].fill(np.nan), "not finite"),
    ],
)
def test_files_that_do_not_fit_are_refused(spoil, match):
    header, arrays = machine().fit(X, Y).get_state()
    arrays = {name: np.array(array) for name, array in arrays.items()}
    spoil(header, arrays)
    with pytest.raises(ValueError, match=match):
        WarpingClassifier.from_state(header, arrays)
