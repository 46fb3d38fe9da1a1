"""What the end of the flow is judged by: evidence, ridge and optimal recovery.

Every loss here is a function of the same three numbers, the `Terms` of a head on the warped rows.
With Gram matrix aK of the head, noise (= ridge) s and B = I + (a/s) W½KW½,

    quadratic  yᵀ(aK + s/W)⁻¹y        volume  log det B        slack  tr(aK − its approximation)/s.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from ideareg._linalg import lower_inverse, transposed
from ideareg._types import Scalar

LOSSES = ("evidence", "squared", "optimal_recovery")


class Terms(NamedTuple):
    """What a head reports of the fit: quadratic form, log-determinant, and sparse slack."""

    quadratic: Scalar
    volume: Scalar
    slack: Scalar


def evidence(terms: Terms, noise: Scalar, rows: Scalar, outputs: int) -> Scalar:
    r"""Return the negative log marginal likelihood, or its collapsed lower bound.

    .. math:: \tfrac12\big[q + k(W\log 2\pi s + \log\det B + \text{slack})\big]

    Parameters
    ----------
    terms : Terms
    noise : Array, shape ()
        Variance ``s`` of one observation.
    rows : Array, shape ()
        Sum ``W`` of the weights: a row of weight 3 counts as three rows.
    outputs : int
        Number ``k`` of columns of the targets, which share kernel and noise.

    Notes
    -----
    Titsias, "Variational learning of inducing variables in sparse Gaussian processes", 2009.
    """
    volume = rows * jnp.log(2 * jnp.pi * noise) + terms.volume + terms.slack
    return 0.5 * (terms.quadratic + outputs * volume)


def squared(terms: Terms, noise: Scalar, rows: Scalar, outputs: int) -> Scalar:
    r"""Return :math:`\lambda Y^T(G+\lambda)^{-1}Y`, with ``noise`` as λ.

    It is :math:`\min_f \lambda\|f\|^2 + \sum_i w_i|f(q_i)-Y_i|^2`.
    """
    return noise * terms.quadratic


def optimal_recovery(terms: Terms, noise: Scalar, rows: Scalar, outputs: int) -> Scalar:
    r"""Return :math:`Y^T(G+\rho)^{-1}Y`, the squared norm of the interpolant; ``noise`` is ρ."""
    return terms.quadratic


def loss_value(name: str, terms: Terms, noise: Scalar, rows: Scalar, outputs: int) -> Scalar:
    """Evaluate the loss called ``name``, one of ``LOSSES``."""
    table = {"evidence": evidence, "squared": squared, "optimal_recovery": optimal_recovery}
    return table[name](terms, noise, rows, outputs)


def exact_terms(
    gram: Float[Array, "n n"], Y: Float[Array, "n k"], weight: Float[Array, " n"],
    amplitude: Scalar, noise: Scalar,
) -> Terms:  # fmt: skip
    """Return the terms of the exact head from its unit Gram matrix; rows of weight 0 are inert."""
    root = jnp.sqrt(weight)
    B = jnp.eye(len(gram)) + (amplitude / noise) * root[:, None] * gram * root[None, :]
    L = jnp.linalg.cholesky(B)
    half = solve_triangular(L, root[:, None] * Y, lower=True)
    return Terms((half**2).sum() / noise, 2 * jnp.log(jnp.diagonal(L)).sum(), jnp.zeros(()))


class Moments(NamedTuple):
    """Sums over rows that the sparse head needs, with T = K L⁻ᵀ its features, LLᵀ its Gram matrix.

    These are TᵀWT, TᵀWY, tr YᵀWY and Σ wᵢ k(xᵢ, xᵢ). Features first, sums later: TᵀWT is then
    positive semi-definite to the last bit, while L⁻¹(KᵀWK)L⁻ᵀ loses that as soon as noise is small.
    """

    TT: Float[Array, "m m"]
    TY: Float[Array, "m k"]
    YY: Scalar
    diagonal: Scalar


def inverse_root(gram: Float[Array, "m m"]) -> Float[Array, "m m"]:
    """Return L⁻¹ with LLᵀ the Gram matrix."""
    return lower_inverse(jnp.linalg.cholesky(gram))


@jax.custom_vjp
def whitened_sums(
    Li: Float[Array, "m m"],
    K: Float[Array, "n m"],
    Y: Float[Array, "n k"],
    weight: Float[Array, " n"],
) -> tuple[Float[Array, "m m"], Float[Array, "m k"]]:
    """Return TᵀWT and TᵀWY for T = K Liᵀ.

    Li counts as a constant: `sparse_terms` carries all of the derivative by the Gram matrix.
    """
    return _whitened_sums_forward(Li, K, Y, weight)[0]


def _whitened_sums_forward(Li: Array, K: Array, Y: Array, weight: Array) -> Any:
    root = jnp.sqrt(weight)[:, None]
    T = Li @ (root * K).T  # its columns are the rows, which makes TᵀT the fast kind of product
    return (T @ T.T, T @ (root * Y)), (Li, weight[:, None] * K, weight[:, None] * Y)


def _whitened_sums_backward(saved: Any, cotangents: tuple[Array, Array]) -> Any:
    # Small matrices first: one product over the rows instead of three.
    Li, WK, WY = saved
    dTT, dTY = cotangents
    dK = WK @ (transposed(Li) @ (dTT + dTT.T) @ Li) + WY @ (dTY.T @ Li)
    return jnp.zeros_like(Li), dK, jnp.zeros_like(WY), jnp.zeros(len(WY), WY.dtype)


whitened_sums.defvjp(_whitened_sums_forward, _whitened_sums_backward)


def sparse_terms(
    gram: Float[Array, "m m"],
    Li: Float[Array, "m m"],
    moments: Moments,
    amplitude: Scalar,
    noise: Scalar,
) -> Terms:
    """Return the terms of the sparse head from its Gram matrix, the inverse root, and the sums."""
    TT, TY, YY, diagonal = moments
    explained, volume, trace = _collapsed(gram, Li, TT, TY, amplitude, noise)
    return Terms(YY / noise - explained, volume, amplitude * diagonal / noise - trace)


@jax.custom_vjp
def _collapsed(
    gram: Array, Li: Array, TT: Array, TY: Array, amplitude: Array, noise: Array
) -> tuple[Array, Array, Array]:
    """Return |c|², log det B and tr(B − I) for B = I + (a/s) TT and c = √a/s LB⁻¹ TY.

    The adjoint is in closed form, a third of what differentiating the factorisations costs. The
    derivative by ``gram`` is the total one, through the features in ``TT`` and ``TY`` as well.
    """
    return _collapsed_forward(gram, Li, TT, TY, amplitude, noise)[0]


def _collapsed_forward(gram: Array, Li: Array, TT: Array, TY: Array, a: Array, s: Array) -> Any:
    identity = jnp.eye(len(TT))
    G = (a / s) * TT
    LB = jnp.linalg.cholesky(identity + G)
    LBi = lower_inverse(LB)
    c = (jnp.sqrt(a) / s) * (LBi @ TY)
    explained = (c**2).sum()
    volume = 2 * jnp.log(jnp.diagonal(LB)).sum()
    return (explained, volume, jnp.trace(G)), (Li, G, LBi, c, explained, a, s)


def _collapsed_backward(saved: Any, cotangents: tuple[Array, Array, Array]) -> Any:
    Li, G, LBi, c, explained, a, s = saved
    dc, dvolume, dtrace = cotangents
    identity = jnp.eye(len(G))
    LBt, Lt = transposed(LBi), transposed(Li)
    Bi, t = LBt @ LBi, LBt @ c
    outer = dc * (t @ t.T)
    E = dvolume * Bi + dtrace * identity - outer  # derivative by G
    dgram = Lt @ (dvolume * (Bi - identity) - dtrace * G - outer) @ Li
    dTY = 2 * dc * (jnp.sqrt(a) / s) * t
    through_G = jnp.vdot(E, G)
    da = (through_G + dc * explained) / a
    ds = -(through_G + 2 * dc * explained) / s
    return dgram, jnp.zeros_like(Li), (a / s) * E, dTY, da, ds


_collapsed.defvjp(_collapsed_forward, _collapsed_backward)
