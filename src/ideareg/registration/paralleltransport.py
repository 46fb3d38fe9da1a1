r"""Parallel transport of a momentum along a geodesic, in the metric whose inverse is Γ.

From the Levi-Civita connection written by the cometric alone [1]_: β is parallel along the geodesic
(q, p) if

.. math:: \dot\beta = -\tfrac12\nabla_q\big(p^T\Gamma\beta\big)
          -\tfrac12\Gamma^{-1}\big(\partial_{\Gamma p}\Gamma\,\beta
          -\partial_{\Gamma\beta}\Gamma\,p\big),

which for β = p is Hamilton's equation. One Runge-Kutta method moves q, p and β together, so that
the error is of fourth order in the time step.

References
----------
.. [1] Micheli, Michor, Mumford, "Sectional curvature in terms of the cometric, with applications
   to the Riemannian manifolds of landmarks", SIAM Journal on Imaging Sciences 5, 2012.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve
from jaxtyping import Array
from numpy.typing import NDArray

from ideareg._linalg import cholesky_with_jitter
from ideareg._numerics import scoped
from ideareg.hamiltonian import Hamiltonian, State
from ideareg.kernels import Kernel
from ideareg.registration.flows import PointFlow
from ideareg.registration.paths import columns, gram

Floats = NDArray[np.float64]


@scoped
def parallel_transport(fit: Any, momentum: Any, *, reverse: bool = False) -> Floats:
    """Carry momenta along the geodesic of a registration, parallel in the metric of Γ.

    Norms and angles in that metric stay what they are, and the geodesic's own momentum becomes its
    own at the end, all to fourth order in the time step.

    Parameters
    ----------
    fit : Registration
        Fitted, of landmarks, curves or surfaces. Its ``depth`` is the number of steps.
    momentum : array, shape (c, d) or (k, c, d)
        At the control points of the fit, or, in reverse, at their ends: those of another
        registration from there, say.
    reverse : bool
        From the end to the start.

    Returns
    -------
    ndarray, shape of ``momentum``

    Raises
    ------
    ValueError
        If the fit is one of images, or the momenta do not have the shape of its own.

    Examples
    --------
    >>> from ideareg.registration import Registration
    >>> triangle = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> fit = Registration(nu=0.0).fit(triangle, triangle * [1.0, 1.2])
    >>> there = parallel_transport(fit, np.eye(3, 2))
    >>> bool(np.allclose(parallel_transport(fit, there, reverse=True), np.eye(3, 2), atol=1e-5))
    True
    """
    flow = getattr(fit, "flow_", None)
    if not isinstance(flow, PointFlow):
        raise ValueError("parallel_transport needs a fitted registration of shapes, not of images.")
    beta = np.asarray(momentum, dtype=np.float64)
    if beta.ndim not in (2, 3) or beta.shape[-2:] != flow.momentum.shape:
        raise ValueError(
            f"momentum has the shape {beta.shape}, expected {flow.momentum.shape}, or several of "
            "these."
        )
    start = State(flow.control_points, flow.momentum)
    if reverse:
        end = flow.path().final
        start = State(end.q, -end.p)
    stack = jnp.asarray(beta.reshape(-1, *flow.momentum.shape))
    return np.asarray(_carry(flow.kernel, start, stack, flow.depth)).reshape(beta.shape)


@eqx.filter_jit
def _carry(kernel: Kernel, start: State, beta: Array, depth: int) -> Array:
    h = 1.0 / depth

    def step(y: Any, _: None) -> tuple[Any, None]:
        # The weights of the classical method, as those of the flow itself.
        k, total = jax.tree.map(jnp.zeros_like, y), jax.tree.map(jnp.zeros_like, y)
        for a, b in ((0.0, 1 / 6), (0.5, 1 / 3), (0.5, 1 / 3), (1.0, 1 / 6)):
            k = _rate(kernel, *jax.tree.map(lambda z, dz, a=a: z + a * h * dz, y, k))
            total = jax.tree.map(lambda s, dz, b=b: s + b * dz, total, k)
        return jax.tree.map(lambda z, dz: z + h * dz, y, total), None

    return jax.lax.scan(step, (start, beta), length=depth)[0][1]


def _rate(kernel: Kernel, state: State, beta: Array) -> tuple[State, Array]:
    q, p = state.q, state.p
    C = cholesky_with_jitter(gram(kernel, q), 0.0)[0]

    def field(x: Array, momentum: Array) -> Array:
        return kernel.apply(x, None, momentum)

    velocity = field(q, p)

    def one(b: Array) -> Array:
        slope = jax.grad(lambda x: jnp.vdot(p, field(x, b)))(q)
        along = jax.jvp(lambda x: field(x, b), (q,), (velocity,))[1]
        across = jax.jvp(lambda x: field(x, p), (q,), (field(q, b),))[1]
        turn = cho_solve((C, True), columns(kernel, along - across)).reshape(q.shape)
        return -(slope + turn) / 2

    return Hamiltonian(kernel).field(state), jax.lax.map(one, beta)
