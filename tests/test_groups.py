"""Groups: closure, the laws of an action, grids, what does not act, and quadratures of the rest."""

import numpy as np
import pytest

from ideareg.kernels import groups, rotations
from ideareg.kernels.groups import Group, from_generators
from ideareg.kernels.rotations import Rotations

ALL = {
    "cyclic": lambda: groups.cyclic(7),
    "dihedral": lambda: groups.dihedral(5),
    "grid": lambda: groups.translations((3, 4)),
    "box": lambda: groups.translations((2, 3, 2)),
    "C4": lambda: groups.quarter_turns(4),
    "D4": lambda: groups.square_symmetries(5),
    "p4": lambda: groups.p4(4),
    "p4m": lambda: groups.p4m(3),
    "all permutations": lambda: from_generators([[1, 2, 3, 0], [1, 0, 2, 3]]),
}
ORDERS = dict(zip(ALL, [7, 10, 12, 12, 4, 8, 64, 72, 24], strict=True))


@pytest.mark.parametrize("name", ALL)
def test_an_action(name):
    G, rng = ALL[name](), np.random.default_rng(0)
    assert G.order == ORDERS[name] and Group(G.table, G.shape).order == G.order
    X = rng.normal(size=(2, G.n_points * 3))
    np.testing.assert_array_equal(G.act(X, G.identity, 3), X)
    for g, h in rng.integers(G.order, size=(6, 2)):
        one = G.act(G.act(X, h, 3), g, 3)
        np.testing.assert_array_equal(G.act(X, G.product(g, h), 3), one)
        np.testing.assert_array_equal(G.act(one, G.inverse(G.product(g, h)), 3), X)
    image = G.table[g]
    assert G.act(X, g, 3).reshape(2, -1, 3)[0, image[0], 0] == X[0, 0]


def test_grids_move_as_arrays_do():
    x = np.arange(24.0).reshape(1, 3, 4, 2)
    shift = groups.translations((3, 4))
    moved = shift.act(x.reshape(1, -1), 1 * 4 + 3, 2).reshape(x.shape)
    np.testing.assert_array_equal(moved, np.roll(x, (1, 3), (1, 2)))
    y = np.arange(25.0).reshape(1, 5, 5)
    turns, squares = groups.quarter_turns((5, 5)), groups.square_symmetries(5)
    turned = [turns.act(y.reshape(1, -1), g).reshape(y.shape) for g in range(4)]
    for g in range(4):
        np.testing.assert_array_equal(turned[g], np.rot90(y, g, (1, 2)))
    np.testing.assert_array_equal(squares.act(y.reshape(1, -1), 4).reshape(y.shape), y[:, :, ::-1])
    about_zero = groups.p4m(5).act(y.reshape(1, -1), 1).reshape(y.shape)
    np.testing.assert_array_equal(about_zero, np.roll(np.rot90(y, 1, (1, 2)), 1, axis=1))


def test_matrices_and_the_regular_action():
    G, rng = groups.dihedral(4), np.random.default_rng(1)
    X = rng.normal(size=(3, 8))
    for g, A in enumerate(G.matrices(2)):
        np.testing.assert_array_equal(X @ A.T, G.act(X, g, 2))
    R = G.regular()
    assert R.n_points == R.order == 8
    np.testing.assert_array_equal(R.table[3], G.product(3))


def test_subgroups():
    G = groups.p4m(4)
    H = G.stabiliser()
    assert len(H) == 8 and (G.table[H, 0] == 0).all()
    assert len(G.multiples(2)) == 4 * 8
    assert len(groups.dihedral(6).multiples(3)) == 4


def test_interpolated_quarter_turns_are_exact():
    x = np.random.default_rng(0).normal(size=(2, 49))
    for g in range(4):
        turned = Rotations((7, 7), 8).act(x, 2 * g)
        np.testing.assert_allclose(turned, groups.quarter_turns(7).act(x, g), atol=1e-13)
    index, weight = Rotations((7, 7), 4).sample(np.array([0, 1, 7]))
    exact = groups.p4(7).sample(np.array([0, 1, 7]))[0]
    np.testing.assert_allclose((x[0][index] * weight).sum(-1), x[0][exact[..., 0]], atol=1e-13)


def test_turns_by_eighths_compose_up_to_interpolation():
    i = np.arange(33) - 16
    blob = np.exp(-((i[:, None] - 3) ** 2 + i[None] ** 2 / 2) / 18)
    C8 = Rotations((33, 33), 8)
    once = C8.act(C8.act(blob.reshape(1, -1), 1), 1)
    gap = np.abs(once - C8.act(blob.reshape(1, -1), 2)).max()
    assert 1e-4 < gap < 0.03


def test_haar_averages_are_exact_to_their_degree():
    """Mean of R, of R ⊗ R, and of the fourth power of an entry: 0, δδ/3 and 1/5."""
    R, w = rotations.haar_so3(4)
    assert w.sum() == pytest.approx(1) and (w > 0).all()
    np.testing.assert_allclose(
        R @ np.swapaxes(R, 1, 2), np.broadcast_to(np.eye(3), R.shape), atol=1e-14
    )
    np.testing.assert_allclose(np.linalg.det(R), 1)
    np.testing.assert_allclose(np.einsum("g,gij->ij", w, R), 0, atol=1e-14)
    pairs = np.einsum("g,gij,gkl->ijkl", w, R, R)
    np.testing.assert_allclose(
        pairs, np.einsum("ik,jl->ijkl", np.eye(3), np.eye(3)) / 3, atol=1e-14
    )
    np.testing.assert_allclose(np.einsum("g,gij->ij", w, R**4), 0.2, atol=1e-14)
    R, w = rotations.haar_so2(5)
    np.testing.assert_allclose(np.einsum("g,gij->ij", w, R**4), 0.375, atol=1e-14)
    assert rotations.haar_so2(3).on_points(4).shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Group([[0, 1], [1, 1]]), "must be a permutation"),
        (lambda: Group([[0.0, 1.0]]), "integer array"),
        (lambda: Group([[0, 1, 2], [1, 2, 0]]), "not a group"),
        (lambda: Group([[0, 1], [0, 1]]), "two equal rows"),
        (lambda: Group([[1, 0]]), "not a group"),
        (lambda: Group([[0, 1, 2]], (2, 2)), "do not fill shape"),
        (lambda: from_generators([[1, 0, 2]], (2, 2)), "do not fill shape"),
        (
            lambda: from_generators([[1, 0, 2, 3, 4, 5], [1, 2, 3, 4, 5, 0]], max_order=100),
            "max_order",
        ),
        (lambda: groups.translations((3, 0)), "positive integers"),
        (lambda: groups.translations((100, 100)), "over the limit"),
        (lambda: groups.p4((4, 6)), "square grids only"),
        (lambda: groups.quarter_turns((4, 5)), "square grids only"),
        (lambda: groups.cyclic(5).act(np.zeros((1, 6)), 0), "rows of 5 entries"),
        (lambda: groups.translations((4, 6)).multiples(4), "no subgroup"),
        (lambda: groups.cyclic(4).multiples(0), "positive integer"),
        (lambda: Rotations((4,), 8), "height, width"),
        (lambda: Rotations((4, 4), 0), "number of turns"),
        (lambda: Rotations((4, 4), 8).act(np.zeros((1, 16)), 9), "must be a turn"),
        (lambda: Rotations((4, 4), 8).product(1, [8]), "no translation of the grid"),
        (lambda: Rotations((4, 4), 8).stabiliser(3), "about point 0"),
        (lambda: rotations.haar_so2(0), "number of turns"),
        (lambda: rotations.haar_so3(-1), "degree"),
    ],
)
def test_errors_say_what_to_do(make, match):
    with pytest.raises(ValueError, match=match):
        make()
