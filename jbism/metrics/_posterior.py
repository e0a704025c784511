"""How far a posterior is from the true one, where that is known."""

import jax
import jax.numpy as jnp

from jbism import _checks
from jbism.typing import Array


def bernoulli_kl(logits: Array, true_logits: Array) -> Array:
    """KL(q‖p) between products of Bernoulli variables.

    Σ_j σ(a_j)(a_j - b_j) - softplus(a_j) + softplus(b_j) for logits a of q and b of p.

    Args:
      logits: of q, [..., L].
      true_logits: of p, [..., L].

    Returns:
      The divergence in nats, [...].

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> float(bernoulli_kl(jnp.ones(3), jnp.ones(3)))
      0.0
    """
    _checks.same_shape("logits", logits, "true_logits", true_logits)
    return jnp.sum(
        jax.nn.sigmoid(logits) * (logits - true_logits)
        - jax.nn.softplus(logits)
        + jax.nn.softplus(true_logits),
        axis=-1,
    )
