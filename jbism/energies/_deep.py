"""The deep EBLVM: a trunk couples the visible with continuous latents."""

import flax.linen as nn
import jax.numpy as jnp

from jbism import _checks
from jbism.typing import Array


class DeepEBLVM(nn.Module):
    """Deep energy-based latent-variable model with an additive coupling (Bao et al., 2020).

    E(v, h) = ‖elu(A [W f(v) + h ; h] + a)‖² with a trunk f, v an array and h in R^L. Posterior and
    partition function are both intractable.

    Attributes:
      num_latents: L.
      trunk: a Flax module that maps one v to a feature vector, such as
        `jbism.networks.ResidualConvNet` or `jbism.networks.MLP`.
      num_features: rows of A; None means 2 L, as many as its columns.
      coupling_bias: True adds a bias to W f(v). It widens nothing, since ``a`` takes it up, but the
        published networks have it.

    Raises:
      ValueError: if h is not [L] or the trunk's output is not a vector.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jbism.networks import MLP
      >>> model = DeepEBLVM(num_latents=3, trunk=MLP(features=(16,)))
      >>> theta = model.init(jax.random.key(0), jnp.zeros((8, 8, 1)), jnp.zeros(3))
      >>> model.apply(theta, jnp.zeros((8, 8, 1)), jnp.zeros(3)).shape
      ()
    """

    num_latents: int
    trunk: nn.Module
    num_features: int | None = None
    coupling_bias: bool = False

    @nn.compact
    def __call__(self, v: Array, h: Array) -> Array:
        """Returns E(v, h) for one v and one h [L]."""
        _checks.integer("num_latents", self.num_latents, minimum=1)
        _checks.shape("h", h, (self.num_latents,))
        features = _checks.rank("trunk(v)", self.trunk(v), 1)
        coupling = nn.Dense(self.num_latents, use_bias=self.coupling_bias, name="coupling")
        coupled = coupling(features) + h
        width = 2 * self.num_latents if self.num_features is None else self.num_features
        _checks.integer("num_features", width, minimum=1)
        output = nn.Dense(width, name="head")(jnp.concatenate([coupled, h]))
        return jnp.sum(nn.elu(output) ** 2)
