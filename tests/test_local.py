"""Corrections by near rows: what heads leave unseen, the process of it, and who gets it."""

import numpy as np
import pytest
from helpers import make_problem, sample
from numpy.testing import assert_allclose, assert_array_equal

import ideareg
from ideareg import HeteroscedasticRegressor, WarpingRegressor, distributed
from ideareg._rows import Scaling
from ideareg.local import Local, learn_local
from ideareg.report import _selection
from ideareg.uncertainty import concluded, predict_mean
from ideareg.unseen import Residuals, unseen

N = 24
SMALL = {
    "n_control_points": 5,
    "n_inducing": 10,
    "depth": 2,
    "max_iter": 15,
    "n_folds": 2,
    "random_state": 0,
}


@pytest.fixture
def fitted(double_precision):
    problem = make_problem("exact", size=0.3, rows=sample(N))
    return concluded(problem.model, problem.rows)[0]


def alike(fitted, share, length, n=N, seed=1, weight=None):
    """The process, given residuals drawn from itself."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, 2))
    weight = np.ones(n) if weight is None else weight
    local = Local(fitted, Residuals(rows, np.zeros((n, 1)), weight), share, length)
    C = dense(local, rows, rows) + np.diag((1 - share) / weight)
    values = np.linalg.cholesky(C) @ rng.normal(size=(n, 2))
    return Local(fitted, Residuals(rows, values, weight), share, length)


def learned(local, least_gain):
    """The process learned anew, as if the head had nothing to do with the residuals."""
    nothing = np.zeros((0, len(local.fitted.posterior.points)))
    found = learn_local(local.fitted, nothing, local.residuals, least_gain)
    return found and found[0]


def dense(local, A, B):
    """The covariance of what rows have in common."""
    A, B = local.place(A), local.place(B)
    r = np.linalg.norm(A[:, None] - B[None], axis=-1)
    return local.share * np.exp(-r / local.length)


@pytest.mark.parametrize("head", ["exact", "sparse"])
def test_rows_are_judged_by_heads_that_have_not_seen_them(double_precision, head):
    rows = sample(N, outputs=2)
    weight = 1.0 + np.arange(N) % 3
    weight[-1] = 0.0  # padding
    problem = make_problem(head, size=0.3, rows=rows._replace(weight=weight))
    fitted, undoing = concluded(problem.model, problem.rows)
    residuals = Residuals.of(fitted, problem.rows)
    assert len(residuals.values) == N - 1
    some, near = np.array([0, 1, 2, 7]), np.array([[0, 3], [1, 5], [9, 8], [4, 20]])
    own, theirs = unseen(fitted, undoing, residuals, some, near)
    for i, others, error, left in zip(some, near, own, theirs, strict=True):
        fewer = weight.copy()
        fewer[i] -= 1.0  # a copy that is left counts as seen
        other = concluded(problem.model, problem.rows._replace(weight=fewer))[0]
        expected = rows.Y - np.asarray(predict_mean(other, rows.X))
        assert_allclose(error, expected[i], atol=1e-6)
        assert_allclose(left, expected[others], atol=1e-6)


def test_with_few_rows_it_is_the_whole_gaussian_process(fitted):
    local = alike(fitted, 0.7, 0.5, weight=1.0 + np.arange(N) % 2)
    E, at = local.residuals, np.random.default_rng(2).normal(size=(6, 2))
    C = dense(local, E.rows, E.rows) + np.diag((1 - local.share) / E.weight)
    to = dense(local, at, E.rows)
    expected, left = local(at)
    assert_allclose(expected, to @ np.linalg.solve(C, E.values), atol=1e-10)
    assert_allclose(left[:, 0], 1 - (to * np.linalg.solve(C, to.T).T).sum(1), atol=1e-10)
    mean, common = local.jointly(at)
    assert_allclose(mean, expected, atol=1e-10)
    assert_allclose(common, dense(local, at, at) - to @ np.linalg.solve(C, to.T), atol=1e-7)


def test_trees_and_products_find_the_same_rows(fitted, monkeypatch):
    local = alike(fitted, 0.9, 0.3, n=200)
    at = np.random.default_rng(2).normal(size=(40, 2))
    by_tree = local(at)
    monkeypatch.setattr("ideareg.local.TREE_COLUMNS", 1)
    for one, other in zip(by_tree, local.after(fitted)(at), strict=True):
        assert_allclose(one, other, atol=1e-9)


def test_with_many_rows_what_is_left_is_a_covariance(fitted):
    local = alike(fitted, 0.9, 0.3, n=200)
    at = np.random.default_rng(2).normal(size=(40, 2))
    (expected, left), (mean, common) = local(at), local.jointly(at)
    assert_allclose(mean, expected, atol=1e-10)
    assert_allclose(np.diag(common) + 1 - local.share, left[:, 0], atol=1e-7)
    assert np.linalg.eigvalsh(common).min() > -1e-7 and (left < 1).all()


def test_what_errors_have_in_common_is_learned(fitted):
    true = alike(fitted, 0.7, 0.5, n=400)
    found = learned(true, 0.01)
    assert abs(found.share - 0.7) < 0.15 and 0.3 < found.length < 0.9


def test_errors_that_are_not_alike_are_left_alone(fitted):
    own = alike(fitted, 0.0, 1.0, n=400)
    assert learned(own, 0.01) is None
    assert learned(own, 0.0).share < 0.2
    nothing = own.residuals._replace(values=np.zeros((400, 2)))
    assert learned(own.after(fitted, nothing), 0.0) is None


def test_a_row_of_weight_two_is_two_equal_rows(fitted):
    local = alike(fitted, 0.8, 0.5, n=14)
    rows = local.residuals
    merged = rows._replace(weight=np.full(14, 2.0))
    twice = Residuals(*(np.repeat(part, 2, axis=0) for part in rows))
    one, two = (learned(local.after(fitted, each), 0.0) for each in (merged, twice))
    assert_allclose([one.share, one.length], [two.share, two.length], rtol=1e-6)
    at = rows.rows[:5] + 0.1
    for a, b in zip(one(at), two(at), strict=True):
        assert_allclose(a, b, atol=1e-6)


# Half of the rows repeat another but for a hair, and share what no smooth function has.

RNG = np.random.default_rng(0)
CENTRES = RNG.uniform(-1, 1, size=(90, 2))
PAIRED = np.vstack([CENTRES, CENTRES + 1e-3 * RNG.normal(size=CENTRES.shape)])
OWN = 0.5 * RNG.normal(size=90)
TARGET = np.sin(3 * PAIRED[:, 0]) + np.tile(OWN, 2) + 0.02 * RNG.normal(size=180)
ORDER = RNG.permutation(180)
X, Y, AT, TRUE = PAIRED[ORDER[:130]], TARGET[ORDER[:130]], PAIRED[ORDER[130:]], TARGET[ORDER[130:]]


def regressor(**changes):
    return WarpingRegressor(**{**SMALL, "nu": (np.inf, 5.0), **changes})


@pytest.fixture(scope="module")
def near():
    return regressor().fit(X, Y)


def test_near_repeats_are_predicted_better(near):
    far = regressor(local=False).fit(X, Y)
    assert (near.local_share_ > 0.5).all() and (far.local_share_ == 0).all()
    assert (near.local_length_ > 0).all() and np.isnan(far.local_length_).all()
    error, before = (np.mean((m.predict(AT) - TRUE) ** 2) for m in (near, far))
    density, sooner = (m.log_predictive_density(AT, TRUE).mean() for m in (near, far))
    assert error < 0.7 * before and density > sooner + 0.1


def test_all_predictions_agree(near):
    mean, std = near.predict(AT, return_std=True)
    assert_allclose(near.predict(AT), mean, rtol=1e-12)
    joint, covariance = near.predict(AT, return_cov=True)
    assert_allclose(joint, mean, atol=1e-9)
    assert_allclose(np.sqrt(np.diag(covariance)), std, rtol=1e-6)
    assert np.linalg.eigvalsh(covariance).min() > 0
    low, high = near.predict_interval(AT, 0.9)
    assert 0.75 < np.mean((low <= TRUE) & (high >= TRUE)) <= 1
    draws = near.sample_y(AT[:4], 4000)
    assert_allclose(draws.mean(1), mean[:4], atol=0.05)


def test_one_row_at_a_time_is_the_same(near):
    one = np.concatenate([near.predict(row[None]) for row in AT[:5]])
    assert_allclose(one, near.predict(AT[:5]), rtol=1e-10)


def test_it_saves_and_moves_with_its_warp(near, tmp_path):
    near.save(tmp_path / "model")
    loaded = ideareg.load(tmp_path / "model")
    assert_array_equal(loaded.predict(AT), near.predict(AT))
    assert_array_equal(loaded.local_share_, near.local_share_)
    assert_allclose(near.condition(X, Y).predict(AT), near.predict(AT), atol=1e-9)
    assert near.member(0).local_share_ == near.local_share_[0]
    deep, deeper = (np.mean((loaded.set_depth(k).predict(AT) - TRUE) ** 2) for k in (8, 16))
    assert_allclose(deep, deeper, rtol=0.1)


def test_a_file_with_impossible_corrections_is_refused(near):
    header, arrays = near.get_state()
    first, *others = header["warps"]
    for numbers in ([2.0, 1.0], [0.5, -1.0], [0.5]):
        bad = header | {"warps": [first | {"local": numbers}, *others]}
        with pytest.raises(ValueError, match="model file"):
            WarpingRegressor.from_state(bad, arrays)
    with pytest.raises(ValueError, match="model file"):
        WarpingRegressor.from_state(header, arrays | {"local.weight": arrays["local.weight"] * 0})


def test_smooth_data_are_left_alone():
    smooth = np.sin(3 * X[:, 0]) + 0.1 * np.random.default_rng(3).normal(size=len(X))
    auto, never = (regressor(local=local).fit(X, smooth) for local in ("auto", False))
    assert not auto.local_share_.any()
    assert_array_equal(auto.predict(AT), never.predict(AT))


def test_reports_say_so(near):
    assert "nearest rows" in _selection(near)
    assert "nearest rows" not in _selection(regressor(local=False).fit(X, Y))


def test_bent_targets_have_errors_of_their_own():
    model = regressor(target_power=True).fit(X, np.exp(Y))
    assert (model.local_share_ > 0.5).all()
    mean, std = model.predict(AT, return_std=True)
    assert np.corrcoef(np.log(mean), TRUE)[0, 1] > 0.8 and (std > 0).all()


def test_what_needs_the_warped_kernel_alone_says_so(near):
    for ask in (near.error_bound, near.certified_radius):
        with pytest.raises(ValueError, match="local=False"):
            ask(AT, 0.1)
    with pytest.raises(ValueError, match="local=False"):
        _ = near.bound_norm_


def test_noise_that_varies_has_no_copies():
    model = HeteroscedasticRegressor(regressor(), n_folds=2).fit(X, Y)
    assert not model.regressor_.local_share_.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"local": "maybe"}, "local must be"),
        ({"local": True, "learn_head": False, "nu": 1.0}, "local=True needs"),
    ],
)
def test_mistakes(changes, message):
    with pytest.raises(ValueError, match=message):
        regressor(**changes).fit(X, Y)


def test_rows_of_many_processes_are_not_near(near):
    few = {"nu": np.inf, "max_iter": 2}
    with pytest.raises(ValueError, match="in one place"):
        distributed.fit(regressor(local=True, **few), X, Y)
    assert not distributed.fit(regressor(**few), X, Y).local_share_.any()


@pytest.mark.parametrize(("least", "share", "judged"), [(500, 0.01, 200), (9, 0.25, 50)])
def test_a_share_of_the_rows_is_judged_and_not_too_few(fitted, monkeypatch, least, share, judged):
    monkeypatch.setattr("ideareg.local.JUDGED_ROWS", least)
    monkeypatch.setattr("ideareg.local.JUDGED_SHARE", share)
    local = alike(fitted, 0.9, 0.3, n=200)
    nothing = np.zeros((0, len(fitted.posterior.points)))
    _, errors = learn_local(fitted, nothing, local.residuals, 0.0)
    assert len(errors.rows) == judged


def test_of_many_rows_some_are_kept(monkeypatch, tmp_path):
    monkeypatch.setattr("ideareg.recipe.KEPT_ROWS", 100)
    model = regressor(local=True).fit(X, Y)
    kept = model.warps_[0].local.residuals
    assert len(kept.rows) == len(kept.values) == len(kept.weight) == 100 < len(X)
    model.save(tmp_path / "model")
    assert_array_equal(ideareg.load(tmp_path / "model").predict(AT), model.predict(AT))


def test_it_can_be_asked_for_without_a_selection(near):
    pair = (regressor(nu=np.inf, local=local).fit(X, Y) for local in (True, "auto"))
    assert [m.local_share_[0] > 0.5 for m in pair] == [True, False]


def test_a_bend_is_a_line_beyond_what_it_has_seen():
    A = np.exp(RNG.normal(size=(50, 2))) * [1.0, 1e-3]
    inside, outside = A[:9], A.max(0) * np.linspace(1, 9, 9)[:, None] - A.min(0) * [[0.0, 3.0]]
    bend, power = (Scaling.of(A, np.ones(50), bend=1.0, straight=s) for s in (True, False))
    assert_array_equal(bend.forward(inside), power.forward(inside))
    for rows in (inside, outside, -outside):
        assert_allclose(bend.backward(bend.forward(rows)), rows, rtol=1e-12)
        h = 1e-6 * A.std(0)
        slope = (bend.forward(rows + h) - bend.forward(rows - h)) / (2 * h)
        ends = (np.abs(rows - A.max(0)) < 2 * h) | (np.abs(rows - A.min(0)) < 2 * h)
        assert_allclose(np.where(ends, 0, bend.log_slope(rows) - np.log(slope)), 0, atol=1e-6)
    assert np.ptp(bend.log_slope(outside[5:]), axis=0).max() < 1e-12
