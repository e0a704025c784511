"""The importance-weighted bound."""

import math
from dataclasses import dataclass

import jax
from jax.scipy.special import logsumexp

from jbism import _checks, _random
from jbism.typing import Array, Energy, Key, Params, Posterior


@dataclass(frozen=True)
class IWAE:
    """The negative importance-weighted bound on log p̃(v) (Burda et al., 2016).

    G(v) = -log (1/k) Σ_i exp(-E(v, h_i; θ) - log q(h_i | v; φ)), h_i ~ q. With k = 1 it is `KL`; it
    falls towards -log p̃(v) as k grows.

    Args:
      num_samples: k >= 1.

    Raises:
      ValueError: if num_samples < 1 or the distribution is not reparameterised.

    Example:
      >>> import jax, jax.numpy as jnp, jbism
      >>> posterior = lambda phi, v: jbism.distributions.Normal(phi + v, jnp.zeros(2))
      >>> energy = lambda theta, v, h: 0.5 * jnp.sum((h - v) ** 2)
      >>> g = IWAE(num_samples=5)(None, jnp.zeros(2), jax.random.key(0), jnp.ones(2),
      ...                         energy=energy, posterior=posterior)
      >>> round(float(g), 4)  # q is the posterior: every weight is ∫ exp(-E) dh = 2π
      -1.8379
    """

    num_samples: int = 5

    def __post_init__(self):
        _checks.integer("num_samples", self.num_samples, minimum=1)

    def __call__(
        self,
        theta: Params,
        phi: Params,
        key: Key,
        v: Array,
        *,
        energy: Energy,
        posterior: Posterior,
    ) -> Array:
        """Returns the scalar estimate for one v."""
        q = posterior(phi, v)
        _checks.reparameterized(q, "IWAE")

        def log_weight(sample_key):
            h, log_q = q.sample_and_log_prob(sample_key)
            return -_checks.scalar_energy(energy, theta, v, h) - log_q

        log_weights = jax.vmap(log_weight)(_random.split(key, self.num_samples))
        return math.log(self.num_samples) - logsumexp(log_weights)
