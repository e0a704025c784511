"""Temperature schedules for annealed sampling."""

import jax.numpy as jnp
import numpy as np

from jbism import _checks
from jbism.typing import Array


def annealing_schedule(
    *,
    hot_steps: int = 500,
    annealed_steps: int = 2_000,
    cool_steps: int = 200,
    hot: float = 100.0,
) -> Array:
    """Temperatures that stay hot, fall geometrically to 1, then linearly to 0.

    The defaults are the published settings of annealed Langevin sampling (Li et al., 2019; Bao et
    al., 2020). Both falling parts include their ends, so the very last step adds no noise.

    Args:
      hot_steps: steps at T = hot.
      annealed_steps: steps from hot to 1, each temperature the same fraction of the one before.
      cool_steps: steps from 1 to 0, each temperature lower by the same amount.
      hot: the first temperature, above 0.

    Returns:
      Temperatures [hot_steps + annealed_steps + cool_steps].

    Raises:
      ValueError: if a number of steps is negative, all are zero, or hot is not positive.

    Example:
      >>> annealing_schedule(hot_steps=1, annealed_steps=3, cool_steps=3, hot=100.0).tolist()
      [100.0, 100.0, 10.0, 1.0, 1.0, 0.5, 0.0]
    """
    hot = _checks.positive("hot", hot)
    counts = {"hot_steps": hot_steps, "annealed_steps": annealed_steps, "cool_steps": cool_steps}
    for name, value in counts.items():
        _checks.integer(name, value, minimum=0)
    if sum(counts.values()) == 0:
        raise ValueError("hot_steps, annealed_steps and cool_steps must not all be 0")
    return jnp.asarray(
        np.concatenate(
            [
                np.full(hot_steps, hot),
                np.geomspace(hot, 1.0, annealed_steps),
                np.linspace(1.0, 0.0, cool_steps),
            ]
        )
    )
