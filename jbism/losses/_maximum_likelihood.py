"""Maximum likelihood where the partition function is known."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jbism import _checks
from jbism.typing import Array, FreeEnergy, Params


class MaximumLikelihoodAux(NamedTuple):
    """What `maximum_likelihood_loss` saw on the way."""

    losses: Array  # [batch], -log p(v_i) in nats
    log_partition: Array  # scalar, log Z(θ)


def maximum_likelihood_loss(
    theta: Params,
    v: Array,
    *,
    free_energy: FreeEnergy,
    log_partition: Callable[[Params], Any],
) -> tuple[Array, MaximumLikelihoodAux]:
    """The exact negative log-likelihood of a model whose log Z is known.

    L(θ) = mean_i F(v_i; θ) + log Z(θ), whose gradient is E_data[∇F] - E_model[∇F]: what
    contrastive divergence estimates, without a chain.

    Args:
      theta: parameters of the free energy.
      v: data, [batch, *event].
      free_energy: ``(theta, v) -> scalar`` of one example, -log p(v) up to log Z.
      log_partition: ``theta -> log Z``, a differentiable scalar: a closed form, or
        `jbism.likelihood.exact_log_partition` for up to 24 binary latents. Beyond that log Z can
        only be estimated, by annealed importance sampling as `jbism.likelihood` does, which serves
        evaluation; to train, take `contrastive_loss`.

    Returns:
      The scalar loss in nats and a `MaximumLikelihoodAux`.

    Raises:
      ValueError: if v is not [batch, *event], or free energy or log Z are not scalars.
      TypeError: if v is not floating, or free_energy or log_partition are no functions.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> loss, aux = maximum_likelihood_loss(
      ...     0.0, jnp.ones((10, 1)), free_energy=lambda theta, v: 0.5 * jnp.sum((v - theta) ** 2),
      ...     log_partition=lambda theta: 0.5 * jnp.log(2.0 * jnp.pi))
      >>> round(float(loss), 4)  # ½ + ½ log 2π
      1.4189
    """
    _checks.function("free_energy", free_energy)
    _checks.function("log_partition", log_partition)
    v = _checks.examples("v", v)
    log_z = _checks.scalar("log_partition(theta)", log_partition(theta))
    energies = jax.vmap(lambda v: _checks.scalar("free_energy(theta, v)", free_energy(theta, v)))(v)
    losses = energies + log_z
    return jnp.mean(losses), MaximumLikelihoodAux(losses, log_z)
