"""The soak test, for seconds: it passes, and it can fail."""

import itertools

import jax
import jax.numpy as jnp
import pytest

from tests.configs import TINY, make_config
from tests.faults.children import Child
from tests.faults.runs import CONFIG, OVERRIDES

_leaked = []


def leak(step):
    _leaked.append(b"x" * 2**21)


def recompile(step, sizes=itertools.count(1)):  # noqa: B008
    jax.jit(lambda x: x + 1)(jnp.zeros(next(sizes) % 50))


def soak_for_seconds(workdir, disturb):
    from tests.faults.soak import soak

    wrong = soak(
        make_config(CONFIG, TINY | OVERRIDES),
        workdir,
        seconds=2.0,
        warm_up=4.0,
        report_every=1.0,
        largest_growth=16.0,
        disturb=disturb,
    )
    print("; ".join(wrong))


@pytest.mark.parametrize(
    ("disturb", "says"),
    [(None, ""), (leak, "resident memory grew"), (recompile, "were compiled after the warm-up")],
)
def test_the_soak_test_notices(tmp_path, disturb, says):
    child = Child(tmp_path, soak_for_seconds, tmp_path, disturb)
    assert (child.wait(), child.stderr) == (0, "")
    *reports, last = child.stdout.splitlines()
    assert len(reports) >= 2
    assert all("steps" in line and "MiB" in line for line in reports)
    assert says in last if says else last == "", child.stdout
