"""How far reconstructions are from their originals."""

from typing import NamedTuple

import jax.numpy as jnp

from jbism import _checks
from jbism.typing import Array, ArrayLike


class ReconstructionError(NamedTuple):
    """Two conventions that are often mistaken for one another."""

    root_mean_squared_error: Array  # over examples and dimensions, in the units of v
    summed_squared_error: Array  # summed over dimensions, mean over examples, in units of v²


def reconstruction_error(originals: ArrayLike, reconstructed: ArrayLike) -> ReconstructionError:
    """Compares reconstructions with their originals.

    Args:
      originals: v, [n, *event].
      reconstructed: [n, *event].

    Returns:
      A `ReconstructionError` of scalars.

    Raises:
      ValueError: if the shapes differ or there is no example.

    Example:
      >>> import jax.numpy as jnp
      >>> error = reconstruction_error(jnp.zeros((3, 4)), jnp.full((3, 4), 0.5))
      >>> float(error.root_mean_squared_error), float(error.summed_squared_error)
      (0.5, 1.0)
    """
    v = _checks.batched("originals", originals)
    approximation = _checks.batched("reconstructed", reconstructed)
    _checks.same_shape("reconstructed", approximation, "originals", v)
    squares = (v - approximation) ** 2
    return ReconstructionError(jnp.sqrt(jnp.mean(squares)), jnp.sum(squares) / v.shape[0])
