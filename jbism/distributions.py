"""Distributions of one latent or one visible, as pytrees.

Each is a frozen dataclass of arrays, so it passes through jit, vmap and scan. Log-densities follow
the library's sign: log p = -E - log Z.
"""

import math
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from jbism import _checks, _random
from jbism.typing import Array, Key

_LOG_2PI = math.log(2.0 * math.pi)
_MAX_SUPPORT = 16  # 65,536 points


def binary_states(index: Array, num_digits: int) -> Array:
    """Returns the binary digits of integers [n] as floats [n, num_digits], the highest first."""
    shifts = jnp.arange(num_digits - 1, -1, -1)
    return ((index[:, None] >> shifts[None, :]) & 1).astype(float)


@partial(jax.tree_util.register_dataclass, data_fields=["logits"], meta_fields=[])
@dataclass(frozen=True)
class Bernoulli:
    """Independent Bernoulli variables h in {0, 1}^L given their logits.

    Samples are hard and carry no derivatives, so score functions of h and reparameterised
    gradients are refused where they would be needed; see `RelaxedBernoulli`.

    Args:
      logits: log p(h=1) - log p(h=0), shape [L].

    Example:
      >>> import jax, jax.numpy as jnp
      >>> d = Bernoulli(jnp.zeros(3))
      >>> float(d.log_prob(jnp.array([1.0, 0.0, 1.0])) / jnp.log(2.0))
      -3.0
    """

    logits: Array

    discrete = True
    reparameterized = False

    def sample(self, key: Key) -> Array:
        """Draws h in {0, 1}^L, in the dtype of the logits."""
        return _random.bernoulli(key, self.mean).astype(self.logits.dtype)

    def sample_and_log_prob(self, key: Key) -> tuple[Array, Array]:
        """Draws h and returns it with its log-probability."""
        h = self.sample(key)
        return h, self.log_prob(h)

    def log_prob(self, h: Array) -> Array:
        """Returns Σ_j h_j logit_j - softplus(logit_j), the log-pmf extended to [0, 1]^L."""
        _checks.same_shape("h", h, "logits", self.logits)
        return jnp.sum(h * self.logits - jax.nn.softplus(self.logits))

    @property
    def mean(self) -> Array:
        """P(h = 1), shape [L]."""
        return jax.nn.sigmoid(self.logits)

    def entropy(self) -> Array:
        """Returns the exact entropy in nats."""
        return jnp.sum(jax.nn.softplus(self.logits) - self.mean * self.logits)

    def support(self) -> tuple[Array, Array]:
        """Returns every h in {0, 1}^L, [2^L, L], and their probabilities, [2^L].

        Raises:
          ValueError: if L > 16.
        """
        size = self.logits.size
        if size > _MAX_SUPPORT:
            raise ValueError(f"logits must have at most {_MAX_SUPPORT} entries, got {size}")
        h = binary_states(jnp.arange(2**size), size).astype(self.logits.dtype)
        return h, jnp.exp(jax.vmap(self.log_prob)(h))


@partial(jax.tree_util.register_dataclass, data_fields=["logits"], meta_fields=["temperature"])
@dataclass(frozen=True)
class RelaxedBernoulli(Bernoulli):
    """Bernoulli variables sampled through their binary concrete relaxation.

    ``sample`` returns h = sigmoid((logit + Logistic) / τ) in (0, 1)^L, a differentiable function of
    the logits. ``log_prob`` stays the Bernoulli log-pmf extended to [0, 1]: it is *not* the density
    of the relaxed variable. BiSM scores relaxed samples this way (Bao et al., 2020).

    Args:
      logits: log p(h=1) - log p(h=0), shape [L].
      temperature: τ > 0; the smaller, the closer the samples are to {0, 1}.

    Raises:
      ValueError: if the temperature is not positive.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> d = RelaxedBernoulli(jnp.array([-8.0, 8.0]), temperature=0.1)
      >>> [round(float(x), 3) for x in d.sample(jax.random.key(0))]
      [0.0, 1.0]
    """

    temperature: float = 0.1

    reparameterized = True

    def __post_init__(self):
        _checks.positive("temperature", self.temperature)

    def sample(self, key: Key) -> Array:
        """Draws the relaxed h in (0, 1)^L; derivatives flow to the logits."""
        noise = _random.logistic(key, self.logits.shape, self.logits.dtype)
        return jax.nn.sigmoid((self.logits + noise) / self.temperature)

    def sample_hard(self, key: Key) -> Array:
        """Draws h in {0, 1}^L, without derivatives."""
        return Bernoulli(self.logits).sample(key)


@partial(jax.tree_util.register_dataclass, data_fields=["mean", "log_scale"], meta_fields=[])
@dataclass(frozen=True)
class Normal:
    """A normal distribution with independent coordinates.

    Args:
      mean: shape [*event].
      log_scale: log of the standard deviation, shape [*event] too.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> d = Normal(jnp.zeros(2), jnp.zeros(2))
      >>> round(float(d.log_prob(jnp.zeros(2))), 4)
      -1.8379
    """

    mean: Array = field()
    log_scale: Array = field()

    discrete = False
    reparameterized = True

    def sample(self, key: Key) -> Array:
        """Draws mean + exp(log_scale) ε; derivatives flow to both."""
        return self._from_noise(self._noise(key))

    def sample_and_log_prob(self, key: Key) -> tuple[Array, Array]:
        """Draws h and returns it with its log-density."""
        noise = self._noise(key)
        return self._from_noise(noise), self._log_density_of_noise(noise)

    def log_prob(self, h: Array) -> Array:
        """Returns the scalar log-density."""
        _checks.same_shape("h", h, "mean", self.mean)
        return self._log_density_of_noise((h - self.mean) * jnp.exp(-self.log_scale))

    def entropy(self) -> Array:
        """Returns the exact entropy in nats."""
        _checks.same_shape("log_scale", self.log_scale, "mean", self.mean)
        return jnp.sum(self.log_scale) + 0.5 * self.mean.size * (1.0 + _LOG_2PI)

    def _noise(self, key):
        return _random.normal(key, self.mean.shape, self.mean.dtype)

    def _from_noise(self, noise):
        return self.mean + jnp.exp(self.log_scale) * noise

    def _log_density_of_noise(self, noise):
        _checks.same_shape("log_scale", self.log_scale, "mean", self.mean)
        return -0.5 * jnp.sum(noise**2) - jnp.sum(self.log_scale) - 0.5 * noise.size * _LOG_2PI


@partial(jax.tree_util.register_dataclass, data_fields=["mean", "scale_tril"], meta_fields=[])
@dataclass(frozen=True)
class MultivariateNormal:
    """A normal distribution with covariance L Lᵀ.

    Args:
      mean: shape [d].
      scale_tril: L, lower triangular with a positive diagonal, shape [d, d].

    Example:
      >>> import jax, jax.numpy as jnp
      >>> d = MultivariateNormal(jnp.zeros(2), jnp.eye(2))
      >>> round(float(d.log_prob(jnp.zeros(2))), 4)
      -1.8379
    """

    mean: Array = field()
    scale_tril: Array = field()

    discrete = False
    reparameterized = True

    def sample(self, key: Key) -> Array:
        """Draws mean + L ε; derivatives flow to both."""
        return self.mean + self.scale_tril @ self._noise(key)

    def sample_and_log_prob(self, key: Key) -> tuple[Array, Array]:
        """Draws h and returns it with its log-density."""
        noise = self._noise(key)
        return self.mean + self.scale_tril @ noise, self._log_density_of_noise(noise)

    def log_prob(self, h: Array) -> Array:
        """Returns the scalar log-density."""
        _checks.same_shape("h", h, "mean", self.mean)
        noise = solve_triangular(self.scale_tril, h - self.mean, lower=True)
        return self._log_density_of_noise(noise)

    def entropy(self) -> Array:
        """Returns the exact entropy in nats."""
        return self._log_scale() + 0.5 * self.mean.size * (1.0 + _LOG_2PI)

    @property
    def covariance(self) -> Array:
        """L Lᵀ, shape [d, d]."""
        return self.scale_tril @ self.scale_tril.T

    def _noise(self, key):
        return _random.normal(key, self.mean.shape, self.mean.dtype)

    def _log_scale(self):
        return jnp.sum(jnp.log(jnp.diagonal(self.scale_tril)))

    def _log_density_of_noise(self, noise):
        return -0.5 * jnp.sum(noise**2) - self._log_scale() - 0.5 * noise.size * _LOG_2PI
