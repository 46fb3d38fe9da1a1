"""What the estimators share: checks, progress and callbacks."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight

try:  # scikit-learn >= 1.9
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in where scikit-learn has no callbacks."""

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:  # type: ignore[no-redef]
        """Return the method as it is."""
        return method


def random_stream(random_state: Any) -> np.random.RandomState:
    """Return a RandomState; None means a copy of NumPy's global one, which stays where it is."""
    if random_state is None:
        stream = np.random.RandomState()
        stream.set_state(np.random.get_state())
        return stream
    return check_random_state(random_state)


def positive_weights(sample_weight: Any, X: Any) -> NDArray[np.float64]:
    """Return one non-negative weight per row, not all of them zero.

    Raises
    ------
    ValueError
        If they are not.
    """
    weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    if not weight.any():
        raise ValueError("sample_weight: every weight is zero; at least one must be positive.")
    return np.asarray(weight)


@contextlib.contextmanager
def fit_task(estimator: Any, X: Any, y: Any) -> Iterator[Any]:
    """Tell scikit-learn's callbacks that a fit begins and ends; yield None where there are none."""
    if not hasattr(estimator, "_skl_callbacks"):
        yield None
        return
    context = estimator._init_callback_context(max_subtasks=None)
    context.call_on_fit_task_begin(estimator=estimator, X=X, y=y)
    yield context
    context.call_on_fit_task_end(estimator=estimator, X=X, y=y, reconstruction_attributes={})


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
            note = f"loss {record['loss']:.4g}" if "loss" in record else ""
            self.bar.update(self.task, advance=1, description=stage, note=note)
        if self.context is not None:
            X, y = self.data
            task = self.context.subcontext(task_name=f"{stage}-iteration")
            task.call_on_fit_task_begin(estimator=self.estimator, X=X, y=y)
            stop |= bool(task.call_on_fit_task_end(estimator=self.estimator, X=X, y=y))
        if self.callback is not None:
            stop |= bool(self.callback({"stage": stage, "iteration": iteration, **record}))
        return stop
