"""How everything that people call computes: in float64, and with one BLAS thread."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
from threadpoolctl import threadpool_limits


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
