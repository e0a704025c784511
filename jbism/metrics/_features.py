"""Feature vectors as the metrics of sets of images take them: checked, in double precision."""

from typing import Any

import numpy as np


def matrix(name: str, x: Any, *, minimum: int = 1) -> np.ndarray:
    """Returns ``x`` as a float64 array [n, d] of finite numbers with n >= ``minimum``, d >= 1."""
    x = real(name, x, rank=2)
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


def real(name: str, x: Any, *, rank: int) -> np.ndarray:
    """Returns ``x`` as a float64 array of finite numbers.

    A conversion by way of JAX would round to single precision.
    """
    x = np.asarray(x)
    if x.dtype.kind not in "f" and x.dtype.name != "bfloat16":
        raise TypeError(f"{name} must have a floating dtype, got {x.dtype}")
    if x.ndim != rank:
        raise ValueError(f"{name} must have rank {rank}, got shape {x.shape}")
    finite = np.isfinite(x)
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise ValueError(f"{name} must be finite, but entry {where} is {x[where]}")
    return x.astype(np.float64)
