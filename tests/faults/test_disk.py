"""Disks that are full."""

import contextlib
import re
import subprocess
from functools import partial

import pytest

from jbism.training import MetricsWriter
from tests.faults.children import Child, at_step, limit_file_size, train
from tests.faults.runs import flags_of, records
from tests.faults.test_directories import fails


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of few bytes."""
    folder = tmp_path / "disk"
    folder.mkdir()

    line = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder]
    try:
        refused = subprocess.run(line, capture_output=True, text=True).stderr.strip()
    except FileNotFoundError as error:
        refused = str(error)
    if refused:
        pytest.skip(f"file systems cannot be mounted here: {refused}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(disk):
    with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.mark.parametrize("step", [None, 125])
def test_a_full_disk_loses_nothing(whole, small_disk, tmp_path, step):
    """Full when the run begins, and in the midst of training."""
    workdir = whole.copy_of(small_disk, 80, 100)
    flags = flags_of(workdir, **{"train.num_steps": 160})
    does = partial(fill, small_disk)
    said = fails(tmp_path, flags, does if step is None else partial(at_step, step, does))
    assert re.search(f"{workdir}/[^ ]+: cannot be written: .*No space left on device", said)
    (small_disk / "filler").unlink()
    child = Child(tmp_path, train, flags)
    assert (child.wait(), child.stderr) == (0, "")
    assert child.stdout.startswith("resuming from step ")
    whole.assert_equals(workdir, 160)


# At step 120 the limit comes between the log and the checkpoint, whose files are larger.
@pytest.mark.parametrize(("step", "file"), [(115, "metrics.jsonl"), (120, "checkpoints")])
def test_a_file_that_cannot_grow_is_named(whole, tmp_path, step, file):
    workdir = whole.copy_of(tmp_path, 80, 100)
    flags = flags_of(workdir, **{"train.num_steps": 140})
    limit = partial(at_step, step, partial(limit_file_size, 1000))
    said = fails(tmp_path, flags, limit)
    assert re.search(f"{workdir}/{file}: cannot be written: .*File too large", said)
    child = Child(tmp_path, train, flags)
    assert (child.wait(), child.stderr) == (0, "")
    whole.assert_equals(workdir, 140)


def test_events_that_cannot_be_written_end_the_run(tmp_path):
    """They must not keep it waiting, nor hide behind a thread's traceback."""
    child = Child(tmp_path, write_until_full, tmp_path)
    assert child.wait() == 0, child.stderr
    assert re.fullmatch(
        f"{tmp_path}/tensorboard/events[^ ]+: cannot be written: File too large\n", child.stdout
    )
    assert child.stderr == ""
    assert len(records(tmp_path)) > 10


def write_until_full(workdir):
    limit_file_size(16_384)
    try:
        with MetricsWriter(workdir, resume_step=None) as writer:
            for step in range(10_000):
                # Longer as an event than as a line.
                writer.write(step, dict.fromkeys("abcdefgh", 0.0))
    except OSError as error:
        print(error)
