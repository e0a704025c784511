"""The step builder of contrastive divergence."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jbism import _checks, _random
from jbism.losses import contrastive_loss
from jbism.training._step import Step, chained_step
from jbism.typing import Array, Key, Params


def contrastive_step(
    *,
    energy: Callable[[Params, Any], Any],
    transition: Callable[[Params, Key, Any], Any],
    num_steps: int,
    persistent: bool,
    theta_optimizer: optax.GradientTransformation,
    complete: Callable[[Params, Params, Key, Array], Any] | None = None,
    lower_loss: Callable[[Params, Params, Key, Array], Array] | None = None,
    phi_optimizer: optax.GradientTransformation | None = None,
    num_lower_steps: int = 0,
    ema_decay: float = 0.999,
    unroll_lower: int | bool = 1,
) -> Step:
    """Builds one step of contrastive divergence, CD-k or PCD-k.

    For E(v, h) without a free energy ``complete`` draws the data's latents, such as from a
    posterior q(h | v; φ) that ``lower_loss`` fits, moved on towards p(h | v; θ) by Langevin steps.

    Args:
      energy: see `jbism.losses.contrastive_loss`.
      transition: see `jbism.losses.contrastive_loss`.
      num_steps: see `jbism.losses.contrastive_loss`.
      persistent: whether the chains go on from step to step, in the ``chains`` of states made by
        ``create_state(..., chains=...)``; False starts them at the data.
      theta_optimizer: optax transformation of the upper level.
      complete: ``(theta, phi, key, v) -> x`` of a batch, whose leaves the energy is one of; None
        where the energy is a free energy, x = v.
      lower_loss: ``(theta, phi, key, v) -> scalar``; None where no posterior is learned.
      phi_optimizer: of the lower level; needed with lower_loss.
      num_lower_steps: see `bilevel_step`.
      ema_decay: see `bilevel_step`.
      unroll_lower: see `bilevel_step`.

    Returns:
      A step as of `bilevel_step`, whose metrics also hold ``data_energy`` and ``chain_energy``, the
      mean energies whose difference is ``loss``. Without lower_loss it is for states without φ.

    Raises:
      ValueError: as `bilevel_step`; if only one of lower_loss and phi_optimizer is given, or there
        are lower steps without them; when it is traced, as `jbism.losses.contrastive_loss`.

    Example:
      >>> import jax, jax.numpy as jnp, optax, jbism
      >>> def transition(theta, key, v):  # the model N(0, 1/θ) itself
      ...     return jax.random.normal(key, v.shape) / jnp.sqrt(theta)
      >>> step = contrastive_step(
      ...     energy=lambda theta, v: 0.5 * theta * jnp.sum(v**2), transition=transition,
      ...     num_steps=1, persistent=True, theta_optimizer=optax.sgd(0.1))
      >>> state = jbism.training.create_state(
      ...     jax.random.key(0), jnp.ones(()), theta_optimizer=optax.sgd(0.1),
      ...     chains=jnp.zeros((10, 1)))
      >>> state, metrics = step(state, 2.0 * jnp.ones((5, 1)))
      >>> float(metrics["data_energy"]), state.chains.shape
      (2.0, (10, 1))
    """
    _checks.integer("num_steps", num_steps, minimum=1)
    _checks.instance("persistent", persistent, bool)
    if (lower_loss is None) != (phi_optimizer is None):
        raise ValueError(
            f"phi_optimizer must be given with lower_loss, and only so, got {phi_optimizer}"
        )
    if lower_loss is None and num_lower_steps:
        raise ValueError(f"num_lower_steps must be 0 without lower_loss, got {num_lower_steps}")

    def upper_loss(theta, phi, phi_opt_state, chains, key, v):  # noqa: ARG001
        if persistent and not jax.tree.leaves(chains):
            raise ValueError(
                "persistent chains need a state that has some: create_state(..., chains=...)"
            )
        key_latents, key_chains = _random.split(key)
        x = (
            v
            if complete is None
            else complete(*jax.lax.stop_gradient((theta, phi)), key_latents, v)
        )
        loss, aux = contrastive_loss(
            theta,
            key_chains,
            jax.lax.stop_gradient(x),
            energy=energy,
            transition=transition,
            num_steps=num_steps,
            chains=chains if persistent else None,
        )
        metrics = {
            "data_energy": jnp.mean(aux.data_energies),
            "chain_energy": jnp.mean(aux.chain_energies),
        }
        return loss, (metrics, aux.chains if persistent else chains)

    return chained_step(
        upper_loss=upper_loss,
        lower_loss=lower_loss or (lambda *_: jnp.zeros(())),
        theta_optimizer=theta_optimizer,
        phi_optimizer=phi_optimizer or optax.identity(),
        num_lower_steps=num_lower_steps,
        ema_decay=ema_decay,
        unroll_lower=unroll_lower,
    )
