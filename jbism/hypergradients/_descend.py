"""Optimizer steps on the lower level."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jbism import _checks, _random
from jbism.typing import Array, Key, LowerLoss, Params


class Descent(NamedTuple):
    """What a run of lower steps saw."""

    losses: Array  # [num_steps], G before each step
    grad_norms: Array  # [num_steps], ‖∇_φ G‖ at each step


def descend(
    lower_loss: LowerLoss,
    theta: Params,
    phi: Params,
    key: Key,
    *,
    num_steps: int,
    optimizer: optax.GradientTransformation,
    opt_state: optax.OptState | None = None,
    unroll: int | bool = 1,
    remat: bool = False,
) -> tuple[Params, optax.OptState, Descent]:
    """Takes K optimizer steps on φ ↦ G(θ, φ), with fresh randomness at each.

    φ ← φ - optimizer(∇_φ G(θ, φ; key_k)), k = 1..K: the committed lower steps of bi-level score
    matching (Bao et al., 2020, Algorithm 1). One `lax.scan`, differentiable end to end; a lone step
    is in no loop.

    Args:
      lower_loss: ``(theta, phi, key) -> scalar``.
      theta: upper-level parameters.
      phi: lower-level parameters to start from.
      key: split into one key a step.
      num_steps: K >= 0.
      optimizer: any optax transformation.
      opt_state: its state; None starts a fresh one.
      unroll: iterations of the scan written out per loop turn (`jax.lax.scan`); True for all.
      remat: recompute the steps in a backward pass instead of storing them: about 2√K copies of
        (φ, optimizer state) are kept, for up to two more forward passes. Values do not change.

    Returns:
      φ after K steps, the optimizer's state, and a `Descent`.

    Raises:
      ValueError: if num_steps is negative, or opt_state is not a state of the optimizer.
      TypeError: if the optimizer is no optax transformation.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> lower_loss = lambda theta, phi, key: 0.5 * jnp.sum((phi - theta) ** 2)
      >>> phi, state, descent = descend(lower_loss, jnp.ones(2), jnp.zeros(2), jax.random.key(0),
      ...                               num_steps=3, optimizer=optax.sgd(0.5))
      >>> [round(float(x), 4) for x in phi]
      [0.875, 0.875]
    """
    _checks.integer("num_steps", num_steps, minimum=0)
    _checks.instance("optimizer", optimizer, optax.GradientTransformation)
    return run_steps(
        lower_loss,
        theta,
        phi,
        _random.split(key, num_steps),
        optimizer=optimizer,
        opt_state=opt_state,
        unroll=unroll,
        remat=remat,
    )


def run_steps(
    lower_loss: LowerLoss,
    theta: Params,
    phi: Params,
    keys: Key,
    *,
    optimizer: optax.GradientTransformation,
    opt_state: optax.OptState | None,
    unroll: int | bool,
    remat: bool,
) -> tuple[Params, optax.OptState, Descent]:
    """`descend` with the key of each step."""
    if opt_state is None:
        opt_state = optimizer.init(phi)
    else:
        _check_state(optimizer, phi, opt_state)
    if keys.shape[0] == 0:
        return phi, opt_state, Descent(jnp.zeros(0), jnp.zeros(0))

    def step(carry, step_key):
        phi, opt_state = carry
        loss, grads = jax.value_and_grad(lower_loss, argnums=1)(theta, phi, step_key)
        updates, opt_state = optimizer.update(grads, opt_state, phi)
        phi = optax.apply_updates(phi, updates)
        # Reported, not differentiated: the norm has no derivative at zero.
        norm = optax.tree.norm(jax.lax.stop_gradient(grads))
        return (phi, opt_state), Descent(loss, norm)

    if keys.shape[0] == 1 and not remat:
        # Outside of loops, where XLA's CPU backend has its fast convolutions.
        carry, descent = step((phi, opt_state), keys[0])
        return *carry, jax.tree.map(lambda x: x[None], descent)
    scan = _checkpointed_scan if remat else jax.lax.scan
    (phi, opt_state), descent = scan(step, (phi, opt_state), keys, unroll=unroll)
    return phi, opt_state, descent


def _checkpointed_scan(step, carry, keys, *, unroll):
    """A scan in segments of √K steps, each recomputed, and within it each step."""
    num_steps = keys.shape[0]
    length = math.isqrt(num_steps)
    num_segments = num_steps // length
    # Inside a scan, and under the barrier it sets, CSE cannot undo the recomputation.
    step = jax.checkpoint(step, prevent_cse=False)

    @partial(jax.checkpoint, prevent_cse=False)
    def segment(carry, segment_keys):
        return jax.lax.scan(step, carry, segment_keys, unroll=unroll)

    whole = keys[: num_segments * length]
    whole = whole.reshape((num_segments, length, *keys.shape[1:]))
    carry, outputs = jax.lax.scan(segment, carry, whole)
    outputs = jax.tree.map(lambda x: x.reshape((-1, *x.shape[2:])), outputs)
    if num_segments * length == num_steps:
        return carry, outputs
    carry, rest = jax.lax.scan(step, carry, keys[num_segments * length :], unroll=unroll)
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), outputs, rest)


def _check_state(optimizer, phi, opt_state):
    def describe(state):
        return str(jax.tree.map(lambda leaf: str(jnp.shape(leaf)), state))

    expected, given = describe(jax.eval_shape(optimizer.init, phi)), describe(opt_state)
    if given != expected:
        raise ValueError(
            f"opt_state must be a state of the optimizer for phi, of shapes {expected}, got {given}"
        )
