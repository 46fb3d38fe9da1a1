"""The pull-back of the field that is written out, against what reverse mode makes of the field."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ideareg import kernels as ik
from ideareg.adjoint import for_reverse_mode
from ideareg.hamiltonian import Hamiltonian, State
from ideareg.integrators import INTEGRATORS, RK4
from ideareg.kernels import base
from ideareg.shooting import shoot

pytestmark = pytest.mark.usefixtures("double_precision")

KERNELS = [
    ik.Gaussian([0.7, 1.3, 2.0]),
    ik.Matern12(1.1),
    ik.Matern32(0.9),
    ik.Matern52([1.0, 0.5, 3.0]),
    2.0 * (ik.Gaussian(0.4) + 0.5 * ik.Matern52(3.0)),
]


def moving_points(n=7, d=3, far=10.0):
    rng = np.random.default_rng(0)
    q = far + rng.normal(size=(n, d))
    q[-1] = q[0]  # two in one place
    return jnp.asarray(q), jnp.asarray(rng.normal(size=(n, d)))


def pulled_back(ham, q, p):
    """Return what cotangents of the field come to: of q, of p, and of the numbers of ham."""
    cotangents = State(jnp.sin(3 * q), jnp.cos(5 * p))
    _, pull = jax.vjp(lambda ham, q, p: ham.field(State(q, p)), ham, q, p)
    ham_bar, q_bar, p_bar = pull(cotangents)
    return q_bar, p_bar, *jax.tree.leaves(ham_bar)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
@pytest.mark.parametrize("entries", [base.TILE_ENTRIES, 1])
def test_the_field_and_its_pull_back(kernel, entries, monkeypatch):
    q, p = moving_points(n=19)
    ham = jax.tree.map(jnp.asarray, Hamiltonian(kernel, nugget=0.1))
    plain, expected = ham.field(State(q, p)), pulled_back(ham, q, p)
    monkeypatch.setattr(base, "TILE_ENTRIES", entries)  # tiles of eight rows
    written = for_reverse_mode(ham, RK4())
    assert type(written) is not Hamiltonian
    for a, b in zip(jax.tree.leaves(written.field(State(q, p))), jax.tree.leaves(plain), strict=1):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)
    for a, b in zip(pulled_back(written, q, p), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1, np.abs(b).max()))


@pytest.mark.parametrize("name", [n for n, scheme in INTEGRATORS.items() if scheme.explicit])
def test_gradient_of_a_shot(name):
    (q, p), scheme = moving_points(), INTEGRATORS[name]()

    def end(ham):
        return lambda p: (shoot(ham, State(q, p), 3, scheme).final.q ** 2).sum()

    plain = end(Hamiltonian(KERNELS[0]))
    written = end(for_reverse_mode(Hamiltonian(KERNELS[0]), scheme))
    np.testing.assert_allclose(jax.grad(written)(p), jax.grad(plain)(p), rtol=1e-11)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(written, (p,), (p,))


def test_single_precision_stays():
    q, p = (x.astype(np.float32) for x in moving_points())
    ham = for_reverse_mode(Hamiltonian(ik.Gaussian(0.5)), RK4())
    found = jax.grad(lambda p: ham.field(State(q, p)).p.sum())(p)
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("kernel", "scheme"),
    [
        (ik.RationalQuadratic(), "rk4"),
        (ik.Laplacian(), "rk4"),
        (ik.Isotropic(ik.Gaussian()), "rk4"),
        (ik.Gaussian() + ik.Linear(), "rk4"),
        (ik.Gaussian(), "implicit_midpoint"),
    ],
)
def test_what_cannot_be_written_out_stays_as_it_is(kernel, scheme):
    ham = Hamiltonian(kernel)
    assert for_reverse_mode(ham, INTEGRATORS[scheme]()) is ham
