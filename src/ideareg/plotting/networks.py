"""Figures of residual networks: their layers, and what they tend to as depth grows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ideareg.plotting.style import BLUE, FAINT, INK, ORANGE, SERIES, axes, dress

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


def prior_draws(x: Any, values: Any, ax: Axes | None = None) -> Axes:
    """Plot functions of one variable that a prior holds for possible.

    Parameters
    ----------
    x : array-like, shape (n,) or (n, 1)
    values : array-like, shape (count, n) or (count, n, 1)
        See `ideareg.prior.sample_networks`.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
        Over them the central 90 % at each point.
    """
    ax, x = axes(ax), np.ravel(np.asarray(x, dtype=float))
    order = np.argsort(x)
    x, draws = x[order], np.asarray(values, dtype=float).reshape(-1, len(x))[:, order]
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    ax.fill_between(x, low, high, color=FAINT, alpha=0.35, lw=0)
    for i, draw in enumerate(draws[: len(SERIES)]):
        ax.plot(x, draw, color=SERIES[i], lw=1.2)
    return dress(ax, "Draws from the prior", "x", "ξ(φ(x))")


def prior_flow(path: Any, ax: Axes | None = None) -> Axes:
    """Plot where one flow carries points of a line, layer by layer.

    Parameters
    ----------
    path : array-like, shape (layers, n) or (layers, n, 1)
        One of the paths of `ideareg.prior.sample_flows`.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
    """
    ax, path = axes(ax), np.asarray(path, dtype=float)
    path = path.reshape(len(path), -1)
    shown = np.linspace(0, path.shape[1] - 1, min(path.shape[1], 40)).astype(int)
    ax.plot(np.arange(len(path)), path[:, shown], color=BLUE, lw=0.8)
    ax.locator_params(axis="x", integer=True)
    return dress(ax, "A flow of the prior", "layer", "position")
