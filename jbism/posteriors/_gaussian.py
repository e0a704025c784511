"""The Gaussian variational posterior."""

import flax.linen as nn
import jax.numpy as jnp

from jbism import _checks, distributions
from jbism.posteriors._features import features
from jbism.typing import Array


class Gaussian(nn.Module):
    """q(h | v) = N(h; μ(v), Σ(v)).

    Attributes:
      num_latents: the size L of h.
      trunk: a Flax module that maps one v to a feature vector; None makes μ linear in v, which
        with ``covariance="full"`` contains the exact posterior of `jbism.energies.LinearGaussian`.
      covariance: ``"diagonal"``, or ``"full"`` through a Cholesky factor.

    The log-scales (and, if full, the factor's lower part) start at zero for every v: the initial
    covariance is the identity.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> q = Gaussian(num_latents=3)
      >>> phi = q.init(jax.random.key(0), jnp.zeros(5))
      >>> q.apply(phi, jnp.ones(5)).mean.shape
      (3,)
    """

    num_latents: int
    trunk: nn.Module | None = None
    covariance: str = "diagonal"

    @nn.compact
    def __call__(self, v: Array) -> distributions.Normal | distributions.MultivariateNormal:
        """Returns q(h | v) for one v."""
        size = _checks.integer("num_latents", self.num_latents, minimum=1)
        _checks.one_of("covariance", self.covariance, ("diagonal", "full"))
        x = features(self, self.trunk, v, "mean")
        mean = nn.Dense(size, name="mean")(x)
        zeros = nn.initializers.zeros
        log_scale = nn.Dense(size, kernel_init=zeros, name="log_scale")(x)
        if self.covariance == "diagonal":
            return distributions.Normal(mean, log_scale)
        lower = nn.Dense(size * (size - 1) // 2, kernel_init=zeros, name="lower")(x)
        rows, columns = jnp.tril_indices(size, -1)
        tril = jnp.diag(jnp.exp(log_scale)).at[rows, columns].set(lower)
        return distributions.MultivariateNormal(mean, tril)
