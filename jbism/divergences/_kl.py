"""The Kullback-Leibler divergence by reparameterised samples."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jbism import _checks, _random
from jbism.typing import Array, Energy, Key, Params, Posterior


@dataclass(frozen=True)
class KL:
    """KL(q‖p(h|v)) + const, estimated by reparameterised samples.

    G(v) = E_q[log q(h | v; φ) + E(v, h; θ)] = KL(q(h|v) ‖ p(h|v)) - log p̃(v). For a relaxed
    Bernoulli q the sample is relaxed and log q is the extended Bernoulli log-pmf, as in Bao et al.
    (2020).

    Args:
      num_samples: samples of q averaged per v.

    Raises:
      ValueError: if num_samples < 1 or the distribution is not reparameterised.

    Example:
      >>> import jax, jax.numpy as jnp, jbism
      >>> posterior = lambda phi, v: jbism.distributions.Normal(phi + v, jnp.zeros(2))
      >>> energy = lambda theta, v, h: 0.5 * jnp.sum((h - v) ** 2)
      >>> g = KL()(None, jnp.zeros(2), jax.random.key(0), jnp.ones(2),
      ...          energy=energy, posterior=posterior)
      >>> round(float(g), 4)  # q is the posterior: G = -log ∫ exp(-E) dh = -log 2π
      -1.8379
    """

    num_samples: int = 1

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
        _checks.reparameterized(q, "KL")

        def one_sample(sample_key):
            h, log_q = q.sample_and_log_prob(sample_key)
            return log_q + _checks.scalar_energy(energy, theta, v, h)

        if self.num_samples == 1:
            return one_sample(key)
        return jnp.mean(jax.vmap(one_sample)(_random.split(key, self.num_samples)))
