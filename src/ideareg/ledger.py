"""What a fit reports of its own physics."""

from __future__ import annotations

from typing import Any

import numpy as np

from ideareg.shooting import Trajectory
from ideareg.training import Descent


def ledger(descent: Descent, trajectory: Trajectory, nu: float) -> dict[str, Any]:
    r"""Return the books of one warp, as plain numbers.

    Parameters
    ----------
    descent : Descent
    trajectory : Trajectory
        That of its model.
    nu : float
        Penalty on the action.

    Returns
    -------
    dict
        ``energy``: H after each layer, constant for the continuous flow; ``energy_drift``: its
        largest departure from H at the start, relative to it; ``action``: νH, what the warp costs;
        ``terminal_residual``: mismatch of the boundary condition νp(1) = −∂loss/∂q(1), pulled
        back to the start and whitened, between 0 and 1; ``flow_converged``: whether every implicit
        layer was solved; ``result``: how the descent ended, in words; ``converged``.
    """
    return {
        "nu": float(nu),
        **of_flow(trajectory, nu),
        "terminal_residual": descent.terminal_residual,
        "converged": descent.result.name == "converged",
        "result": descent.result.message,
        "iterations": descent.iterations,
    }


def of_flow(trajectory: Trajectory, nu: float) -> dict[str, Any]:
    """Return the part of the books that a trajectory determines."""
    energy = np.asarray(trajectory.energies)
    start = float(energy[0])
    return {
        "depth": len(energy) - 1,
        "energy": [float(e) for e in energy],
        "energy_drift": float(np.abs(energy - start).max() / start) if start > 0 else 0.0,
        "action": float(nu * start) if start > 0 else 0.0,
        "flow_converged": bool(trajectory.converged),
    }
