"""The free energy by importance sampling."""

import math

import jax
from jax.scipy.special import logsumexp

from jbism import _checks, _random
from jbism.typing import Array, Distribution, Energy, Key, Params


def importance_free_energy(
    theta: Params,
    key: Key,
    v: Array,
    *,
    energy: Energy,
    proposal: Distribution,
    num_particles: int,
) -> Array:
    """The free energy of one v by importance sampling.

    F̂(v) = -log (1/L) Σ_i exp(-E(v, h_i; θ)) / r(h_i), h_i ~ r. Differentiable in θ and v; exp(-F̂)
    is unbiased, F̂ itself is not, and less so the larger L and the closer r is to p(h | v).

    Args:
      theta: parameters of the energy.
      key: for the particles.
      v: one visible, [*event].
      energy: ``(theta, v, h) -> scalar``.
      proposal: r, a distribution of h that does not depend on v; a relaxed one is sampled hard.
      num_particles: L >= 1.

    Returns:
      The scalar estimate, in nats.

    Raises:
      ValueError: if num_particles < 1 or the energy does not return a scalar.

    Example:
      >>> import jax, jax.numpy as jnp, jbism
      >>> uniform = jbism.distributions.Bernoulli(jnp.zeros(3))
      >>> f = importance_free_energy(None, jax.random.key(0), jnp.ones(2), proposal=uniform,
      ...                            energy=lambda theta, v, h: jnp.sum(v**2), num_particles=5)
      >>> round(float(f), 4)  # ‖v‖² - log 2³
      -0.0794
    """
    _checks.function("energy", energy)
    _checks.instance("proposal", proposal, Distribution)
    _checks.integer("num_particles", num_particles, minimum=1)

    sample = getattr(proposal, "sample_hard", proposal.sample)

    def log_weight(sample_key):
        h = sample(sample_key)
        return -_checks.scalar_energy(energy, theta, v, h) - proposal.log_prob(h)

    log_weights = jax.vmap(log_weight)(_random.split(key, num_particles))
    return math.log(num_particles) - logsumexp(log_weights)
