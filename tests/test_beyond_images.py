"""Series, graphs, sets, the sphere: the layers against exact kernels, invariance, the examples."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from test_examples import load

import ideareg
from ideareg import REMClassifier, REMRegressor
from ideareg.convolution import in_batches, root_gram
from ideareg.kernelmachine import moved_by
from ideareg.kernels import REM, as_kernel, graphs, groups, rotations
from ideareg.nystrom import gaussian, own
from ideareg.views import View, ViewLayer, view_indices


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def cube():
    corners = np.array(list(np.ndindex(2, 2, 2)))
    return (np.abs(corners[:, None] - corners).sum(-1) == 1).astype(int)


# ---------------------------------------------------------------- graphs


@pytest.mark.parametrize(
    ("adjacency", "order"),
    [
        (cube(), 48),
        (load("plot_graph").petersen(), 120),
        (np.roll(np.eye(5), 1, axis=1), 5),  # a directed ring
        (cube() + np.diag([1, 0, 0, 0, 0, 0, 0, 0]), 6),
        (np.array([[0, 2, 1], [2, 0, 1], [1, 1, 0]]), 2),
        (np.zeros((4, 4)), 24),
    ],
)
def test_automorphisms(adjacency, order):
    group = graphs.automorphisms(adjacency)
    assert group.order == order and group.identity == 0
    for g in group.table:
        np.testing.assert_array_equal(adjacency[np.ix_(g, g)], adjacency)


def test_automorphisms_are_checked():
    with pytest.raises(ValueError, match=r"square matrix \(n, n\), got shape \(2, 3\)"):
        graphs.automorphisms(np.ones((2, 3)))
    with pytest.raises(ValueError, match="more than max_order=100 automorphisms"):
        graphs.automorphisms(np.zeros((6, 6)), max_order=100)


# ---------------------------------------------------------------- layers


def test_a_layer_with_all_views_is_the_pooled_rem_kernel(double_precision):
    """All views as inducing ones: the kernel itself, with the constant that views end with."""
    group, window, alpha, bias = groups.dihedral(5), np.array([0, 1, 3]), 1.5, 0.7

    def base(u, v):
        inner = u @ v + bias**2
        size = jnp.sqrt((u @ u + bias**2) * (v @ v + bias**2))
        return size * jnp.exp(alpha * (inner / size - 1))

    X = normal(3, 10)
    (index,) = view_indices((View(window, 0, alpha),), group)
    seen = X.reshape(3, 5, 2)[:, index[0]].reshape(-1, 6)
    unit = np.column_stack([seen, np.full(len(seen), bias)])
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    layer = ViewLayer(inducing=unit.T, whitening=root_gram(unit, alpha, 1e-13), index=index,
                      bias=np.array(bias), alpha=alpha, centred=False)  # fmt: skip
    F = np.concatenate(list(in_batches((layer,), X.reshape(3, 1, 5, 2)))).reshape(3, -1)
    exact = REM(group, window, as_kernel(base), channels=2, pool="group").gram(jnp.asarray(X))
    np.testing.assert_allclose(F @ F.T, exact, rtol=1e-8)


PETERSEN = load("plot_graph").petersen()
# Space, windows of two layers, and permutations that leave predictions alone.
SPACES = {
    "series": (groups.cyclic(9), (5, 3), groups.cyclic(9).table),
    "series and mirrored ones": (groups.dihedral(6), (3, 3), groups.dihedral(6).table),
    "torus": (groups.translations((3, 4)), (3, 2), groups.translations((3, 4)).table),
    "graph": (graphs.automorphisms(cube()), ([0, 1, 2, 4], [0, 1]),
              graphs.automorphisms(cube()).table),
    "sets": (groups.cyclic(7), (1,), np.stack([np.random.default_rng(i).permutation(7)
                                               for i in range(9)])),
}  # fmt: skip


@pytest.mark.parametrize("name", SPACES)
def test_invariance_is_exact(name):
    space, window, moves = SPACES[name]
    X = normal(50, 2 * space.n_points)
    y = (X**3).sum(1) + (X * np.roll(X, 2, axis=1)).sum(1)
    model = REMRegressor(
        space=space, n_patches=(6, 8)[: len(window)], window=window, gamma=0.1, ridge=0.1,
        sharpness=(2.0, 2.0)[: len(window)], dtype="float64", random_state=0, verbose=0,
    ).fit(X, y)  # fmt: skip
    values, std = model.predict(X, return_std=True)
    assert model.image_shape_ == (1, space.n_points, 2) and np.ptp(values) > 1
    for move in moves[:: max(len(moves) // 4, 1)]:
        moved = X.reshape(50, -1, 2)[:, move].reshape(50, -1)
        for one, other in zip(model.predict(moved, return_std=True), (values, std), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-10)
    swapped = X.copy()
    swapped[:, [0, 1, 4, 5]] = X[:, [4, 5, 0, 1]]  # two points
    other = np.abs(model.predict(swapped) - values).max()
    assert other < 1e-10 if name == "sets" else other > 1e-3


def test_files_keep_space_and_quadrature(tmp_path):
    X, y = normal(40, 12), normal(40) > 0
    models = [
        REMClassifier(space=graphs.automorphisms(np.roll(np.eye(4), 1, 0)), window=([0, 1], None),
                      n_patches=(4, 6), random_state=0, verbose=0),
        REMClassifier(space=groups.cyclic(4), window=(1,), n_patches=(6,), sharpness=(2.0,),
                      group=rotations.haar_so3(4), random_state=0, verbose=0),
    ]  # fmt: skip
    for model in models:
        model.fit(X, y).save(tmp_path / "m")
        back = ideareg.load(tmp_path / "m")
        np.testing.assert_array_equal(back.predict_proba(X), model.predict_proba(X))
        np.testing.assert_array_equal(back.space.table, model.space.table)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"space": "c4"}, TypeError, "space must be a group of permutations"),
        ({"space": groups.cyclic(5)}, ValueError, "5 points, which do not divide the 12 columns"),
        ({"group": "p4"}, ValueError, "turns images on a grid, and space=Group"),
        ({"periodic": True}, ValueError, "periodic is for grids, and space=Group"),
        ({"image_shape": (3, 4)}, ValueError, "image_shape is for grids"),
        ({"window": (5, 5)}, ValueError, "window of width 5 does not fit the shape"),
        ({"window": (1,)}, ValueError, "window has 1 values, but n_patches makes 2 layers"),
        ({"window": ([4], None)}, ValueError, r"window has points outside 0\.\.3"),
        ({"space": groups.Group([[0, 1, 2]]), "window": ([0], None)}, ValueError,
         r"no element of the space brings \[0\] to the points \[1, 2\]"),
        ({"group": rotations.haar_so2(4)}, ValueError, "points of 3 channels, but the rotations"),
    ],
)  # fmt: skip
def test_parameters_are_checked(options, error, match):
    model = REMClassifier(**{"space": groups.cyclic(4), "window": (2, 2), **options})
    with pytest.raises(error, match=match):
        model.fit(normal(20, 12), np.arange(20) % 2)


# ---------------------------------------------------------------- the sphere


def test_a_quadrature_averages_with_its_weights():
    haar = rotations.haar_so3(4)
    X = normal(5, 1, 2, 3)
    F = np.stack([moved_by(haar, X, g).reshape(5, 6) for g in range(haar.actions)])
    np.testing.assert_allclose(F[7, 3, 3:], haar.matrices[7] @ X[3, 0, 1])
    Z = normal(4, 6, seed=1)
    kernel = np.exp(-0.3 * ((F[:, :, None] - Z) ** 2).sum(-1))
    wanted = np.einsum("g,gnm->nm", haar.weights, kernel)
    np.testing.assert_allclose(gaussian(0.3, F, Z, haar.weights), wanted, rtol=1e-12)
    pairs = np.exp(-0.3 * ((F[:, None] - F[None]) ** 2).sum(-1))
    wanted = np.einsum("g,ghn,h->n", haar.weights, pairs, haar.weights)
    np.testing.assert_allclose(own(0.3, F, haar.weights), wanted, rtol=1e-12)


def test_invariance_under_rotations_grows_with_the_degree():
    X = normal(40, 4, 3)
    X /= np.linalg.norm(X, axis=2, keepdims=True)
    y = np.linalg.norm(X.sum(1), axis=1)
    turned = X @ Rotation.random(random_state=0).as_matrix().T

    def change(degree):
        turns = rotations.haar_so3(degree) if degree else None
        model = REMRegressor(
            space=groups.cyclic(4), n_patches=(12,), window=(1,), sharpness=(1.0,), group=turns,
            gamma=0.3, ridge=0.01, dtype="float64", random_state=0, verbose=0,
        ).fit(X.reshape(40, -1), y)  # fmt: skip
        gap = model.predict(turned.reshape(40, -1)) - model.predict(X.reshape(40, -1))
        return np.abs(gap).max()

    changes = [change(degree) for degree in (0, 3, 5)]
    assert changes[0] > 5 * changes[1] > 25 * changes[2]


# ---------------------------------------------------------------- examples


@pytest.mark.parametrize("name", ["series", "graph", "sets"])
def test_the_group_helps(name, tmp_path, capsys):
    load(f"plot_{name}").main(["--rows", "40", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    without, given = (float(f) for f in re.findall(r"rows: .*error ([\d.]+)", said))
    assert given < 0.6 * without
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def test_the_sphere(tmp_path, capsys):
    load("plot_sphere").main(["--degrees", "0", "3", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    without, given = (float(f) for f in re.findall(r"error ([\d.]+) %", said))
    assert given < 0.6 * without
    assert (tmp_path / "sphere.png").stat().st_size > 10_000
