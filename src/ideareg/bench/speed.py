"""Speed and memory, as ratios that are taken in one run: against the machine, and against peers.

Each measurement is a process of its own, so that its peak memory is its own and nothing is warm:
the first call, which compiles, is counted apart, and the median of the others is reported with the
range of their middle half.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ideareg import persistence
from ideareg.hamiltonian import Hamiltonian, State
from ideareg.integrators import RK4
from ideareg.kernels import Gaussian
from ideareg.shooting import shoot

Call = Callable[[], Any]
# Repeated until both are reached, or the second is passed tenfold.
FEWEST, SECONDS = 5, 2.0
DEPTH = 10
MEBIBYTE = 2**20


class Job(NamedTuple):
    """One thing to measure: a task at a size, by a method."""

    task: str
    method: str
    n: int
    dtype: str


class Timing(NamedTuple):
    """What a job took.

    Attributes
    ----------
    seconds : float
        Median of one call.
    low, high : float
        Quartiles.
    first : float
        The first call, which compiles.
    peak : float
        Peak memory of the process, in MiB.
    note : str
        What it reached, where that is not the same for all methods.
    """

    seconds: float
    low: float
    high: float
    first: float
    peak: float
    note: str = ""


# ---------------------------------------------------------------- what is measured


def problem(n: int, dtype: str, d: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Return n points and as many vectors."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, d)).astype(dtype), rng.normal(size=(n, d)).astype(dtype) / n


def product(job: Job) -> Call:
    """Return K(X, X) P for the Gaussian kernel, 10 columns, N points in 10 dimensions."""
    X, P = problem(job.n, job.dtype)
    if job.method == "keops":
        from pykeops.numpy import LazyTensor

        x, y = LazyTensor(X[:, None, :]), LazyTensor(X[None, :, :])
        return lambda: (-((x - y) ** 2).sum(-1) / 2).exp() @ P
    if job.method == "torch":
        import torch

        A, B = torch.from_numpy(X), torch.from_numpy(P)
        return lambda: torch.exp(-0.5 * torch.cdist(A, A) ** 2) @ B
    kernel = Gaussian()
    if job.method == "formed":
        # A barrier keeps the compiler from doing the tiles itself.
        call = jax.jit(lambda X, P: jax.lax.optimization_barrier(kernel.gram(X)) @ P)
    else:
        call = jax.jit(lambda X, P: kernel.apply(X, None, P))
    return lambda: jax.block_until_ready(call(X, P))


def limit(job: Job) -> Timing:
    """Return what a product would take if matrix products and exp ran at their measured speed."""
    X = problem(2048, job.dtype, 2048)[0]
    Z = np.random.default_rng(1).normal(size=(1024, 1024)).astype(job.dtype)
    multiply, exponential = jax.jit(lambda X: X @ X), jax.jit(lambda Z: jnp.exp(Z).sum())
    flops = 2 * 2048**3 / clock(lambda: jax.block_until_ready(multiply(X))).seconds
    exps = Z.size / clock(lambda: jax.block_until_ready(exponential(Z))).seconds
    seconds = job.n**2 * (2 * 10 + 2 * 10) / flops + job.n**2 / exps
    note = f"{flops / 1e9:.0f} GFLOP/s, {exps / 1e9:.2f} G exp/s"
    return Timing(seconds, seconds, seconds, seconds, 0.0, note)


def shooting(job: Job) -> Call:
    """Return value and gradient, by p, of H(q, p) + |q(1) - Y|²: ten steps of Runge-Kutta."""
    X, p = problem(job.n, job.dtype)
    Y = X + 0.1
    if job.method == "torch":
        return _torch_shooting(X, p, Y)

    def flow(p: Any) -> Any:
        if job.method == "formed":
            return _by_matrices(X, p, jnp), _energy(X, p, jnp)
        ham, start = Hamiltonian(Gaussian()), State(jnp.asarray(X), p)
        return shoot(ham, start, DEPTH, RK4()).q[-1], ham.energy(start)

    def value(p: Any) -> Any:
        q, energy = flow(p)
        return energy + ((q - Y) ** 2).sum()

    call = jax.jit(jax.value_and_grad(value))
    return lambda: jax.block_until_ready(call(p))


def _torch_shooting(X: np.ndarray, p: np.ndarray, Y: np.ndarray) -> Call:
    import torch

    x, y = torch.from_numpy(X), torch.from_numpy(Y)

    def call() -> Any:
        start = torch.from_numpy(p).requires_grad_()
        value = _energy(x, start, torch) + ((_by_matrices(x, start, torch) - y) ** 2).sum()
        (gradient,) = torch.autograd.grad(value, start)
        return value.item(), gradient

    return call


def _gram(q: Any, xp: Any) -> Any:
    squares = (q**2).sum(1)
    return xp.exp(q @ q.T - 0.5 * squares[:, None] - 0.5 * squares[None, :])


def _energy(q: Any, p: Any, xp: Any) -> Any:
    return 0.5 * (p * (_gram(q, xp) @ p)).sum()


def _by_matrices(q: Any, p: Any, xp: Any) -> Any:
    """Return q(1) with every N x N matrix formed, as one would write it at first."""

    def field(q: Any, p: Any) -> tuple[Any, Any]:
        K = _gram(q, xp)
        G = K * (p @ p.T)
        return K @ p, G.sum(1)[:, None] * q - G @ q

    h = 1 / DEPTH
    for _ in range(DEPTH):
        a, b = field(q, p)
        c, d = field(q + h / 2 * a, p + h / 2 * b)
        e, f = field(q + h / 2 * c, p + h / 2 * d)
        g, i = field(q + h * e, p + h * f)
        q, p = q + h / 6 * (a + 2 * c + 2 * e + g), p + h / 6 * (b + 2 * d + 2 * f + i)
    return q


def robot_arm(n: int, seed: int, noise: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Return angles of eight joints and a place of the shoulder, and how far the hand is away."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, size=(n, 10))
    angles = np.cumsum(X[:, :8] * np.pi / 2, axis=1)
    x = np.cos(angles).sum(1) + 0.5 * X[:, 8]
    y = np.sin(angles).sum(1) + 0.5 * X[:, 9]
    return X, np.hypot(x - 2, y - 1) / 2 + noise * rng.normal(size=n)


def whole_fit(job: Job) -> Timing:
    """Fit a regressor, selection included; the note is the error on new rows without noise."""
    X, y = robot_arm(job.n, 0)
    X_new, y_new = robot_arm(2000, 1, noise=0.0)
    if job.method == "sklearn GP":
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        parts = ConstantKernel() * Matern(np.ones(X.shape[1]), nu=2.5) + WhiteKernel(0.1)
        model: Any = GaussianProcessRegressor(parts, normalize_y=True, random_state=0)
    else:
        from ideareg.estimators.warping import WarpingRegressor

        model = WarpingRegressor(random_state=0, verbose=0)
    start = time.perf_counter()
    model.fit(X, y)
    seconds = time.perf_counter() - start
    error = np.sqrt(np.mean((model.predict(X_new) - y_new) ** 2))
    return Timing(seconds, seconds, seconds, seconds, peak_memory(), f"RMSE {error:.4f}")


# ---------------------------------------------------------------- how


class Task(NamedTuple):
    """A task: what makes its call or measures it, its methods, sizes and types."""

    make: Callable[[Job], Call] | None
    methods: tuple[str, ...]
    sizes: tuple[int, ...]
    dtypes: tuple[str, ...]


TASKS = {
    "product": Task(
        product, ("ideareg", "limit", "formed", "torch", "keops"), (10_000,),
        ("float32", "float64"),
    ),
    "shooting": Task(shooting, ("ideareg", "formed", "torch"), (3_000,), ("float32",)),
    "small shooting": Task(shooting, ("ideareg", "formed", "torch"), (200,), ("float64",)),
    "memory": Task(product, ("ideareg",), (100_000,), ("float32",)),
    "fit": Task(None, ("ideareg", "sklearn GP"), (2_000,), ("float64",)),
}  # fmt: skip
PEERS = {"torch": "torch", "keops": "pykeops"}


def jobs(tasks: Sequence[str]) -> list[Job]:
    """Return what there is to measure; peers that are not installed are left out.

    Raises
    ------
    ValueError
        For an unknown task.
    """
    found = []
    for name in tasks:
        if name not in TASKS:
            raise ValueError(f"unknown task {name!r}: the tasks are {', '.join(TASKS)}")
        task = TASKS[name]
        found += [
            Job(name, method, n, dtype)
            for dtype in task.dtypes
            for n in task.sizes
            for method in task.methods
            if method not in PEERS or importlib.util.find_spec(PEERS[method])
        ]
    return found


def missing() -> list[str]:
    """Return the peers that are not installed."""
    return [name for name, module in PEERS.items() if not importlib.util.find_spec(module)]


def measure(job: Job) -> Timing:
    """Measure one job in this process."""
    with jax.enable_x64(job.dtype == "float64"):
        if job.method == "limit":
            return limit(job)
        make = TASKS[job.task].make
        if make is None:
            return whole_fit(job)
        return clock(make(job))


def clock(call: Call) -> Timing:
    """Time a call over and over."""
    start = time.perf_counter()
    call()
    first = time.perf_counter() - start
    times: list[float] = []
    while (len(times) < FEWEST or sum(times) < SECONDS) and sum(times) < 10 * SECONDS:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    low, median, high = np.quantile(times, [0.25, 0.5, 0.75]).tolist()
    return Timing(median, low, high, first, peak_memory())


def peak_memory() -> float:
    """Return the most memory that this process has held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MEBIBYTE if sys.platform == "darwin" else 1024)


def run(todo: Sequence[Job]) -> Iterator[tuple[Job, Timing]]:
    """Measure each job in a fresh process, one after the other."""
    context = multiprocessing.get_context("spawn")
    for job in todo:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            yield job, pool.submit(measure, job).result()


def table(rows: Sequence[tuple[Job, Timing]]) -> Any:
    """Return the measurements as a rich table, each beside ideareg's of the same job."""
    from rich.table import Table

    view = Table(box=None)
    for heading in ("task", "N", "", "method"):
        view.add_column(heading)
    for heading in ("median s", "quartiles", "first call s", "peak MiB", "x ideareg"):
        view.add_column(heading, justify="right")
    view.add_column("")
    own = {job[:1] + job[2:]: t.seconds for job, t in rows if job.method == "ideareg"}
    for job, t in rows:
        ours = own.get(job[:1] + job[2:])
        view.add_row(
            job.task, f"{job.n:,}", job.dtype, job.method, f"{t.seconds:.4g}",
            f"{t.low:.3g}-{t.high:.3g}", f"{t.first:.3g}", f"{t.peak:.0f}" if t.peak else "",
            f"{t.seconds / ours:.2f}" if ours else "", t.note,
        )  # fmt: skip
    return view


def save(path: str | os.PathLike[str], rows: Sequence[tuple[Job, Timing]]) -> None:
    """Write the measurements as JSON: a list ``timings``."""
    found = [{**job._asdict(), **timing._asdict()} for job, timing in rows]
    with persistence.replacing(path) as stream:
        stream.write(json.dumps({"timings": found}, indent=1).encode())
