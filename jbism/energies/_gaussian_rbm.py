"""The Gaussian restricted Boltzmann machine: real visibles, binary latents, tractable posterior."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jbism import _checks
from jbism.distributions import Bernoulli, Normal
from jbism.energies._shapes import visible_size
from jbism.typing import Array


class GaussianRBM(nn.Module):
    """Gaussian restricted Boltzmann machine.

    E(v, h) = ½‖(v - b)/σ‖² - cᵀh - vᵀWh with v in R^D, h in {0, 1}^H (extended to [0, 1]^H).

    Its posterior, free energy and p(v | h) are closed-form; log Z is a sum over 2^H latents
    (`jbism.likelihood.exact_log_partition`). The scale σ is learned per dimension through its
    logarithm.

    Attributes:
      num_hidden: H.
      learn_sigma: False keeps σ at ``sigma_init``, outside the parameters.
      sigma_init: initial σ, in the units of v.
      weights_init_scale: standard deviation of the initial W.

    Parameters: ``weights`` [D, H], ``visible_bias`` b [D], ``hidden_bias`` c [H] and, if learned,
    ``log_sigma`` [D].

    Raises:
      ValueError: if v is not [D] or h is not [H]; if an attribute is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> rbm = GaussianRBM(num_hidden=4)
      >>> theta = rbm.init(jax.random.key(0), jnp.zeros(2), jnp.zeros(4))
      >>> rbm.apply(theta, jnp.ones(2), jnp.zeros(4)).shape
      ()
      >>> rbm.apply(theta, jnp.ones(2), method="free_energy").shape
      ()
    """

    num_hidden: int
    learn_sigma: bool = True
    sigma_init: float = 1.0
    weights_init_scale: float = 0.01

    def __post_init__(self):
        _checks.integer("num_hidden", self.num_hidden, minimum=1)
        _checks.positive("sigma_init", self.sigma_init)
        _checks.positive("weights_init_scale", self.weights_init_scale)
        super().__post_init__()

    def __call__(self, v: Array, h: Array) -> Array:
        """Returns E(v, h) for one v [D] and one h [H]."""
        w, b, c, log_sigma = self._parameters(v)
        _checks.shape("h", h, (self.num_hidden,))
        return self._quadratic(v, b, log_sigma) - jnp.dot(c + v @ w, h)

    def free_energy(self, v: Array) -> Array:
        """Returns F(v) = ½‖(v - b)/σ‖² - Σ softplus(c + Wᵀv); log p(v) = -F(v) - log Z."""
        w, b, c, log_sigma = self._parameters(v)
        return self._quadratic(v, b, log_sigma) - jnp.sum(jax.nn.softplus(c + v @ w))

    def hidden_given_visible(self, v: Array) -> Bernoulli:
        """Returns p(h | v), Bernoulli with P(h=1) = sigmoid(c + Wᵀv)."""
        w, _, c, _ = self._parameters(v)
        return Bernoulli(c + v @ w)

    def visible_given_hidden(self, h: Array) -> Normal:
        """Returns p(v | h) = N(b + σ²⊙Wh, diag σ²)."""
        w, b, _, log_sigma = self._parameters(None)
        _checks.shape("h", h, (self.num_hidden,))
        return Normal(b + jnp.exp(2.0 * log_sigma) * (w @ h), log_sigma)

    def log_hidden_marginal(self, h: Array) -> Array:
        """Returns log ∫ exp(-E(v, h)) dv = cᵀh + bᵀWh + ½‖σ⊙Wh‖² + Σ log σ + (D/2) log 2π."""
        w, b, c, log_sigma = self._parameters(None)
        _checks.shape("h", h, (self.num_hidden,))
        wh = w @ h
        return (
            jnp.dot(c, h)
            + jnp.dot(b, wh)
            + 0.5 * jnp.sum((jnp.exp(log_sigma) * wh) ** 2)
            + jnp.sum(log_sigma)
            + 0.5 * b.size * math.log(2.0 * math.pi)
        )

    def arrays(self) -> dict[str, Array]:
        """Returns W, b, c and log σ by name, as `jbism.likelihood.ais_gaussian_rbm` takes them."""
        names = ("weights", "visible_bias", "hidden_bias", "log_sigma")
        return dict(zip(names, self._parameters(None), strict=True))

    @nn.compact
    def _parameters(self, v):
        dim_v = visible_size(self, v)
        normal = nn.initializers.normal(self.weights_init_scale)
        w = self.param("weights", normal, (dim_v, self.num_hidden))
        b = self.param("visible_bias", nn.initializers.zeros, (dim_v,))
        c = self.param("hidden_bias", nn.initializers.zeros, (self.num_hidden,))
        log_sigma_init = nn.initializers.constant(math.log(self.sigma_init))
        if self.learn_sigma:
            log_sigma = self.param("log_sigma", log_sigma_init, (dim_v,))
        else:
            log_sigma = jnp.full((dim_v,), math.log(self.sigma_init), b.dtype)
        return w, b, c, log_sigma

    def _quadratic(self, v, b, log_sigma):
        return 0.5 * jnp.sum(((v - b) * jnp.exp(-log_sigma)) ** 2)
