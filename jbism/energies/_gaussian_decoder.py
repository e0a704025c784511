"""The energy of a latent-variable model whose density is known: a prior and a decoder."""

import math

import flax.linen as nn
import jax.numpy as jnp

from jbism import _checks, distributions
from jbism.typing import Array


class GaussianDecoder(nn.Module):
    """p(v, h) = N(h; 0, I) N(v; G(h), σ² I), the model of a variational autoencoder.

    E(v, h) = ‖v - G(h)‖² / (2 σ²) + ‖h‖² / 2 + D log σ + (D + L) / 2 log 2π, v of D and h of L
    entries. log Z = 0, so `jbism.divergences.KL` is the negative evidence lower bound of log p(v),
    in nats, and descending it in θ and φ is the variational autoencoder (Kingma & Welling, 2014);
    `jbism.divergences.IWAE` is that of the importance-weighted one (Burda et al., 2016).

    Attributes:
      num_latents: L.
      decoder: a Flax module that maps one h to the mean G(h), shaped as one v, such as
        `jbism.networks.ConvDecoder` or `jbism.networks.MLPDecoder`.
      scale: σ > 0, in units of v.

    Raises:
      ValueError: if h is not [L], G(h) is not shaped as v, or scale is not positive.

    Example:
      >>> import jax, jax.numpy as jnp, jbism
      >>> model = GaussianDecoder(2, jbism.networks.MLPDecoder(shape=(3,), features=(8,)))
      >>> theta = model.init(jax.random.key(0), jnp.zeros(3), jnp.zeros(2))
      >>> model.apply(theta, jnp.zeros(3), jnp.zeros(2)).shape
      ()
      >>> model.apply(theta, jnp.ones(2), method="visible_given_hidden").mean.shape
      (3,)

      The loss of an autoencoder, of both its parameters: a divergence is of one v, so it is mapped.

      >>> q = jbism.posteriors.Gaussian(num_latents=2)
      >>> def loss(theta, phi, key, v):  # v: [batch, 3]
      ...     one = lambda key, v: jbism.divergences.KL()(
      ...         theta, phi, key, v, energy=model.apply, posterior=q.apply)
      ...     return jnp.mean(jax.vmap(one)(jax.random.split(key, len(v)), v))
      >>> phi = q.init(jax.random.key(1), jnp.zeros(3))
      >>> loss(theta, phi, jax.random.key(2), jnp.ones((5, 3))).shape
      ()
    """

    num_latents: int
    decoder: nn.Module
    scale: float = math.sqrt(0.5)

    def __call__(self, v: Array, h: Array) -> Array:
        """Returns E(v, h) for one v and one h [L]: -log p(v, h), in nats."""
        mean = _checks.shape("decoder(h)", self._decode(h), jnp.shape(v))
        squares = jnp.sum(((v - mean) / self.scale) ** 2) + jnp.sum(h**2)
        size = jnp.size(v)
        constant = 0.5 * (size + self.num_latents) * math.log(2.0 * math.pi)
        return 0.5 * squares + size * math.log(self.scale) + constant

    def visible_given_hidden(self, h: Array) -> distributions.Normal:
        """Returns p(v | h) = N(G(h), σ² I) of one h [L]."""
        mean = self._decode(h)
        return distributions.Normal(mean, jnp.full_like(mean, math.log(self.scale)))

    def _decode(self, h):
        _checks.positive("scale", self.scale)
        _checks.integer("num_latents", self.num_latents, minimum=1)
        _checks.shape("h", h, (self.num_latents,))
        return self.decoder(h)
