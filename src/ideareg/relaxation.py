r"""The nugget as regularisation: training may leave the flow, at a price; deployment follows it.

With a nugget r on :math:`\Gamma` and :math:`\rho` on K the least-action problem is relaxed,

.. math:: \min_{v_s,f,q_s,Y'}\ \frac{\nu L}2\sum_s\Big(\|v_s\|^2_\Gamma
          + \frac1r|q_{s+1}-q_s-v_s(q_s)|^2\Big)
          + \lambda\Big(\|f\|_K^2+\frac1\rho|f(q_{L+1})-Y'|^2\Big) + \ell(Y', Y),

and it has three equal forms: this one; with all but the path eliminated, where :math:`\Gamma+rI`
and :math:`K+\rho I` stand for :math:`\Gamma` and K; and, for feature kernels, a residual network
:math:`q_{s+1} = q_s+w_s\varphi(q_s)+\sqrt r\,z_s` with weight decay on w and z alike. The slack z
is trained, one for each row and layer, and is not there at prediction.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Float
from scipy.optimize import minimize

from ideareg._types import Flag, Matrix, Points, Rows, Scalar
from ideareg.hamiltonian import Hamiltonian, State
from ideareg.integrators import SymplecticEuler
from ideareg.kernels import AbstractFeatureKernel, AbstractKernel
from ideareg.kernels.base import check_positive, real_array
from ideareg.shooting import Trajectory, shoot, transport

LOSSES = ("squared", "optimal_recovery")

Path = Float[Array, "states n d"]
Targets = Float[Array, "n k"]


class Slack(NamedTuple):
    r"""The unknowns of the slack form, beside the path.

    Velocities :math:`v_s=\Gamma(\cdot,q_s)a_s` as a, (L, n, d); the regressor
    :math:`f=K(\cdot,q_{L+1})Z` as Z, (n, k); and the relaxed targets Y', (n, k).
    """

    velocity: Float[Array, "L n d"]
    dual: Targets
    targets: Targets


class Weights(NamedTuple):
    """The unknowns of the weight form: w (L, d, F) and z (L, n, d); those of the head, likewise."""

    w: Float[Array, "L d F"]
    z: Float[Array, "L n d"]
    head: Float[Array, "k F"]
    head_slack: Targets


class Relaxation(eqx.Module):
    r"""The relaxed least-action problem, in its three forms.

    Parameters
    ----------
    warp_kernel, kernel : scalar kernel
        :math:`\Gamma` (times I) and K.
    nu, penalty : scalar
        :math:`\nu` and :math:`\lambda`.
    nugget, head_nugget : scalar
        r and :math:`\rho`, positive.
    loss : str
        "squared", :math:`|Y'-Y|^2`, or "optimal_recovery", Y' = Y.

    References
    ----------
    .. [1] Owhadi, "Do ideas have shape? Idea registration as the continuous limit of artificial
       neural networks", Physica D, 2023.

    Examples
    --------
    >>> from ideareg.kernels import Gaussian
    >>> problem = Relaxation(Gaussian(), Gaussian(), loss="optimal_recovery")
    >>> path = jnp.zeros((3, 1, 1))
    >>> round(problem.value(path, jnp.ones((1, 1))).item(), 4)
    0.9091
    """

    warp_kernel: AbstractKernel
    kernel: AbstractKernel
    nu: Scalar = eqx.field(converter=real_array, default=1.0)
    penalty: Scalar = eqx.field(converter=real_array, default=1.0)
    nugget: Scalar = eqx.field(converter=real_array, default=0.1)
    head_nugget: Scalar = eqx.field(converter=real_array, default=0.1)
    loss: str = eqx.field(static=True, default="squared")

    def __check_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}.")
        check_positive(
            self, nu=self.nu, penalty=self.penalty, nugget=self.nugget, head_nugget=self.head_nugget
        )

    @property
    def hamiltonian(self) -> Hamiltonian:
        r"""The energy :math:`\frac12p^T(\Gamma+rI)p` of the training path."""
        return Hamiltonian(self.warp_kernel, self.nugget)

    def momenta(self, path: Path) -> Float[Array, "L n d"]:
        r"""Return :math:`p_s = (\Gamma(q_s,q_s)+rI)^{-1}(q_{s+1}-q_s)L`, shape (L, n, d)."""
        return (len(path) - 1) * jax.lax.map(
            lambda ends: _solve(self.warp_kernel, ends[0], self.nugget, ends[1] - ends[0]),
            (path[:-1], path[1:]),
        )

    def dual(self, q: Points, Y: Targets) -> Targets:
        r"""Return Z: :math:`(K+\rho+\lambda)^{-1}Y`, or without λ for optimal recovery."""
        ridge = self.head_nugget + (self.penalty if self.loss == "squared" else 0.0)
        return _solve(self.kernel, q, ridge, Y)

    def value(self, path: Path, Y: Targets) -> Scalar:
        r"""Return the reduced form, a function of the path (L + 1, n, d) alone.

        .. math:: \frac{\nu L}2\sum_s\Delta q_s^T(\Gamma+rI)^{-1}\Delta q_s
                  + \lambda Y^T(K+(\rho+\lambda)I)^{-1}Y

        for the squared loss: the nugget of the head adds to its ridge.
        """
        action = 0.5 * self.nu * (self.momenta(path) * jnp.diff(path, axis=0)).sum()
        return action + self.penalty * (Y * self.dual(path[-1], Y)).sum()

    def slack_value(self, path: Path, Y: Targets, slack: Slack) -> Scalar:
        """Return the slack form for any velocities, regressor and targets."""
        grams = jax.lax.map(self.warp_kernel.gram, path[:-1])
        carried = grams @ slack.velocity
        gap = jnp.diff(path, axis=0) - carried
        action = (slack.velocity * carried).sum() + (gap**2).sum() / self.nugget
        reached = self.kernel.gram(path[-1]) @ slack.dual
        miss = ((reached - slack.targets) ** 2).sum() / self.head_nugget
        total = 0.5 * self.nu * (len(path) - 1) * action
        total = total + self.penalty * ((slack.dual * reached).sum() + miss)
        return total + ((slack.targets - Y) ** 2).sum()

    def best_slack(self, path: Path, Y: Targets) -> Slack:
        r"""Return the minimum of the slack form: :math:`a_s=hp_s`, Z, and :math:`Y'=(K+\rho)Z`."""
        Z = self.dual(path[-1], Y)
        targets = self.kernel.gram(path[-1]) @ Z + self.head_nugget * Z
        return Slack(self.momenta(path) / (len(path) - 1), Z, targets)

    def weight_value(self, X: Points, Y: Targets, weights: Weights) -> Scalar:
        """Return the weight form for any weights and slack; the path follows from them."""
        targets = self._outputs(self.network_path(X, weights)[-1], weights)
        action = (weights.w**2).sum() + (weights.z**2).sum()
        size = (weights.head**2).sum() + (weights.head_slack**2).sum()
        total = 0.5 * self.nu * len(weights.w) * action + self.penalty * size
        return total + ((targets - Y) ** 2).sum()

    def network_path(self, X: Points, weights: Weights) -> Path:
        r"""Return the states of :math:`q_{s+1}=q_s+w_s\varphi(q_s)+\sqrt r\,z_s`."""
        warp = _features(self.warp_kernel)

        def layer(q: Points, parts: tuple[Array, Array]) -> tuple[Points, Points]:
            w, z = parts
            q = q + warp.feature_matrix(q) @ w.T + jnp.sqrt(self.nugget) * z
            return q, q

        return jnp.concatenate([X[None], jax.lax.scan(layer, X, (weights.w, weights.z))[1]])

    def _outputs(self, q: Points, weights: Weights) -> Targets:
        reached = _features(self.kernel).feature_matrix(q) @ weights.head.T
        return reached + jnp.sqrt(self.head_nugget) * weights.head_slack

    def best_weights(self, path: Path, Y: Targets) -> Weights:
        r"""Return :math:`w_s=h\sum_ip_i\varphi(q_i)^T`, :math:`z_s=\sqrt r\,hp_s`, and the head."""
        p = self.momenta(path) / (len(path) - 1)
        psi = jax.lax.map(_features(self.warp_kernel).feature_matrix, path[:-1])
        Z = self.dual(path[-1], Y)
        head = Z.T @ _features(self.kernel).feature_matrix(path[-1])
        w = jnp.swapaxes(p, 1, 2) @ psi
        return Weights(w, jnp.sqrt(self.nugget) * p, head, jnp.sqrt(self.head_nugget) * Z)


class Relaxed(eqx.Module):
    """A relaxed problem that was solved.

    Attributes
    ----------
    problem : Relaxation
    path : Array, shape (L + 1, n, d)
        Where the rows went in training; not where the flow takes them.
    dual : Array, shape (n, k)
        Z of the regressor.
    value : Array, shape ()
    gradient_norm : Array, shape ()
        Largest entry of the gradient by the path.
    converged : Array, shape ()
        Whether L-BFGS ended by its own criteria, not by the limit on iterations.
    """

    problem: Relaxation
    path: Path
    dual: Targets
    value: Scalar
    gradient_norm: Scalar
    converged: Flag

    def trajectory(self) -> Trajectory:
        r"""Shoot from the first momentum: the path again, for it is a stationary point."""
        ham = self.problem.hamiltonian
        state = State(self.path[0], self.problem.momenta(self.path)[0])
        return shoot(ham, state, len(self.path) - 1, SymplecticEuler())

    def flow(self, X: Rows) -> Rows:
        r"""Deploy: carry X by :math:`x+h\,\Gamma(x,q_s)p_s`, without nugget or slack."""
        return transport(self.problem.hamiltonian, SymplecticEuler(), self.trajectory(), X)

    def predict(self, X: Rows) -> Float[Array, "m k"]:
        """Return f after the flow, shape (m, k)."""
        return self.problem.kernel.gram(self.flow(X), self.path[-1]) @ self.dual


@jax.jit
def _value_and_gradient(moving: Any, problem: Relaxation, X: Points, Y: Targets) -> Any:
    return jax.value_and_grad(lambda m: problem.value(jnp.concatenate([X[None], m]), Y))(moving)


def relax(
    problem: Relaxation, X: Points, Y: Targets, depth: int, *, max_iter: int = 2000,
    start: Path | None = None,
) -> Relaxed:  # fmt: skip
    """Solve the relaxed problem over the path of the rows, by L-BFGS.

    Parameters
    ----------
    problem : Relaxation
    X : Array, shape (n, d)
    Y : Array, shape (n, k)
    depth : int
        Number L of layers, at least 1.
    max_iter : int
    start : Array, shape (L + 1, n, d), optional
        A first guess; by default the rows stay where they are.

    Returns
    -------
    Relaxed
        A local minimum: the problem is not convex.

    Raises
    ------
    ValueError
        If ``depth`` is less than 1.
    """
    if depth < 1:
        raise ValueError(f"depth must be a number of layers >= 1, got {depth}.")
    still = np.repeat(np.asarray(X)[None], depth, axis=0)
    moving = still if start is None else np.asarray(start)[1:]

    def evaluate(flat: Any) -> tuple[float, Any]:
        value, gradient = _value_and_gradient(flat.reshape(still.shape), problem, X, Y)
        return float(value), np.ravel(gradient)

    options = {"maxiter": max_iter, "maxfun": 2 * max_iter, "ftol": 1e-15, "gtol": 1e-9}
    found = minimize(evaluate, moving.ravel(), jac=True, method="L-BFGS-B", options=options)
    path = jnp.concatenate([jnp.asarray(X)[None], found.x.reshape(still.shape)])
    size = jnp.asarray(np.abs(found.jac).max())
    dual, converged = problem.dual(path[-1], Y), jnp.asarray(found.status == 0)
    return Relaxed(problem, path, dual, jnp.asarray(found.fun), size, converged)


def _solve(kernel: AbstractKernel, q: Points, nugget: Scalar, rhs: Matrix) -> Matrix:
    return cho_solve(cho_factor(kernel.gram(q) + nugget * jnp.eye(len(q))), rhs)


def _features(kernel: AbstractKernel) -> AbstractFeatureKernel:
    if not isinstance(kernel, AbstractFeatureKernel):
        raise TypeError(f"the weight form needs a feature kernel, got {type(kernel).__name__}.")
    return kernel
