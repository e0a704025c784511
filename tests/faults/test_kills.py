"""Runs that are killed, or told to stop, at any moment."""

import collections
import random
import signal
import time
from functools import partial

from experiments._main import STOPPED
from jbism.training import checkpoint_steps
from tests.faults.children import Child, at_step, ended, send, train
from tests.faults.runs import LONGEST, flags_of, num_lines, saving

KILLS = 20


def test_twenty_kills_at_random_moments_leave_no_trace(whole, tmp_path):
    workdir, moments = tmp_path / "run", random.Random(0)
    flags = flags_of(workdir, **{"train.num_steps": LONGEST})
    half_written = collections.Counter()
    # Of every five kills one may come while the process starts, two come in mid-save.
    for moment in ["starting", "training", "training", "saving", "saving"] * (KILLS // 5):
        lines, saved = num_lines(workdir), checkpoint_steps(workdir / "checkpoints")
        with ended(Child(tmp_path, train, flags)) as child:
            if moment == "starting":
                time.sleep(moments.uniform(0, 2))
            else:
                further = lines + moments.randint(1, 4)
                child.wait_for(lambda further=further: num_lines(workdir) >= further)
                if moment == "saving":
                    child.wait_for(lambda: saving(workdir))
                time.sleep(moments.uniform(0, 0.02))
            child.kill()
            assert child.stderr == ""
            assert moment == "starting" or ("resuming from step" in child.stdout) == bool(saved)
        half_written[moment] += saving(workdir)
    assert half_written["saving"] > 0  # else the moments were missed
    child = Child(tmp_path, train, flags)
    assert (child.wait(), child.stderr) == (0, "")
    whole.assert_equals(workdir, LONGEST)


def terminate(step):
    return partial(at_step, step, partial(send, signal.SIGTERM))


def test_a_stop_is_a_checkpoint_at_that_very_step(whole, tmp_path):
    """In the middle of a log's window too, whose mean is then over all of its steps."""
    workdir = tmp_path / "run"
    flags = flags_of(workdir, **{"train.num_steps": 100})
    for step in (5, 35, 40, 55):
        child = Child(tmp_path, train, flags, [terminate(step)])
        assert child.wait() == STOPPED == 75, child.stderr
        assert child.stderr == (
            f"stopped after step {step}, which is saved; the same command goes on from there\n"
        )
        assert checkpoint_steps(workdir / "checkpoints")[-1] == step
        assert num_lines(workdir) == step // 10
    child = Child(tmp_path, train, flags)
    assert (child.wait(), child.stderr) == (0, "")
    assert child.stdout == "resuming from step 55 of 100\n"
    whole.assert_equals(workdir, 100)


def test_a_signal_after_the_last_step_stops_no_training(whole, tmp_path):
    """It comes too late: the run is saved, and the next one has the report left to do."""
    workdir = tmp_path / "run"
    child = Child(tmp_path, train, flags_of(workdir, **{"train.num_steps": 20}), [terminate(20)])
    assert child.wait() == STOPPED
    said = "stopped after step 20, which is saved; the same command goes on from there\n"
    assert child.stderr == said
    whole.assert_equals(workdir, 20)
