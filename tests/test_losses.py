"""Losses against the textbook: dense matrices, SciPy's normal distribution, plain autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.linalg import solve_triangular
from scipy.stats import multivariate_normal

from ideareg import kernels as ik
from ideareg.losses import (
    LOSSES,
    Moments,
    exact_terms,
    inverse_root,
    loss_value,
    sparse_terms,
    whitened_sums,
)

pytestmark = pytest.mark.usefixtures("double_precision")

N, M, OUTPUTS = 9, 4, 2
AMPLITUDE, NOISE = 1.7, 0.3


@pytest.fixture(scope="module")
def data():
    """Rows q, targets Y, integer weights, inducing points U."""
    rng = np.random.default_rng(0)
    q, U = rng.normal(size=(N, 2)), rng.normal(size=(M, 2))
    return q, rng.normal(size=(N, OUTPUTS)), np.array([1.0, 2, 1, 3, 1, 1, 2, 1, 1]), U


def exact(q, Y, weight, amplitude=AMPLITUDE, noise=NOISE):
    return exact_terms(ik.Gaussian().gram(q), Y, weight, amplitude, noise)


def sparse(U, q, Y, weight, amplitude, noise):
    k = ik.Gaussian()
    gram = k.gram(U) + 1e-8 * jnp.eye(len(U))
    Li = jax.lax.stop_gradient(inverse_root(gram))
    TT, TY = whitened_sums(Li, k.gram(q, U), Y, weight)
    moments = Moments(TT, TY, weight @ (Y**2).sum(1), weight @ k.diagonal(q))
    return sparse_terms(gram, Li, moments, amplitude, noise)


def textbook(U, q, Y, weight, amplitude, noise):
    """The collapsed bound from the N x N covariance Q + s/W, differentiated as it stands."""
    k = ik.Gaussian()
    L = jnp.linalg.cholesky(k.gram(U) + 1e-8 * jnp.eye(len(U)))
    A = solve_triangular(L, k.gram(q, U).T, lower=True)
    Q = amplitude * A.T @ A
    C = Q + jnp.diag(noise / weight)
    quadratic = jnp.vdot(Y, jnp.linalg.solve(C, Y))
    volume = jnp.linalg.slogdet(C)[1] - jnp.log(noise / weight).sum()
    slack = weight @ (amplitude * k.diagonal(q) - jnp.diagonal(Q)) / noise
    return quadratic, volume, slack


MIX = (0.7, 1.3, -0.4)  # every term has its own weight, so none can hide behind another


def mixed(terms):
    return sum(c * term for c, term in zip(MIX, terms, strict=True))


def test_sparse_terms_match_the_textbook_in_value(data):
    q, Y, weight, U = data
    ours, theirs = (f(U, q, Y, weight, AMPLITUDE, NOISE) for f in (sparse, textbook))
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_sparse_terms_match_the_textbook_in_every_derivative(data):
    q, Y, weight, U = data

    def gradient(f):
        def value(U, q, amplitude, noise):
            return mixed(f(U, q, Y, weight, amplitude, noise))

        return jax.jit(jax.grad(value, (0, 1, 2, 3)))(U, q, AMPLITUDE, NOISE)

    for ours, theirs in zip(gradient(sparse), gradient(textbook), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("term", range(3))
def test_sparse_adjoint_matches_finite_differences(data, term):
    q, Y, weight, U = data
    rng = np.random.default_rng(1)
    point = (jnp.array(U), jnp.array(q), jnp.array(AMPLITUDE), jnp.array(NOISE))
    direction = tuple(rng.normal(size=np.shape(a)) for a in point)

    @jax.jit
    def along(t):
        moved = (a + t * b for a, b in zip(point, direction, strict=True))
        U, q, amplitude, noise = moved
        return sparse(U, q, Y, weight, amplitude, noise)[term]

    h = 1e-5
    slope = (along(h) - along(-h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(along)(0.0), slope, rtol=1e-6)


def test_sparse_adjoint_by_the_cross_matrix_and_the_gram_apart(data):
    """By K alone and by the Gram matrix alone: the total derivative is split as documented."""
    q, Y, weight, U = data
    k = ik.Gaussian()
    K, gram = k.gram(q, U), k.gram(U) + 1e-8 * jnp.eye(M)

    def ours(K, gram):
        Li = jax.lax.stop_gradient(inverse_root(gram))
        TT, TY = whitened_sums(Li, K, Y, weight)
        moments = Moments(TT, TY, weight @ (Y**2).sum(1), weight.sum())
        return mixed(sparse_terms(gram, Li, moments, AMPLITUDE, NOISE))

    def theirs(K, gram):
        Q = AMPLITUDE * K @ jnp.linalg.solve(gram, K.T)
        C = Q + jnp.diag(NOISE / weight)
        volume = jnp.linalg.slogdet(C)[1] - jnp.log(NOISE / weight).sum()
        slack = weight @ (AMPLITUDE - jnp.diagonal(Q)) / NOISE
        return mixed((jnp.vdot(Y, jnp.linalg.solve(C, Y)), volume, slack))

    for got, want in zip(*(jax.grad(f, (0, 1))(K, gram) for f in (ours, theirs)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)


def test_exact_evidence_is_the_normal_log_density(data):
    q, Y, _, _ = data
    terms = exact(q, Y, jnp.ones(N))
    covariance = AMPLITUDE * np.asarray(ik.Gaussian().gram(q)) + NOISE * np.eye(N)
    expected = -multivariate_normal(np.zeros(N), covariance).logpdf(Y.T).sum()
    np.testing.assert_allclose(loss_value("evidence", terms, NOISE, N, OUTPUTS), expected)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("head", ["exact", "sparse"])
def test_weights_are_repeated_rows(data, name, head):
    q, Y, weight, U = data
    index = np.repeat(np.arange(N), weight.astype(int))

    def value(q, Y, weight):
        of = exact if head == "exact" else lambda *rows: sparse(U, *rows, AMPLITUDE, NOISE)
        return loss_value(name, of(q, Y, weight), NOISE, weight.sum(), OUTPUTS)

    repeated = value(q[index], Y[index], np.ones(len(index)))
    np.testing.assert_allclose(value(q, Y, weight), repeated, rtol=1e-10)


@pytest.mark.parametrize("head", ["exact", "sparse"])
def test_rows_of_weight_zero_are_inert(data, head):
    q, Y, weight, U = data
    of = exact if head == "exact" else lambda *rows: sparse(U, *rows, AMPLITUDE, NOISE)
    more = (np.vstack([q, np.ones((3, 2))]), np.vstack([Y, 9 * np.ones((3, 2))]))
    padded = of(*more, np.append(weight, np.zeros(3)))
    np.testing.assert_allclose(padded, of(q, Y, weight), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("amplitude", [1.0, AMPLITUDE])
def test_squared_loss_is_the_minimum_over_regressors(data, amplitude):
    """min over f of λ|f|² + Σ wᵢ|f(qᵢ) − Yᵢ|², with f = aK(·, q)Z and |f|² = Zᵀ(aK)Z."""
    q, Y, weight, _ = data
    G = amplitude * np.asarray(ik.Gaussian().gram(q))
    Z = np.linalg.solve(G + NOISE * np.diag(1 / weight), Y)
    attained = NOISE * np.vdot(Z, G @ Z) + weight @ ((G @ Z - Y) ** 2).sum(1)
    value = loss_value("squared", exact(q, Y, weight, amplitude), NOISE, weight.sum(), OUTPUTS)
    np.testing.assert_allclose(value, attained, rtol=1e-11)
    rng = np.random.default_rng(2)
    for _ in range(5):
        other = Z + 0.1 * rng.normal(size=Z.shape)
        assert value < NOISE * np.vdot(other, G @ other) + weight @ ((G @ other - Y) ** 2).sum(1)


def test_optimal_recovery_is_the_norm_of_the_interpolant(data):
    q, Y, _, _ = data
    G = AMPLITUDE * np.asarray(ik.Gaussian().gram(q)) + NOISE * np.eye(N)
    value = loss_value("optimal_recovery", exact(q, Y, np.ones(N)), NOISE, N, OUTPUTS)
    np.testing.assert_allclose(value, np.vdot(Y, np.linalg.solve(G, Y)), rtol=1e-11)


def test_gradient_of_the_squared_loss_by_the_warped_rows(data):
    """∂ℓ/∂qᵢ = −2λ Σⱼ (Zᵢ·Zⱼ) ∂₁k(qᵢ, qⱼ)."""
    q, Y, _, _ = data
    k = ik.Gaussian()

    def loss(q):
        return loss_value("squared", exact(q, Y, jnp.ones(N), 1.0), NOISE, N, OUTPUTS)

    Z = np.linalg.solve(k.gram(q) + NOISE * np.eye(N), Y)
    d1 = [[jax.grad(k)(jnp.array(x), y) for y in q] for x in q]
    expected = -2 * NOISE * np.einsum("ij,ijd->id", Z @ Z.T, np.array(d1))
    np.testing.assert_allclose(jax.grad(loss)(jnp.array(q)), expected, atol=1e-12)
