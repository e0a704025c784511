"""Strict numerics for every test, fast compilation, and where local data may lie."""

import os
import pathlib

# The suite's time is compilation of many small programs: optimise them less, and keep them. Set
# before jax is imported, in the environment, so that subprocesses do the same.
_CACHE = pathlib.Path(__file__).parents[1] / ".jax_cache"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
)

# jax writes cache entries in place: another process may read half of one, and then compiles.
os.environ.setdefault(
    "PYTHONWARNINGS", "ignore:Error reading persistent compilation cache entry:UserWarning"
)

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Runs the test in double precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def data_dir():
    """The folder of real data sets, where there is one."""
    beside = pathlib.Path(__file__).parents[2] / "shared" / "data"
    folder = pathlib.Path(os.environ.get("JBISM_DATA_DIR", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data: set JBISM_DATA_DIR, or put it at {beside}")
    return folder
