"""The 2×2 checkerboard and its exact density."""

import math

import jax
import jax.numpy as jnp

from jbism import _checks
from jbism.typing import Array, Key


def checkerboard(key: Key, num_samples: int) -> Array:
    """Draws from the 2×2 checkerboard on [0, 1]², uniform on its two diagonal cells.

    p(v) = 2 on [0, ½)² and [½, 1)², 0 elsewhere: the data of the GRBM experiments of Bao et al.
    (2020, 2021).

    Args:
      key: random key.
      num_samples: number of points.

    Returns:
      ``[num_samples, 2]`` points.

    Raises:
      ValueError: ``num_samples`` is below 1.

    Example:
      >>> import jax
      >>> import jbism.data
      >>> v = jbism.data.checkerboard(jax.random.key(0), 5)
      >>> jbism.data.checkerboard_log_density(v)
      Array([0.6931472, 0.6931472, 0.6931472, 0.6931472, 0.6931472], dtype=float32)
    """
    num_samples = _checks.integer("num_samples", num_samples, minimum=1)
    key_cell, key_place = jax.random.split(key)
    cell = jax.random.randint(key_cell, (num_samples,), 0, 2).astype(jnp.float32)
    place = jax.random.uniform(key_place, (num_samples, 2), jnp.float32)
    return 0.5 * (cell[:, None] + place)


def checkerboard_log_density(v: Array) -> Array:
    """Returns log p(v) of :func:`checkerboard` in nats: log 2 on the board, -inf off it.

    Args:
      v: ``[..., 2]`` points.

    Returns:
      ``[...]`` log-densities.

    Raises:
      TypeError: ``v`` is not floating.
      ValueError: the last axis of ``v`` is not of size 2.

    Example:
      >>> import jax.numpy as jnp
      >>> import jbism.data
      >>> jbism.data.checkerboard_log_density(jnp.array([[0.2, 0.3], [0.2, 0.7]]))
      Array([0.6931472,      -inf], dtype=float32)
    """
    v = _checks.floating("v", v)
    if v.ndim == 0 or v.shape[-1] != 2:
        raise ValueError(f"v must have shape (..., 2), got {v.shape}")
    inside = jnp.all((v >= 0) & (v < 1), axis=-1)
    diagonal = (v[..., 0] < 0.5) == (v[..., 1] < 0.5)
    return jnp.where(inside & diagonal, math.log(2), -math.inf).astype(v.dtype)
