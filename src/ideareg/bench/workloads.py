"""What is timed: kernel products, shooting, prediction and whole fits, each in several ways.

Libraries are imported where they are used, so that the memory of a job is that of the job.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ideareg._numerics import compiled
from ideareg.adjoint import for_reverse_mode
from ideareg.bench.clock import Call, Job, Timing, clock, peak_memory
from ideareg.hamiltonian import Hamiltonian, State
from ideareg.integrators import RK4, Geodesic
from ideareg.kernels import Gaussian, Matern52
from ideareg.shooting import shoot

CONTROL_POINTS, INDUCING_POINTS = 100, 200


def problem(n: int, dtype: str, d: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Return n points and as many vectors."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, d)).astype(dtype), rng.normal(size=(n, d)).astype(dtype) / n


def product(job: Job) -> Call:
    """Return K(X, X) P for the Gaussian kernel: N points in d dimensions, d columns."""
    X, P = problem(job.n, job.dtype, job.d)
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
        call = compiled(lambda X, P: jax.lax.optimization_barrier(kernel.gram(X)) @ P)
    else:
        call = compiled(lambda X, P: kernel.apply(X, None, P))
    return lambda: jax.block_until_ready(call(X, P))


def limit(job: Job) -> Timing:
    """Return what a product would take if matrix products and exp ran at their measured speed."""
    X = problem(2048, job.dtype, 2048)[0]
    Z = np.random.default_rng(1).normal(size=(1024, 1024)).astype(job.dtype)
    multiply, exponential = compiled(lambda X: X @ X), compiled(lambda Z: jnp.exp(Z).sum())
    flops = 2 * 2048**3 / clock(lambda: jax.block_until_ready(multiply(X))).seconds
    exps = Z.size / clock(lambda: jax.block_until_ready(exponential(Z))).seconds
    seconds = job.n**2 * 4 * job.d / flops + job.n**2 / exps
    note = f"{flops / 1e9:.0f} GFLOP/s, {exps / 1e9:.2f} G exp/s"
    return Timing(seconds, seconds, seconds, seconds, 0.0, note)


def shooting(job: Job) -> Call:
    """Return value and gradient, by p, of H(q, p) + |q(1) - Y|²: steps of Runge-Kutta."""
    X, p = problem(job.n, job.dtype, job.d)
    Y = X + 0.1
    if job.method == "torch":
        return _torch_shooting(X, p, Y, job.depth)
    scheme = RK4()

    def flow(p: Any) -> Any:
        if job.method == "formed":
            return _by_matrices(X, p, job.depth, jnp), _energy(X, p, jnp)
        ham = for_reverse_mode(Hamiltonian(Gaussian()), scheme)
        start = State(jnp.asarray(X), p)
        return shoot(ham, start, job.depth, scheme).q[-1], ham.energy(start)

    def value(p: Any) -> Any:
        q, energy = flow(p)
        return energy + ((q - Y) ** 2).sum()

    call = compiled(jax.value_and_grad(value))
    return lambda: jax.block_until_ready(call(p))


def _torch_shooting(X: np.ndarray, p: np.ndarray, Y: np.ndarray, depth: int) -> Call:
    import torch

    x, y = torch.from_numpy(X), torch.from_numpy(Y)

    def call() -> Any:
        start = torch.from_numpy(p).requires_grad_()
        value = _energy(x, start, torch) + ((_by_matrices(x, start, depth, torch) - y) ** 2).sum()
        (gradient,) = torch.autograd.grad(value, start)
        return value.item(), gradient

    return call


def _gram(q: Any, xp: Any) -> Any:
    squares = (q**2).sum(1)
    return xp.exp(q @ q.T - 0.5 * squares[:, None] - 0.5 * squares[None, :])


def _energy(q: Any, p: Any, xp: Any) -> Any:
    return 0.5 * (p * (_gram(q, xp) @ p)).sum()


def _by_matrices(q: Any, p: Any, depth: int, xp: Any) -> Any:
    """Return q(1) with every N x N matrix formed, as one would write it at first."""

    def field(q: Any, p: Any) -> tuple[Any, Any]:
        K = _gram(q, xp)
        G = K * (p @ p.T)
        return K @ p, G.sum(1)[:, None] * q - G @ q

    h = 1 / depth
    for _ in range(depth):
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
    """Fit a regressor, by selection or one warp; the note is the error on rows without noise."""
    X, y = robot_arm(job.n, 0)
    X_new, y_new = robot_arm(2000, 1, noise=0.0)
    if job.method == "sklearn GP":
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        parts = ConstantKernel() * Matern(np.ones(X.shape[1]), nu=2.5) + WhiteKernel(0.1)
        model: Any = GaussianProcessRegressor(parts, normalize_y=True, random_state=0)
    else:
        from ideareg.estimators.warping import WarpingRegressor

        one: dict[str, Any] = {"nu": 5.0, "n_warps": 1} if job.method == "one warp" else {}
        model = WarpingRegressor(**one, random_state=0, verbose=0)
    start = time.perf_counter()
    model.fit(X, y)
    seconds = time.perf_counter() - start
    error = np.sqrt(np.mean((model.predict(X_new) - y_new) ** 2))
    return Timing(seconds, seconds, seconds, seconds, peak_memory(), f"RMSE {error:.4f}")


def prediction(job: Job) -> Call:
    """Return the means of N rows, given a warp of 100 control points and 200 inducing points."""
    from ideareg.blocks import Warp
    from ideareg.readout import Batch, SparseHead
    from ideareg.training import Model
    from ideareg.uncertainty import conclude, predict_mean

    with jax.enable_x64(True):  # a Gram matrix is not factored in float32
        X, y = (jnp.asarray(part) for part in robot_arm(2048, 0))
        scale, zero = jnp.full(X.shape[1], 0.5 * jnp.log(X.shape[1])), jnp.zeros(())
        ones = jnp.ones(CONTROL_POINTS)
        points, momentum = X[:CONTROL_POINTS], X[CONTROL_POINTS : 2 * CONTROL_POINTS] / 10
        warp = Warp(
            Gaussian(), Geodesic(), job.depth, momentum, points, scale, zero + 1, zero, ones
        )
        M = INDUCING_POINTS
        head = SparseHead(Matern52(), scale, zero, zero - 3, zero + 1e-7, X[-M:], jnp.ones(M))
        exact = conclude(Model(warp, head), Batch(X, y[:, None], jnp.ones(len(y))))
        fitted = jax.tree.map(lambda leaf: np.asarray(leaf).astype(job.dtype), exact)
    rows = robot_arm(job.n, 1)[0].astype(job.dtype)
    chunks = [rows[i : i + 16_384] for i in range(0, len(rows), 16_384)]
    return lambda: jax.block_until_ready([predict_mean(fitted, each) for each in chunks])


def scaling(job: Job) -> Timing:
    """Fit N rows that lie in a Parquet file; the note is the error on new rows without noise."""
    import pandas

    from ideareg.estimators.warping import WarpingRegressor

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "arm.parquet"
        X, y = robot_arm(job.n, 0)
        names = [f"x{k}" for k in range(X.shape[1])]
        pandas.DataFrame(X, columns=names).assign(y=y).to_parquet(path)
        del X, y
        start = time.perf_counter()
        frame = pandas.read_parquet(path)
        target = frame.pop("y")
        model = WarpingRegressor(random_state=0, verbose=0).fit(frame, target)
        seconds = time.perf_counter() - start
    X_new, y_new = robot_arm(10_000, 1, noise=0.0)
    error = np.sqrt(np.mean((model.predict(pandas.DataFrame(X_new, columns=names)) - y_new) ** 2))
    return Timing(seconds, seconds, seconds, seconds, peak_memory(), f"RMSE {error:.4f}")
