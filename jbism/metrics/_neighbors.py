"""Nearest neighbours, by looking at all of them."""

from typing import NamedTuple

import numpy as np

from jbism import _checks
from jbism.metrics._features import pair
from jbism.typing import ArrayLike


class Neighbors(NamedTuple):
    """The nearest references of each query, nearest first."""

    indices: np.ndarray  # [n, k], rows of the references
    distances: np.ndarray  # [n, k], Euclidean, float64


def nearest_neighbors(
    queries: ArrayLike, references: ArrayLike, *, k: int = 1, block_size: int = 1_024
) -> Neighbors:
    """Finds the k nearest references of each query, in Euclidean distance.

    All pairs are compared, in blocks. In NumPy's double precision; a copy is at distance 0, and of
    several copies the first comes first.

    Args:
      queries: [n, d].
      references: [m, d].
      k: from 1 to m.
      block_size: number of queries and of references compared at a time, which bounds the memory.

    Returns:
      `Neighbors`.

    Raises:
      TypeError: if an argument is not floating.
      ValueError: if shapes do not fit, a value is not finite, or there are fewer than k references.

    Example:
      >>> import numpy as np
      >>> references = np.array([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]])
      >>> nearest = nearest_neighbors(np.zeros((1, 2)), references, k=3)
      >>> nearest.indices.tolist(), nearest.distances.tolist()
      ([[0, 2, 1]], [[0.0, 1.0, 5.0]])
    """
    points, others = pair("queries", queries, "references", references)
    k = _checks.integer("k", k, minimum=1)
    block_size = _checks.integer("block_size", block_size, minimum=1)
    if k > len(others):
        raise ValueError(f"k must be at most the number of references, {len(others)}, got {k}")
    # The expanded square below loses least where the vectors are short.
    center = others.mean(0, dtype=np.float64)
    found = [
        _nearest(points[start : start + block_size] - center, others, center, k, block_size)
        for start in range(0, len(points), block_size)
    ]
    indices, distances = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Neighbors(indices, distances)


def _nearest(points, others, center, k, block_size):
    """Returns indices and distances of points less the centre, in double precision."""
    indices: np.ndarray = np.empty((len(points), 0), np.int64)
    gaps: np.ndarray = np.empty((len(points), 0))  # squared distance less the point's own square
    for start in range(0, len(others), block_size):
        block = others[start : start + block_size] - center
        fresh = np.sum(block**2, axis=1)[None] - 2 * points @ block.T
        numbers = np.broadcast_to(np.arange(start, start + len(block)), fresh.shape)
        gaps, indices = np.hstack([gaps, fresh]), np.hstack([indices, numbers])
        if gaps.shape[1] > k:
            best = np.argsort(gaps, axis=1, kind="stable")[:, :k]
            gaps, indices = (np.take_along_axis(x, best, axis=1) for x in (gaps, indices))
    distances = np.stack(
        [np.linalg.norm(points - (others[column] - center), axis=1) for column in indices.T], axis=1
    )
    order = np.lexsort((indices, distances), axis=1)
    return tuple(np.take_along_axis(x, order, axis=1) for x in (indices, distances))
