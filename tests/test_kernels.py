"""Every kernel: one pair, many pairs, products without the matrix, derivatives, printing."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.gaussian_process.kernels as sk

from ideareg import kernels as ik

pytestmark = pytest.mark.usefixtures("double_precision")


def normal(*shape, seed=0):
    return jnp.array(np.random.default_rng(seed).normal(size=shape))


ARD = np.array([0.7, 1.3, 2.0])
SCALAR = {
    "gaussian": lambda: ik.Gaussian(ARD),
    "matern12": lambda: ik.Matern12(ARD),
    "matern32": lambda: ik.Matern32(ARD),
    "matern52": lambda: ik.Matern52(ARD),
    "rational": lambda: ik.RationalQuadratic(ARD, 0.8),
    "laplacian": lambda: ik.Laplacian(ARD),
    "linear": lambda: ik.Linear(ARD),
    "constant": lambda: ik.Constant(2.0),
    "polynomial": lambda: ik.Polynomial(3, 0.5, ARD),
    "ramps": lambda: ik.ArcCosine(1, 0.7, ARD),
    "steps": lambda: ik.ArcCosine(0, 0.7, ARD),
    "tanh": lambda: ik.Activation("tanh"),
    "fourier": lambda: ik.RandomFourier(6, 3, key=0, length_scale=ARD),
    "function": lambda: ik.as_kernel(lambda x, y: jnp.exp(-jnp.square(x - y).sum())),
    "sum": lambda: ik.Gaussian() + ik.Linear(),
    "product": lambda: ik.Gaussian() * ik.Polynomial(),
    "scaled": lambda: 2.5 * ik.Matern52(),
}
SPD = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 0.5]])
OPERATOR = {
    "isotropic": lambda: ik.Isotropic(ik.Gaussian()),
    "separable": lambda: ik.Separable(ik.Gaussian(), SPD),
    "diagonal": lambda: ik.Diagonal([ik.Gaussian(), ik.Linear(), ik.Matern32()]),
    "operator sum": lambda: ik.Separable(ik.Gaussian(), SPD) + ik.Matern12(),
    "operator multiple": lambda: 3.0 * (ik.Linear() + ik.Diagonal([ik.Gaussian()] * 3)),
    "operator product": lambda: ik.Linear() * ik.Separable(ik.Gaussian(), SPD),
}
ALL = SCALAR | OPERATOR


@pytest.mark.parametrize("name", ALL)
def test_gram_collects_pairs_and_apply_is_its_product(name):
    kernel = ALL[name]()
    X, Y, P = normal(7, 3), normal(5, 3, seed=1), normal(5, 3, seed=2)

    @eqx.filter_jit
    def compute(kernel):
        pairs = jax.vmap(lambda x: jax.vmap(lambda y: kernel(x, y))(Y))(X)
        products = [kernel.apply(X, Y, P, tile) for tile in (None, 1, 3)]
        own = jax.vmap(lambda x: kernel(x, x))(X)
        return pairs, kernel.gram(X, Y), products, own, kernel.diagonal(X)

    pairs, gram, products, own, diagonal = compute(kernel)
    if name in SCALAR:
        blocks = pairs
        product = pairs @ P
    else:
        blocks = pairs.transpose(0, 2, 1, 3).reshape(21, 15)
        product = jnp.einsum("ijab,jb->ia", pairs, P)
    np.testing.assert_allclose(gram, blocks, atol=1e-13)
    for ours in products:
        np.testing.assert_allclose(ours, product, atol=1e-12)
    np.testing.assert_allclose(diagonal, own, atol=1e-13)


@pytest.mark.parametrize("name", ALL)
def test_gram_is_symmetric_and_positive(name):
    G = ALL[name]().gram(normal(6, 3))
    np.testing.assert_allclose(G, G.T, atol=1e-13)
    assert np.linalg.eigvalsh(G).min() > -1e-12


@pytest.mark.parametrize(
    "name", ["gaussian", "laplacian", "matern52", "ramps", "tanh", "product", "function"]
)
def test_apply_differentiates_like_the_matrix(name):
    kernel, X, Y, P = SCALAR[name](), normal(7, 3), normal(5, 3, seed=1), normal(5, 2, seed=2)

    def tiled(X, Y, P):
        return jnp.sin(kernel.apply(X, Y, P, 3)).sum()

    def formed(X, Y, P):
        return jnp.sin(kernel.gram(X, Y) @ P).sum()

    for ours, theirs in zip(
        jax.jit(jax.grad(tiled, (0, 1, 2)))(X, Y, P),
        jax.jit(jax.grad(formed, (0, 1, 2)))(X, Y, P),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda: ik.Gaussian(), sk.RBF()),
        (lambda: ik.Gaussian(ARD), sk.RBF(ARD)),
        (lambda: ik.Matern12(ARD), sk.Matern(ARD, nu=0.5)),
        (lambda: ik.Matern32(), sk.Matern()),
        (lambda: ik.Matern52(ARD), sk.Matern(ARD, nu=2.5)),
        (lambda: ik.RationalQuadratic(), sk.RationalQuadratic()),
        (lambda: ik.RationalQuadratic(1.7, 0.6), sk.RationalQuadratic(1.7, 0.6)),
        (lambda: ik.Linear() + ik.Constant(2.25), sk.DotProduct(1.5)),
        (lambda: ik.Polynomial(2, 2.25), sk.DotProduct(1.5) ** 2),
        (lambda: 2.0 * ik.Gaussian() * ik.Linear(), 2.0 * sk.RBF() * sk.DotProduct(0.0)),
        (lambda: ik.with_nugget(ik.Gaussian(), 0.3), sk.RBF() + sk.WhiteKernel(0.3)),
    ],
)
def test_agrees_with_scikit_learn(ours, theirs):
    X, Y = normal(6, 3), normal(4, 3, seed=1)
    kernel = ours()
    np.testing.assert_allclose(kernel.gram(X, Y), theirs(X, Y), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(kernel.gram(X), theirs(X), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(kernel.diagonal(X), theirs.diag(X), rtol=1e-12)


@pytest.mark.parametrize(
    ("kernel", "curvature"),
    [(ik.Gaussian, 1.0), (ik.Matern32, 3.0), (ik.Matern52, 5 / 3), (ik.RationalQuadratic, 1.0)],
)
@pytest.mark.parametrize("path", ["pair", "gram"])
def test_derivatives_at_coinciding_points(kernel, curvature, path):
    k, x = kernel(0.5), jnp.array([0.3, -0.2])

    def value(x, y):
        return k(x, y) if path == "pair" else k.gram(x[None], y[None])[0, 0]

    gradient = jax.grad(value)
    derivatives = gradient, jax.jacfwd(gradient, 1), jax.jacfwd(gradient)
    first, mixed, twice = jax.jit(lambda x, y: [f(x, y) for f in derivatives])(x, x)
    np.testing.assert_allclose(first, 0, atol=1e-15)
    np.testing.assert_allclose(mixed, curvature / 0.25 * np.eye(2), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(twice, -curvature / 0.25 * np.eye(2), rtol=1e-12, atol=1e-12)


def test_matern52_fourth_derivative_at_zero():
    # k(r) = 1 - 5 r^2 / 6 + 25 r^4 / 24 - ...: the fourth derivative in one dimension is 25.
    f = ik.Matern52().profile
    assert jax.grad(jax.grad(f))(0.0) == pytest.approx(25 / 24 * 2)


@pytest.mark.parametrize("order", [0, 1])
def test_arc_cosine_is_a_wide_layer(order):
    """Weights drawn at random, and the limit of infinitely many."""
    x, y = np.asarray(normal(2, 3))
    w = np.random.default_rng(2).normal(size=(10**6, 4))
    layers = [w @ np.append(p, np.sqrt(0.5)) for p in (x, y)]
    a, b = [np.maximum(v, 0) if order else v > 0 for v in layers]
    kernel = ik.ArcCosine(order, 0.5)
    assert kernel(x, y) == pytest.approx(2 * (a * b).mean(), abs=0.02)
    assert kernel(x, x) == pytest.approx(x @ x + 0.5 if order else 1.0, rel=1e-7)


def test_arc_cosine_at_coinciding_points_and_at_the_origin():
    x = jnp.array([0.3, -0.2])
    first = jax.grad(ik.ArcCosine(1, 0.5))(x, x)
    np.testing.assert_allclose(first, x, atol=1e-7)
    assert (jax.grad(ik.ArcCosine(1, 0.0))(0 * x, 0 * x) == 0).all()


@pytest.mark.parametrize("kernel", [ik.Matern12, ik.Laplacian])
def test_kinks_have_zero_derivative(kernel):
    X = jnp.array([[0.1, 0.2], [0.1, 0.2], [1.0, -1.0]])
    gradient = jax.grad(lambda X: kernel().gram(X).sum())(X)
    expected = jax.grad(lambda x: 4 * kernel()(x, X[2]))(X[0])
    np.testing.assert_allclose(gradient[0] + gradient[1], expected, atol=1e-14)


def test_length_scales_can_be_learned():
    def fit(kernel):
        return kernel.gram(normal(4, 3)).sum()

    kernel = 2 * ik.RationalQuadratic(ARD, 3) + ik.Linear(1)
    leaves = jax.tree.leaves(eqx.filter_grad(fit)(kernel))
    assert len(leaves) == 4 and all(jnp.isfinite(leaf).all() for leaf in leaves)


def test_memory_of_apply_does_not_grow_with_the_matrix():
    X, P = normal(4096, 2), normal(4096, 2, seed=1)

    def loss(X):
        return jnp.square(ik.Gaussian().apply(X, None, P, 128)).sum()

    compiled = jax.jit(jax.grad(loss)).lower(X).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4096**2 * 8 / 4


def test_features_and_kernels_agree():
    X, P = normal(6, 3), normal(6, 3, seed=1)
    relu = ik.Activation("relu")
    plain = ik.as_kernel(lambda x, y: jax.nn.relu(x) @ jax.nn.relu(y) + 1)
    np.testing.assert_allclose(relu.apply(X, None, P), plain.apply(X, None, P), atol=1e-13)
    fourier = ik.RandomFourier(4000, 3, key=jax.random.key(1), length_scale=1.5)
    np.testing.assert_allclose(fourier.gram(X), ik.Gaussian(1.5).gram(X), atol=0.06)
    np.testing.assert_allclose(fourier.diagonal(X), 1, rtol=1e-12)
    frozen = eqx.filter_grad(lambda k: k.gram(X).sum())(fourier)
    assert (frozen.frequencies == 0).all() and frozen.length_scale != 0


def test_nugget_belongs_to_rows_not_to_places():
    X = jnp.zeros((3, 2))
    P = normal(3, 2)
    for kernel in (
        ik.with_nugget(ik.Gaussian(), 0.5),
        ik.with_nugget(ik.Separable(ik.Gaussian(), jnp.eye(2)), 0.5),
    ):
        difference = kernel.gram(X) - kernel.gram(X, X)
        np.testing.assert_allclose(difference, 0.5 * np.eye(len(difference)), atol=1e-15)
        gap = kernel.apply(X, None, P) - kernel.apply(X, X, P)
        np.testing.assert_allclose(gap, 0.5 * P, atol=1e-15)
    with pytest.raises(ValueError, match="cannot be a factor"):
        ik.Gaussian() * (ik.Linear() + ik.Nugget(0.1))


def test_printing():
    kernel = 2.0 * (ik.Gaussian([1.0, 2.0]) + ik.Linear()) * ik.Matern12(0.5)
    assert repr(kernel) == (
        "2.0 * (Gaussian(length_scale=[1.0, 2.0]) + Linear(length_scale=1.0))"
        " * Matern12(length_scale=0.5)"
    )
    assert repr(np.float64(0.5) * ik.Constant()) == "0.5 * Constant(value=1.0)"
    assert repr(ik.Activation("relu")) == "Activation(name='relu')"
    assert repr(ik.Gaussian(np.ones(20))) == "Gaussian(length_scale=float64[20])"
    jax.jit(lambda k: repr(k) and k.gram(jnp.zeros((1, 1))))(ik.Gaussian())


def kernel_of_two_points(x, y):
    return jnp.exp(-jnp.square(x - y).sum())


def test_functions_are_kernels():
    X = normal(4, 2)
    kernel = kernel_of_two_points + ik.Linear() * kernel_of_two_points
    G = ik.Gaussian(np.sqrt(0.5)).gram(X)
    np.testing.assert_allclose(kernel.gram(X), G + ik.Linear().gram(X) * G, rtol=1e-12)
    assert "kernel_of_two_points" in repr(kernel)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: ik.Gaussian(0.0), ValueError, "length_scale must be positive"),
        (lambda: ik.Laplacian([1.0, -1.0]), ValueError, "length_scale must be positive"),
        (lambda: ik.RationalQuadratic(alpha=-1), ValueError, "alpha must be positive"),
        (lambda: ik.RationalQuadratic(length_scale=-1), ValueError, "length_scale"),
        (lambda: ik.Polynomial(1.5), ValueError, "degree must be a positive integer"),
        (lambda: ik.Polynomial(2, -1.0), ValueError, "offset must be >= 0"),
        (lambda: ik.ArcCosine(2), ValueError, "order must be 0 or 1"),
        (lambda: ik.ArcCosine(1, -1.0), ValueError, "offset must be >= 0"),
        (lambda: ik.Constant(-1.0), ValueError, "value must be positive"),
        (lambda: -1.0 * ik.Gaussian(), ValueError, "scale must be positive"),
        (lambda: ik.Nugget(-1.0), ValueError, "nugget must be >= 0"),
        (lambda: ik.Activation("gelu"), ValueError, "tanh, relu, softplus, sigmoid"),
        (lambda: ik.RandomFourier(3, 2, key=0), ValueError, "even"),
        (lambda: ik.Separable(ik.Gaussian(), np.ones((2, 3))), ValueError, "square"),
        (lambda: ik.Separable(ik.Gaussian(), -np.eye(2)), ValueError, "positive semi-definite"),
        (lambda: ik.Isotropic(ik.Isotropic(ik.Gaussian())), TypeError, "scalar kernel"),
        (lambda: ik.as_kernel(3.0), TypeError, "function of two points"),
        (lambda: ik.as_kernel(ik.Gaussian), TypeError, "Gaussian"),
        (lambda: ik.Gaussian([1.0, 2.0]).gram(jnp.zeros((2, 3))), ValueError, "3 coordinates"),
        (
            lambda: ik.Diagonal([ik.Gaussian()]).apply(jnp.zeros((1, 2)), None, jnp.zeros((1, 2))),
            ValueError,
            "one kernel per coordinate",
        ),
    ],
)
def test_errors_say_what_to_do(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize("kernel", [ik.Matern12, ik.Matern32, ik.Matern52])
@pytest.mark.parametrize("n", [2, 16])
def test_compiled_diagonal_is_one_for_any_length(kernel, n):
    """Fused code may see rounding where points coincide: the value must not jump there."""
    X = np.random.default_rng(0).normal(size=(n, 2))
    with jax.enable_x64(True):
        k = kernel(1.2345678)
        G = jax.jit(lambda X: (lambda G: (G + G.T) / 2)(k.gram(X)))(X)
    np.testing.assert_allclose(np.diagonal(G), 1, atol=1e-12)
