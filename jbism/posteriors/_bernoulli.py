"""The Bernoulli variational posterior."""

import flax.linen as nn

from jbism import _checks, distributions
from jbism.posteriors._features import features
from jbism.typing import Array


class Bernoulli(nn.Module):
    """q(h | v) = Π_j Bernoulli(h_j; sigmoid(logit_j(v))), sampled through its relaxation.

    Attributes:
      num_latents: the size of h.
      trunk: a Flax module that maps one v to a feature vector; None makes the logits linear in v,
        which contains the exact posterior of a `jbism.energies.GaussianRBM`.
      temperature: τ of the relaxed samples.
      relaxed: False gives hard samples in {0, 1}^L, which carry no derivatives.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> q = Bernoulli(num_latents=4)
      >>> phi = q.init(jax.random.key(0), jnp.zeros(2))
      >>> q.apply(phi, jnp.ones(2)).sample(jax.random.key(1)).shape
      (4,)
    """

    num_latents: int
    trunk: nn.Module | None = None
    temperature: float = 0.1
    relaxed: bool = True

    @nn.compact
    def __call__(self, v: Array) -> distributions.Bernoulli:
        """Returns q(h | v) for one v."""
        _checks.integer("num_latents", self.num_latents, minimum=1)
        _checks.positive("temperature", self.temperature)
        x = features(self, self.trunk, v, "logits")
        logits = nn.Dense(self.num_latents, name="logits")(x)
        if self.relaxed:
            return distributions.RelaxedBernoulli(logits, self.temperature)
        return distributions.Bernoulli(logits)
