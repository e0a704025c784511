"""Block Gibbs sampling."""

from collections.abc import Callable

import jax

from jbism import _checks, _layout, _random
from jbism.typing import Array, Distribution, Key, Latent


def block_gibbs(
    key: Key,
    v: Array,
    *,
    hidden_given_visible: Callable[[Array], Distribution],
    visible_given_hidden: Callable[[Latent], Distribution],
    num_steps: int,
) -> tuple[Array, Latent]:
    """Alternates h ~ p(h | v) and v ~ p(v | h), one chain an example.

    Args:
      key: random key.
      v: where the chains start, [chains, *event].
      hidden_given_visible: maps ONE v to p(h | v).
      visible_given_hidden: maps ONE h to p(v | h).
      num_steps: pairs of draws, at least 1.

    Returns:
      v after the last step, [chains, *event], and the h that it was drawn from.

    Raises:
      ValueError: if num_steps < 1, v has no chain axis, or samples have not the shape of v.
      TypeError: if v is not floating.

    Example:
      >>> import functools, jax, jax.numpy as jnp, jbism
      >>> rbm = jbism.energies.GaussianRBM(num_hidden=4)
      >>> theta = rbm.init(jax.random.key(0), jnp.zeros(2), jnp.zeros(4))
      >>> conditional = functools.partial(rbm.apply, theta)
      >>> v, h = block_gibbs(
      ...     jax.random.key(1), jnp.zeros((100, 2)), num_steps=10,
      ...     hidden_given_visible=functools.partial(conditional, method="hidden_given_visible"),
      ...     visible_given_hidden=functools.partial(conditional, method="visible_given_hidden"))
      >>> v.shape, h.shape
      ((100, 2), (100, 4))
    """
    _checks.integer("num_steps", num_steps, minimum=1)
    v = _checks.batched("v", v)

    def one_chain(chain_key, v):
        key_h, key_v = _random.split(chain_key)
        h = hidden_given_visible(v).sample(key_h)
        return visible_given_hidden(h).sample(key_v), h

    def step(v, step_key):
        keys = _layout.follow(_random.split(step_key, v.shape[0]), v)
        return jax.vmap(one_chain)(keys, v)

    key_first, key_rest = _random.split(key)
    state = step(v, key_first)
    _checks.same_shape("a sample of visible_given_hidden", state[0], "v", v)
    keys = _random.split(key_rest, num_steps - 1)
    state, _ = jax.lax.scan(lambda state, k: (step(state[0], k), None), state, keys)
    return state
