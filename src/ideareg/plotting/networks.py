"""Figures of residual networks: their layers, and what they tend to as depth grows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ideareg.plotting.style import BLUE, INK, ORANGE, axes, dress

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def audit(found: Any, ax: Axes | None = None) -> Axes:
    """Plot the norms of a network's layers, and which layers are not at a minimum.

    Parameters
    ----------
    found : ResNetAudit
        See `ideareg.audit.audit_resnet`.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
    """
    ax = axes(ax)
    layers = np.arange(1, len(found.norms) + 1)
    off = np.asarray(found.stationarity) > 0.05
    for chosen, colour, label in ((~off, BLUE, "balanced"), (off, ORANGE, "not stationary")):
        if chosen.any():
            ax.bar(layers[chosen], found.norms[chosen], width=0.7, color=colour, label=label)
    ax.axhline(found.norms.mean(), color=INK, lw=1, ls="--", label="mean")
    ax.locator_params(axis="x", integer=True)
    return dress(ax, "Norms of the layers", "layer", "L²‖w‖²", grid="y")


def depth_study(study: Any, ax: Axes | None = None) -> Axes:
    """Plot how the networks' minimal values approach that of the continuous flow.

    Parameters
    ----------
    study : DepthStudy
        See `ideareg.limit.depth_study`.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
    """
    ax = axes(ax)
    depth = np.array([row.depth for row in study.rows], dtype=float)
    excess = np.abs([row.value - study.limit.value for row in study.rows])
    error = np.array([row.momentum_error for row in study.rows]) / depth
    ax.loglog(depth, excess, "o", color=BLUE, label="value above the limit")
    ax.loglog(depth, abs(study.constant) / depth, "-", color=BLUE, lw=1, label="c / L, predicted")
    ax.loglog(depth, error, "s--", color=ORANGE, lw=1, label="first momentum")
    return dress(ax, "Towards infinite depth", "layers", "distance from the limit")
