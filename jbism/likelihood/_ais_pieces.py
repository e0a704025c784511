"""Annealed importance sampling in pieces: chains under way, and what carries them on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jbism import _checks, _layout, _random
from jbism.typing import Array, Key


class AISState(NamedTuple):
    """Chains of annealed importance sampling under way, arrays that may be stored."""

    step: Array  # int32 scalar, the temperatures that the chains have come through
    key: Key  # the randomness of step k is a function of (key, k)
    chains: Any  # a pytree, each leaf [chains, ...]
    log_weights: Array  # [chains], so far
    pilot: Any = None  # of `ais_hmc`, the chains that tune its step sizes, and these


@dataclass(frozen=True)
class AISPieces:
    """An estimate by annealed importance sampling that may be interrupted.

    ``finish(advance(... advance(init(key), n) ..., m))`` is what the one call returns. All are pure
    functions, to be jitted: one compiled ``advance`` takes any number of steps, so that wherever
    the run is cut the result is the same to the bit (the one call, compiled apart, may round
    otherwise). A stored `AISState` is carried on by pieces made anew of the same arguments.

    Attributes:
      num_steps: transitions in all, one fewer than there are temperatures.
      init: ``key -> state``, samples of the base.
      walk: ``(state, num_steps) -> state``, any number of steps; `advance` ends at the last one.
      summarize: ``state -> result``; `finish` makes sure that the chains are at their end.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jbism.likelihood import ais_gaussian_rbm, ais_gaussian_rbm_pieces
      >>> options = {"weights": 0.1 * jnp.ones((3, 2)), "visible_bias": jnp.zeros(3),
      ...            "hidden_bias": jnp.zeros(2), "log_sigma": jnp.zeros(3),
      ...            "num_chains": 100, "num_temperatures": 20}
      >>> pieces = ais_gaussian_rbm_pieces(**options)
      >>> state, advance = pieces.init(jax.random.key(0)), jax.jit(pieces.advance)
      >>> while state.step < pieces.num_steps:
      ...     state = advance(state, 8)  # compiled once; here the state may be stored
      >>> whole = ais_gaussian_rbm(jax.random.key(0), **options)
      >>> bool(jnp.allclose(pieces.finish(state).log_weights, whole.log_weights, atol=1e-5))
      True
    """

    num_steps: int
    init: Callable[[Key], AISState]
    walk: Callable[[AISState, int | Array], AISState]
    summarize: Callable[[AISState], Any]

    def advance(self, state: AISState, num_steps: int | Array) -> AISState:
        """Carries the chains on.

        Args:
          state: where they are.
          num_steps: transitions, fewer where fewer are left; may be traced.

        Returns:
          Where they are then.

        Raises:
          ValueError: if num_steps is negative.
          TypeError: if num_steps is not an integer.
        """
        num_steps = _checks.count("num_steps", num_steps)
        return self.walk(state, jnp.minimum(num_steps, self.num_steps - state.step))

    def finish(self, state: AISState) -> Any:
        """Returns the estimate.

        Args:
          state: the chains at their end.

        Raises:
          ValueError: if they are not there, unless the state is traced.
        """
        if not isinstance(state.step, jax.core.Tracer) and state.step != self.num_steps:
            raise ValueError(f"state must have done {self.num_steps} steps, got {state.step}")
        return self.summarize(state)

    def run(self, key: Key) -> Any:
        """Returns the estimate of all steps at once."""
        return self.finish(self.walk(self.init(key), self.num_steps))


def begin(key: Key, chains: Any, dtype: Any, pilot: Any = None) -> AISState:
    """Returns the state of chains that are still samples of the base."""
    leaf = jax.tree.leaves(chains)[0]
    log_weights = _layout.follow(jnp.zeros(leaf.shape[0], dtype), leaf)
    return AISState(jnp.zeros((), jnp.int32), key, chains, log_weights, pilot)


def walk(
    state: AISState,
    num_steps: int | Array,
    *,
    log_density: Callable[[Any, Any], Array],
    transition: Callable[[Key, Any, Any], Any],
    path: Any,
    first: int | Array = 0,
) -> AISState:
    """Carries chains on by ``num_steps`` of the steps of `annealed_importance_sampling`.

    Args:
      state: where the chains are.
      num_steps: how many; not to be differentiated in reverse if traced.
      log_density: ``(x, point) -> log f`` of ONE x at a point of the path.
      transition: ``(key, x, point) -> x`` of ONE x.
      path: a pytree of arrays whose leading axis are the points.
      first: the step at which the path begins.

    Returns:
      Where the chains are then.
    """
    num_chains = state.log_weights.shape[0]
    log_densities = jax.vmap(log_density, in_axes=(0, None))
    transitions = jax.vmap(transition, in_axes=(0, 0, None))

    def step(_, carry):
        index, x, log_weights = carry
        point = jax.tree.map(lambda leaf: leaf[index - first], path)
        next_point = jax.tree.map(lambda leaf: leaf[index - first + 1], path)
        # Where f is 0 once, a chain has lost its weight for good.
        gained = log_weights + log_densities(x, next_point) - log_densities(x, point)
        log_weights = jnp.where(jnp.isneginf(log_weights), log_weights, gained)
        keys = _random.split(_random.fold_in(state.key, index), num_chains)
        x = transitions(_layout.follow(keys, log_weights), x, next_point)
        return index + 1, x, log_weights

    carry = (state.step, state.chains, state.log_weights)
    index, x, log_weights = jax.lax.fori_loop(0, num_steps, step, carry)
    return state._replace(step=index, chains=x, log_weights=log_weights)
