"""Distances, jittered factorisation and implicit fixed points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from ideareg._linalg import (
    accumulate_differences,
    cholesky_with_jitter,
    fixed_point,
    lower_inverse,
    squared_distances,
    transposed,
)
from ideareg._types import Result, Solution

pytestmark = pytest.mark.usefixtures("double_precision")


def normal(*shape, seed=0):
    return jnp.array(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize("d", [0, 1, 3, 40])
def test_squared_distances_match_the_definition(d):
    X, Y = normal(5, d), normal(4, d, seed=1)
    expected = ((np.asarray(X)[:, None] - np.asarray(Y)[None]) ** 2).sum(-1)
    np.testing.assert_allclose(squared_distances(X, Y), expected, rtol=1e-14)


def test_squared_distances_do_not_cancel_far_from_the_origin():
    X = 1e6 + 1e-6 * normal(6, 2)
    D = squared_distances(X, X)
    assert (jnp.diagonal(D) == 0).all() and (D >= 0).all()
    shifted = np.asarray(X) - 1e6
    expected = ((shifted[:, None] - shifted[None]) ** 2).sum(-1)
    np.testing.assert_allclose(D, expected, rtol=1e-12)


def test_squared_distances_have_all_derivatives():
    X, Y = normal(3, 2), normal(4, 2, seed=1)

    def derivatives(distances):
        def f(X, Y):
            return jnp.sin(distances(X, Y)).sum() + jnp.exp(-distances(X, X)).sum()

        return jax.jit(jax.hessian(f, (0, 1)))(X, Y), jax.jit(jax.jacfwd(f, (0, 1)))(X, Y)

    ours = derivatives(squared_distances)
    naive = derivatives(lambda X, Y: jnp.square(X[:, None] - Y[None]).sum(-1))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(naive), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_squared_distances_gradient_keeps_single_precision_far_from_the_origin():
    X = normal(6, 2)

    def gradient(X):
        return jax.grad(lambda X: jnp.exp(-squared_distances(X, X)).sum())(X)

    shifted = gradient((X + 1000).astype(jnp.float32))
    rounded = gradient((X + 1000).astype(jnp.float32).astype(float))
    np.testing.assert_allclose(shifted, rounded, atol=1e-5)


def test_cholesky_takes_the_jitter_asked_for():
    B = normal(5, 5)
    A = B @ B.T
    L, used, ok = cholesky_with_jitter(A, 1e-3)
    np.testing.assert_allclose(L @ L.T, A + 1e-3 * jnp.eye(5), atol=1e-13)
    assert ok and used == 1e-3


@pytest.mark.parametrize("jitter", [0.0, 1e-15])
def test_cholesky_escalates_and_says_so(jitter):
    A = jnp.ones((6, 6)) - 1e-10 * jnp.eye(6)
    L, used, ok = cholesky_with_jitter(A, jitter)
    assert ok and 1e-10 < used < 1e-7
    np.testing.assert_allclose(L @ L.T, A + used * jnp.eye(6), atol=1e-13)


@pytest.mark.parametrize("A", [-1e9 * np.eye(3), np.full((3, 3), np.nan)])
def test_cholesky_reports_failure(A):
    assert not cholesky_with_jitter(jnp.array(A), 1e-12)[2]


def test_cholesky_derivatives():
    B = normal(4, 4)

    def derivatives(factor):
        def f(B, jitter):
            return jnp.sin(factor(B @ B.T, jitter)).sum()

        def slope(B):
            return jnp.vdot(jnp.cos(B), jax.grad(f)(B, 0.1))

        at = B, jnp.array(0.1)
        return jax.jit(jax.grad(f, (0, 1)))(*at), jax.jit(jax.grad(slope))(B)

    ours = derivatives(lambda A, jitter: cholesky_with_jitter(A, jitter)[0])
    theirs = derivatives(lambda A, jitter: jnp.linalg.cholesky(A + jitter * jnp.eye(4)))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-11)


def solve_kepler(e, m):
    return fixed_point(lambda z: m + e * jnp.sin(z), m)


def test_fixed_point_solves_and_differentiates():
    e, m = jnp.array(0.6), jnp.array([0.3, 2.0])
    z, converged = solve_kepler(e, m)
    assert converged
    np.testing.assert_allclose(z - e * jnp.sin(z), m, atol=1e-13)
    expected = jnp.sin(z) / (1 - e * jnp.cos(z))
    forward = jax.jit(jax.jacfwd(lambda e: solve_kepler(e, m)[0]))
    reverse = jax.jit(jax.jacrev(lambda e: solve_kepler(e, m)[0]))
    np.testing.assert_allclose(forward(e), expected, rtol=1e-12)
    np.testing.assert_allclose(reverse(e), expected, rtol=1e-12)
    second = jax.jit(jax.jacfwd(jax.jacrev(lambda e: solve_kepler(e, m)[0])))
    difference = (reverse(e + 1e-5) - reverse(e - 1e-5)) / 2e-5
    np.testing.assert_allclose(second(e), difference, rtol=1e-7)


def test_fixed_point_inside_jit_scan_and_checkpoint():
    def path(e):
        @jax.checkpoint
        def body(z, _):
            new, ok = fixed_point(
                lambda y: {"a": z["a"] - e * jnp.tanh(y["b"]), "b": z["b"] + e * jnp.tanh(y["a"])},
                z,
            )
            return new, ok

        z, ok = jax.lax.scan(body, {"a": jnp.ones(3), "b": jnp.zeros(3)}, length=5)
        return (z["a"] * z["b"]).sum(), ok.all()

    e, step, jit_path = jnp.array(0.3), 1e-5, jax.jit(path)
    (_, ok), g = jax.jit(jax.value_and_grad(path, has_aux=True))(e)
    assert ok
    np.testing.assert_allclose(
        g, (jit_path(e + step)[0] - jit_path(e - step)[0]) / (2 * step), rtol=1e-8
    )


def test_fixed_point_reports_divergence_and_spoils_its_gradient():
    def solve(c):
        return fixed_point(lambda z: c * z + 1, jnp.array(1.0), max_steps=50)

    assert not solve(2.0)[1]
    assert jnp.isnan(jax.grad(lambda c: solve(c)[0])(2.0))
    assert not fixed_point(lambda z: z * jnp.nan, jnp.array(1.0))[1]


def test_fixed_point_in_single_precision_and_batches():
    m = jnp.linspace(0, 3, 7, dtype=jnp.float32)
    z, converged = jax.vmap(lambda m: solve_kepler(jnp.float32(0.5), m))(m)
    assert converged.all() and z.dtype == jnp.float32
    np.testing.assert_allclose(z - 0.5 * jnp.sin(z), m, atol=1e-5)


def test_results_are_codes_with_remedies():
    assert [int(result) for result in Result] == list(range(6))
    assert all(len(result.message) > 5 for result in Result)
    solution = Solution(1.0, jnp.array(4), {})
    assert solution.outcome is Result.ill_conditioned and "nugget" in solution.outcome.message


@pytest.mark.parametrize("n", [1, 64, 65, 200])
def test_the_inverse_of_a_triangle(n):
    rng = np.random.default_rng(n)
    L = jnp.asarray(np.tril(rng.normal(size=(n, n)) / n) + np.eye(n))
    step, C = np.tril(rng.normal(size=(n, n))), rng.normal(size=(n, n))
    inverse = np.linalg.inv(L)
    np.testing.assert_allclose(lower_inverse(L), inverse, atol=1e-12 * abs(inverse).max())
    slope = jax.jvp(lambda L: jnp.vdot(C, lower_inverse(L)), (L,), (step,))[1]
    np.testing.assert_allclose(slope, -np.vdot(C, inverse @ step @ inverse), rtol=1e-10)


def test_a_transpose_has_all_derivatives():
    A = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(transposed(A), np.asarray(A).T)
    np.testing.assert_array_equal(jax.vmap(transposed)(A[None])[0], np.asarray(A).T)
    check_grads(lambda A: transposed(A) @ A, (A,), order=2)


def test_points_that_are_computed_on_the_way_equal_themselves():
    q, v = normal(60, 3), normal(60, 3, seed=1)

    @jax.jit
    def apart(q, v):
        moved = jnp.hstack([q + 0.1 * v, v])
        return accumulate_differences(jnp.sign, moved[:, :3], q + 0.1 * v)

    assert (jnp.diagonal(apart(q, v)) == 0).all()
