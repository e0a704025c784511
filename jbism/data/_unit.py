"""From stored pixels to the numbers that models see."""

import jax
import jax.numpy as jnp
import numpy as np


def to_unit(v: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """Returns stored examples as floats: uint8 pixels as v / 255 in [0, 1], floats unchanged.

    Images are stored as uint8, a quarter of the memory of float32, and converted where they are
    used: inside of a jitted step for a batch, or by :meth:`jbism.data.Dataset.examples`.

    Args:
      v: uint8 or floating array of any shape; a NumPy array stays one.

    Returns:
      float32 of the same shape for uint8, ``v`` itself for floats.

    Raises:
      TypeError: another dtype.

    Example:
      >>> import numpy as np
      >>> import jbism.data
      >>> jbism.data.to_unit(np.array([0, 51, 255], np.uint8))
      array([0. , 0.2, 1. ], dtype=float32)
    """
    if not isinstance(v, np.ndarray):
        v = jnp.asarray(v)
    if v.dtype == np.uint8:
        return v.astype(np.float32) / np.float32(255)
    if jnp.issubdtype(v.dtype, jnp.floating):
        return v
    raise TypeError(f"v must have dtype uint8 or a floating dtype, got {v.dtype}")
