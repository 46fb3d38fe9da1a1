"""Learning a formation, and what was learned: predictions, jump conditions and ledgers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array
from scipy.optimize import minimize, root

from ideareg._types import Points, Rows, Scalar
from ideareg.formation import (
    Block,
    Flow,
    Formation,
    Map,
    Unknowns,
    Weights,
    features_of,
)
from ideareg.hamiltonian import State

FORMS = ("reduced", "network")
MEMORY = 40
# Steps of Newton-Krylov after L-BFGS, which need gradients alone.
POLISHING = 20


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
            return _coefficients(self.formation, self.data, self.X)
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
        gaps = _jumps(self.formation, self.data, self.coefficients(), self.X, self.Y)
        return [float(gap) for gap in gaps]

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
            energies: list[float] = []
            recursion = 0.0
            if block.depth:
                found, gaps = _books(block, states, c)
                energies, recursion = np.asarray(found).tolist(), _largest(gaps)
            cost = float(block.nu) * sum(energies) / max(block.depth, 1)
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
    """Learn all blocks jointly, by L-BFGS and Newton-Krylov.

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
    best, value, size = found.x, float(found.fun), _largest(found.jac)
    if found.nit < max_iter and size > 0:
        # Rounding of the value stops a line search; the gradient itself can be solved for.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            polished = root(
                lambda z: evaluate(z)[1], best, method="krylov",
                options={"maxiter": POLISHING, "fatol": 1e-12},
            )  # fmt: skip
        other, gradient = evaluate(polished.x)
        if _largest(gradient) < size and other <= value + 1e-12 * (1 + abs(value)):
            best, value, size = polished.x, other, _largest(gradient)
    return best, value, size, size <= 1e-6 * max(1.0, abs(value))


def _largest(gradient: Any) -> float:
    return float(np.abs(np.asarray(gradient)).max(initial=0.0))


@eqx.filter_jit
def _nudged(formation: Formation, unknowns: Unknowns, X: Array, Y: Array, at: Unknowns) -> Any:
    return jax.grad(lambda nudges: formation.network_value(unknowns, X, Y, nudges))(at)


@eqx.filter_jit
def _coefficients(formation: Formation, data: Unknowns, X: Array) -> Unknowns:
    return formation.coefficients(data, X)


@eqx.filter_jit
def _jumps(
    formation: Formation, data: Unknowns, coefficients: Unknowns, X: Array, Y: Array
) -> list[Scalar]:
    # The scaled momentum at the start and at the end of each block that has layers.
    q, starts, ends = X, [], []
    for block, after, c in zip(formation.blocks, data, coefficients, strict=True):
        if isinstance(block, Map):
            starts.append(_pull(block, q, c))
            ends.append(2 * block.penalty * c)
            q = after
        elif block.depth:
            force = block.hamiltonian.force(State(q, c[0]))
            starts.append(block.nu * (c[0] - force / block.depth))
            ends.append(block.nu * c[-1])
            q = after[-1]
    starts.append(-jax.grad(lambda outputs: formation.loss(outputs, Y))(q))
    return [jnp.abs(end - start).max() for end, start in zip(ends, starts[1:], strict=True)]


@eqx.filter_jit
def _books(block: Flow, states: Array, p: Array) -> tuple[Array, Array]:
    """Return H of each layer, and the residuals of the momentum recursion."""
    ham = block.hamiltonian
    energies = jax.lax.map(lambda at: ham.energy(State(*at)), (states[:-1], p))
    forces = jax.lax.map(lambda at: ham.force(State(*at)), (states[1:-1], p[1:]))
    return energies, jnp.diff(p, axis=0) - forces / block.depth


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
