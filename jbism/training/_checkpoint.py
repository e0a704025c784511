"""Checkpoints that are verified bit for bit before anything is made of them; all use of orbax."""

import hashlib
import json
import math
import os
import pathlib
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jbism import _checks

State = TypeVar("State")


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, or not of the template's structure."""


class Checkpointer:
    """Saves and restores a training state; each checkpoint carries a digest of its contents.

    The leaves' bytes are stored one after the other, next to a list of their key paths, shapes
    and dtypes and a SHA-256 digest over that list and the bytes. A checkpoint
    becomes visible by one rename, so a process killed in mid-save leaves the former ones usable.
    One process writes; a leaf sharded over devices is gathered.

    Args:
      directory: where the checkpoints lie, one subdirectory a step; created if absent.
      max_to_keep: how many of the latest checkpoints to keep; None keeps all.
      async_save: write in the background; the state is copied to the host first.

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
    ):
        if max_to_keep is not None:
            _checks.integer("max_to_keep", max_to_keep, minimum=1)
        self.directory = pathlib.Path(directory).absolute()
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=max_to_keep, enable_async_checkpointing=async_save
            ),
        )

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def save(self, state: Any) -> None:
        """Saves ``state`` as the checkpoint of ``int(state.step)``.

        The state's buffers may be donated as soon as this returns.

        Args:
          state: pytree of arrays and typed keys with a scalar integer ``step``.

        Raises:
          CheckpointError: if a checkpoint of this or a later step exists already.
          TypeError: if a leaf is not an array.
          ValueError: if two leaves have the same key path.
        """
        step = int(state.step)
        latest = self._manager.latest_step()
        if latest is not None and latest >= step:
            raise CheckpointError(
                f"{self.directory}: cannot save step {step}, for step {latest} is already there"
            )
        entries, content = _pack(state)
        saved = self._manager.save(
            step,
            args=ocp.args.Composite(
                leaves=ocp.args.StandardSave({"bytes": content}),
                manifest=ocp.args.JsonSave(
                    {"leaves": entries, "sha256": _digest(entries, content)}
                ),
            ),
        )
        if not saved:
            raise CheckpointError(f"{self.directory}: orbax declined to save step {step}")

    def latest_step(self) -> int | None:
        """Returns the step of the latest complete checkpoint, or None; ends a pending save."""
        self.wait()
        return self._manager.latest_step()

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
          CheckpointError: if there is no such checkpoint, if any part of it is missing or
            damaged, or if a leaf's path, shape or dtype differs from the template's.
        """
        latest = self.latest_step()
        step = latest if step is None else step
        if step is None:
            raise CheckpointError(f"{self.directory}: no checkpoint")
        if step not in self._manager.all_steps():
            raise CheckpointError(f"{self.directory}: no checkpoint of step {step}")
        where = self.directory / str(step)
        try:
            stored = self._read(step)
        except Exception as error:  # orbax, tensorstore and json each raise their own kinds
            reason = (str(error).splitlines() or [""])[0][:200]
            raise CheckpointError(
                f"{where}: missing or damaged part: {type(error).__name__}: {reason}"
            ) from error
        return _assemble(where, stored, template)

    def _read(self, step: int) -> dict[str, Any]:
        """Returns the leaves of a checkpoint by their paths, or raises whatever goes wrong."""
        manifest = self._manager.restore(
            step, args=ocp.args.Composite(manifest=ocp.args.JsonRestore())
        )["manifest"]
        content = self._manager.restore(
            step, args=ocp.args.Composite(leaves=ocp.args.StandardRestore())
        )["leaves"]["bytes"]
        if _digest(manifest["leaves"], content) != manifest["sha256"]:
            raise ValueError("the SHA-256 digest does not match the contents")
        return _unpack(manifest["leaves"], content)

    def wait(self) -> None:
        """Returns when a pending save is complete; raises the error it failed with, if any."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Completes a pending save and releases the background threads."""
        self._manager.close()


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
        pieces.append(np.asarray(leaf).reshape(-1).view(np.uint8))
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


def _digest(entries: list[dict[str, Any]], content: np.ndarray) -> str:
    digest = hashlib.sha256(json.dumps(entries).encode())
    digest.update(content.data)
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
    return jax.device_put(value, leaf.sharding if follow else None)
