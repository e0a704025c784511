"""Checkpoints that are half-written, truncated or have flipped bits."""

import errno
import os

import jax
import jax.numpy as jnp
import optax
import pytest

from experiments.restore import restore
from jbism.training import Checkpointer, create_state
from tests.faults.children import Child, train
from tests.faults.runs import flags_of, snapshot

END = 140


def largest(checkpoint):
    """Returns the file of a checkpoint that holds most of it."""
    return max((p for p in checkpoint.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(checkpoint):
    file = largest(checkpoint)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(checkpoint):
    file = largest(checkpoint)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def half_write(checkpoint):
    """As after a power cut: the names are there, the contents of some files are not."""
    files = sorted(p for p in checkpoint.rglob("*") if p.is_file())
    for file in files[::2]:
        file.write_bytes(b"")


def empty(checkpoint):
    for path in sorted(checkpoint.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("damage", "damaged"),
    [(flip, [100]), (truncate, [100]), (half_write, [100]), (empty, [100]), (flip, [80, 100])],
)
def test_training_falls_back_to_the_last_intact_checkpoint(whole, tmp_path, damage, damaged):
    workdir = whole.copy_of(tmp_path, 60, 80, 100)
    for step in damaged:
        damage(workdir / "checkpoints" / str(step))
    intact = 80 if damaged == [100] else 60
    child = Child(tmp_path, train, flags_of(workdir, **{"train.num_steps": END}))
    assert child.wait() == 0, child.stderr
    said = child.stderr.splitlines()
    assert len(said) == len(damaged)
    for line, step in zip(said, reversed(damaged), strict=True):
        assert line.startswith(f"warning: {workdir}/checkpoints/{step}: missing or damaged part: ")
        assert line.endswith(f"; going on from step {intact}")
    assert child.stdout == f"resuming from step {intact} of {END}\n"
    aside = workdir / "checkpoints_damaged"
    assert sorted(path.name for path in aside.iterdir()) == sorted(f"{s}.0" for s in damaged)
    whole.assert_equals(workdir, END)


def test_a_checkpoint_that_is_damaged_again_is_set_aside_again(whole, tmp_path):
    workdir = whole.copy_of(tmp_path, 60, 80)
    flags = flags_of(workdir, **{"train.num_steps": 80})
    for _ in range(2):
        flip(workdir / "checkpoints" / "80")
        child = Child(tmp_path, train, flags)
        assert child.wait() == 0, child.stderr
    aside = workdir / "checkpoints_damaged"
    assert sorted(path.name for path in aside.iterdir()) == ["80.0", "80.1"]
    whole.assert_equals(workdir, 80)


def test_readers_pass_over_a_damaged_checkpoint_and_move_nothing(whole, tmp_path):
    workdir = whole.copy_of(tmp_path, 60, 80)
    flip(workdir / "checkpoints" / "80")
    before = snapshot(workdir)
    with pytest.warns(UserWarning, match="missing or damaged part: .*; going on from step 60"):
        _, state = restore(str(workdir))
    assert int(state.step) == 60
    assert snapshot(workdir) == before


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, os.strerror(errno.EIO)),
        MemoryError("too much"),
        ValueError("PERMISSION_DENIED: Error opening file"),
        ValueError("UNKNOWN: Error reading file: Input/output error"),
        ValueError("ABORTED: Error opening file: Stale file handle"),
        ValueError("FAILED_PRECONDITION: Error opening file: Device or resource busy"),
        ValueError("RESOURCE_EXHAUSTED: Error opening file: Too many open files"),
    ],
)
def test_what_cannot_be_read_now_is_not_taken_for_damaged(tmp_path, monkeypatch, error):
    state = create_state(jax.random.key(0), jnp.ones(2), theta_optimizer=optax.sgd(0.1))
    with Checkpointer(tmp_path / "checkpoints") as saved:
        saved.save(state)
        saved.wait()
        before = snapshot(tmp_path)

        def fail(self, step):
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(Checkpointer, "_read", fail)
            with pytest.raises(OSError, match="checkpoints/0: cannot be read: "):
                saved.restore_intact(state, set_aside=True)
        assert snapshot(tmp_path) == before
        assert int(saved.restore_intact(state, set_aside=True).step) == 0
