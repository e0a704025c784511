"""The score of bi-level score matching."""

import jax

from jbism import _checks
from jbism.typing import Array, Energy, Latent, Params, Posterior


def variational_score(
    theta: Params, phi: Params, v: Array, h: Latent, *, energy: Energy, posterior: Posterior
) -> Array:
    """The score of p̃(v, h; θ) / q(h | v; φ) in v.

    s_φ(v, h) = ∇_v[-E(v, h; θ) - log q(h | v; φ)] with h held fixed. Where q is the true posterior
    it equals ∇_v log p(v; θ) for every h (Bao et al., 2020, Eqn. 8).

    Args:
      theta: parameters of the energy.
      phi: parameters of the posterior.
      v: one visible, [*event].
      h: one latent, commonly a sample of q(h | v).
      energy: ``(theta, v, h) -> scalar``.
      posterior: ``(phi, v) -> Distribution``.

    Returns:
      The score, [*event], in 1 / units of v.

    Raises:
      ValueError: if the energy does not return a scalar.

    Example:
      >>> import jax, jax.numpy as jnp, jbism
      >>> posterior = lambda phi, v: jbism.distributions.Normal(v, jnp.zeros(2))
      >>> energy = lambda theta, v, h: 0.5 * jnp.sum(v**2) + 0.5 * jnp.sum((h - v) ** 2)
      >>> score = variational_score(None, None, jnp.array([1.0, 2.0]), jnp.zeros(2),
      ...                           energy=energy, posterior=posterior)
      >>> score.tolist()  # q is the posterior and p(v) = N(0, I)
      [-1.0, -2.0]
    """

    def log_ratio(v):
        e = _checks.scalar_energy(energy, theta, v, h)
        return -e - posterior(phi, v).log_prob(h)

    return jax.grad(log_ratio)(v)
