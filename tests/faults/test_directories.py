"""Work directories that cannot be written, or that two runs want at once."""

import fcntl
import os
import pathlib

import pytest

from jbism.training import WorkdirError, lock_workdir
from tests.faults.children import Child, ended, train
from tests.faults.runs import flags_of, num_lines, snapshot
from tests.processes import run_binary


def fails(folder, flags, *preparations):
    """Runs a training that must fail; returns the one line on stderr that says why."""
    child = Child(folder, train, flags, preparations)
    assert child.wait() == 1, child.stderr
    *warnings, said = child.stderr.splitlines()
    assert all(line.startswith("warning: ") for line in warnings), child.stderr
    assert said.startswith("error: ")
    return said


def test_two_runs_in_one_directory(whole, tmp_path):
    workdir = tmp_path / "run"
    flags = flags_of(workdir, **{"train.num_steps": 100})
    with ended(Child(tmp_path / "first", train, flags)) as first:
        first.wait_for(lambda: num_lines(workdir) >= 3)
        first.pause()
        before = snapshot(workdir)
        for more in ([], ["--overwrite"]):
            said = fails(tmp_path / "second", [*flags, *more])
            assert said == f"error: {workdir}: in use by another run"
        assert snapshot(workdir) == before
        first.kill()
    child = Child(tmp_path, train, flags)  # the killed one holds it no more
    assert (child.wait(), child.stderr) == (0, "")
    whole.assert_equals(workdir, 100)


@pytest.mark.parametrize("binary", ["estimator_bias", "fisher"])
def test_other_binaries_hold_their_directory(tmp_path, binary):
    with lock_workdir(tmp_path):
        done = run_binary(binary, {"workdir": tmp_path})
    assert (done.returncode, done.stderr) == (1, f"error: {tmp_path}: in use by another run\n")
    assert os.listdir(tmp_path) == []


def test_a_directory_that_is_removed_while_it_is_locked_is_made_anew(tmp_path, monkeypatch):
    folder, flock, removed = tmp_path / "folder", fcntl.flock, []

    def remove_first(descriptor, operation):
        if not removed:
            removed.append(descriptor)
            folder.rmdir()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with lock_workdir(folder):
        assert removed
        with pytest.raises(WorkdirError, match="in use"), lock_workdir(folder):
            pass


def test_a_directory_is_free_when_its_run_has_failed(tmp_path):
    with pytest.raises(ValueError, match="failed"), lock_workdir(tmp_path):
        raise ValueError("failed")
    with lock_workdir(tmp_path):
        assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not pathlib.Path("/proc/self").exists(), reason="needs /proc")
def test_directories_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in ("/proc/run", "/proc/self/run", tmp_path / "file", tmp_path / "file" / "run"):
        with (
            pytest.raises(WorkdirError, match=f"^{path}: cannot be used as a directory to write"),
            lock_workdir(path),
        ):
            pass
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["checkpoints", "tensorboard", "metrics.jsonl", "checkpoints_damaged"]
)
def test_what_is_in_the_way_is_named(whole, tmp_path, name):
    """A file where the run has a folder, or a folder where it has a file."""
    workdir = whole.copy_of(tmp_path, 80, 100)
    flags = flags_of(workdir, **{"train.num_steps": 120})
    obstacle, aside = workdir / name, workdir / "aside"
    if name == "checkpoints_damaged":
        (workdir / "checkpoints" / "100" / "manifest" / "metadata").unlink()
    elif obstacle.exists():
        obstacle.rename(aside)
    if name == "metrics.jsonl":
        obstacle.mkdir()
    else:
        obstacle.write_text("mine")
    assert str(obstacle) in fails(tmp_path, flags)
    if name == "metrics.jsonl":
        obstacle.rmdir()
    else:
        assert obstacle.read_text() == "mine"
        obstacle.unlink()
    if aside.exists():
        aside.rename(obstacle)
    child = Child(tmp_path, train, flags)
    assert child.wait() == 0, child.stderr
    whole.assert_equals(workdir, 120)
