"""Rows in canonical form: order, repetition and weight are three ways to say one thing."""

import numpy as np
import pytest

from ideareg._rows import Scaling, bucket, canonical, centres, column_bucket, pad

rng = np.random.default_rng(0)
X, Y = rng.integers(0, 3, (20, 2)).astype(float), rng.integers(0, 2, (20, 1)).astype(float)
COUNT = rng.integers(0, 4, 20)


def same(a, b):
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


def test_canonical_rows_are_distinct_and_keep_their_weight():
    rows = canonical(X, Y, COUNT.astype(float))
    both = np.hstack([rows.X, rows.Y])
    assert len(np.unique(both, axis=0)) == len(rows) < len(X)
    assert rows.weight.sum() == COUNT.sum()
    for row, weight in zip(both, rows.weight, strict=True):
        assert weight == COUNT[(np.hstack([X, Y]) == row).all(axis=1)].sum() > 0


def test_order_is_irrelevant():
    shuffled = rng.permutation(20)
    weight = rng.random(20)
    same(canonical(X, Y, weight), canonical(X[shuffled], Y[shuffled], weight[shuffled]))


def test_weights_are_repetitions_and_zero_is_absence():
    repeated = np.repeat(np.arange(20), COUNT)
    weighted = canonical(X, Y, COUNT.astype(float))
    same(weighted, canonical(X[repeated], Y[repeated], np.ones(len(repeated))))


def test_one_row_with_several_weights_is_one_row():
    rows = canonical(np.array([[0.0], [1.0], [0.0]]), np.zeros((3, 1)), np.array([1.0, 2.0, 5.0]))
    same(rows, (np.array([[0.0], [1.0]]), np.zeros((2, 1)), np.array([6.0, 2.0])))


def test_rows_of_one_input_and_two_targets_stay_apart():
    rows = canonical(np.zeros((3, 1)), np.array([[1.0], [0.0], [1.0]]), np.ones(3))
    same(rows, ([[0.0], [0.0]] * np.ones((2, 1)), np.array([[0.0], [1.0]]), np.array([1.0, 2.0])))


def test_negative_zero_is_zero():
    rows = canonical(np.array([[-0.0], [0.0]]), np.array([[0.0], [-0.0]]), np.ones(2))
    assert len(rows) == 1
    assert not np.signbit([rows.X, rows.Y]).any()


def test_scaling_standardises_with_weights_as_repetitions():
    A, weight = rng.normal(3, 2, (20, 3)), COUNT.astype(float)
    scaling, repeated = Scaling.of(A, weight), np.repeat(A, COUNT, axis=0)
    np.testing.assert_allclose(scaling.mean, repeated.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(scaling.scale, repeated.std(axis=0), rtol=1e-14)
    np.testing.assert_allclose(scaling.backward(scaling.forward(A)), A, rtol=1e-14)


@pytest.mark.parametrize("constant", [0.0, 0.1, -1e9, 1e-300])
def test_scaling_maps_constants_to_zero_and_back(constant):
    A = np.column_stack([np.full(7, constant), np.arange(7.0)])
    scaling = Scaling.of(A, np.linspace(0.1, 0.7, 7))
    assert scaling.varies.tolist() == [False, True]
    Z = scaling.forward(A + 5)  # a value that training never saw is mapped to 0 as well
    assert (Z[:, 0] == 0).all()
    np.testing.assert_allclose(scaling.backward(Z)[:, 0], constant, rtol=1e-15)


def test_scaling_keeps_a_tiny_spread_that_is_no_rounding():
    assert Scaling.of(1 + 1e-9 * np.arange(5.0)[:, None], np.ones(5)).varies.all()


def test_scaling_can_be_the_identity():
    scaling = Scaling.of(X, np.ones(20), centre=False)
    np.testing.assert_array_equal(scaling.forward(X), X)
    np.testing.assert_array_equal(scaling.backward(X), X)


def test_buckets_are_few_and_waste_little():
    sizes = [bucket(n) for n in range(1, 20000)]
    assert all(n <= size for n, size in enumerate(sizes, 1))
    assert sizes == sorted(sizes) and len(set(sizes)) < 40
    assert all(size <= 1.5 * n + 1 for n, size in enumerate(sizes, 1) if n > 256)


def test_column_buckets_cover_every_width():
    widths = [column_bucket(d) for d in range(1, 100)]
    assert all(d <= width for d, width in enumerate(widths, 1))
    assert widths[63:] == list(range(64, 100))


def test_pad_appends_zeros():
    np.testing.assert_array_equal(pad(np.ones((1, 2)), 3, axis=1), [[1, 1, 0]])
    np.testing.assert_array_equal(pad(np.ones(1), 2), [1, 0])


def test_centres_depend_on_data_and_seed_alone():
    points, weight = rng.normal(size=(200, 2)), np.ones(200)
    first = centres(points, weight, 10, seed=1)
    assert first.shape == (10, 2)
    state = np.random.get_state()[1]
    np.testing.assert_array_equal(first, centres(points, weight, 10, seed=1))
    np.testing.assert_array_equal(state, np.random.get_state()[1])
    assert (first != centres(points, weight, 10, seed=2)).any()


def test_fewer_distinct_rows_than_centres_are_the_centres():
    found = centres(np.repeat(X, 2, axis=0), np.ones(40), 50, seed=0)
    np.testing.assert_array_equal(found, np.unique(X, axis=0))
