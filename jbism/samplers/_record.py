"""Watching a chain without disturbing it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jbism import _checks
from jbism.typing import Array


def record(
    chain: Callable[..., Any],
    x: Any,
    temperatures: Array,
    *,
    every: int,
    observe: Callable[[Any], Any] | None = None,
    start: int | Array = 0,
) -> tuple[Any, Any]:
    """Runs chains and keeps what they look like every so many steps.

    x_i = chain(x_{i-1}, the next ``every`` temperatures), frame i = observe(x_i), i = 1, 2, ...;
    steps that remain after the last frame are taken too. Since the noise of `langevin` and its
    latent forms is a function of the key and the step, the chains go where they would have gone
    in one call. One `lax.scan`, so it may be jitted and differentiated, and memory holds the
    frames alone.

    Args:
      chain: ``(x, temperatures, start=...) -> x``, such as `langevin` with all else given.
      x: where the chains start, of the structure that chain returns.
      temperatures: of each step, [num_steps].
      every: steps from one frame to the next, from 1 to num_steps.
      observe: maps x to a frame, a pytree of arrays; None keeps x itself.
      start: the number of steps that went before; may be traced.

    Returns:
      x after the last step, and the frames, each leaf [num_steps // every, ...].

    Raises:
      ValueError: if every is not from 1 to num_steps, temperatures is not a vector, or start is
        negative.
      TypeError: if every or start is not an integer, or chain or observe is no function.

    Example:
      >>> import functools, jax, jax.numpy as jnp
      >>> from jbism.samplers import langevin, langevin_joint
      >>> chain = functools.partial(langevin, jax.random.key(0), step_size=1.0,
      ...                           energy=lambda x: 0.5 * jnp.sum(x**2))
      >>> x, frames = record(chain, jnp.ones((1, 1)), jnp.zeros(5), every=2)
      >>> frames.ravel().tolist(), x.tolist()
      ([0.25, 0.0625], [[0.03125]])

      Of (v, h) only v, where ``langevin_joint`` takes the pair apart:

      >>> energy = lambda theta, v, h: 0.5 * theta * jnp.sum((v - h) ** 2)
      >>> def joint(x, temperatures, start):
      ...     return langevin_joint(jax.random.key(0), 1.0, *x, temperatures, start=start,
      ...                           energy=energy, step_size=1.0)
      >>> (v, h), frames = record(joint, (jnp.ones((4, 1)), jnp.zeros((4, 1))), jnp.ones(10),
      ...                         every=5, observe=lambda x: x[0])
      >>> frames.shape
      (2, 4, 1)
    """
    _checks.function("chain", chain)
    if observe is not None:
        _checks.function("observe", observe)
    temperatures = _checks.rank("temperatures", temperatures, 1)
    num_steps = temperatures.shape[0]
    if _checks.integer("every", every, minimum=1) > num_steps:
        raise ValueError(f"every must be at most the number of steps, {num_steps}, got {every}")
    start = _checks.count("start", start)
    num_frames = num_steps // every
    watched = num_frames * every

    def piece(x, inputs):
        temperatures, offset = inputs
        x = chain(x, temperatures, start=start + offset)
        return x, x if observe is None else observe(x)

    pieces = temperatures[:watched].reshape(num_frames, every)
    x, frames = jax.lax.scan(piece, x, (pieces, every * jnp.arange(num_frames)))
    if watched < num_steps:
        x = chain(x, temperatures[watched:], start=start + watched)
    return x, frames
