"""Learning a formation, and what was learned: predictions, jump conditions and ledgers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array
from scipy.optimize import minimize

from ideareg._types import Points, Rows, Scalar
from ideareg.formation import (
    Block,
    Flow,
    Formation,
    Map,
    Unknowns,
    Weights,
    end_of,
    features_of,
)
from ideareg.hamiltonian import State

FORMS = ("reduced", "network")
# Up to this many unknowns Newton's method finishes what L-BFGS began.
LARGEST_DENSE = 400
MEMORY = 40


class Formed(eqx.Module):
    """A formation that was learned.

    Attributes
    ----------
    formation : Formation
    X, Y : Array
        The training data.
    unknowns : tuple
        The minimiser, in the form that was asked for.
    data : tuple of Array
        The states after the layers of each flow, (L, n, d), and the image of each map, (n, e).
    reduced : bool
    value : float
        Of the objective.
    gradient_norm : float
        Largest entry of its gradient.
    converged : bool
    """

    formation: Formation
    X: Array
    Y: Array
    unknowns: Unknowns
    data: Unknowns
    reduced: bool = eqx.field(static=True)
    value: float
    gradient_norm: float
    converged: bool

    def coefficients(self) -> Unknowns:
        """Return the momenta of each flow, (L, n, d), and Z of each map, (n, e).

        Those of weights are the back-propagated gradients, over -ν and -2λ.
        """
        if self.reduced:
            return self.formation.coefficients(self.data, self.X)
        zeros = jax.tree.map(jnp.zeros_like, self.data)
        gradient = _nudged(self.formation, self.unknowns, self.X, self.Y, zeros)
        found = []
        for block, unknown, slope in zip(
            self.formation.blocks, self.unknowns, gradient, strict=True
        ):
            price, layers = (
                (block.nu, block.depth) if isinstance(block, Flow) else (2 * block.penalty, 1)
            )
            weights = isinstance(unknown, Weights)
            found.append(-slope / price if weights else unknown * layers)
        return tuple(found)

    def stages(self, x: Any) -> list[Array]:
        """Carry new rows and return them as they enter and after each block."""
        return _carry(self, jnp.asarray(x, self.X.dtype))

    def predict(self, x: Any) -> Array:
        """Return the outputs for new rows, shape (m, k): flows and maps alone, without nuggets."""
        return self.stages(x)[-1]

    def jumps(self) -> list[float]:
        """Return the residual of the jump condition after each block of any depth, in order.

        The last one is that of the loss. All are zero at a minimum.
        """
        ends = self._adjoints()
        loss = self.formation.loss
        starts = [start for start, _ in ends[1:]]
        starts.append(-jax.grad(lambda outputs: loss(outputs, self.Y))(end_of(self.data, self.X)))
        pairs = zip((end for _, end in ends), starts, strict=True)
        return [float(jnp.abs(end - start).max()) for end, start in pairs]

    def _adjoints(self) -> list[Any]:
        """Return the scaled momentum at the start and end of each block that has layers."""
        q, found = self.X, []
        for block, after, c in zip(
            self.formation.blocks, self.data, self.coefficients(), strict=True
        ):
            if isinstance(block, Map):
                found.append((_pull(block, q, c), 2 * block.penalty * c))
                q = after
            elif block.depth:
                force = block.hamiltonian.force(State(q, c[0]))
                found.append((block.nu * (c[0] - force / block.depth), block.nu * c[-1]))
                q = after[-1]
        return found

    def ledgers(self) -> list[dict[str, Any]]:
        r"""Return the books of each block, as plain numbers.

        Of a flow: ``energy``, H of each layer; its spread, ``energy_drift``; and ``recursion``, the
        residual of :math:`p_{s+1} = p_s - hH_q(q_{s+1}, p_{s+1})`, zero at a minimum. Of a map:
        ``norm``, :math:`\|f\|_K^2`, and ``slack``, :math:`\rho|Z|^2`. ``cost`` is what a block
        adds to the objective.
        """
        q, books = self.X, []
        for block, after, c in zip(
            self.formation.blocks, self.data, self.coefficients(), strict=True
        ):
            if isinstance(block, Map):
                norm = float((c * block.kernel.apply(q, None, c)).sum())
                slack = float(block.nugget * (c**2).sum())
                cost = float(block.penalty) * (norm + slack)
                books.append({"block": "map", "norm": norm, "slack": slack, "cost": cost})
                q = after
                continue
            states = jnp.concatenate([q[None], after])
            ham = block.hamiltonian
            energies = [float(ham.energy(State(*pair))) for pair in zip(states, c, strict=False)]
            gaps = [
                float(jnp.abs(new - old - ham.force(State(at, new)) / block.depth).max())
                for at, old, new in zip(states[1:], c, c[1:], strict=False)
            ]
            cost = float(block.nu) * sum(energies) / max(block.depth, 1)
            recursion = max(gaps, default=0.0)
            spread = float(np.ptp(energies) / energies[0]) if energies and energies[0] > 0 else 0.0
            books.append(
                {
                    "block": "flow",
                    "energy": energies,
                    "energy_drift": spread,
                    "recursion": recursion,
                    "cost": cost,
                }
            )
            q = states[-1]
        return books


def form(
    formation: Formation, X: Any, Y: Any, *, how: str = "reduced", start: Unknowns | None = None,
    max_iter: int = 3000, random_state: int = 0,
) -> Formed:  # fmt: skip
    """Learn all blocks jointly, by L-BFGS, and for small problems by Newton's method after it.

    Parameters
    ----------
    X : array, shape (n, d)
    Y : array, shape (n, k)
    how : {"reduced", "network"}
        The unknowns; the reduced form needs kernel matrices that can be inverted.
    start : tuple, optional
        As `first_data` or `first_unknowns` return.
    max_iter : int
    random_state : int
        Of the random projections of the start.

    Returns
    -------
    Formed
        A local minimum: the problem is not convex.

    Raises
    ------
    ValueError
        If the rows do not fit each other, are not finite, the form is unknown, the objective is
        not finite at the start, or the precision is single.

    Examples
    --------
    >>> from ideareg.formation import Map
    >>> from ideareg.kernels import Activation
    >>> layers = [Map(Activation("tanh"), 0.1, dim=3), Map(Activation("tanh"), 0.1)]
    >>> with jax.enable_x64(True):
    ...     X = np.linspace(-2, 2, 9)[:, None]
    ...     network = form(Formation(layers), X, np.sin(X), how="network")
    ...     outputs = network.predict(X)
    >>> outputs.shape
    (9, 1)
    """
    if how not in FORMS:
        raise ValueError(f"how must be one of {', '.join(FORMS)}, got {how!r}.")
    X, Y = _check_rows(X, Y)
    reduced = how == "reduced"
    if start is None:
        start = (formation.first_data if reduced else formation.first_unknowns)(X, Y, random_state)
    flat, restore = ravel_pytree(jax.tree.map(jnp.asarray, start))
    objective = _Objective(formation, X, Y, restore, reduced)
    found, value, size, converged = _minimise(objective, np.asarray(flat), max_iter)
    unknowns = restore(jnp.asarray(found))
    data = unknowns if reduced else formation.run(unknowns, X)[0]
    return Formed(formation, X, Y, unknowns, data, reduced, value, size, converged)


def _check_rows(X: Any, Y: Any) -> tuple[Array, Array]:
    X, Y = np.asarray(X), np.asarray(Y)
    if X.ndim != 2 or Y.ndim != 2 or len(X) != len(Y) or not X.size or not Y.size:
        raise ValueError(
            f"X and Y must be matrices with one row per sample, got {X.shape} and {Y.shape}."
        )
    if not (np.isfinite(X).all() and np.isfinite(Y).all()):
        raise ValueError("X or Y has NaN or infinite entries; drop or fill these rows.")
    rows = jnp.asarray(X, float), jnp.asarray(Y, float)
    if rows[0].dtype != np.float64:
        raise ValueError("fit inside `with jax.enable_x64(True):`; single precision is too coarse.")
    return rows


class _Objective(eqx.Module):
    """The objective as a function of one vector."""

    formation: Formation
    X: Array
    Y: Array
    restore: Callable[[Array], Any]
    reduced: bool = eqx.field(static=True)

    def __call__(self, flat: Array) -> Scalar:
        value = self.formation.value if self.reduced else self.formation.network_value
        return value(self.restore(flat), self.X, self.Y)


@eqx.filter_jit
def _value_and_gradient(objective: _Objective, flat: Array) -> tuple[Scalar, Array]:
    return jax.value_and_grad(objective)(flat)


@eqx.filter_jit
def _hessian(objective: _Objective, flat: Array) -> Array:
    # Column by column: batched solves can stall on a CPU.
    gradient = jax.grad(objective)
    return jax.lax.map(lambda v: jax.jvp(gradient, (flat,), (v,))[1], jnp.eye(flat.size))


def _minimise(objective: _Objective, flat: Any, max_iter: int) -> tuple[Any, float, float, bool]:
    def evaluate(flat: Any) -> tuple[float, Any]:
        value, gradient = _value_and_gradient(objective, jnp.asarray(flat))
        return float(value), np.asarray(gradient)

    first = evaluate(flat)
    if not (np.isfinite(first[0]) and np.isfinite(first[1]).all()):
        raise ValueError(
            "the objective is not finite at the start: a kernel matrix cannot be inverted. Give "
            'the block a nugget, or use how="network".'
        )
    options: dict[str, Any] = {"maxiter": max_iter, "maxfun": 2 * max_iter, "maxcor": MEMORY}
    options |= {"ftol": 1e-15, "gtol": 1e-9}
    found = minimize(evaluate, flat, jac=True, method="L-BFGS-B", options=options)
    if flat.size <= LARGEST_DENSE and found.nit < max_iter:

        def curvature(flat: Any) -> Any:
            H = np.asarray(_hessian(objective, jnp.asarray(flat)))
            return 0.5 * (H + H.T)

        options = {"maxiter": 50, "gtol": 1e-11}
        polished = minimize(
            evaluate, found.x, jac=True, hess=curvature, method="trust-exact", options=options
        )
        found = polished if polished.fun <= found.fun else found
    value, gradient = evaluate(found.x)
    size = float(np.abs(gradient).max(initial=0.0))
    return found.x, value, size, size <= 1e-6 * max(1.0, abs(value))


@eqx.filter_jit
def _nudged(formation: Formation, unknowns: Unknowns, X: Array, Y: Array, at: Unknowns) -> Any:
    return jax.grad(lambda nudges: formation.network_value(unknowns, X, Y, nudges))(at)


@eqx.filter_jit
def _pull(block: Map, q: Points, Z: Rows) -> Points:
    r"""Return :math:`2\lambda\nabla f(q_i)^TZ_i`, which is :math:`\lambda\partial_q(Z^TKZ)`."""
    form = jax.grad(lambda q: (Z * block.kernel.apply(q, q, Z)).sum())
    return block.penalty * form(q)


@eqx.filter_jit
def _carry(formed: Formed, x: Rows) -> list[Rows]:
    unknowns: Sequence[Any] = formed.unknowns
    if formed.reduced:
        unknowns = [
            c / block.depth if isinstance(block, Flow) and block.depth else c
            for block, c in zip(formed.formation.blocks, formed.coefficients(), strict=True)
        ]
    q, stages = formed.X, [x]
    for block, after, unknown in zip(formed.formation.blocks, formed.data, unknowns, strict=True):

        def layer(x: Rows, parts: Any, block: Block = block) -> Rows:
            at, u = parts
            if isinstance(u, Weights):
                return features_of(block).feature_matrix(x) @ u.w.T
            return block.kernel.apply(x, at, u)

        if isinstance(block, Map):
            x, q = layer(x, (q, unknown)), after
        else:
            states = jnp.concatenate([q[None], after])

            def add(x: Rows, parts: Any, layer: Any = layer) -> tuple[Rows, None]:
                return x + layer(x, parts), None

            x, _ = jax.lax.scan(add, x, (states[:-1], unknown))
            q = states[-1]
        stages.append(x)
    return stages
