r"""The Swiss roll of the paper: two spirals unrolled by one initial momentum.

.. code-block:: console

    $ python examples/plot_swiss_roll.py --out figures
    $ python examples/plot_swiss_roll.py --mu 0.05 0.1 0.5 --reading bias

Two spirals of 100 points, labels ±1; :math:`\Gamma` and K are Gaussian,
:math:`e^{-|x-x'|^2/s^2}` with s = 5, and r = 0.1 comes in two readings:

* ``nugget``: r on the diagonal of both, as the text has it. Points may leave the flow.
* ``bias``: r in every entry of both, as published code has it, a constant feature; the loss then
  takes 1e-6 on the diagonal. Its valleys are so steep and narrow that the descent ends on its
  limit of iterations, far from stationary: look at the gradient norm that is printed.

The objective is :math:`\frac\mu2p_0^T\Gamma p_0 + Y^TK(q(1),q(1))^{-1}Y` (optimal recovery) with
the explicit leapfrog at h = 0.2: five layers. Those layers are no fine discretisation, and the
figures say so: the energy, which the flow would keep, stands above each picture, and the same
momentum is integrated again in finer steps and by Runge-Kutta in the rows below.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve
from scipy.linalg import solve_triangular
from scipy.optimize import minimize

from ideareg import Hamiltonian, State, get_integrator, kernels, shoot

LAYERS = 5
FINER = 20  # steps of the finer integrations in one layer
READINGS = ("nugget", "bias")
GTOL = 1e-6  # of the gradient by the whitened momentum
# The largest entry for which quasi-Newton is asked: its line search cannot see much less.
SMALLEST_ENTRY = 4e-8


def spirals(points: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return two spirals of ``points`` points each, and their labels."""
    inner = 0.65
    radius = np.sqrt(inner**2 + np.arange(points))
    angle = np.cumsum(np.arcsin(inner / radius))
    one = radius[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    noise = 0.1 * np.random.default_rng(seed).normal(size=(2 * points, 2))
    return np.concatenate([one, -one]) + 0.5 + noise, np.repeat([1.0, -1.0], points)


class Problem(NamedTuple):
    """The Swiss roll in one reading of r."""

    ham: Hamiltonian
    kernel: Any
    ridge: float
    mu: float
    X: np.ndarray
    Y: np.ndarray
    whiten: np.ndarray  # p = whiten z, so that the action is μ|z|²/2

    def momentum(self, z: Any) -> Any:
        """Return p₀, shape (n, 2)."""
        return self.whiten @ z.reshape(self.X.shape)

    def loss(self, q: Any, ridge: Any) -> Any:
        """Return the squared norm of the interpolant of the labels at q."""
        gram = self.kernel.gram(q) + ridge * jnp.eye(len(q))
        return self.Y @ solve(gram, jnp.asarray(self.Y), assume_a="pos")

    def objective(self, z: Any, ridge: Any) -> Any:
        """Return the action and the loss after five layers."""
        leapfrog = get_integrator("leapfrog")

        def layer(state: State, _: None) -> tuple[State, None]:
            return leapfrog.advance(self.ham, state, 1 / LAYERS)[0], None

        final, _ = jax.lax.scan(
            layer, State(self.X, self.momentum(z)), length=LAYERS, unroll=LAYERS
        )
        return 0.5 * self.mu * jnp.vdot(z, z) + self.loss(final.q, ridge)


def make_problem(reading: str, mu: float, points: int, r: float = 0.1) -> Problem:
    """Return the problem for s = 5."""
    X, Y = spirals(points)
    kernel: Any = kernels.Gaussian(5 / np.sqrt(2))
    nugget, ridge = (r, r) if reading == "nugget" else (0.0, 1e-6)
    if reading == "bias":
        kernel = kernel + kernels.Constant(r)
    gram = np.asarray(kernel.gram(jnp.asarray(X))) + ridge * np.eye(len(X))
    whiten = solve_triangular(np.linalg.cholesky(gram), np.eye(len(X)), lower=True).T
    return Problem(Hamiltonian(kernel, nugget), kernel, ridge, mu, X, Y, whiten)


class Found(NamedTuple):
    """A momentum and how it was found."""

    z: np.ndarray
    value: float
    gradient_norm: float
    evaluations: int
    seconds: float  # on the clock, with compilation
    processor: float  # of processor time, which other programs disturb less


def minimise(problem: Problem, max_iter: int) -> Found:
    """Descend from no momentum by L-BFGS, and by Newton if that ends above a norm of 1e-6.

    A small ridge makes a loss of steep and narrow valleys; it is reached through larger ones.
    """
    began, busy = time.perf_counter(), time.process_time()
    value_and_gradient = jax.jit(jax.value_and_grad(problem.objective))
    product = jax.jit(
        lambda z, u, ridge: jax.jvp(lambda z: jax.grad(problem.objective)(z, ridge), (z,), (u,))[1]
    )
    z, count = np.zeros(problem.X.size), 0

    def evaluate(z: np.ndarray, ridge: float) -> tuple[float, np.ndarray]:
        nonlocal count
        count += 1
        value, gradient = value_and_gradient(z, ridge)
        if not np.isfinite(value):  # too long a step
            return 1e300, np.zeros_like(z)
        return float(value), np.asarray(gradient)

    for ridge in ridges(problem.ridge):
        last = ridge == problem.ridge
        options = {
            "maxiter": max_iter if last else max_iter // 8, "maxfun": 2 * max_iter, "maxcor": 50,
            "ftol": 0 if last else 1e-6, "gtol": SMALLEST_ENTRY,
        }  # fmt: skip
        found = minimize(evaluate, z, args=(ridge,), jac=True, method="L-BFGS-B", options=options)
        z = found.x
    if np.linalg.norm(found.jac) > GTOL:
        hessian = {"hessp": lambda z, u, ridge: np.asarray(product(z, u, ridge))}
        found = minimize(
            evaluate, z, args=(problem.ridge,), jac=True, method="trust-krylov", **hessian,
            options={"gtol": GTOL, "maxiter": 20},
        )  # fmt: skip
    norm = float(np.linalg.norm(found.jac))
    seconds, processor = time.perf_counter() - began, time.process_time() - busy
    return Found(found.x, float(found.fun), norm, count, seconds, processor)


def ridges(last: float) -> list[float]:
    """Return the ridges on the way to the last one."""
    return [10.0**k for k in range(0, -20, -1) if 10.0**k > 30 * last and last < 1e-2] + [last]


class Course(NamedTuple):
    """One integration: where the points are after each layer, with energy and loss."""

    name: str
    q: np.ndarray
    energy: np.ndarray
    loss: np.ndarray


def integrate(problem: Problem, z: np.ndarray, name: str, scheme: str, per_layer: int) -> Course:
    """Follow the momentum z in ``per_layer`` steps a layer."""
    state = State(problem.X, problem.momentum(z))
    path = shoot(problem.ham, state, LAYERS * per_layer, get_integrator(scheme))
    q = np.asarray(path.q)[::per_layer]
    loss = [float(problem.loss(jnp.asarray(each), problem.ridge)) for each in q]
    return Course(name, q, np.asarray(path.energies)[::per_layer], np.array(loss))


def paths(problem: Problem, z: np.ndarray) -> list[Course]:
    """Return the five layers of the paper and two finer integrations of the same momentum."""
    return [
        integrate(problem, z, f"leapfrog, h = {1 / LAYERS:g}", "leapfrog", 1),
        integrate(problem, z, f"leapfrog, h = {1 / LAYERS / FINER:g}", "leapfrog", FINER),
        integrate(problem, z, f"Runge-Kutta, h = {1 / LAYERS / FINER:g}", "rk4", FINER),
    ]


def draw(problem: Problem, found: list[Course], title: str, file: Any) -> None:
    """Save the pictures: a row for each integration, a column for each layer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.3 * (LAYERS + 1), 2.6 * len(found) + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=10)
    for row, path in zip(figure.subplots(len(found), LAYERS + 1), found, strict=True):
        for t, ax in enumerate(row):
            for label, colour in ((1, "#0072b2"), (-1, "#d55e00")):
                ax.plot(*path.q[t, label == problem.Y].T, ".", ms=3, color=colour)
            ax.set_title(f"t = {t / LAYERS:g}   H = {path.energy[t]:.4g}", fontsize=8)
            ax.set_xticks([])
            ax.set_yticks([])
        row[0].set_ylabel(path.name, fontsize=8)
    figure.savefig(file, dpi=120)


def report(found: list[Course], say: Callable[[str], Any] = print) -> None:
    """Print energy and loss after each layer, and how far the integrations are apart."""
    coarse, _, fine = found
    say(f"  {'t':>4}" + "".join(f"  {path.name:>26}" for path in found) + "   farthest apart")
    for t in range(LAYERS + 1):
        cells = "".join(f"  H {p.energy[t]:9.4g}  loss {p.loss[t]:8.3g}" for p in found)
        apart = np.linalg.norm(coarse.q[t] - fine.q[t], axis=1).max()
        say(f"  {t / LAYERS:4g}{cells}   {apart:.3g}")
    for path in found:
        drift = np.abs(path.energy - path.energy[0]).max() / max(path.energy[0], 1e-300)
        say(f"  {path.name}: the energy drifts by {100 * drift:.3g} %")


def main(arguments: list[str] | None = None) -> None:
    """Solve, print and draw."""
    parser = argparse.ArgumentParser(description="The Swiss roll of the paper.")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the figures")
    parser.add_argument(
        "--mu", type=float, nargs="+", default=[0.1], help="penalties on the action"
    )
    parser.add_argument("--reading", nargs="+", choices=READINGS, default=["nugget"])
    parser.add_argument("--points", type=int, default=100, help="points of each spiral")
    parser.add_argument("--max-iter", type=int, default=3000, help="iterations of L-BFGS")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    with jax.enable_x64(True):
        for reading in chosen.reading:
            for mu in chosen.mu:
                problem = make_problem(reading, mu, chosen.points)
                found = minimise(problem, chosen.max_iter)
                print(
                    f"r as {reading}, mu = {mu:g}: objective {found.value:.6g}, gradient norm "
                    f"{found.gradient_norm:.2g}, {found.evaluations} evaluations, "
                    f"{found.seconds:.1f} s ({found.processor:.1f} s of processor time)"
                )
                followed = paths(problem, found.z)
                report(followed)
                file = chosen.out / f"swiss_roll_{reading}_{mu:g}.png"
                title = f"r = 0.1 as {reading}, μ = {mu:g}: one momentum, three integrations"
                draw(problem, followed, title, file)
                print(f"  {file}")


if __name__ == "__main__":
    main()
