"""What the processes of one run agree on; a lone process agrees with itself at no cost."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_PIECE = 2**26  # bytes broadcast at once


class ProcessError(RuntimeError):
    """Another process of the run failed at something that it does for all."""


def is_primary() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def on_primary(function: Callable[[], Any]) -> Any:
    """Calls a function in the process that writes, and returns in all what it returned.

    Every process has to call this, in the same order.

    Args:
      function: returns a JSON value.

    Raises:
      ProcessError: where the function was not called, if it raised.
      Exception: what it raised, where it was called.
    """
    if jax.process_count() == 1:
        return function()
    if not is_primary():
        result, failure = json.loads(broadcast(b""))
        if failure is not None:
            raise ProcessError(f"process 0: {failure}")
        return result
    try:
        said = json.dumps([function(), None])
    except BaseException as error:
        broadcast(json.dumps([None, f"{type(error).__name__}: {error}"]).encode())
        raise
    broadcast(said.encode())
    return json.loads(said)[0]


def broadcast(content: bytes) -> bytes:
    """Returns the bytes that the process that writes has, in every process."""
    if jax.process_count() == 1:
        return content
    # Without x64 an integer has 32 bits, and a piece is on every device at once.
    high, low = multihost_utils.broadcast_one_to_all(
        np.array(divmod(len(content), 2**32), np.uint32)
    )
    size, own = int(high) * 2**32 + int(low), np.frombuffer(content, np.uint8)
    pieces = []
    for start in range(0, size, _PIECE):
        end = min(start + _PIECE, size)
        piece = own[start:end] if is_primary() else np.zeros(end - start, np.uint8)
        pieces.append(np.asarray(multihost_utils.broadcast_one_to_all(piece), np.uint8).tobytes())
    return b"".join(pieces)


def any_process(flag: bool) -> bool:
    """Returns whether the flag is set in any process. Every process has to call this."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def gathered(leaf: Any) -> np.ndarray:
    """Returns an array as NumPy's, from wherever its parts are."""
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)


def place(tree: Any, sharding: Any) -> Any:
    """Puts a tree that every process has whole where a sharding, or a tree of such, says."""
    shardings = jax.tree.leaves(sharding)
    if all(x.is_fully_addressable for x in shardings):
        return jax.device_put(tree, sharding)
    return jax.jit(lambda tree: tree, out_shardings=sharding)(tree)
