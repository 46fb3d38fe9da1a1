"""What the estimators share: the float64 scope, progress, callbacks, and chunks of rows."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ideareg._rows import bucket, pad

try:  # scikit-learn >= 1.9
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in where scikit-learn has no callbacks."""

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:  # type: ignore[no-redef]
        """Return the method as it is."""
        return method


# Rows that a prediction holds at a time: bounds memory whatever the size of the table.
CHUNK = 4096
# With the variance of the warp, a row also holds its gradient by every stage of the flow.
CHUNK_SPREAD = 1024


@contextlib.contextmanager
def numerics() -> Iterator[None]:
    """Compute in float64, with one BLAS thread, and leave both as they were.

    The matrices are small: two thread pools would only wait for each other (15 times slower when
    other processes run), and sums in one order give one answer.
    """
    with jax.enable_x64(True), threadpool_limits(limits=1, user_api="blas"):
        yield


def scoped(method: Callable[..., Any]) -> Callable[..., Any]:
    """Run a method inside `numerics`."""

    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with numerics():
            return method(*args, **kwargs)

    return wrapper


def in_chunks(
    f: Callable[[NDArray[np.float64]], Any], X: NDArray[np.float64], size: int
) -> list[NDArray[np.float64]]:
    """Apply ``f`` to chunks of rows padded to their bucket; return its outputs, concatenated."""
    parts: list[list[NDArray[np.float64]]] = []
    for first in range(0, len(X), size):
        rows = X[first : first + size]
        outputs = f(pad(rows, bucket(len(rows))))
        parts.append([np.asarray(output)[: len(rows)] for output in outputs])
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


class Progress:
    """A bar on a terminal, callbacks of scikit-learn and of the user; silent otherwise."""

    def __init__(
        self,
        estimator: Any,
        data: tuple[Any, Any],
        *,
        total: int,
        visible: bool,
        context: Any,
        callback: Callable[[dict[str, Any]], bool | None] | None,
    ) -> None:
        self.estimator, self.data = estimator, data
        self.total, self.context, self.callback = total, context, callback
        self.visible = visible and sys.stderr.isatty()
        self.bar: Any = None

    def __enter__(self) -> Progress:
        if self.visible:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self.bar = Progress(
                TextColumn("{task.description:<7}"),
                BarColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self.bar.start()
            self.task = self.bar.add_task("fit", total=self.total, note="")
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, stage: str, iteration: int, record: dict[str, float]) -> bool | None:
        """Report one iteration; return True to stop this descent."""
        stop = False
        if self.bar is not None:
            note = f"loss {record['loss']:.4g}"
            self.bar.update(self.task, advance=1, description=stage, note=note)
        if self.context is not None:
            X, y = self.data
            task = self.context.subcontext(task_name=f"{stage}-iteration")
            task.call_on_fit_task_begin(estimator=self.estimator, X=X, y=y)
            stop |= bool(task.call_on_fit_task_end(estimator=self.estimator, X=X, y=y))
        if self.callback is not None:
            stop |= bool(self.callback({"stage": stage, "iteration": iteration, **record}))
        return stop
