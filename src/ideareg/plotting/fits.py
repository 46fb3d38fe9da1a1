"""Figures of a fit: its energy, its convergence, how far to trust it, and how it warped space."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import norm

from ideareg.plotting.style import BLUE, FAINT, INK, ORANGE, SERIES, axes, dress, some

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def energy(
    ledgers: Mapping[str, Any] | Sequence[Mapping[str, Any]], ax: Axes | None = None
) -> Axes:
    """Plot the energy of each layer, which least action keeps nearly constant.

    Parameters
    ----------
    ledgers : mapping or sequence of mappings
        ``ledger_`` of a fitted regressor, or ``ledgers_`` for one line per warp.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
    """
    ax = axes(ax)
    ledgers = [ledgers] if isinstance(ledgers, Mapping) else list(ledgers)
    # A member of the stack without a warp has no energy to show.
    warped = [ledger for ledger in ledgers if np.any(ledger["energy"])]
    top = 0.0
    for i, ledger in enumerate(warped or ledgers[:1]):
        values = np.asarray(ledger["energy"], dtype=float)
        label = f"ν = {ledger['nu']:g}" if len(warped) > 1 and "nu" in ledger else None
        colour = SERIES[i % len(SERIES)]
        ax.plot(np.arange(len(values)), values, "o-", color=colour, ms=4, lw=1.5, label=label)
        top = max(top, float(values.max(initial=0.0)))
    # From zero, so that a drift of a percent looks like one.
    ax.set_ylim(0, 1.15 * top if top > 0 else 1)
    ax.locator_params(axis="x", integer=True)
    return dress(ax, "Energy per layer", "layer", "energy")


def nugget_path(path: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Plot what a nugget does to error, action and Lipschitz constant, relative to the first.

    Parameters
    ----------
    path : mapping
        What `ideareg.nugget_path` returns.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
        Logarithmic but for a stretch around zero, so that a nugget of 0 has a place.
    """
    ax = axes(ax)
    nuggets = np.asarray(path["nugget"], dtype=float)
    lines = {"rmse": "held-out error", "action": "action", "lipschitz": "certified Lipschitz"}
    for i, (name, label) in enumerate(lines.items()):
        values = np.asarray(path[name], dtype=float)
        share = values / values[0] if values[0] else values
        ax.plot(nuggets, share, "o-", color=SERIES[i], ms=4, lw=1.5, label=label)
    positive = nuggets[nuggets > 0]
    if len(positive):
        ax.set_xscale("symlog", linthresh=float(positive.min()))
    return dress(ax, "What the nugget does", "nugget r", f"relative to r = {nuggets[0]:g}")


def history(record: Mapping[str, Sequence[float]], ax: Axes | None = None) -> Axes:
    """Plot how far the objective was above its best at each iteration.

    Parameters
    ----------
    record : mapping
        ``history_`` of a fitted regressor; its list ``loss`` is drawn.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
    """
    ax = axes(ax)
    loss = np.asarray(record.get("loss", ()), dtype=float)
    loss = loss[np.isfinite(loss)]
    gap = loss - loss.min(initial=np.inf)
    shown = gap > 0
    if shown.any():
        ax.semilogy(np.flatnonzero(shown), gap[shown], color=BLUE, lw=1.5)
    else:
        ax.text(0.5, 0.5, "no iterations", ha="center", color=INK, transform=ax.transAxes)
    return dress(ax, "Convergence", "iteration", "objective above its best")


def calibration(y: Any, mean: Any, std: Any, ax: Axes | None = None) -> Axes:
    """Plot the share of targets below each predicted quantile; the diagonal is honest.

    Parameters
    ----------
    y, mean, std : array-like, shape (n,)
        Targets that were not fitted, their predictions and standard deviations.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
    """
    ax = axes(ax, (3.6, 3.4))
    y, mean, std = (np.asarray(a, dtype=float) for a in (y, mean, std))
    level = np.linspace(0, 1, 101)
    reached = np.sort(norm.cdf((y - mean) / std))
    share = np.searchsorted(reached, level, side="right") / max(len(y), 1)
    # What chance alone allows to n honest predictions, at each level nine times in ten.
    band = norm.ppf(0.95) * np.sqrt(level * (1 - level) / max(len(y), 1))
    low, high = np.clip(level - band, 0, 1), np.clip(level + band, 0, 1)
    ax.fill_between(level, low, high, color=FAINT, alpha=0.45, lw=0, label="chance (90 %)")
    ax.plot([0, 1], [0, 1], color=INK, lw=0.8, ls=(0, (4, 3)))
    ax.plot(level, share, color=BLUE, lw=1.8, label="observed")
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    return dress(ax, "Calibration", "predicted quantile", "share of targets below")


def predictions(y: Any, mean: Any, std: Any, ax: Axes | None = None) -> Axes:
    """Plot targets against predictions, with bars of 1.64 standard deviations (90 %).

    Parameters
    ----------
    y, mean, std : array-like, shape (n,)
        Targets that were not fitted, their predictions and standard deviations.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
    """
    ax = axes(ax, (3.6, 3.4))
    y, mean, std = (np.asarray(a, dtype=float) for a in (y, mean, std))
    shown = some(len(y))
    y, mean, reach = y[shown], mean[shown], norm.ppf(0.95) * std[shown]
    ends = [min(y.min(), mean.min()), max(y.max(), mean.max())]
    ax.errorbar(y, mean, yerr=reach, fmt="none", ecolor=FAINT, elinewidth=0.8, zorder=1)
    outside = np.abs(y - mean) > reach
    for chosen, colour, label in (
        (~outside, BLUE, "within 90 %"),
        (outside, ORANGE, "outside"),
    ):
        ax.plot(y[chosen], mean[chosen], "o", ms=3, mew=0, alpha=0.8, color=colour, label=label)
    ax.plot(ends, ends, color=INK, lw=0.8, ls=(0, (4, 3)), zorder=3)
    return dress(ax, "Held-out predictions", "true", "predicted")


def predictive(
    model: Any,
    X: Any,
    y: Any,
    *,
    reach: tuple[float, float] | None = None,
    samples: int = 4,
    ax: Axes | None = None,
) -> Axes:
    """Plot what a model of one input predicts: mean, 90 % interval, and functions drawn from it.

    Parameters
    ----------
    model : WarpingRegressor
        Fitted to one column and one target.
    X, y : array-like, shapes (n, 1) and (n,)
        Rows to show.
    reach : pair of float, optional
        Ends of the axis; by default those of X and a tenth more.
    samples : int, default=4
        Functions to draw, without noise.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
    """
    ax, x = axes(ax), np.ravel(np.asarray(X, dtype=float))
    more = 0.1 * (x.max() - x.min())
    first, last = reach or (x.min() - more, x.max() + more)
    at = np.linspace(first, last, 300)[:, None]
    low, high = model.predict_interval(at, 0.9)
    ax.fill_between(at[:, 0], low, high, color=BLUE, alpha=0.15, lw=0, label="90 % interval")
    ax.plot(x, y, ".", color=INK, ms=3, alpha=0.7)
    if samples:
        drawn = model.sample_y(at, samples)
        ax.plot(at[:, 0], drawn[:, 0], color=ORANGE, lw=0.7, label="draws")
        ax.plot(at[:, 0], drawn[:, 1:], color=ORANGE, lw=0.7)
    ax.plot(at[:, 0], model.predict(at), color=BLUE, lw=1.8, label="mean")
    ax.set_xlim(at[0, 0], at[-1, 0])
    return dress(ax, "Prediction", "x", "y")


def most_moved(model: Any, X: Any) -> tuple[int, ...]:
    """Return the one or two input columns that the warp moves most, in units of their spread.

    Parameters
    ----------
    model : WarpingRegressor
        Fitted.
    X : array-like, shape (n, d)
        Points to carry.

    Returns
    -------
    tuple of int
        In the order of the columns.
    """
    X = np.asarray(X, dtype=float)
    spread = X.std(axis=0)
    moved = np.sqrt(np.mean((np.asarray(model.transform(X)) - X) ** 2, axis=0))
    relative = np.divide(moved, spread, out=np.zeros_like(moved), where=spread > 0)
    # A stable sort, so that a warp that moves nothing shows the first columns.
    return tuple(sorted(int(i) for i in np.argsort(-relative, kind="stable")[:2]))


def moving(model: Any) -> Any:
    """Return ``model`` with its heaviest warp that moves points in front, for a picture.

    The heaviest of a stack may be the head alone, and ``transform`` is that of the first.
    """
    moves = [math.isfinite(warp.nu) for warp in getattr(model, "warps_", [])]
    return model.member(moves.index(True)) if any(moves) and not moves[0] else model


def warped_space(
    model: Any,
    X: Any,
    features: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot how the warp carries a grid over two input columns, the others at their medians.

    Parameters
    ----------
    model : WarpingRegressor
        Fitted. Of a stack the heaviest warp that moves points is shown.
    X : array-like, shape (n, d)
        Inputs; they set the range of the grid.
    features : sequence of two int, optional
        The columns to show; by default the two that move most.
    names : sequence of str, optional
        Names of the columns of ``X``.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
        With one column only, the curve from input to warped input.
    """
    ax, model = axes(ax, (5.2, 4.6)), moving(model)
    X = np.asarray(X, dtype=float)[some(len(X))]
    i, *rest = tuple(features) if features is not None else most_moved(model, X)
    names = [f"column {k}" for k in range(X.shape[1])] if names is None else list(names)
    low, high = np.percentile(X, [1, 99], axis=0)
    wide = np.where(high > low, high - low, 1.0)
    middle = np.median(X, axis=0)
    if not rest:
        line = np.repeat(middle[None], 200, axis=0)
        line[:, i] = np.linspace(low[i], high[i], 200)
        ax.plot(line[:, i], line[:, i], color=INK, lw=0.8, ls=(0, (4, 3)), label="no warp")
        ax.plot(line[:, i], model.transform(line)[:, i], color=BLUE, lw=1.8, label="warp")
        return dress(ax, "How the space was warped", names[i], f"{names[i]}, warped")
    j = rest[0]
    before, after = _grid(model, middle, (i, j), low, wide)
    for line in before:
        ax.plot(*line[:, [i, j]].T, color=FAINT, lw=0.6, zorder=1)
    for k, line in enumerate(after):
        label = None if k else "grid after the warp"
        ax.plot(*line[:, [i, j]].T, color=BLUE, lw=0.9, zorder=2, label=label)
    carried = np.asarray(model.transform(X))
    ax.plot(*carried[:, [i, j]].T, "o", ms=1.6, mew=0, color=INK, alpha=0.35, zorder=3)
    _arrows(ax, model, (i, j))
    return dress(ax, "How the space was warped", names[i], names[j], grid=None)


def _grid(
    model: Any, middle: np.ndarray, pair: tuple[int, int], low: np.ndarray, wide: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the lines of a grid, (lines, points, d), before and after the warp."""
    lines, points = 13, 61
    along, across = np.linspace(-0.05, 1.05, points), np.linspace(-0.05, 1.05, lines)
    before = np.broadcast_to(middle, (2, lines, points, len(middle))).copy()
    for way, (a, b) in enumerate((pair, pair[::-1])):
        before[way, :, :, a] = low[a] + wide[a] * along
        before[way, :, :, b] = (low[b] + wide[b] * across)[:, None]
    before = before.reshape(2 * lines, points, -1)
    after = np.asarray(model.transform(before.reshape(-1, len(middle))))
    return before, after.reshape(before.shape)


def _arrows(ax: Axes, model: Any, pair: tuple[int, int]) -> None:
    """Draw the control points and where the warp takes them."""
    points = np.asarray(model.control_points_, dtype=float)
    step = np.asarray(model.transform(points)) - points
    x, y = points[:, pair].T
    u, v = step[:, pair].T
    # in the units of the axes, from point to image
    ax.quiver(
        x, y, u, v, angles="xy", scale_units="xy", scale=1, width=0.0035, color=ORANGE, zorder=5
    )
    ax.plot(x, y, "o", ms=3.2, mew=0, color=ORANGE, zorder=5, label="control points")
