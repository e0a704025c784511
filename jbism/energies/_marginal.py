"""An energy of the visible alone."""

import flax.linen as nn
import jax.numpy as jnp

from jbism import _checks
from jbism.typing import Array

_HEADS = ("squared_norm", "linear", "softplus")


class MarginalEnergy(nn.Module):
    """Energy-based model without latents, log p(v) = -E(v) - log Z, with a trunk f.

    ``head`` says how E comes from the features:

    - ``"squared_norm"``: E(v) = ‖elu(A f(v) + a)‖² ≥ 0, as `DeepEBLVM` without its latents;
    - ``"linear"``: E(v) = wᵀf(v) + b, of either sign;
    - ``"softplus"``: E(v) = log(1 + exp(wᵀf(v) + b)) > 0.

    Attributes:
      trunk: a Flax module that maps one v to a feature vector, such as
        `jbism.networks.ResidualConvNet` or `jbism.networks.MLP`.
      head: one of the above.
      num_features: rows of A; for ``"squared_norm"`` alone, where None means as many as features.
      spectral_norm_steps: power iterations a call by which the kernel of the head, A or w, is
        divided by its spectral norm, as `jbism.networks.SpectralNorm` does those of a trunk;
        0 leaves it.

    Raises:
      ValueError: if the trunk's output is not a vector, the head is unknown, or it has no A and
        num_features is given.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jbism.networks import MLP
      >>> model = MarginalEnergy(trunk=MLP(features=(16,)))
      >>> theta = model.init(jax.random.key(0), jnp.zeros((8, 8, 1)))
      >>> model.apply(theta, jnp.zeros((8, 8, 1))).shape
      ()
    """

    trunk: nn.Module
    head: str = "squared_norm"
    num_features: int | None = None
    spectral_norm_steps: int = 0

    @nn.compact
    def __call__(self, v: Array) -> Array:
        """Returns E(v) of one v."""
        _checks.one_of("head", self.head, _HEADS)
        _checks.integer("spectral_norm_steps", self.spectral_norm_steps, minimum=0)
        features = _checks.rank("trunk(v)", self.trunk(v), 1)
        if self.head != "squared_norm":
            if self.num_features is not None:
                raise ValueError(
                    f"num_features must be None with head={self.head!r}, got {self.num_features}"
                )
            output = self._head(1, features)[0]
            return nn.softplus(output) if self.head == "softplus" else output
        width = len(features) if self.num_features is None else self.num_features
        _checks.integer("num_features", width, minimum=1)
        return jnp.sum(nn.elu(self._head(width, features)) ** 2)

    def _head(self, width, features):
        head = nn.Dense(width, name="head")
        if self.spectral_norm_steps == 0:
            return head(features)
        steps = self.spectral_norm_steps
        return nn.SpectralNorm(head, n_steps=steps)(features, update_stats=False)

    def free_energy(self, v: Array) -> Array:
        """Returns -log p(v) up to the constant log Z, which without latents is E(v)."""
        return self(v)
