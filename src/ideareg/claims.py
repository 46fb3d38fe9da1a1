r"""The claims of the theory, each measured on this machine against what it says.

A claim is a number with a known answer: a closed form, a rate, an identity between two ways to
compute one thing. `measure` runs them all; ``ideareg check`` prints them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.linalg import expm

from ideareg import kernels as ik
from ideareg import page
from ideareg._types import Points
from ideareg.estimators.warping import WarpingRegressor
from ideareg.hamiltonian import Hamiltonian, State, angular_momentum, linear_momentum
from ideareg.integrators import INTEGRATORS, RK4, ImplicitMidpoint, SymplecticEuler, get_integrator
from ideareg.leastaction import Distance, LeastAction, Regression, solve
from ideareg.limit import depth_study
from ideareg.relaxation import Relaxation
from ideareg.resnet import from_trajectory, train
from ideareg.robustness import continuous_lipschitz
from ideareg.shooting import Trajectory, shoot, transport

Floats = NDArray[np.float64]


class Claim(NamedTuple):
    """One row of the table.

    Attributes
    ----------
    claim : str
    section : str
        The part of the theory that it belongs to.
    measured, expected, tolerance : float
    passed : bool
        Whether measured is within tolerance of expected.
    """

    claim: str
    section: str
    measured: float
    expected: float
    tolerance: float
    passed: bool


def _row(section: str, claim: str, measured: Any, expected: float, tolerance: float) -> Claim:
    value = float(measured)
    return Claim(claim, section, value, expected, tolerance, abs(value - expected) <= tolerance)


def _largest(*differences: Any) -> float:
    return max(float(np.abs(np.asarray(d)).max(initial=0.0)) for d in differences)


def _state(n: int = 5, d: int = 2, size: float = 0.5, seed: int = 0) -> State:
    rng = np.random.default_rng(seed)
    return State(rng.normal(size=(n, d)), size * rng.normal(size=(n, d)))


def landmarks(kernel: Any = None, nu: float = 1.0, nugget: float = 0.0) -> LeastAction:
    """Return four points in the plane with targets nearby."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4, 2))
    loss = Distance(X + 0.8 * rng.normal(size=(4, 2)), 2.0)
    return LeastAction(kernel or ik.Gaussian(), X, loss, nu, nugget)


def tanh_problem(regression: bool = False, nu: float = 0.5, nugget: float = 0.0) -> LeastAction:
    """Return twenty points in the plane and a tanh network: more points than features."""
    rng = np.random.default_rng(12)
    X = rng.normal(size=(20, 2))
    Y = 1.5 * np.column_stack([X[:, 0] + 0.5 * np.sin(2 * X[:, 1]), X[:, 1] - 0.4 * X[:, 0] ** 2])
    loss: Any = Regression(ik.Activation(), Y, 0.1) if regression else Distance(Y)
    return LeastAction(ik.Activation("tanh"), X, loss, nu, nugget)


# ---------------------------------------------------------------- layers


def least_action() -> Iterator[Claim]:
    """A network of ten layers that minimises decay and loss."""
    name, problem = "discrete least action", landmarks()
    best = solve(problem, 10)
    t, ham = best.trajectory, problem.hamiltonian
    forces = [np.asarray(ham.force(State(t.q[s + 1], t.p[s + 1]))) for s in range(9)]
    off = np.diff(t.p[:-1], axis=0) - np.array(forces) / 10
    yield _row(name, "momenta obey p' = p - h H_q(q', p'), with a minus", _largest(off), 0, 1e-10)
    yield _row(name, "the last momentum is the scaled gradient of the loss", best.gap, 0, 1e-10)


def networks() -> Iterator[Claim]:
    """A tanh network with more points than features, in weight and in momentum space."""
    name = "residual networks"
    for regression in (False, True):
        problem = tanh_problem(regression)
        what = "with a regressor" if regression else "to targets"
        weights, momentum = train(problem, 10), solve(problem, 10)
        network = weights.network
        other = from_trajectory(ik.Activation("tanh"), momentum.trajectory)
        yield _row(
            name, f"one minimum in weights and in momenta, {what}",
            weights.value - momentum.value, 0, 1e-8,
        )  # fmt: skip
        gap = _largest(np.asarray(network.weights) - np.asarray(other.weights))
        yield _row(name, f"one network in weights and in momenta, {what}", gap, 0, 1e-6)
        p = network.momenta(problem.start, problem.loss, problem.nu)
        back = network.weights_from(problem.start, p)
        yield _row(
            name, f"weights are sums of back-propagated gradients, {what}",
            _largest(np.asarray(network.weights) - np.asarray(back)), 0, 1e-6,
        )  # fmt: skip


def limit() -> Iterator[Claim]:
    """Five to eighty layers beside the continuous flow."""
    name = "limit of infinite depth"
    study = depth_study(landmarks(), (10, 20, 40, 80))
    before, last = study.rows[-2:]
    extrapolated = 2 * last.excess - before.excess
    yield _row(
        name, "L (V_L - V) tends to the predicted constant", extrapolated, study.constant, 1e-3
    )
    rate = np.log2(2 * before.momentum_error / last.momentum_error) - 1
    yield _row(name, "p_1 tends to p(0) at rate 1/L: the exponent", 1 + rate, 1, 0.05)
    yield _row(
        name, "L times the spread of the layers' norms settles: ratio of 80 layers to 40",
        last.spread / before.spread, 1, 0.05,
    )  # fmt: skip
    yield _row(
        name, "first-order formula of the norms: what is left, times L²", last.remainder, 0, 0.1
    )


def uniqueness() -> Iterator[Claim]:
    """Minimisers need not be unique, and not all of them are limits of networks."""
    name = "minimisers"
    X = np.array([[-1.0, 0.0], [1.0, 0.0]])
    swap = LeastAction(ik.Gaussian(), X, Distance(-X, 50.0), 1.0, nugget=0.01)
    guess = np.array([[2.0, 4.0], [-2.0, -4.0]])
    up, down = (solve(swap, 20, start=guess * [1, sign]) for sign in (1, -1))
    yield _row(name, "two points swap places: the minimal value", up.value, 8.914842673, 1e-8)
    yield _row(name, "... which two mirrored flows attain", up.value - down.value, 0, 1e-10)

    def wells(q: Points) -> Any:
        return 50 * ((jnp.log(q) ** 2 - 0.25) ** 2).sum()

    double = LeastAction(ik.Linear(), np.ones((1, 1)), wells, 1.0)
    starts = (0.5, -0.5)
    A = abs(float(solve(double, 100, RK4(), start=[[starts[0]]]).momentum[0, 0]))
    gaps = []
    for L in (40, 80):
        values = [solve(double, L, start=[[a]]).value for a in starts]
        gaps.append(L * (values[0] - values[1]))
    yield _row(
        name, "a continuous minimiser that no network tends to: L times its disadvantage",
        2 * gaps[1] - gaps[0], A**3, 1e-3,
    )  # fmt: skip


# ---------------------------------------------------------------- flows


def closed_forms() -> Iterator[Claim]:
    """Flows that can be written down."""
    name, exact, x = "closed forms", RK4(), _state(seed=1).q
    state, ham = _state(), Hamiltonian(ik.Constant())
    moved = transport(ham, exact, shoot(ham, state, 3, exact), x) - x - state.p.sum(0)
    yield _row(name, "constant kernel: translation", _largest(moved), 0, 1e-10)

    X = np.array([[1.0, 0], [0, 1], [1, 1]])
    p = np.array([[0.3, 0.1], [-0.2, 0.4], [0.1, -0.3]])
    ham = Hamiltonian(ik.Linear())
    path = shoot(ham, State(X, p), 100, exact)
    A = p.T @ X
    phi = expm(A - A.T) @ expm(A.T)
    off = _largest(
        path.final.q - X @ phi.T, transport(ham, exact, path, x) - x @ phi.T,
        path.final.p - p @ np.linalg.inv(phi),
    )  # fmt: skip
    yield _row(name, "linear kernel: linear network, matrix exponentials", off, 0, 1e-10)

    ham = Hamiltonian(ik.Linear() + ik.Constant())
    path = shoot(ham, _state(5, 3, 0.3), 200, exact)
    yield _row(
        name, "affine kernel: the norm of (A, b) is kept",
        _largest(path.energies - path.energies[0]), 0, 1e-10,
    )  # fmt: skip

    for kernel, title, value in (
        (ik.Laplacian(), "exponential", 0.493336504225),
        (ik.Gaussian(), "Gaussian", 0.641787254522),
    ):
        problem = LeastAction(kernel, np.array([[-1.0], [1.0]]), _no_loss, 1.0)
        yield _row(name, f"two points, {title} kernel: action", _pair_action(problem), value, 1e-10)

    ham = Hamiltonian(ik.Laplacian())
    q = np.array([[-4.043700829403], [-1.049822124499]])
    path = shoot(ham, State(q, np.array([[2.40625], [1.09375]])), 400, exact)
    rows = transport(ham, exact, path, jnp.array([[-5.0], [-2.5], [0.0]])).ravel()
    off = _largest(
        path.final.q.ravel() - np.array([-1.630276136813, 0.353897563186]),
        path.final.p.ravel() - np.array([2.154930659183, 1.345069340817]),
        rows - np.array([-4.569350309431, -1.243936652772, 0.729772821045]),
    )
    yield _row(name, "peakons of Camassa-Holm, passive points included", off, 0, 1e-10)


def _no_loss(q: Points) -> Any:
    """Nothing is wanted of the end: the flow is shot, not optimised."""
    return 0.0 * q.sum()


def _pair_action(problem: LeastAction) -> float:
    """Return the action of the flow that brings ±1 to ±0.4, by bisection on its one momentum."""
    from scipy.optimize import brentq

    @jax.jit
    def flow(size: Any) -> Trajectory:
        return problem.trajectory(jnp.array([[1.0], [-1.0]]) * size, 200, RK4())

    size = brentq(lambda a: float(flow(a).q[-1, 1, 0]) - 0.4, 0.1, 2.0, xtol=1e-15, rtol=1e-14)
    return float(flow(size).energies[0])


def one_point() -> Iterator[Claim]:
    """One particle on a line feels only the metric."""

    def kernel(x: Any, y: Any) -> Any:
        return ((1 + 0.3 * jnp.sin(x)) * (1 + 0.3 * jnp.sin(y)))[0] * jnp.exp(-((x - y) ** 2)[0])

    path = shoot(Hamiltonian(kernel), State([[0.2]], [[1.0]]), 200, RK4())
    end = float(path.final.q[0, 0])
    length = quad(lambda q: 1 / (1 + 0.3 * np.sin(q)), 0.2, end, epsabs=1e-13)[0]
    measured = float(jnp.sqrt(2 * path.energies[0])) - length
    yield _row("closed forms", "one point: distance is the integral of 1/√g", measured, 0, 1e-10)


def invariants() -> Iterator[Claim]:
    """What the continuous flow keeps."""
    name, state, ham = "conserved quantities", _state(), Hamiltonian(ik.Gaussian())
    path = shoot(ham, state, 200, RK4())
    yield _row(name, "energy", _largest(path.energies - path.energies[0]), 0, 1e-10)
    end, start = path.final, path.initial
    yield _row(
        name,
        "sum of the momenta",
        _largest(linear_momentum(end) - linear_momentum(start)),
        0,
        1e-12,
    )
    turned = angular_momentum(end) - angular_momentum(start)
    yield _row(name, "angular momentum", _largest(turned), 0, 1e-10)
    pulled = jax.vjp(lambda x: transport(ham, RK4(), path, x), start.q)[1](end.p)[0]
    yield _row(
        name, "momentum is carried by the inverse transpose of the flow",
        _largest(pulled - start.p), 0, 1e-9,
    )  # fmt: skip
    still = State(start.q, start.p.at[0].set(0.0))
    ghost = shoot(ham, still, 20, RK4())
    yield _row(name, "zero momentum stays zero", _largest(ghost.p[:, 0]), 0, 0.0)


def integrators() -> Iterator[Claim]:
    """Order of each scheme, and reversal."""
    name, state = "integrators", _state(4)
    ham = Hamiltonian(ik.Gaussian(), 0.1)
    fine = shoot(ham, state, 400, RK4()).final.q
    for scheme in INTEGRATORS:
        if scheme == "geodesic":
            continue  # its control points follow RK4
        integrator = get_integrator(scheme)
        depths = (20, 40) if scheme == "rk4" else (80, 160)
        errors = [_largest(shoot(ham, state, L, integrator).final.q - fine) for L in depths]
        order = float(np.log2(errors[0] / errors[1]))
        yield _row(name, f"order of {scheme}", order, integrator.order, 0.05)
    there, _, _ = ImplicitMidpoint().advance(ham, state, 0.2)
    back, _, _ = ImplicitMidpoint().advance(ham, there, -0.2)
    yield _row(
        name,
        "implicit midpoint undoes itself",
        _largest(back.q - state.q, back.p - state.p),
        0,
        1e-12,
    )


def features() -> Iterator[Claim]:
    """Kernels with features: the flow in weight space."""
    name, state = "feature space", _state()
    ham = Hamiltonian(ik.Activation("tanh"))
    plain = Hamiltonian(lambda x, y: jnp.tanh(x) @ jnp.tanh(y) + 1)
    ends = [shoot(h, state, 4, SymplecticEuler()).final for h in (ham, plain)]
    off = _largest(ends[0].q - ends[1].q, ends[0].p - ends[1].p)
    yield _row(name, "kernel path and feature path agree", off, 0, 1e-12)
    path = shoot(ham, state, 400, RK4())
    psi = ik.Activation("tanh").feature_matrix
    weights = [np.asarray(p.T @ psi(q)) for q, p in zip(path.q, path.p, strict=True)]
    norms = np.array([(w**2).sum() for w in weights])
    yield _row(name, "the norm of the weights is constant", _largest(norms - norms[0]), 0, 1e-9)


def nugget() -> Iterator[Claim]:
    """Relaxed training: the nugget r on Γ and ρ on K."""
    name, rng = "nugget", np.random.default_rng(4)
    X = rng.normal(size=(6, 2))
    path = np.concatenate([X[None], rng.normal(size=(5, 6, 2))])
    Y = rng.normal(size=(6, 1))
    lam, rho = 0.3, 0.15
    numbers = {"nu": 0.7, "penalty": lam, "nugget": 0.2, "head_nugget": rho}
    problem = Relaxation(ik.Activation("tanh"), ik.Activation("sigmoid"), **numbers)
    reduced = problem.value(path, Y)
    forms = [
        problem.slack_value(path, Y, problem.best_slack(path, Y)),
        problem.weight_value(X, Y, problem.best_weights(path, Y)),
    ]
    off = _largest(*[form / reduced - 1 for form in forms])
    yield _row(name, "slack, weight and reduced form have one value", off, 0, 1e-12)
    weights, p = problem.best_weights(path, Y), np.asarray(problem.momenta(path))
    off = _largest(weights.z - np.sqrt(0.2) * p / 5)
    yield _row(name, "the slack of a layer is √r h p", off, 0, 1e-12)

    ham, state = Hamiltonian(ik.Gaussian(), 0.3), _state(4)
    joined = State(np.concatenate([state.q, X]), np.concatenate([state.p, np.zeros((6, 2))]))
    alone, crowd = (shoot(ham, each, 5, RK4()) for each in (state, joined))
    rows = transport(ham, RK4(), alone, X)
    off = _largest(crowd.q[:, :4] - alone.q, crowd.q[-1, 4:] - rows)
    yield _row(name, "rows without momentum change nothing and follow the flow", off, 0, 1e-12)

    plain = Relaxation(ik.Gaussian(), ik.Gaussian(), **numbers)
    ratios = []
    for gap in (1.0, 1e-2, 1e-4, 1e-8):
        pair = np.array([[0.0], [gap]])
        opposite = np.array([[1.0], [-1.0]])
        ratios.append(float(plain.value(np.stack([pair, pair]), opposite)) * rho / (2 * lam))
    yield _row(
        name, "opposite labels merge: value over its bound λ|Y|²/ρ is at most 1",
        max(ratios), 0.5, 0.5,
    )  # fmt: skip


def certificates() -> Iterator[Claim]:
    """Bounds from norms alone, against what happens."""
    name, ham, state = "robustness", Hamiltonian(ik.Gaussian()), _state(6)
    path = shoot(ham, state, 100, RK4())
    rng = np.random.default_rng(7)
    x, u = 1.5 * rng.normal(size=(400, 2)), 1e-6 * rng.normal(size=(400, 2))
    moved = np.asarray(transport(ham, RK4(), path, x + u) - transport(ham, RK4(), path, x))
    seen = (np.linalg.norm(moved, axis=1) / np.linalg.norm(u, axis=1)).max()
    bound = continuous_lipschitz(ham, state)
    yield _row(
        name, "stretch of the flow over its certificate e^(κ√2H) is at most 1",
        seen / bound, 0.5, 0.5,
    )  # fmt: skip


def warped_kernels() -> Iterator[Claim]:
    """A fitted regressor is kernel regression with the kernel that its flow warps."""
    name, rng = "warping kernels", np.random.default_rng(3)
    X = rng.normal(size=(40, 2))
    y = np.tanh(4 * X[:, 0]) + 0.1 * X[:, 1]
    model = WarpingRegressor(nu=1.0, n_control_points=6, max_iter=20, random_state=0, verbose=0)
    model.fit(X, y)
    K = model.warping_kernel(X)
    dual = np.linalg.solve(K + model.noise_ * np.eye(40), (y - y.mean()) / y.std())
    at = rng.normal(size=(9, 2))
    predicted = y.mean() + y.std() * model.warping_kernel(at, X) @ dual
    yield _row(
        name, "ridge regression with the warping kernel is predict",
        _largest(predicted - model.predict(at)), 0, 1e-8,
    )  # fmt: skip


CLAIMS: tuple[Callable[[], Iterator[Claim]], ...] = (
    least_action,
    networks,
    limit,
    uniqueness,
    closed_forms,
    one_point,
    invariants,
    integrators,
    features,
    nugget,
    certificates,
    warped_kernels,
)


def measure(groups: Sequence[Callable[[], Iterator[Claim]]] = CLAIMS) -> Iterator[Claim]:
    """Measure the claims, in float64, and yield a row for each.

    Parameters
    ----------
    groups : sequence of callables
        Those of ``CLAIMS`` to run.
    """
    for group in groups:
        with jax.enable_x64(True):
            rows = list(group())
        yield from rows


def table(rows: Sequence[Claim]) -> Any:
    """Return the claims as a rich table."""
    from rich.table import Table

    view = Table(box=None)
    for heading in ("theory", "claim"):
        view.add_column(heading)
    for heading in ("measured", "expected", "tolerance"):
        view.add_column(heading, justify="right", no_wrap=True)
    view.add_column("", no_wrap=True)
    before = ""
    for row in rows:
        first, before = ("" if row.section == before else row.section), row.section
        numbers = (f"{row.measured:.6g}", f"{row.expected:.6g}", f"{row.tolerance:.0e}")
        view.add_row(first, row.claim, *numbers, "pass" if row.passed else "FAIL")
    return view


def write_claims(path: str | os.PathLike[str], rows: Sequence[Claim]) -> None:
    """Write the claims as one self-contained HTML page."""
    head = ("claim", "measured", "expected", "tolerance", "holds")
    sections = []
    for name in dict.fromkeys(row.section for row in rows):
        chosen = [row for row in rows if row.section == name]
        cells = [(r.claim, r.measured, r.expected, r.tolerance, r.passed) for r in chosen]
        sections.append(page.section(name, page.table(head, cells)))
    failed = sum(not row.passed for row in rows)
    notes = f"{len(rows)} claims, {failed} of which do not hold here."
    page.write_page(path, "The theory, measured", notes, sections)
