"""REM kernels: the exact identities of convolution, averaging and augmentation; flows; memory."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ideareg import kernels as ik
from ideareg.hamiltonian import Hamiltonian, State
from ideareg.integrators import RK4, SymplecticEuler
from ideareg.kernels import REM, Averaged, equivariance_error, groups, rotations
from ideareg.shooting import shoot, transport

pytestmark = pytest.mark.usefixtures("double_precision")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


BASES = {
    "gaussian": lambda: ik.Gaussian(3.0),
    "arc-cosine": lambda: ik.ArcCosine(),
    "dot product": lambda: ik.Polynomial(3),
    "tanh": lambda: ik.Activation("tanh"),
    "function": lambda: ik.as_kernel(lambda u, v: jnp.exp(jnp.tanh(u) @ jnp.tanh(v) / 9)),
}
# Group, window, options: what the space is, what is seen, what is kept.
LAYERS = {
    "series": (lambda: groups.cyclic(8), 3, {}),
    "image": (lambda: groups.translations((4, 6)), 3, {"out_channels": 3}),
    "volume": (lambda: groups.translations((2, 3, 3)), 2, {}),
    "stride": (lambda: groups.translations((4, 6)), 3, {"stride": 2}),
    "D5": (lambda: groups.dihedral(5), [0, 1, 3], {}),
    "D5 on itself": (lambda: groups.dihedral(5).regular(), [0, 1, 2], {}),
    "p4": (lambda: groups.p4(4), 3, {"pool": "group"}),
    "p4m": (lambda: groups.p4m(3), [0, 1, 4], {"out_channels": 2}),
    "p4m, strided": (lambda: groups.p4m(4), [0, 1, 4], {"stride": 2}),
    "p4m, points": (lambda: groups.p4m(3), [0, 1, 5], {"pool": groups.p4m(3).stabiliser()}),
    "local pool": (lambda: groups.cyclic(6), 3, {"pool": [0, 1], "stride": 2}),
    "permutations": (
        lambda: groups.from_generators([[1, 2, 0, 3], [1, 0, 2, 3]]), None, {"pool": "group"},
    ),
}  # fmt: skip


def layer(name, base="gaussian", channels=2):
    make, window, options = LAYERS[name]
    G = make()
    return G, REM(G, window, BASES[base](), channels=channels, **options)


def kept(G, name):
    """The elements that act on the outputs: of the subgroup, where there is a stride."""
    stride = LAYERS[name][2].get("stride", 1)
    return range(G.order) if stride == 1 else G.multiples(stride)


@pytest.mark.parametrize("name", LAYERS)
def test_equivariance_is_exact(name):
    G, K = layer(name)
    X = normal(2, K.n_inputs)
    assert equivariance_error(K, G, X, kept(G, name)) < 1e-12


@pytest.mark.parametrize("base", BASES)
def test_equivariance_of_the_matrix_in_both_arguments(base):
    G, K = layer("p4m", base)
    x, y = normal(2, 1, K.n_inputs)
    gram = np.asarray(K.gram(x, y)).reshape(G.order, 2, G.order, 2)
    for g, h in [(3, 17), (40, 5)]:
        moved = np.asarray(K.gram(G.act(x, g, 2), G.act(y, h, 2))).reshape(gram.shape)
        rows = moved[G.product(g)][:, :, G.product(h)]
        np.testing.assert_allclose(rows, gram, atol=1e-10 * np.abs(gram).max())


@pytest.mark.parametrize(
    ("name", "base"),
    [("image", "gaussian"), ("p4m, points", "gaussian"), ("local pool", "tanh")],
)
def test_apply_and_diagonal_are_those_of_the_matrix(name, base):
    _, K = layer(name, base)
    X, Y, P = normal(5, K.n_inputs), normal(3, K.n_inputs, seed=1), normal(3, K.n_outputs, seed=2)
    G = K.gram(X, Y)
    for tile in (None, 1, 2):
        np.testing.assert_allclose(K.apply(X, Y, P, tile).ravel(), G @ P.ravel(), atol=1e-11)
    own = np.asarray(K.gram(X)).reshape(5, K.n_outputs, 5, K.n_outputs)
    blocks = own[np.arange(5), :, np.arange(5)]
    np.testing.assert_allclose(K.diagonal(X), blocks, atol=1e-12)
    np.testing.assert_allclose(K(X[0], X[0]), blocks[0], atol=1e-12)
    assert np.linalg.eigvalsh(K.gram(X)).min() > -1e-9


def test_stride_is_a_submatrix_and_pooling_an_average():
    G = groups.p4m(4)
    full, strided = (REM(G, [0, 1, 5], ik.Gaussian(2.0), stride=s) for s in (1, 2))
    pooled = REM(G, [0, 1, 5], ik.Gaussian(2.0), pool=G.stabiliser())
    invariant = REM(G, [0, 1, 5], ik.Gaussian(2.0), pool="group")
    x, y = normal(2, 1, 16)
    K = np.asarray(full.gram(x, y))
    at = G.multiples(2)
    np.testing.assert_allclose(strided.gram(x, y), K[np.ix_(at, at)], atol=1e-14)
    mean = K.reshape(16, 8, 16, 8).mean((1, 3))
    np.testing.assert_allclose(pooled.gram(x, y), mean, atol=1e-14)
    np.testing.assert_allclose(invariant.gram(x, y), [[K.mean()]], atol=1e-14)


@pytest.mark.parametrize("activation", ["tanh", pytest.param("relu", marks=pytest.mark.slow)])
def test_ridge_regression_is_a_convolution_trained_by_ridge(activation):
    """In the dual with the kernel; and a convolution of JAX, circularly padded, by its filters."""
    n, C, out, lam = 6, 2, 3, 0.3
    K = REM(groups.translations((n, n)), 3, ik.Activation(activation), channels=C, out_channels=out)
    X, Y, x = normal(3, n * n * C), normal(3, n * n * out, seed=1), normal(1, n * n * C, seed=2)
    G = np.asarray(K.gram(X))
    c = np.linalg.solve(G + lam * np.eye(len(G)), Y.ravel())
    predicted = np.asarray(K.apply(x, X, c.reshape(3, -1))).reshape(n, n, out)

    act = {"tanh": jnp.tanh, "relu": jax.nn.relu}[activation]

    def convolve(filters, bias, images):
        padded = jnp.pad(act(images), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")
        layout = ("NHWC", "HWIO", "NHWC")
        return (
            jax.lax.conv_general_dilated(padded, filters, (1, 1), "VALID", dimension_numbers=layout)
            + bias
        )

    # The normal equations of the convolution itself: it is linear in its weights.
    start = jnp.zeros(9 * C * out + out)

    def outputs(weights, images):
        filters = weights[: 9 * C * out].reshape(3, 3, C, out)
        return convolve(filters, weights[9 * C * out :], images).ravel()

    A = np.asarray(jax.jacobian(outputs)(start, X.reshape(3, n, n, C)))
    w = np.linalg.solve(A.T @ A + lam * np.eye(A.shape[1]), A.T @ Y.ravel())
    by_filters = outputs(jnp.asarray(w), x.reshape(1, n, n, C)).reshape(n, n, out)
    np.testing.assert_allclose(predicted, by_filters, atol=1e-10)
    assert c @ G @ c == pytest.approx(w @ w, abs=1e-10)

    # And in weight space through `features`: the same filters, patch by patch.
    psi = np.asarray(K.features(X)).reshape(3 * n * n, -1)
    W = np.linalg.solve(psi.T @ psi + lam * np.eye(psi.shape[1]), psi.T @ Y.reshape(-1, out))
    np.testing.assert_allclose(W[:-1].reshape(9 * C, out), w[:-out].reshape(9 * C, out), atol=1e-10)
    np.testing.assert_allclose((K.features(x)[0] @ W).reshape(n, n, out), predicted, atol=1e-10)


def spins(n):
    return rotations.haar_so2(n).matrices


AVERAGES = {
    "C4 on vectors": (lambda: (spins(4), spins(4)), ik.Gaussian()),
    "D5 on functions": (lambda: (groups.dihedral(5).matrices(),) * 2, ik.Gaussian(2.0)),
    "D5, invariant": (lambda: (groups.dihedral(5).matrices(), None), ik.Gaussian(2.0)),
    "p4m on images": (lambda: (groups.p4m(2).matrices(),) * 2, ik.Matern52(2.0)),
}


@pytest.mark.parametrize(
    "name", [*list(AVERAGES)[:-1], pytest.param("p4m on images", marks=pytest.mark.slow)]
)
def test_averaging_is_augmentation(name):
    """Interpolant, norm, and ridge regression with λ/|G|."""
    make, k = AVERAGES[name]
    actions, outputs = make()
    K = Averaged(k, actions, outputs, invariant=True)
    rho = np.asarray(K.outputs)
    n, d, e = len(actions), actions.shape[1], rho.shape[1]
    X, Y, x = normal(3, d), normal(3, e, seed=1), normal(2, d, seed=2)
    G, cross = np.asarray(K.gram(X)), np.asarray(K.gram(x, X))
    XA = np.concatenate([X @ A.T for A in actions])
    YA = np.concatenate([Y @ R.T for R in rho])
    GA, crossA = np.asarray(k.gram(XA)), np.asarray(k.gram(x, XA))
    for lam in (1e-9, 0.2):
        ours = cross @ np.linalg.solve(G + lam / n * np.eye(len(G)), Y.ravel())
        theirs = crossA @ np.linalg.solve(GA + lam * np.eye(len(GA)), YA)
        np.testing.assert_allclose(ours.reshape(2, e), theirs, atol=1e-6 if lam < 1e-6 else 1e-12)
        # The squared norms of the two, data misfit over λ included.
        own = Y.ravel() @ np.linalg.solve(G + lam / n * np.eye(len(G)), Y.ravel())
        full = (YA * np.linalg.solve(GA + lam * np.eye(len(GA)), YA)).sum()
        assert own == pytest.approx(full, rel=1e-5 if lam < 1e-6 else 1e-12)
    moved = K.gram(X @ actions[1].T, x)
    np.testing.assert_allclose(moved, np.kron(np.eye(3), rho[1]) @ K.gram(X, x), atol=1e-12)


def test_double_average_makes_any_kernel_equivariant():
    k = ik.Gaussian([0.5, 2.0])
    turns = spins(4)
    K = Averaged(k, turns, turns)
    x, y, P = normal(2, 2), normal(3, 2, seed=1), normal(3, 2, seed=2)
    np.testing.assert_allclose(
        K.gram(x @ turns[1].T, y @ turns[3].T),
        np.kron(np.eye(2), turns[1]) @ K.gram(x, y) @ np.kron(np.eye(3), turns[3]).T,
        atol=1e-14,
    )
    np.testing.assert_allclose(K.apply(x, y, P).ravel(), K.gram(x, y) @ P.ravel(), atol=1e-14)
    np.testing.assert_allclose(K.diagonal(x)[0], K(x[0], x[0]), atol=1e-15)
    # A radial kernel needs one sum.
    one, two = (Averaged(ik.Gaussian(), turns, turns, invariant=flag) for flag in (True, False))
    np.testing.assert_allclose(one.gram(x, y), two.gram(x, y), atol=1e-14)


def test_haar_average_in_space():
    """Two points on spheres of radius a and b: the mean of a Gaussian is a hyperbolic sine."""
    haar = rotations.haar_so3(24)
    K = Averaged(ik.Gaussian(), haar.matrices, weights=haar.weights, invariant=True)
    a, b = np.array([[0.3, -0.8, 0.5]]), np.array([[1.0, 0.2, -0.4]])
    r = np.linalg.norm(a) * np.linalg.norm(b)
    expected = np.exp(-(a @ a.T + b @ b.T) / 2) * np.sinh(r) / r
    np.testing.assert_allclose(K.gram(a, b), expected, rtol=1e-12)
    turned = a @ rotations.haar_so3(3).matrices[5].T
    np.testing.assert_allclose(K.gram(turned, b), expected, rtol=1e-12)


FLOWS = {
    "image": lambda: (groups.translations((4, 4)), {"window": 3, "channels": 2, "out_channels": 2}),
    "D5": lambda: (groups.dihedral(5), {"window": 3, "pool": groups.dihedral(5).stabiliser()}),
    "D5 on itself": lambda: (groups.dihedral(5).regular(), {"window": [0, 1, 4]}),
    "p4m": lambda: (groups.p4m(4), {"window": [0, 1, 6], "pool": groups.p4m(4).stabiliser()}),
}


@pytest.mark.parametrize(
    ("name", "base", "integrator"),
    [
        ("image", "gaussian", RK4()),
        ("image", "tanh", SymplecticEuler()),
        ("D5", "arc-cosine", SymplecticEuler()),
        pytest.param("D5 on itself", "tanh", RK4(), marks=pytest.mark.slow),
        pytest.param("p4m", "gaussian", SymplecticEuler(), marks=pytest.mark.slow),
    ],
)
def test_a_warp_commutes_with_the_group(name, base, integrator):
    G, options = FLOWS[name]()
    K = REM(G, base=BASES[base](), **options)
    assert K.n_inputs == K.n_outputs
    ham, c = Hamiltonian(K), K.channels
    q, p, x = normal(2, K.n_inputs), 0.1 * normal(2, K.n_inputs, seed=1), normal(2, K.n_inputs)
    path = shoot(ham, State(q, p), 4, integrator)
    assert path.converged and np.abs(path.q[-1] - q).max() > 0.05
    image = np.asarray(transport(ham, integrator, path, x))
    for g in (1, G.order // 2, G.order - 1):
        moved = transport(ham, integrator, path, G.act(x, g, c))
        np.testing.assert_allclose(moved, G.act(image, g, c), atol=1e-10)
    # The group also moves the momentum-carrying points and leaves the flow as it is.
    other = shoot(ham, State(G.act(q, 1, c), G.act(p, 1, c)), 4, integrator)
    np.testing.assert_allclose(other.q[-1], G.act(np.asarray(path.q[-1]), 1, c), atol=1e-10)
    np.testing.assert_allclose(other.energies, path.energies, atol=1e-10)


def test_outputs_of_a_layer_are_points_of_the_next():
    """Functions on p4m, then on p4m again: two layers, each equivariant."""
    G = groups.p4m(3)
    first = REM(G, [0, 1, 4], ik.Activation(), out_channels=2)
    second = REM(G.regular(), G.stabiliser(), ik.Activation(), channels=2)
    W = normal(first.features(np.zeros((1, 9))).shape[-1], 2)
    V = normal(second.features(np.zeros((1, 144))).shape[-1], 1)

    def network(x):
        hidden = (first.features(x) @ W).reshape(len(x), -1)
        return np.asarray(second.features(hidden) @ V)

    x = normal(2, 9)
    moved = network(G.act(x, 21))
    np.testing.assert_allclose(moved[:, G.product(21)], network(x), atol=1e-12)


def test_interpolated_turns_have_a_stated_error():
    n = 14
    i = np.arange(n) - (n - 1) / 2
    blob = np.exp(-((i[:, None] - 2) ** 2 / 6 + (i[None] + 1) ** 2 / 14))
    images = np.stack([blob, np.roll(blob.T, 2, 0)]).reshape(2, -1)
    C8 = rotations.Rotations((n, n), 8)
    for pool in (None, C8.stabiliser()):
        K = REM(C8, 3, ik.Gaussian(1.5), pool=pool)
        exact = equivariance_error(K, C8, images, [2])
        turned = equivariance_error(K, C8, images, [1])
        assert exact < 1e-12 and 1e-6 < turned < 0.05, (exact, turned)
    # Translations are exact, whatever the turns.
    K = REM(C8, 3, ik.Gaussian(1.5), pool=C8.stabiliser())
    P = normal(2, K.n_outputs)
    moved = np.roll(images.reshape(2, n, n), (3, 5), (1, 2)).reshape(2, -1)
    f, g = (np.asarray(K.apply(z, images, P)).reshape(2, n, n) for z in (images, moved))
    np.testing.assert_allclose(np.roll(f, (3, 5), (1, 2)), g, atol=1e-10)


def test_memory_does_not_grow_with_the_square_of_pixels():
    """Sixteen images of 28² pixels against ten: a full matrix would take 800 MB."""
    K = REM(groups.translations((28, 28)), 5, ik.Gaussian())
    X, Y, P = (jnp.zeros((m, 784)) for m in (16, 10, 10))
    compiled = jax.jit(lambda X, Y, P: K.apply(X, Y, P)).lower(X, Y, P).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 120e6
    whole = REM(groups.translations((28, 28)), 3, ik.ArcCosine(), pool="group")
    compiled = jax.jit(lambda X, Y: whole.gram(X, Y)).lower(X, Y).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 120e6


def test_kernels_scale_add_learn_and_print():
    _, K = layer("series", channels=1)
    X = normal(2, 8)
    np.testing.assert_allclose((2.0 * K).gram(X), 2 * K.gram(X))
    both = K + ik.Gaussian()
    np.testing.assert_allclose(both.gram(X), K.gram(X) + np.kron(ik.Gaussian().gram(X), np.eye(8)))
    slope = eqx.filter_grad(lambda K: K.gram(X).sum())(K)
    assert float(slope.base.length_scale) != 0
    assert "window=3" in repr(K) and "Gaussian" in repr(K)
    turns = spins(4)
    np.testing.assert_allclose(
        (3.0 * Averaged(ik.Gaussian(), turns, turns)).gram(X[:, :2]),
        3 * Averaged(ik.Gaussian(), turns, turns).gram(X[:, :2]),
    )


SERIES = groups.cyclic(6)
GAUSSIAN = REM(SERIES, 3, ik.Gaussian())


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: REM(SERIES, 7, ik.Gaussian()), ValueError, "width 7 does not fit"),
        (lambda: REM(SERIES, [6], ik.Gaussian()), ValueError, "points outside 0..5"),
        (lambda: REM(SERIES, "all", ik.Gaussian()), ValueError, "window must be a width"),
        (lambda: REM(SERIES, 3, ik.Gaussian(), stride=4), ValueError, "no subgroup"),
        (lambda: REM(SERIES, 3, ik.Gaussian(), pool="max"), ValueError, "pool must be None"),
        (lambda: REM(SERIES, 3, ik.Gaussian(), pool=[9]), ValueError, "elements outside 0..5"),
        (lambda: REM(SERIES, 3, ik.Gaussian(), pool=[0.5]), ValueError, "numbers of elements"),
        (lambda: REM(SERIES, 3, ik.Gaussian(), channels=0), ValueError, "channels must be"),
        (lambda: REM(SERIES, 3, ik.with_nugget(ik.Gaussian(), 1.0)), ValueError, "nugget"),
        (lambda: REM(SERIES, 3, ik.Isotropic(ik.Gaussian())), TypeError, "scalar kernel"),
        (lambda: GAUSSIAN.features(np.zeros((1, 6))), TypeError, "no features"),
        (lambda: GAUSSIAN.gram(np.zeros((1, 7))), ValueError, "6 entries"),
        (
            lambda: REM(SERIES, 3, ik.Gaussian()).apply(np.zeros((1, 6)), None, np.zeros((1, 5))),
            ValueError, "weights must have shape",
        ),
        (
            lambda: REM(rotations.Rotations((4, 4), 8), 3, ik.Gaussian(), stride=2),
            ValueError, "stride needs a group",
        ),
        (
            lambda: REM(SERIES, 3, ik.Gaussian()).map_kernels(
                lambda k: ik.stretched.Stretched(k, np.ones(6))
            ),
            ValueError, "one length for all",
        ),
        (lambda: Averaged(ik.Gaussian(), np.ones((2, 3))), ValueError, "square matrices"),
        (lambda: Averaged(ik.Gaussian(), spins(4), spins(3)), ValueError, "one each"),
        (lambda: Averaged(ik.Gaussian(), spins(4), 2 * spins(4)), ValueError, "orthogonal"),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(make, error, match):
    with pytest.raises(error, match=match):
        make()
