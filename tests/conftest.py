"""Strict numerics for every test, and the places where local data may lie."""

import os
import pathlib

import jax
import pytest

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
