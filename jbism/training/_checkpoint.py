"""Checkpoints that are verified bit for bit before anything is made of them; all use of orbax."""

import contextlib
import hashlib
import json
import math
import os
import pathlib
import re
import warnings
from collections.abc import Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jbism import _checks
from jbism.training._processes import broadcast, gathered, is_primary, on_primary, place

State = TypeVar("State")


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, or not of the template's structure."""


class DamagedCheckpointError(CheckpointError):
    """A part of a checkpoint is missing, or is not what was written."""


def checkpoint_steps(directory: str | os.PathLike) -> list[int]:
    """Returns the steps of the complete checkpoints in a directory, in order; none if it is absent.

    Example:
      >>> checkpoint_steps("no/such/directory")
      []
    """
    path = pathlib.Path(directory)
    return sorted(ocp.utils.checkpoint_steps(path)) if path.is_dir() else []


class Checkpointer:
    """Saves and restores a training state; each checkpoint carries a digest of its contents.

    The leaves' bytes are stored one after the other, next to a list of their key paths, shapes
    and dtypes and a SHA-256 digest over that list and the bytes. A checkpoint
    becomes visible by one rename, so a process killed in mid-save leaves the former ones usable.

    A leaf sharded over devices is gathered, and restored to wherever the template's is, so a
    checkpoint does not know how many devices wrote it. Of several processes each calls every
    method but ``close``, in the same order; the first alone reads and writes.

    Args:
      directory: where the checkpoints lie, one subdirectory a step; created if absent.
      max_to_keep: how many of the latest checkpoints to keep; None keeps all.
      async_save: write in the background; the state is copied to the host first.
      shared: of several processes, whether all take part; False for what one of them keeps for
        itself.
      clean: remove what saves left behind that were killed; only for one who holds the directory,
        for those of others may be under way.

    Raises:
      ValueError: if ``max_to_keep`` is below 1.

    Example:
      >>> import tempfile, jax.numpy as jnp
      >>> from typing import NamedTuple
      >>> class State(NamedTuple):
      ...     step: jax.Array
      ...     params: dict
      >>> state = State(jnp.int32(7), {"w": jnp.arange(3.0)})
      >>> with tempfile.TemporaryDirectory() as folder, Checkpointer(folder) as checkpointer:
      ...     checkpointer.save(state)
      ...     print(checkpointer.latest_step(), checkpointer.restore(state).params["w"])
      7 [0. 1. 2.]
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        max_to_keep: int | None = 3,
        async_save: bool = True,
        shared: bool = True,
        clean: bool = False,
    ):
        if max_to_keep is not None:
            _checks.integer("max_to_keep", max_to_keep, minimum=1)
        self.directory = pathlib.Path(directory).absolute()
        self._notes: dict[int, dict[str, Any]] = {}  # of checkpoints read so far
        self._shared = shared and jax.process_count() > 1
        self._writer = 0 if shared else jax.process_index()
        self._by_writer(lambda: self._open(max_to_keep, async_save, clean))

    def _by_writer(self, function):
        return on_primary(function) if self._shared else function()

    def _open(self, max_to_keep, async_save, clean):
        self.directory.mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                create=False,
                max_to_keep=max_to_keep,
                enable_async_checkpointing=async_save,
                cleanup_tmp_directories=clean,
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    primary_host=self._writer,
                    active_processes={self._writer},
                    barrier_sync_key_prefix="jbism",
                ),
            ),
        )

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def save(self, state: Any, *, notes: dict[str, Any] | None = None) -> None:
        """Saves ``state`` as the checkpoint of ``int(state.step)``.

        The state's buffers may be donated as soon as this returns.

        Args:
          state: pytree of arrays and typed keys with a scalar integer ``step``.
          notes: JSON values kept beside it, which `notes` returns.

        Raises:
          CheckpointError: if a checkpoint of this or a later step exists already.
          OSError: if it cannot be written; an asynchronous save may say so at the next call.
          TypeError: if a leaf is not an array.
          ValueError: if two leaves have the same key path.
        """
        step = int(state.step)
        self._notes.pop(step, None)
        entries, content = _pack(state)
        self._by_writer(lambda: self._write(step, entries, content, notes or {}))

    def _write(self, step, entries, content, notes):
        latest = self._manager.latest_step()
        if latest is not None and latest >= step:
            raise CheckpointError(
                f"{self.directory}: cannot save step {step}, for step {latest} is already there"
            )
        manifest = {
            "leaves": entries,
            "notes": notes,
            "sha256": _digest(entries, notes, content),
        }
        with self._writing():
            saved = self._manager.save(
                step,
                args=ocp.args.Composite(
                    leaves=ocp.args.StandardSave({"bytes": content}),
                    manifest=ocp.args.JsonSave(manifest),
                ),
            )
        if not saved:
            raise CheckpointError(f"{self.directory}: orbax declined to save step {step}")

    def latest_step(self) -> int | None:
        """Returns the step of the latest complete checkpoint, or None; ends a pending save."""
        return max(self.steps(), default=None)

    def steps(self) -> list[int]:
        """Returns the steps of all complete checkpoints, in order; ends a pending save."""

        def steps():
            self._finish()
            return sorted(self._manager.all_steps())

        return self._by_writer(steps)

    def notes(self, step: int) -> dict[str, Any]:
        """Returns what `save` was given beside the state of ``step``.

        Raises:
          CheckpointError: as `restore`.
        """
        if step not in self._notes:
            self._content(step)
        return self._notes[step]

    def restore(self, template: State, step: int | None = None) -> State:
        """Returns the checkpoint of ``step``, verified, in the structure of ``template``.

        Args:
          template: pytree of arrays or ``jax.ShapeDtypeStruct`` (``jax.eval_shape`` of the
            state's constructor). A leaf goes where the template's is committed, a numpy leaf
            stays one.
          step: which checkpoint; the latest by default.

        Returns:
          The state that was saved, equal to the bit.

        Raises:
          DamagedCheckpointError: if any part of it is missing or damaged.
          CheckpointError: if there is no such checkpoint, or if a leaf's path, shape or dtype
            differs from the template's.
          OSError: if it cannot be read for a reason that says nothing of its content.
        """
        if step is None:
            step = self.latest_step()
        else:
            step = _checks.integer("step", step, minimum=0)
        if step is None:
            raise CheckpointError(f"{self.directory}: no checkpoint")
        entries, content = self._content(step)
        return _assemble(self.directory / str(step), _unpack(entries, content), template)

    def restore_intact(self, template: State, *, set_aside: bool = False) -> State | None:
        """Returns the latest checkpoint that is not damaged, as `restore`; None without any.

        Each damaged one that is passed over is named in a warning.

        Args:
          template: see `restore`.
          set_aside: move those passed over to a directory beside this one, ``NAME_damaged``, so
            that their steps can be saved again.

        Raises:
          CheckpointError: if all are damaged, or the template differs.
        """
        damaged: list[tuple[int, DamagedCheckpointError]] = []
        for step in reversed(self.steps()):
            try:
                state = self.restore(template, step)
            except DamagedCheckpointError as error:
                damaged.append((step, error))
                continue
            for _, reason in damaged:
                warnings.warn(f"{reason}; going on from step {step}", stacklevel=2)
            if damaged and set_aside:
                self._by_writer(lambda: self._set_aside([step for step, _ in damaged]))
            return state
        if damaged:
            raise CheckpointError(f"no checkpoint is intact; the latest: {damaged[0][1]}")
        return None

    def _set_aside(self, steps):
        target = self.directory.with_name(f"{self.directory.name}_damaged")
        target.mkdir(exist_ok=True)
        for step in steps:
            taken = [int(path.suffix[1:]) for path in target.glob(f"{step}.*")]
            free = max(taken, default=-1) + 1
            (self.directory / str(step)).rename(target / f"{step}.{free}")
        self._manager.reload()

    def _content(self, step: int) -> tuple[list[dict[str, Any]], np.ndarray]:
        """Returns the leaves' list and the verified bytes of a checkpoint, and keeps its notes."""
        if step not in self.steps():
            raise CheckpointError(f"{self.directory}: no checkpoint of step {step}")
        content: list[np.ndarray] = []

        def read():
            try:
                entries, notes, stored = self._read(step)
            except Exception as error:  # orbax, tensorstore and json each raise their own kinds
                if not _tells_damage(error):
                    raise OSError(
                        f"{self.directory / str(step)}: cannot be read: {_reason(error)}"
                    ) from error
                return _reason(error)
            content.append(stored)
            return [entries, notes]

        found = self._by_writer(read)
        if isinstance(found, str):
            raise DamagedCheckpointError(
                f"{self.directory / str(step)}: missing or damaged part: {found}"
            )
        if self._shared:
            stored = broadcast(content[0].tobytes() if is_primary() else b"")
            content = [np.frombuffer(stored, np.uint8)]
        entries, self._notes[step] = found
        return entries, content[0]

    def _read(self, step):
        manifest = self._manager.restore(
            step, args=ocp.args.Composite(manifest=ocp.args.JsonRestore())
        )["manifest"]
        content = self._manager.restore(
            step, args=ocp.args.Composite(leaves=ocp.args.StandardRestore())
        )["leaves"]["bytes"]
        entries, notes = manifest["leaves"], manifest.get("notes", {})
        if _digest(entries, notes, content) != manifest["sha256"]:
            raise ValueError("the SHA-256 digest does not match the contents")
        return entries, notes, content

    def wait(self) -> None:
        """Returns when a pending save is complete; raises the error it failed with, if any."""
        self._by_writer(self._finish)

    def _finish(self):
        with self._writing():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Makes one kind of the errors of orbax and tensorstore, and names the directory."""
        try:
            yield
        except Exception as error:
            raise OSError(f"{self.directory}: cannot be written: {_reason(error)}") from error

    def close(self) -> None:
        """Completes a pending save and releases the background threads."""
        if jax.process_index() == self._writer:
            self._manager.close()


def _tells_damage(error: Exception) -> bool:
    """Whether an error of reading tells of what is stored, rather than of the attempt."""
    if isinstance(error, OSError):
        return isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError))
    # Tensorstore has the system's errors as others, with a code before the message.
    code = re.match("[A-Z]+(?:_[A-Z]+)*(?=: )", str(error))
    told = code is None or code[0] in ("NOT_FOUND", "DATA_LOSS", "INVALID_ARGUMENT", "OUT_OF_RANGE")
    return told and not isinstance(error, MemoryError)


def _reason(error):
    """Returns the kind of an error and its message, short of what tensorstore tells of itself."""
    line = re.split(r" \[(?:tensorstore_spec|source)", (str(error).splitlines() or [""])[0])[0]
    if len(line) > 400:  # paths come first, and the cause last
        line = f"{line[:200]} ... {line[-200:]}"
    return f"{type(error).__name__}: {line}"


def _by_path(tree):
    """Returns the leaves of ``tree`` by their key paths, in order, and its structure."""
    paths_and_leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in paths_and_leaves}
    if len(leaves) < len(paths_and_leaves):
        raise ValueError("state has two leaves with the same key path")
    return leaves, structure


def _pack(state):
    """Returns the list of the leaves' paths, shapes and dtypes, and a copy of their bytes."""
    entries, pieces = [], []
    for path, leaf in _by_path(state)[0].items():
        if not isinstance(leaf, (jax.Array, np.ndarray)):
            raise TypeError(f"state{path} must be an array, got {type(leaf).__name__}")
        generator = None
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            generator = jax.random.key_impl(leaf)
            leaf = jax.random.key_data(leaf)
        entries.append(
            {
                "path": path,
                "shape": list(leaf.shape),
                "dtype": leaf.dtype.name,
                "generator": generator,
            }
        )
        pieces.append(gathered(leaf).reshape(-1).view(np.uint8))
    # The pieces may be views of CPU buffers that the next training step overwrites. One array,
    # for orbax refuses arrays without elements and leaves reads behind when one of many fails.
    return entries, np.concatenate(pieces)


def _unpack(entries, content):
    """Inverse of `_pack`: the leaves by their paths."""
    leaves, start = {}, 0
    for entry in entries:
        dtype = jnp.dtype(entry["dtype"])
        end = start + math.prod(entry["shape"]) * dtype.itemsize
        leaf = content[start:end].copy().view(dtype).reshape(entry["shape"])
        if entry["generator"] is not None:
            leaf = jax.random.wrap_key_data(jnp.asarray(leaf), impl=entry["generator"])
        leaves[entry["path"]] = leaf
        start = end
    return leaves


def _digest(entries: list[dict[str, Any]], notes: dict[str, Any], content: np.ndarray) -> str:
    digest = hashlib.sha256(json.dumps(entries).encode())
    digest.update(content.data)
    if notes:  # checkpoints of earlier versions have none
        digest.update(json.dumps(notes).encode())
    return digest.hexdigest()


def _assemble(where, stored, template):
    """Puts the stored leaves into the template's structure, or names the first that differs."""
    expected, structure = _by_path(template)
    for path in [*expected, *(path for path in stored if path not in expected)]:
        ours = _describe(stored.get(path))
        wanted = _describe(expected.get(path))
        if ours != wanted:
            raise CheckpointError(f"{where}: state{path} is {ours}, the template has {wanted}")
    return jax.tree.unflatten(
        structure, [_place(stored[path], leaf) for path, leaf in expected.items()]
    )


def _describe(leaf):
    if leaf is None:
        return "absent"
    if not hasattr(leaf, "dtype"):
        return type(leaf).__name__
    return f"{leaf.dtype.name}{list(leaf.shape)}"


def _place(value, leaf):
    if isinstance(leaf, np.ndarray):
        return value
    follow = isinstance(leaf, jax.ShapeDtypeStruct) or leaf.committed
    return place(value, leaf.sharding if follow else None)
