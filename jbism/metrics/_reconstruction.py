"""How far reconstructions are from their originals."""

from typing import NamedTuple

import jax.numpy as jnp

from jbism import _checks
from jbism.typing import Array


class ReconstructionError(NamedTuple):
    """Two conventions that are often mistaken for one another."""

    root_mean_squared_error: Array  # over examples and dimensions, in the units of v
    summed_squared_error: Array  # summed over dimensions, mean over examples, in units of v²


def reconstruction_error(originals: Array, reconstructed: Array) -> ReconstructionError:
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
    originals = _checks.batched("originals", originals)
    reconstructed = _checks.batched("reconstructed", reconstructed)
    _checks.same_shape("reconstructed", reconstructed, "originals", originals)
    squares = (originals - reconstructed) ** 2
    return ReconstructionError(
        jnp.sqrt(jnp.mean(squares)), jnp.sum(squares) / originals.shape[0]
    )
