"""Side by side or one by one: the same outcomes, and one end for all."""

import signal
import threading
import time

import jax
import jax.numpy as jnp
import pytest

from ideareg.concurrency import Crew


def never(outcome):
    return False


@pytest.mark.parametrize("workers", [1, 3])
def test_outcomes_keep_the_order_of_the_jobs(workers):
    def job(k):
        time.sleep(0.02 * (3 - k % 3))
        return k

    outcomes = Crew(workers).run([lambda k=k: job(k) for k in range(7)], never)
    assert outcomes == list(range(7))


def test_jobs_run_at_the_same_time():
    together = threading.Barrier(2, timeout=10)
    assert len(Crew(2).run([together.wait, together.wait], never)) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_compiled_beside_is_no_outcome(workers):
    seen = []
    outcomes = Crew(workers).run([lambda: 0, lambda: 1], never, lambda: seen.append("compiled"))
    assert outcomes == [0, 1] and len(seen) == workers - 1


@pytest.mark.parametrize("workers", [1, 2])
def test_what_ends_the_run_leaves_the_rest_out(workers):
    crew = Crew(workers)
    report = crew.in_turn(lambda: None)

    def patient():
        try:
            for _ in range(1000):
                report()
                time.sleep(0.01)
        except KeyboardInterrupt:
            return "interrupted"

    jobs = [lambda: "end", patient, lambda: "late"]
    outcomes = crew.run(jobs, lambda outcome: outcome == "end")
    assert outcomes == (["end", None, None] if workers == 1 else ["end", outcomes[1], None])
    assert outcomes[1] in (None, "interrupted")


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_all_at_their_next_report():
    crew, together = Crew(2), threading.Barrier(2, timeout=10)
    report = crew.in_turn(lambda: None)

    def endless(first):
        try:
            together.wait()
            if first:
                signal.raise_signal(signal.SIGINT)
            while True:
                report()
                time.sleep(0.01)
        except KeyboardInterrupt:
            return "interrupted"

    jobs = [lambda: endless(True), lambda: endless(False), lambda: endless(False)]
    one, other, third = crew.run(jobs, never)
    # One whose thread was being started when the signal came counts as not begun.
    assert one == "interrupted" and other in ("interrupted", None) and third is None
    assert crew.stopped


def test_an_error_of_one_is_an_error_of_all():
    def broken():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        Crew(2).run([broken, lambda: 1], never)


def test_threads_compute_as_their_caller():
    device = jax.devices()[0]
    with jax.enable_x64(True), jax.default_device(device):
        dtypes = Crew(2).run([lambda: jnp.ones(2).dtype] * 3, never)
    assert dtypes == [jnp.float64] * 3
