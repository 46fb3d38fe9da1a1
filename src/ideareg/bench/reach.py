"""How long it takes to come to a given error: the default fit beside a deep process in training."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ideareg.bench.suite import Case
from ideareg.estimators.warping import WarpingRegressor

EVERY = 50  # steps of training between two looks at the test rows


class Point(NamedTuple):
    """The error on the test rows after so many seconds of training."""

    method: str
    seconds: float
    rmse: float


def fitted(case: Case) -> Point:
    """Return what the default fit reaches, selection and compilation included."""
    start = time.perf_counter()
    model = WarpingRegressor(random_state=0).fit(case.X, case.y)
    return Point("ideareg", time.perf_counter() - start, _rmse(case, model.predict(case.X_test)))


def trained(case: Case, rmse: float, seconds: float) -> Iterator[Point]:
    """Yield the curve of GPyTorch's deep process, until it is at ``rmse`` or time is up.

    The looks at the test rows are not counted, and stopping at the best of them favours it.

    Parameters
    ----------
    case : Case
        Training and test rows.
    rmse, seconds : float
        Where to stop: in units of the target, and of training.

    Yields
    ------
    Point
        One every 50 steps, and the last one.
    """
    from ideareg.bench.variational import DeepProcess

    model, spent, start = DeepProcess(), 0.0, time.perf_counter()
    for step, _ in enumerate(model.training(case.X, case.y), 1):
        now = spent + time.perf_counter() - start
        if step % EVERY == 0 or now >= seconds:
            error = _rmse(case, model.predict_mixture(case.X_test).moments()[0])
            yield Point("deep-gp", now, error)
            if error <= rmse or now >= seconds:
                return
            spent, start = now, time.perf_counter()


def verdict(ours: Point, curve: Sequence[Point], rmse: float) -> str:
    """Return in a line who reached ``rmse``, and how many times ideareg's seconds the other took.

    Examples
    --------
    >>> ours, curve = Point("ideareg", 10.0, 0.06), [Point("deep-gp", 50.0, 0.08)]
    >>> verdict(ours, curve, 0.065)
    'ideareg: RMSE 0.06 after 10 s; deep-gp: best 0.08 after 50 s, 5.0 times as long'
    """
    best = min(curve, key=lambda point: point.rmse)
    what = "RMSE" if best.rmse <= rmse else "best"
    own = "RMSE" if ours.rmse <= rmse else f"not at {rmse:g}:"
    ratio = best.seconds / ours.seconds
    return (
        f"{ours.method}: {own} {ours.rmse:.3g} after {ours.seconds:.0f} s; {best.method}: {what} "
        f"{best.rmse:.3g} after {best.seconds:.0f} s, {ratio:.1f} times as long"
    )


def table(points: Sequence[Point]) -> Any:
    """Return the points as a rich table; of a long curve only those that are best so far."""
    from rich.table import Table

    view = Table(box=None)
    for heading in ("method", "seconds", "RMSE"):
        view.add_column(heading, justify="left" if heading == "method" else "right")
    best: dict[str, float] = {}
    for point in points:
        # A line for each hundredth of the error that was gained.
        if point.rmse < 0.99 * best.get(point.method, math.inf):
            best[point.method] = point.rmse
            view.add_row(point.method, f"{point.seconds:.1f}", f"{point.rmse:.4g}")
    return view


def _rmse(case: Case, mean: np.ndarray) -> float:
    return float(np.sqrt(np.mean((mean - case.y_test) ** 2)))
