"""Mirrored images."""

import jax
import jax.numpy as jnp

from jbism import _checks
from jbism.typing import Array, Key


def random_flip(key: Key, v: Array) -> Array:
    """Mirrors each image left to right with probability 1/2.

    Args:
      key: random key.
      v: images [batch, height, width, channels].

    Returns:
      As many images of the same dtype.

    Raises:
      ValueError: if v is not of that rank.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jbism.data
      >>> v = jnp.tile(jnp.arange(3.0), 100).reshape(100, 1, 3, 1)
      >>> flipped = jbism.data.random_flip(jax.random.key(0), v)
      >>> sorted(set(map(tuple, flipped.reshape(100, 3).tolist())))
      [(0.0, 1.0, 2.0), (2.0, 1.0, 0.0)]
    """
    v = _checks.rank("v", v, 4)
    mirrored = jax.random.bernoulli(key, 0.5, v.shape[:1])
    return jnp.where(mirrored[:, None, None, None], v[:, :, ::-1], v)
