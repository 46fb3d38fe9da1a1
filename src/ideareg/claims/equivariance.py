"""Claims on groups: equivariant kernels, convolutions, augmentation, flows that commute."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ideareg import kernels as ik
from ideareg.claims.claim import Claim, largest, row
from ideareg.hamiltonian import Hamiltonian, State
from ideareg.integrators import RK4
from ideareg.kernels.groups import dihedral, p4m, translations
from ideareg.shooting import shoot, transport

NAME = "groups"


def equivariant_kernels() -> Iterator[Claim]:
    """The matrix of a kernel as both arguments move, and its flow as the rows do."""
    rng = np.random.default_rng(6)
    for title, G, window in (("D_5", dihedral(5), [0, 1, 3]), ("p4m", p4m(3), [0, 1, 4])):
        K = ik.REM(G, window, ik.Gaussian(2.0))
        x, y = rng.normal(size=(2, 1, G.n_points))
        g, h = G.order // 3, G.order - 1
        gram = jax.jit(lambda x, y, K=K: K.gram(x, y))
        moved = np.asarray(gram(G.act(x, g), G.act(y, h)))
        off = moved[np.ix_(G.product(g), G.product(h))] - np.asarray(gram(x, y))
        yield row(NAME, f"K(gx, g'x') = g K(x, x') g'ᵀ, {title}", largest(off), 0, 1e-10)
    G = p4m(4)
    warp = ik.REM(G, [0, 1, 6], ik.Gaussian(2.0), pool=G.stabiliser())
    ham, state = Hamiltonian(warp), State(*(rng.normal(size=(2, 2, 16)) * [[[1.0]], [[0.3]]]))
    x, g = rng.normal(size=(2, 16)), 77
    path = shoot(ham, state, 4, RK4())
    image, turned = (transport(ham, RK4(), path, z) for z in (x, G.act(x, g)))
    yield row(NAME, "a warp φ commutes with p4m", largest(turned - G.act(image, g)), 0, 1e-10)


def augmentation() -> Iterator[Claim]:
    """An averaged kernel, and the kernel itself on the data with all their images."""
    rng, G, lam = np.random.default_rng(6), dihedral(5), 0.2
    k, actions = ik.Gaussian(2.0), G.matrices()
    (X, Y), x = rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 5))
    images, targets = (np.concatenate([Z @ A.T for A in actions]) for Z in (X, Y))
    averages = [ik.Averaged(k, actions, actions, invariant=flag) for flag in (True, False)]
    joined = np.concatenate([X, x])
    # One compiled matrix of all rows, of which the others are parts.
    one, two = (np.asarray(jax.jit(lambda X, K=K: K.gram(X))(joined)) for K in averages)
    gram, cross = one[:15, :15], one[15:, :15]
    whole = np.asarray(jax.jit(lambda X: k.gram(X))(np.concatenate([images, x])))
    full, crossed = whole[:-2, :-2], whole[-2:, :-2]
    off = largest(two - one)
    yield row(NAME, "averages over one and over two elements agree", off, 0, 1e-10)

    def ours(ridge: float) -> Any:
        return np.linalg.solve(gram + ridge * np.eye(len(gram)), Y.ravel())

    def theirs(ridge: float) -> Any:
        return np.linalg.solve(full + ridge * np.eye(len(full)), targets)

    for title, ridge in (("interpolation", 0.0), ("ridge regression, λ/|G| for λ", lam)):
        off = (cross @ ours(ridge / G.order)).reshape(2, 5) - crossed @ theirs(ridge)
        claim = f"averaging the kernel is augmenting the data: {title}"
        yield row(NAME, claim, largest(off), 0, 1e-10)
    norms = Y.ravel() @ ours(0.0), (targets * theirs(0.0)).sum()
    yield row(NAME, "... and their interpolants have one norm", norms[0] / norms[1] - 1, 0, 1e-10)


def convolutions() -> Iterator[Claim]:
    """Kernel ridge regression beside the filters of a circular convolution, trained by ridge."""
    rng, n, lam = np.random.default_rng(6), 6, 0.3
    K = ik.REM(translations((n, n)), 3, ik.Activation("tanh"), channels=2, out_channels=2)
    X, Y = rng.normal(size=(2, 3, K.n_inputs))
    x = rng.normal(size=(1, K.n_inputs))
    gram = np.asarray(jax.jit(lambda X: K.gram(X))(X))
    c = np.linalg.solve(gram + lam * np.eye(len(gram)), Y.ravel())
    predicted = np.asarray(jax.jit(lambda c: K.apply(x, X, c))(c.reshape(3, -1)))

    def convolve(weights: Any, images: Any) -> Any:
        seen = jnp.tanh(images).reshape(-1, n, n, 2)
        seen = jnp.pad(seen, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")
        layout = ("NHWC", "HWIO", "NHWC")
        filters, bias = weights[:-2].reshape(3, 3, 2, 2), weights[-2:]
        return (
            jax.lax.conv_general_dilated(seen, filters, (1, 1), "VALID", dimension_numbers=layout)
            + bias
        )

    columns = jax.jit(jax.vmap(lambda w: convolve(w, X).ravel()))(jnp.eye(38))
    A = np.asarray(columns).T
    w = np.linalg.solve(A.T @ A + lam * np.eye(38), A.T @ Y.ravel())
    off = predicted.ravel() - np.asarray(convolve(w, x)).ravel()
    yield row(
        NAME, "REM ridge regression is a convolution trained by ridge", largest(off), 0, 1e-10
    )
    norm = c @ gram @ c / (w @ w) - 1
    yield row(NAME, "... and the norm of its function is that of the filters", norm, 0, 1e-10)
