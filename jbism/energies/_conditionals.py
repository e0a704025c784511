"""The two conditionals of an energy that has both in closed form."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from jbism.typing import Array, Distribution, Params


def conditionals(energy: nn.Module, theta: Params) -> dict[str, Callable[[Array], Distribution]]:
    """Returns p(h | v) and p(v | h) at θ, named as `jbism.samplers.block_gibbs` takes them.

    Args:
      energy: a module with the methods ``hidden_given_visible`` and ``visible_given_hidden``, such
        as `GaussianRBM`.
      theta: its variables.

    Returns:
      Two functions of ONE v and of ONE h.

    Raises:
      ValueError: if the energy lacks one of the methods.

    Example:
      >>> import jax, jax.numpy as jnp, jbism
      >>> rbm = jbism.energies.GaussianRBM(num_hidden=4)
      >>> theta = rbm.init(jax.random.key(0), jnp.zeros(2), jnp.zeros(4))
      >>> v, h = jbism.samplers.block_gibbs(
      ...     jax.random.key(1), jnp.zeros((100, 2)), num_steps=10, **conditionals(rbm, theta))
      >>> v.shape, h.shape
      ((100, 2), (100, 4))
    """
    names = ("hidden_given_visible", "visible_given_hidden")
    missing = [name for name in names if not hasattr(energy, name)]
    if missing:
        raise ValueError(f"energy must have the method {missing[0]}, got {type(energy).__name__}")
    apply: Any = energy.apply
    return {name: functools.partial(apply, theta, method=name) for name in names}
