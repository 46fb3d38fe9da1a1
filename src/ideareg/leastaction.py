r"""The variational problem itself: the flow of least action to where a loss is small.

.. math:: \min\ \nu\,A + \ell(q(1)),\qquad q(0) = X,

with A the action of the flow. In momentum space the unknown is the first momentum alone: `solve`
does discrete shooting through L layers (`SymplecticEuler`, the residual network itself) or follows
the continuous flow (`RK4`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray
from scipy.optimize import minimize, root

from ideareg._numerics import compiled
from ideareg._types import Momenta, Points, Result, Scalar
from ideareg.adjoint import for_reverse_mode
from ideareg.hamiltonian import Hamiltonian, State
from ideareg.integrators import AbstractIntegrator, SymplecticEuler
from ideareg.kernels import AbstractKernel, Kernel, as_kernel
from ideareg.kernels.base import real_array
from ideareg.losses import exact_terms, loss_value
from ideareg.shooting import Trajectory, shoot

Floats = NDArray[np.float64]

# Up to this many unknowns the derivative of the boundary condition is formed.
LARGEST_DENSE = 400
# L-BFGS: the pairs that it remembers, and its iterations between two attempts to solve the
# boundary condition, which Newton's method does in five steps once it is near.
MEMORY = 20
ROUND = 60
# A root worse than the descent by more than this fraction is another critical point.
SAME_VALUE = 1e-9
# A curvature this much smaller than the largest is that of a flat direction, or the error of time
# steps that are symplectic only in the limit.
FLAT = 1e-6


class Distance(eqx.Module):
    r"""The loss of registration, :math:`\ell(q) = \mu\sum_i|q_i - Y_i|^2`.

    Parameters
    ----------
    targets : Array, shape (n, d)
    weight : scalar
        μ.

    Examples
    --------
    >>> Distance(jnp.zeros((1, 2)), 2.0)(jnp.array([[1.0, 1.0]])).item()
    4.0
    """

    targets: Points = eqx.field(converter=real_array)
    weight: Scalar = eqx.field(converter=real_array, default=1.0)

    def __call__(self, q: Points) -> Scalar:
        """Return the loss at q, shape (n, d)."""
        return self.weight * ((q - self.targets) ** 2).sum()


class Regression(eqx.Module):
    r"""The loss of the best regressor on the warped points.

    .. math:: \min_f \lambda\|f\|_K^2 + \sum_i|f(q_i) - Y_i|^2 = \lambda Y^T(K(q,q)+\lambda I)^{-1}Y

    or, for ``name="optimal_recovery"``, :math:`Y^T(K(q,q)+\lambda I)^{-1}Y`.

    Parameters
    ----------
    kernel : scalar kernel
        K.
    targets : Array, shape (n, k)
    ridge : scalar
        λ > 0.
    name : {"squared", "optimal_recovery"}
    """

    kernel: AbstractKernel
    targets: Float[Array, "n k"] = eqx.field(converter=real_array)
    ridge: Scalar = eqx.field(converter=real_array)
    name: str = eqx.field(static=True, default="squared")

    def __check_init__(self) -> None:
        if self.name not in ("squared", "optimal_recovery"):
            raise ValueError(
                f"Regression: name must be squared or optimal_recovery, got {self.name!r}."
            )

    def __call__(self, q: Points) -> Scalar:
        """Return the loss at q, shape (n, d)."""
        weight = jnp.ones(len(q))
        terms = exact_terms(self.kernel.gram(q), self.targets, weight, jnp.ones(()), self.ridge)
        return loss_value(self.name, terms, self.ridge, weight.sum(), self.targets.shape[1])

    def dual(self, q: Points) -> Float[Array, "n k"]:
        """Return Z with f = K(·, q) Z."""
        gram = self.kernel.gram(q) + self.ridge * jnp.eye(len(q))
        return jnp.linalg.solve(gram, self.targets)


class LeastAction(eqx.Module):
    r"""Minimise ν times the action plus a loss at the end of the flow.

    Parameters
    ----------
    kernel : kernel
        Γ; a scalar kernel k means kI.
    start : Array, shape (n, d)
        X, the points at time 0.
    loss : callable
        ℓ, from points (n, d) to a number: `Distance`, `Regression`, or your own.
    nu : scalar
        Penalty on the action.
    nugget : scalar
        r on Γ.

    Examples
    --------
    >>> from ideareg.kernels import Constant
    >>> with jax.enable_x64(True):  # half of the way: 2·a²/2 + (1 - a)²
    ...     problem = LeastAction(Constant(), np.zeros((1, 1)), Distance(np.ones((1, 1))), nu=2.0)
    ...     best = solve(problem, 5)
    >>> round(best.value, 9), round(best.momentum.item(), 9)
    (0.5, 0.5)
    """

    kernel: Kernel = eqx.field(converter=as_kernel)
    start: Points = eqx.field(converter=real_array)
    loss: Callable[[Points], Scalar]
    nu: Scalar = eqx.field(converter=real_array)
    nugget: Scalar = eqx.field(converter=real_array, default=0.0)

    @property
    def hamiltonian(self) -> Hamiltonian:
        """The energy whose flows these are."""
        return Hamiltonian(self.kernel, self.nugget)

    def trajectory(self, p: Momenta, depth: int, integrator: AbstractIntegrator) -> Trajectory:
        """Shoot from the points at time 0 with momentum p."""
        return shoot(self.hamiltonian, State(self.start, p), depth, integrator)

    def value(self, trajectory: Trajectory, integrator: AbstractIntegrator) -> Scalar:
        r"""Return the objective of a trajectory.

        The action of L layers is :math:`\frac L2\sum_s\|v_s\|_\Gamma^2`, exactly; that of the
        continuous flow is H(0).
        """
        layered = isinstance(integrator, SymplecticEuler)
        action = trajectory.action if layered else trajectory.energies[0]
        return self.nu * action + self.loss(trajectory.q[-1])

    def boundary_gap(self, trajectory: Trajectory, integrator: AbstractIntegrator) -> Points:
        r"""Return :math:`\nu p + \partial_q\ell(q)` at the end, zero at a stationary point.

        p is the momentum of the last layer, :math:`p_L`, or p(1) of the continuous flow.
        """
        layered = isinstance(integrator, SymplecticEuler)
        p = trajectory.p[-2 if layered else -1]
        return self.nu * p + jax.grad(self.loss)(trajectory.q[-1])


def need_float64(problem: LeastAction) -> None:
    """Refuse a problem in single precision, where nothing converges to the tolerances here."""
    if jnp.asarray(problem.start).dtype != np.float64:
        raise ValueError(
            "the problem is in single precision: make and solve it inside "
            "`with jax.enable_x64(True):`."
        )


class Optimum(NamedTuple):
    """A stationary flow, with NumPy leaves.

    Attributes
    ----------
    momentum : ndarray, shape (n, d)
        That of the first layer, or p(0).
    value : float
        Of the objective.
    trajectory : Trajectory
    gap : float
        Largest entry of the boundary condition's residual.
    result : Result
    iterations : int
    """

    momentum: Floats
    value: float
    trajectory: Trajectory
    gap: float
    result: Result
    iterations: int


@compiled
def _value_and_gradient(
    problem: LeastAction, p: Any, depth: int, integrator: AbstractIntegrator
) -> tuple[Scalar, Array]:
    ham = for_reverse_mode(problem.hamiltonian, integrator)

    def value(p: Array) -> Scalar:
        return problem.value(shoot(ham, State(problem.start, p), depth, integrator), integrator)

    return jax.value_and_grad(value)(p)


class _Shot(NamedTuple):
    trajectory: Trajectory
    value: Scalar
    gap: Array


def _shot(problem: LeastAction, p: Any, depth: int, integrator: AbstractIntegrator) -> _Shot:
    trajectory = problem.trajectory(p, depth, integrator)
    gap = problem.boundary_gap(trajectory, integrator)
    return _Shot(trajectory, problem.value(trajectory, integrator), gap)


_shoot = eqx.filter_jit(_shot)


@eqx.filter_jit
def _slopes(
    problem: LeastAction, p: Any, depth: int, integrator: AbstractIntegrator
) -> tuple[Array, Array]:
    """Return the derivatives of the last points and of the boundary gap by p."""

    def ends(p: Array) -> Array:
        shot = _shot(problem, p, depth, integrator)
        return jnp.concatenate([shot.trajectory.q[-1].ravel(), shot.gap.ravel()])

    both = _derivative(ends, p)
    return both[: p.size], both[p.size :]


def _derivative(f: Callable[[Array], Array], p: Any) -> Array:
    """Return the matrix of df/dp, column by column: batched solves can stall on a CPU."""
    p = jnp.asarray(p)
    basis = jnp.eye(p.size, dtype=p.dtype).reshape(-1, *p.shape)
    columns = jax.lax.map(lambda v: jax.jvp(f, (p,), (v,))[1].ravel(), basis)
    return columns.T


def solve(
    problem: LeastAction,
    depth: int,
    integrator: AbstractIntegrator | None = None,
    *,
    start: Any = None,
    tol: float = 1e-9,
    max_iter: int = 300,
) -> Optimum:
    r"""Find the least action by shooting.

    A descent on the objective (L-BFGS) leads near a minimum; Newton's method on the boundary
    condition :math:`\nu p = -\partial_q\ell` finishes. The condition stays well posed where
    Γ(X, X) is singular (more points than features) and the objective has flat directions.

    Parameters
    ----------
    problem : LeastAction
    depth : int
        Number of layers, or of time steps.
    integrator : AbstractIntegrator, default=SymplecticEuler()
        ``SymplecticEuler`` for the network of ``depth`` layers; others approximate the limit.
    start : array, shape (n, d), optional
        First guess of the momentum, which Newton's method tries at once; zero by default.
    tol : float
        Largest accepted entry of the boundary condition's residual, relative to that of ν p.
    max_iter : int
        Bound on the iterations of the descent.

    Returns
    -------
    Optimum
        Of ``result`` ``max_steps`` where the boundary condition could not be solved: with few
        layers and a strong warp the momentum recursion need not have a solution.

    Raises
    ------
    ValueError
        If ``depth`` is not positive, or the problem is not in float64.
    """
    if depth < 1:
        raise ValueError(f"depth must be a number of layers >= 1, got {depth}.")
    need_float64(problem)
    integrator = SymplecticEuler() if integrator is None else integrator
    p = np.zeros(np.shape(problem.start))
    if start is not None:
        p = np.asarray(start, dtype=np.float64).reshape(p.shape)
        found, shot = _newton(problem, p, depth, integrator)
        if _is_minimum(problem, found, shot, integrator, tol):
            return _optimum(found, shot, Result.converged, 1)
    iterations = 0
    while iterations < max_iter:
        p, value, count = _descend(problem, p, depth, integrator, max_iter - iterations)
        iterations += count
        found, shot = _newton(problem, p, depth, integrator)
        lower = float(shot.value) <= value + SAME_VALUE * (1 + abs(value))
        if lower and _is_minimum(problem, found, shot, integrator, tol):
            return _optimum(found, shot, Result.converged, iterations)
    return _optimum(p, _shoot(problem, p, depth, integrator), Result.max_steps, iterations)


def _is_minimum(
    problem: LeastAction, p: Floats, shot: _Shot, integrator: AbstractIntegrator, tol: float
) -> bool:
    """Whether the boundary condition holds at p and no direction leads down from there.

    By dA = p·dq at the end of a flow, the gradient of the objective is (dq/dp)ᵀ times the boundary
    gap, and so its second derivative where the gap is zero is (dq/dp)ᵀ times that of the gap.
    Downward directions are not looked for where the derivatives would be too many.
    """
    size = max(float(problem.nu) * float(jnp.abs(shot.trajectory.p).max()), 1.0)
    if not (bool(shot.trajectory.converged) and float(jnp.abs(shot.gap).max()) <= tol * size):
        return False
    if p.size > LARGEST_DENSE:
        return True
    points, gap = _slopes(problem, p, len(shot.trajectory.q) - 1, integrator)
    H = np.asarray(points.T @ gap)
    if not np.isfinite(H).all():
        return False
    curvatures = np.linalg.eigvalsh(0.5 * (H + H.T))
    return bool(curvatures[0] >= -FLAT * np.abs(curvatures).max())


def _optimum(p: Floats, shot: _Shot, result: Result, iterations: int) -> Optimum:
    trajectory = jax.tree.map(np.asarray, shot.trajectory)
    gap = float(jnp.abs(shot.gap).max(initial=0.0))
    return Optimum(np.asarray(p), float(shot.value), trajectory, gap, result, max(iterations, 1))


def _descend(
    problem: LeastAction, p: Floats, depth: int, integrator: AbstractIntegrator, most: int
) -> tuple[Floats, float, int]:
    """Return the momentum, the value and the iterations of a round of descent."""
    worst = 0.0

    def evaluate(flat: Floats) -> tuple[float, Floats]:
        nonlocal worst
        value, gradient = _value_and_gradient(problem, flat.reshape(p.shape), depth, integrator)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            # An implicit step has no solution: the search must come back.
            return 10 * worst + 1.0, np.zeros(flat.shape)
        worst = max(worst, abs(float(value)))
        return float(value), np.asarray(gradient, dtype=np.float64).ravel()

    options = {"maxiter": min(ROUND, most), "maxcor": MEMORY, "ftol": 0.0, "gtol": 1e-12}
    outcome = minimize(evaluate, p.ravel(), jac=True, method="L-BFGS-B", options=options)
    return outcome.x.reshape(p.shape), float(outcome.fun), max(int(outcome.nit), 1)


def _newton(
    problem: LeastAction, p: Floats, depth: int, integrator: AbstractIntegrator
) -> tuple[Floats, _Shot]:
    """Return the root of the boundary condition that Powell's hybrid method reaches from p."""

    def gap(flat: Floats) -> Floats:
        found = _shoot(problem, flat.reshape(p.shape), depth, integrator).gap
        return np.nan_to_num(np.asarray(found).ravel(), nan=1e6)

    def jacobian(flat: Floats) -> Floats:
        return np.nan_to_num(_slopes(problem, flat.reshape(p.shape), depth, integrator)[1])

    if p.size <= LARGEST_DENSE:
        outcome = root(gap, p.ravel(), jac=jacobian, method="hybr", tol=1e-14)
    else:
        outcome = root(gap, p.ravel(), method="krylov", tol=1e-12)
    found = np.asarray(outcome.x).reshape(p.shape)
    return found, _shoot(problem, found, depth, integrator)
