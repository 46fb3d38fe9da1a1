"""How everything that people call computes: in float64, with one BLAS thread and wide vectors."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import equinox as eqx
import jax
from threadpoolctl import threadpool_limits

F = TypeVar("F", bound=Callable[..., Any])

# Vectors of 512 bits, or two shorter ones at a time where there are none.
WIDE = {"xla_cpu_prefer_vector_width": 512}


def compiled(f: F) -> F:
    """Compile sums over pairs of points, which take 0.7 of the time in wide vectors.

    The result cannot be called inside of another compiled function.
    """
    jit: Any = eqx.filter_jit  # whose types leave out the options of JAX
    return cast(F, jit(f, compiler_options=WIDE))


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
