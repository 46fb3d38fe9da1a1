r"""Momentum that is exactly zero: control points of satisfied rows are ghosts, and can be dropped.

With a control point on every row and a loss that is flat somewhere, stationarity reads

.. math:: \nu\,p_i(1) = -\partial R/\partial q_i = 2\lambda\,\nabla f(q_i)^TZ_i,

so rows with dual 0 have no momentum at the end, and then at no time, for :math:`\dot p_i` is linear
in :math:`p_i`. A descent stops short of its limit and in other coordinates, so `settle` goes on
with momentum on the support alone until support and duals agree: zeros are then zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ideareg.pointwise import AbstractPointwise
from ideareg.readout import AbstractProcess, Batch
from ideareg.training import Descent, Model, Problem
from ideareg.uncertainty import Predictor, no_spread

# Descents on a shrinking support; two or three are usual.
ROUNDS = 8


@partial(jax.jit, static_argnames="loss")
def duals(model: Model, rows: Batch, loss: AbstractPointwise) -> Float[Array, "n k"]:
    """Return the dual of every row under the regressor of least loss."""
    head = model.head
    assert isinstance(head, AbstractProcess)
    return head.least(loss, model.warp, rows)[1]


def settle(descent: Descent, problem: Problem, fit: Callable[[Problem], Descent]) -> Descent:
    """Go on from ``descent`` with momentum on the rows with a dual only, until these agree.

    Parameters
    ----------
    descent : Descent
    problem : Problem
        Control point i is row i, the loss is pointwise.
    fit : callable
        Returns the descent of a problem.

    Returns
    -------
    Descent
        Its ``warp.present`` marks the rows that carry momentum; the others have none, exactly.
    """
    loss = problem.loss
    assert isinstance(loss, AbstractPointwise)
    tried: list[Any] = []
    for _ in range(ROUNDS):
        warp = descent.model.warp
        Z = np.asarray(duals(descent.model, problem.rows, loss))
        carrying = (Z != 0).any(axis=1)[: len(warp.present)]
        if any((carrying == before).all() for before in tried):
            break  # settled, or turning in a circle
        tried.append(carrying)
        if (carrying == (np.asarray(warp.present) > 0)).all():
            break
        model = eqx.tree_at(lambda m: m.warp, descent.model, _restrict(warp, carrying))
        mask = carrying[:, None] * np.asarray(problem.free.warp.momentum)
        free = eqx.tree_at(lambda m: m.warp.momentum, problem.free, mask)
        further = fit(problem._replace(model=model, free=free))
        descent = _joined(descent, further)
    return descent


def _restrict(warp: Any, carrying: Bool[np.ndarray, " n"]) -> Any:
    """Return the warp with momentum where ``carrying`` alone, and there what it was."""
    p = np.asarray(warp.initial_state().p)
    restricted = eqx.tree_at(lambda w: w.present, warp, carrying.astype(np.float64))
    z = np.asarray(restricted.whitened(p)) * carrying[:, None]
    return eqx.tree_at(lambda w: w.momentum, restricted, z)


def _joined(first: Descent, second: Descent) -> Descent:
    history = {
        name: first.history.get(name, []) + values for name, values in second.history.items()
    }
    count = first.iterations + second.iterations
    return second._replace(history=history, iterations=count)


def keep(model: Model, fitted: Predictor, kept: Bool[np.ndarray, " n"]) -> tuple[Model, Predictor]:
    """Return model and predictor with the control points and centres of the rows ``kept`` alone.

    Exact where the others carry no momentum and have no dual.

    Parameters
    ----------
    model : Model
        With an exact head and a control point on every row.
    fitted : Predictor
        Concluded from it under a pointwise loss.
    kept : ndarray of bool, shape (n,)
    """
    index = np.flatnonzero(kept)
    index = index if len(index) else np.zeros(1, dtype=np.intp)  # one ghost, rather than nobody

    def points(leaf: Any) -> Any:
        return np.take(np.asarray(leaf), index, axis=-2)

    warp = eqx.tree_at(
        lambda w: [w.momentum, w.control_points, w.present],
        model.warp,
        [points(model.warp.momentum), points(model.warp.control_points),
         np.asarray(model.warp.present)[index]],
    )  # fmt: skip
    path = fitted.trajectory
    path = eqx.tree_at(
        lambda t: [t.q, t.p, t.stages],
        path,
        [points(path.q), points(path.p), jax.tree.map(points, path.stages)],
    )
    head = fitted.posterior
    head = eqx.tree_at(
        lambda h: [h.points, h.dual, h.factor, h.present],
        head,
        [points(head.points), points(head.dual), np.asarray(head.factor)[:, index],
         np.asarray(head.present)[index]],
    )  # fmt: skip
    spread = jax.tree.map(np.asarray, no_spread(path, jax.tree.map(jnp.asarray, head)))
    return eqx.tree_at(lambda m: m.warp, model, warp), Predictor(warp, path, head, spread)
