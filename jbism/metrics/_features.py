"""Feature vectors as the metrics of sets of images take them: checked."""

from typing import Any

import numpy as np


def matrix(name: str, x: Any, *, minimum: int = 1) -> np.ndarray:
    """Returns ``x`` as an array [n, d] of finite floats with n >= ``minimum``, d >= 1."""
    x = _finite(name, x, rank=2)
    if len(x) < minimum or x.shape[1] < 1:
        raise ValueError(
            f"{name} must have shape [n, d] with n >= {minimum} and d >= 1, got {x.shape}"
        )
    return x


def pair(
    name: str, x: Any, other_name: str, other: Any, *, minimum: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Returns two matrices whose rows have one length."""
    x, other = matrix(name, x, minimum=minimum), matrix(other_name, other, minimum=minimum)
    if x.shape[1] != other.shape[1]:
        raise ValueError(
            f"{other_name} must have as many columns as {name}, {x.shape[1]}, got {other.shape[1]}"
        )
    return x, other


def double(name: str, x: Any, *, rank: int) -> np.ndarray:
    """Returns ``x`` as a float64 array of finite numbers."""
    return _finite(name, x, rank=rank).astype(np.float64)


def _finite(name, x, *, rank):
    x = np.asarray(x)  # by way of JAX, it would be rounded to single precision
    if x.dtype.kind != "f" and x.dtype.name != "bfloat16":
        raise TypeError(f"{name} must have a floating dtype, got {x.dtype}")
    if x.ndim != rank:
        raise ValueError(f"{name} must have rank {rank}, got shape {x.shape}")
    finite = np.isfinite(x)
    if not finite.all():
        where = tuple(int(i) for i in np.unravel_index(finite.argmin(), x.shape))
        raise ValueError(f"{name} must be finite, but entry {where} is {x[where]}")
    return x
