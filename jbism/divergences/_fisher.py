"""The conditional Fisher divergence of continuous latents."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jbism import _checks, _random
from jbism.typing import Array, Energy, Key, Params, Posterior


@dataclass(frozen=True)
class Fisher:
    """The Fisher divergence of q(h | v) from p(h | v), by reparameterised samples.

    G(v) = ½ E_q‖∇_h log q(h | v; φ) + ∇_h E(v, h; θ)‖². It is zero exactly at the true posterior
    and needs no normaliser, but a score in h: discrete latents are refused.

    Args:
      num_samples: samples of q averaged per v.

    Raises:
      ValueError: if num_samples < 1, the latents are discrete, or not reparameterised.

    Example:
      >>> import jax, jax.numpy as jnp, jbism
      >>> posterior = lambda phi, v: jbism.distributions.Normal(phi + v, jnp.zeros(2))
      >>> energy = lambda theta, v, h: 0.5 * jnp.sum((h - v) ** 2)
      >>> g = Fisher()(None, jnp.full(2, 0.5), jax.random.key(0), jnp.ones(2),
      ...              energy=energy, posterior=posterior)
      >>> round(float(g), 4)  # ½‖0.5, 0.5‖²
      0.25
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
        if getattr(q, "discrete", False):
            raise ValueError(
                "divergence Fisher needs continuous latents (it takes ∇_h log q(h|v)), but "
                f"posterior returned the discrete {type(q).__name__}; use KL or MeanFieldKL"
            )
        _checks.reparameterized(q, "Fisher")

        def one_sample(sample_key):
            def log_ratio(h):
                return q.log_prob(h) + _checks.scalar_energy(energy, theta, v, h)

            difference = jax.grad(log_ratio)(q.sample(sample_key))
            return 0.5 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(difference))

        if self.num_samples == 1:
            return one_sample(key)
        return jnp.mean(jax.vmap(one_sample)(_random.split(key, self.num_samples)))
