"""What every test gets: a quiet JAX, figures without a screen, and real data if there is any."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything imports jax or matplotlib. `setdefault`, so that a developer can ask for more.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
# Tests compile longer than they compute; without emitters for fusions that takes half as long.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false",
)
# What one worker, or one run, has compiled, the others load.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
logging.getLogger("jax").setLevel(logging.ERROR)


@pytest.fixture(scope="module", autouse=True)
def few_executables() -> Iterator[None]:
    """Free compiled code after each module: a process can map only so many pieces of it."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@pytest.fixture
def double_precision() -> Iterator[None]:
    """JAX in float64 for the length of a test."""
    import jax

    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets, which are no part of the project."""
    named = os.environ.get("IDEAREG_DATA")
    if not named:
        pytest.skip("real data: set IDEAREG_DATA to the folder that holds the .npz files")
    folder = Path(named)
    if not folder.is_dir():
        pytest.skip(f"real data: IDEAREG_DATA={named} is not a folder")
    return folder


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where a shell has what it runs behind ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
