"""Independent descents side by side, in threads: XLA leaves the interpreter free as it computes.

Small descents leave most of a machine idle, and outcomes do not depend on how many run at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import jax

Outcome = TypeVar("Outcome")

# Seconds between looks for Ctrl-C, which a lock would keep from the caller on some systems.
POLL = 0.2


class Crew:
    """Threads that run the descents of one fit.

    Parameters
    ----------
    workers : int
        Descents at a time. One runs in the caller's thread.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._turn, self._stop = threading.Lock(), threading.Event()

    @property
    def stopped(self) -> bool:
        """Whether something ended a run."""
        return self._stop.is_set()

    def in_turn(self, report: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``report``, called by one thread at a time, which interrupts those that end."""

        def reported(*args: Any) -> Any:
            with self._turn:
                if self.stopped:
                    raise KeyboardInterrupt
                return report(*args)

        return reported

    def run(
        self,
        jobs: Sequence[Callable[[], Outcome]],
        ends: Callable[[Outcome], bool],
        beside: Callable[[], object] | None = None,
    ) -> list[Outcome | None]:
        """Return the outcome of each job, None for those that were not begun.

        Ctrl-C, an error, and an outcome that ``ends`` the run interrupt the others at their next
        report. What the jobs compile after their descents can be compiled ``beside`` the first;
        one worker at a time has nothing to gain from that, and leaves it.

        Raises
        ------
        KeyboardInterrupt
            If it came before there was any outcome.
        """
        if min(self.workers, len(jobs)) <= 1:
            return _one_by_one(jobs, ends)
        config: Any = jax.config  # what the caller's thread has set
        double, device = config.jax_enable_x64, config.jax_default_device

        outcomes: list[Outcome | None] = [None] * len(jobs)
        errors: list[Exception] = []

        def work(k: int) -> None:
            if k and self.stopped:  # the first ends at its first report
                return
            try:
                with jax.enable_x64(double), jax.default_device(device):
                    outcomes[k] = outcome = jobs[k]()
                if not ends(outcome):
                    return
            except Exception as error:
                errors.append(error)
            self._stop.set()

        def prepare() -> None:
            if beside is not None:
                with jax.enable_x64(double), jax.default_device(device):
                    beside()

        pool = ThreadPoolExecutor(self.workers)
        try:
            futures: list[Future[None]] = [pool.submit(work, 0), pool.submit(prepare)]
            futures += [pool.submit(work, k) for k in range(1, len(jobs))]
            while wait(futures, timeout=POLL).not_done:
                pass
        except KeyboardInterrupt:
            self._stop.set()
        pool.shutdown()
        if errors:
            raise errors[0]
        if all(outcome is None for outcome in outcomes):
            raise KeyboardInterrupt
        return outcomes


def _one_by_one(
    jobs: Sequence[Callable[[], Outcome]], ends: Callable[[Outcome], bool]
) -> list[Outcome | None]:
    outcomes: list[Outcome | None] = []
    for job in jobs:
        outcome = job()
        outcomes.append(outcome)
        if ends(outcome):
            break
    return outcomes + [None] * (len(jobs) - len(outcomes))
