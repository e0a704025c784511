"""Long chains in compiled pieces, whose state is kept so that a killed report goes on from it."""

import contextlib
import hashlib
import itertools
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from jbism.training import Checkpointer, CheckpointError, lock_workdir

FOLDER = "chains"  # in the work directory
SAVE_EVERY = 60.0  # seconds of work that a kill may cost
CHUNK = 100  # steps a dispatch, at most


class _Kept(NamedTuple):
    """What is stored of chains."""

    step: np.ndarray  # the steps they have taken
    x: Any


class ChainStore:
    """The chains of one report, kept in ``workdir/chains/name`` until it is complete.

    Used as a context, which ends as the report is complete: the folder is then removed. An
    error or a kill leaves it to the next call. Without a work directory nothing is kept. Of several
    processes the one that draws the report keeps its chains.

    Raises:
      WorkdirError: as a context, if another process is at a report of this name.
    """

    def __init__(self, workdir: pathlib.Path | None = None, name: str = "report"):
        self._folder = None if workdir is None else workdir / FOLDER / name

    def __enter__(self):
        self._held = contextlib.ExitStack()
        if self._folder is not None:
            self._held.enter_context(lock_workdir(self._folder))
        return self

    def __exit__(self, kind, error, traceback):
        with self._held:
            if self._folder is None:
                return
            if kind is None:
                shutil.rmtree(self._folder)
            for folder in (self._folder, self._folder.parent):
                with contextlib.suppress(OSError):  # not empty, or not there
                    folder.rmdir()

    def run(
        self,
        piece: Callable[[Any, int, int], Any],
        x: Any,
        num_steps: int,
        title: str,
        *,
        of: Any,
        num_pieces: int | None = None,
        progress: bool = False,
    ) -> Any:
        """Takes chains through all their steps, from where a former call was killed.

        As pieces are the same each time, so is the result, to the bit.

        Args:
          piece: ``(x, start, length) -> x``, the steps from ``start`` on.
          x: where the chains start, a pytree of arrays.
          num_steps: all their steps.
          title: their name, which no others in the report have.
          of: what else they depend on, a pytree of arrays, keys, numbers and strings. What was
            kept of chains that differ in x, num_steps, num_pieces or this is removed.
          num_pieces: how many there are; their lengths differ by a step at most. By default as few
            as have `CHUNK` steps at most.
          progress: show a progress bar.

        Returns:
          x after the last step.
        """
        saved, start = None, 0
        ends = piece_ends(num_steps, num_pieces or max(1, -(-num_steps // CHUNK)))
        if self._folder is not None:
            folder = self._folder / _slug(title) / _digest((x, ends, of))
            saved, start, x = _open(folder, x, title, num_steps)
        since = time.monotonic()
        with saved or contextlib.nullcontext():
            for step, length in _pieces(start, ends, title, progress):
                # The bar shows what is done, not what is queued.
                x = jax.block_until_ready(piece(x, step, length))
                done = step + length
                if saved and (done == num_steps or time.monotonic() - since >= SAVE_EVERY):
                    saved.save(_Kept(np.asarray(done), x))
                    since = time.monotonic()
        return x


def piece_ends(num_steps: int, num_pieces: int) -> list[int]:
    """Returns where pieces begin, and the last one ends: 0, ..., ``num_steps``."""
    return [num_steps * i // num_pieces for i in range(num_pieces + 1)]


def _open(folder, x, title, num_steps):
    """Returns the store of these chains, the steps that they have taken, and where they are."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for other in folder.parent.iterdir():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    saved = Checkpointer(folder, max_to_keep=1, async_save=False, shared=False)
    if saved.latest_step() is None:
        return saved, 0, x
    try:
        kept = saved.restore(_Kept(np.asarray(0), x))
    except CheckpointError as error:
        print(f"{title}: starting anew, for what was kept is damaged: {error}", flush=True)
        saved.close()
        shutil.rmtree(folder)
        return Checkpointer(folder, max_to_keep=1, async_save=False, shared=False), 0, x
    print(f"{title}: resuming from step {kept.step:,} of {num_steps:,}", flush=True)
    return saved, int(kept.step), kept.x


def _pieces(start: int, ends: list[int], title: str, progress: bool) -> Iterator[tuple[int, int]]:
    """Yields the first step and the number of steps of each piece, under a progress bar."""
    with tqdm.tqdm(
        total=ends[-1], initial=start, desc=title, unit="step", disable=not progress
    ) as bar:
        for step, end in itertools.pairwise(ends):
            if step >= start:
                yield step, end - step
                bar.update(end - step)


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _digest(tree: Any) -> str:
    leaves, structure = jax.tree.flatten(tree)
    digest = hashlib.sha256(str(structure).encode())
    for leaf in leaves:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if isinstance(leaf, (jax.Array, np.ndarray)):
            digest.update(f"{leaf.dtype}{leaf.shape}".encode())
            digest.update(np.asarray(leaf).tobytes())
        else:
            digest.update(f"{leaf!r};".encode())
    return digest.hexdigest()
