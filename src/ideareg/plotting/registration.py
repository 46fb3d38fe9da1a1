"""Figures of a registration: what it does to shapes, to their way there, and to space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ideareg.plotting.style import BLUE, FAINT, INK, ORANGE, axes, dress

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (4.4, 4.2)
MARGIN = 0.15  # around the shapes, as a share of their extent
LINES, FINE = 19, 91


def _draw(
    ax: Axes, points: Any, cells: Any, dims: tuple[int, int], colour: str, label: str
) -> None:
    """Draw landmarks as dots, curves as lines, and surfaces as their vertices."""
    x, y = np.asarray(points)[:, dims].T
    if cells is not None and cells.shape[1] == 2:
        for k, edge in enumerate(cells):
            ax.plot(x[edge], y[edge], color=colour, lw=1.6, label=None if k else label)
    else:
        size = 5 if cells is None else 1.2
        ax.plot(x, y, "o", color=colour, ms=size, mew=0, alpha=0.85, label=label)


def _finish(ax: Axes, title: str, dims: tuple[int, int]) -> Axes:
    ax.set_aspect("equal")
    x, y = (f"coordinate {k + 1}" for k in dims)
    dress(ax, title, x, y, grid=None)
    if not ax.get_legend_handles_labels()[0]:
        return ax
    # Below, where neither the title nor the shapes are.
    below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "ncols": 3}
    ax.legend(frameon=False, fontsize=8, labelcolor=INK, **below)
    return ax


def _show(ax: Axes, fit: Any, values: Any, **style: Any) -> Any:
    """Draw values at the pixels of the target, as they stand in the array."""
    y, x = fit.target_.points().reshape(*fit.target_.shape, 2).transpose(2, 0, 1)
    style = {"cmap": "gray", **style}
    return ax.pcolormesh(x, y, values, shading="nearest", rasterized=True, zorder=0, **style)


def _is_image(fit: Any) -> bool:
    return fit.source_.kind == "image"


def _finish_plane(ax: Axes, title: str, fit: Any) -> Axes:
    """Finish a figure of the plane; of images the first coordinate goes down, as rows do."""
    if not _is_image(fit):
        return _finish(ax, title, (0, 1))
    if not ax.yaxis_inverted():
        ax.invert_yaxis()
    return _finish(ax, title, (1, 0))


def _start(fit: Any) -> np.ndarray:
    """Return the source's points, or its pixels, where they were given."""
    if _is_image(fit):
        return fit.source_.points()
    return fit.affine_.inverse()(fit.source_.points)


def _plane(fit: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the axes of a grid around the source, before its affine map."""
    start = _start(fit)
    if start.shape[1] != 2:
        raise ValueError(f"this figure shows the plane, and the source has {start.shape[1]} axes.")
    low, high = start.min(axis=0), start.max(axis=0)
    margin = 0.0 if _is_image(fit) else MARGIN * (high - low).max()
    low, high = low - margin, high + margin
    return np.linspace(low[0], high[0], count), np.linspace(low[1], high[1], count)


def before_after(
    fit: Any, target: Any, ax: Axes | None = None, dims: tuple[int, int] = (0, 1)
) -> Axes:
    """Plot the source before and after the flow, and the target.

    Parameters
    ----------
    fit : Registration
        Fitted.
    target : Shape, pair (points, cells), or array of shape (n, d)
        As given to ``fit``.
    ax : matplotlib Axes, optional
        Where to draw.
    dims : pair of int
        The coordinates to show.

    Returns
    -------
    matplotlib Axes
    """
    ax = axes(ax, SIZE)
    goal, cells = target if isinstance(target, tuple) else (target, None)
    _draw(ax, fit.source_.points, fit.source_.cells, dims, FAINT, "source")
    _draw(ax, goal, cells, dims, ORANGE, "target")
    after = np.asarray(fit.warped_source_.points)
    if fit.source_.cells is None:  # on top of the target, so that both are seen
        ax.plot(*after[:, dims].T, "x", color=BLUE, ms=6, mew=1.4, label="after")
    else:
        _draw(ax, after, fit.source_.cells, dims, BLUE, "after")
    return _finish(ax, "Before and after", dims)


def trajectories(fit: Any, ax: Axes | None = None, dims: tuple[int, int] = (0, 1)) -> Axes:
    """Plot the way of the source's points, and the momentum that sends them off.

    Parameters
    ----------
    fit : Registration
        Fitted.
    ax : matplotlib Axes, optional
        Where to draw.
    dims : pair of int
        The coordinates to show.

    Returns
    -------
    matplotlib Axes
    """
    ax = axes(ax, SIZE)
    start = fit.affine_.inverse()(fit.source_.points)
    path = fit.trajectories(start)
    for k, line in enumerate(np.moveaxis(path, 1, 0)):
        ax.plot(*line[:, dims].T, color=BLUE, lw=1.1, label=None if k else "way")
    _draw(ax, path[0], None, dims, FAINT, "source")
    (x, y), (u, v) = fit.control_points_[:, dims].T, fit.momentum_[:, dims].T
    ax.quiver(x, y, u, v, angles="xy", width=0.004, color=ORANGE, zorder=5, label="momentum")
    return _finish(ax, "Trajectories", dims)


def deformed_grid(fit: Any, ax: Axes | None = None) -> Axes:
    """Plot a square grid around the source, pushed forward.

    Parameters
    ----------
    fit : Registration
        Fitted, of shapes in the plane.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
    """
    ax = axes(ax, SIZE)
    fine, coarse = _plane(fit, FINE), _plane(fit, LINES)
    for x, y in ((fine[0], coarse[1]), (coarse[0], fine[1])):
        grid = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1)
        moved = grid + fit.displacement_field(x, y)
        # Lines run along the fine axis.
        lines = moved.swapaxes(0, 1) if len(x) == FINE else moved
        for line in lines[..., ::-1] if _is_image(fit) else lines:
            ax.plot(*line.T, color=BLUE, lw=0.6, alpha=0.8)
    if _is_image(fit):
        _show(ax, fit, fit.warped_source_.values)
    else:
        name = "source, pushed forward"
        _draw(ax, fit.warped_source_.points, fit.source_.cells, (0, 1), ORANGE, name)
    return _finish_plane(ax, "The plane after the flow", fit)


def jacobian_map(fit: Any, ax: Axes | None = None) -> Axes:
    """Plot by how much the push-forward stretches area, at each place of the source's plane.

    Parameters
    ----------
    fit : Registration
        Fitted, of shapes in the plane.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
        Colours are logarithms to base 2: 1 is twice the area, -1 half of it. Places where the map
        folds are left white.
    """
    ax = axes(ax, SIZE)
    x, y = _plane(fit, FINE)
    grid = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)
    determinant = fit.jacobian_determinant(grid).reshape(len(x), len(y))
    with np.errstate(invalid="ignore", divide="ignore"):
        doublings = np.where(determinant > 0, np.log2(determinant), np.nan)
    most = max(float(np.nanmax(np.abs(doublings))), 0.1)
    across = (y, x, doublings) if _is_image(fit) else (x, y, doublings.T)
    image = ax.pcolormesh(
        *across, cmap="PuOr", vmin=-most, vmax=most, shading="gouraud", rasterized=True
    )
    if not _is_image(fit):
        _draw(ax, _start(fit), fit.source_.cells, (0, 1), INK, "source")
    if ax.figure is not None:
        bar = ax.figure.colorbar(image, ax=ax, shrink=0.55)
        bar.set_label("doublings of area", fontsize=9, color=INK)
        bar.ax.tick_params(labelsize=8, color=FAINT, labelcolor=INK)
        bar.outline.set_visible(False)
    return _finish_plane(ax, "Stretching of area", fit)


def image_mismatch(fit: Any, after: bool = True, ax: Axes | None = None) -> Axes:
    """Plot the source less the target, before anything or after the affine map and the flow.

    Parameters
    ----------
    fit : Registration
        Fitted, of images in the plane.
    after : bool
        After the flow, or before the affine map.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
        Colours have the same meaning in both.
    """
    ax = axes(ax, SIZE)
    goal = fit.target_.values
    before = fit.source_.at(fit.target_.points()).reshape(goal.shape) - goal
    most = float(np.abs(before).max()) or 1.0
    error = fit.warped_source_.values - goal if after else before
    _show(ax, fit, error, cmap="PuOr", vmin=-most, vmax=most)
    return _finish_plane(ax, "Mismatch after" if after else "Mismatch before", fit)
