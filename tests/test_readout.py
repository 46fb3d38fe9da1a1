"""The head against scikit-learn's Gaussian process, and against itself in tiles and padding."""

import jax
import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern

from ideareg import kernels as ik
from ideareg._rows import bucket
from ideareg.readout import TILE, Batch, ExactHead, SparseHead, sum_over_tiles

pytestmark = pytest.mark.usefixtures("double_precision")

AMPLITUDE, NOISE, LENGTHS = 1.7, 0.2, np.array([0.8, 1.5])
N, M = 24, 7


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, 2))
    Y = np.column_stack([np.sin(2 * X[:, 0]), X[:, 1] ** 2]) + 0.1 * rng.normal(size=(N, 2))
    return X, Y, rng.normal(size=(5, 2))


def still(X):
    """The flow of no warp."""
    return X


def common(kernel=None):
    return {
        "kernel": kernel or ik.Gaussian(),
        "log_scale": np.log(LENGTHS),
        "log_amplitude": np.log(AMPLITUDE),
        "log_noise": np.log(NOISE),
        "noise_floor": np.float64(0.0),
    }


def sparse(points, kernel=None):
    return SparseHead(**common(kernel), inducing=points, present=np.ones(len(points)))


def batch(X, Y, weight=None):
    return Batch(X, Y, np.ones(len(X)) if weight is None else weight)


def moments(posterior, at):
    return posterior.mean(at), posterior.variance(at), posterior.covariance(at)


def agree(a, b, **tolerance):
    for one, other in zip(a, b, strict=True):
        np.testing.assert_allclose(one, other, **tolerance)


@pytest.mark.parametrize(
    "kernel, peer", [(ik.Gaussian(), RBF(LENGTHS)), (ik.Matern52(), Matern(LENGTHS, nu=2.5))]
)
def test_exact_head_is_the_gaussian_process(data, kernel, peer):
    X, Y, at = data
    posterior = ExactHead(**common(kernel)).condition(still, batch(X, Y))
    model = GaussianProcessRegressor(ConstantKernel(AMPLITUDE) * peer, alpha=NOISE, optimizer=None)
    mean, covariance = model.fit(X, Y).predict(at, return_cov=True)
    np.testing.assert_allclose(posterior.mean(at), mean, atol=1e-10)
    np.testing.assert_allclose(posterior.covariance(at), covariance[..., 0], atol=1e-10)
    _, std = model.predict(at, return_std=True)
    np.testing.assert_allclose(posterior.variance(at), std[:, 0] ** 2, atol=1e-10)


def test_sparse_head_with_every_row_inducing_is_the_exact_head(data):
    X, Y, at = data
    rows = batch(X, Y)
    exact, other = ExactHead(**common()), sparse(X)
    pair = (moments(head.condition(still, rows), at) for head in (exact, other))
    agree(*pair, atol=1e-5)  # the jitter of the inducing points
    agree(exact.terms(still, rows), other.terms(still, rows), atol=1e-4)


def test_few_inducing_points_know_less(data):
    X, Y, at = data
    rows = batch(X, Y)
    full, few = (h.condition(still, rows) for h in (ExactHead(**common()), sparse(X[:M])))
    assert (few.variance(at) >= full.variance(at) - 1e-9).all()


@pytest.mark.parametrize("make", [lambda X: ExactHead(**common()), lambda X: sparse(X[:M])])
def test_weights_are_repeated_rows_and_padding_is_inert(data, make):
    X, Y, at = data
    head = make(X)
    count = np.arange(N) % 3
    index = np.repeat(np.arange(N), count)
    weighted = batch(X, Y, count.astype(float))
    repeated = batch(X[index], Y[index])
    padded = Batch(
        np.vstack([X, np.zeros((8, 2))]),
        np.vstack([Y, np.ones((8, 2))]),
        np.append(count, np.zeros(8)),
    )
    for rows in (repeated, padded):
        agree(*(moments(head.condition(still, r), at) for r in (weighted, rows)), atol=1e-10)
        agree(head.terms(still, weighted)[:1], head.terms(still, rows)[:1], rtol=1e-10)


def test_padded_inducing_points_are_inert(data):
    X, Y, at = data
    rows, short = batch(X, Y), sparse(X[:M])
    points, present = np.vstack([X[:M], np.zeros((3, 2))]), np.append(np.ones(M), np.zeros(3))
    long = SparseHead(**common(), inducing=points, present=present)
    agree(*(moments(h.condition(still, rows), at) for h in (short, long)), atol=1e-11)
    agree(short.terms(still, rows), long.terms(still, rows), rtol=1e-11)


@pytest.fixture(scope="module")
def tiled():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(2 * TILE, 2))
    return X, np.sin(X[:, :1]), rng.random(2 * TILE)


@pytest.mark.parametrize("n", [pytest.param(2 * TILE, marks=pytest.mark.slow), TILE * 5 // 4])
def test_tiles_are_one_batch(tiled, monkeypatch, n):
    rows, head = Batch(*(a[:n] for a in tiled)), sparse(tiled[0][:M])

    def value(head):
        return head.terms(still, rows)

    def value_and_gradient(head):
        terms = value(head)
        return *terms, *jax.tree.leaves(jax.grad(lambda h: sum(value(h)))(head))

    in_tiles = value_and_gradient(head)
    monkeypatch.setattr("ideareg.readout.TILE", 4 * TILE)
    agree(in_tiles, value_and_gradient(head), rtol=1e-9, atol=1e-9)


def test_every_bucket_divides_into_tiles():
    """As a sum of ones, without any arithmetic on the rows."""
    for n in {bucket(n) for n in range(1, 20_000, 100)}:
        rows = Batch(np.zeros((n, 0)), np.zeros((n, 0)), np.ones(n))
        total = jax.eval_shape(lambda r: sum_over_tiles(lambda tile: tile.weight.sum(), r), rows)
        assert total.shape == ()


def test_rows_that_do_not_divide_into_tiles_are_refused(tiled):
    n = next(n for n in range(TILE + 1, 2 * TILE) if all(n % k for k in range(2, n)))  # a prime
    with pytest.raises(ValueError, match=f"rows: {n} do not divide into tiles"):
        sparse(tiled[0][:M]).terms(still, Batch(*(a[:n] for a in tiled)))


@pytest.mark.parametrize("make", [lambda X: ExactHead(**common()), lambda X: sparse(X[:M])])
def test_ridge_regression_with_the_similarity_is_the_mean(data, make):
    X, Y, at = data
    head = make(X)
    K = head.similarity(X, X)
    expected = head.similarity(at, X) @ np.linalg.solve(K + NOISE * np.eye(N), Y)
    np.testing.assert_allclose(head.condition(still, batch(X, Y)).mean(at), expected, atol=1e-10)


def test_noise_floor_is_added():
    head = ExactHead(**{**common(), "noise_floor": np.float64(0.3)})
    np.testing.assert_allclose(head.noise, NOISE + 0.3)
