"""Small data and small problems that several test modules share."""

import equinox as eqx
import jax
import numpy as np

from ideareg import kernels as ik
from ideareg.blocks import Warp
from ideareg.integrators import get_integrator
from ideareg.readout import Batch, ExactHead, SparseHead
from ideareg.training import Model, Problem

N, D, M = 16, 2, 4


def sample(n=N, outputs=1, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, D))
    Y = np.sin(3 * X[:, :1] + np.arange(outputs)) + 0.1 * rng.normal(size=(n, outputs))
    return Batch(X, Y, np.ones(n))


def make_problem(
    head="exact", integrator="symplectic_euler", *, rows=None, points=None, nu=1.0, depth=2,
    loss="evidence", learn_head=True, size=0.0, noise=0.1,
):  # fmt: skip
    """Return a small problem; momentum starts as noise of the given size."""
    rows = sample() if rows is None else rows
    rng = np.random.default_rng(1)
    learn_points = points is None
    points = rng.normal(size=(M, D)) if points is None else points
    warp = Warp(
        kernel=ik.Gaussian(),
        integrator=get_integrator(integrator),
        depth=depth,
        momentum=size * rng.normal(size=points.shape),
        control_points=points,
        log_scale=np.zeros(D),
        temper=np.float64(nu**-0.5),
        nugget=np.float64(0.0),
        present=np.ones(len(points)),
    )
    common = {
        "kernel": ik.Matern52(),
        "log_scale": np.zeros(D),
        "log_amplitude": np.float64(0.0),
        "log_noise": np.log(np.float64(noise)),
        "noise_floor": np.float64(0.0),
    }
    inducing = {"inducing": rng.normal(size=(5, D)), "present": np.ones(5)}
    model = Model(
        warp, ExactHead(**common) if head == "exact" else SparseHead(**common, **inducing)
    )
    everything = jax.tree.map(np.ones_like, model)
    free = jax.tree.map(lambda a: a * float(learn_head), everything)
    moves = [np.ones_like(points), np.ones_like(points) * float(learn_points)]
    free = eqx.tree_at(lambda m: [m.warp.momentum, m.warp.control_points], free, moves)
    return Problem(model, free, rows, loss)
