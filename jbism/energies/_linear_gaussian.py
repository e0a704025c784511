"""A jointly Gaussian EBLVM: every quantity in closed form, the oracle for continuous latents."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular

from jbism import _checks
from jbism.distributions import MultivariateNormal
from jbism.energies._shapes import visible_size
from jbism.typing import Array


class LinearGaussian(nn.Module):
    """Jointly Gaussian visible and latent.

    E(v, h) = ½vᵀAv + ½hᵀCh - vᵀBh - aᵀv - cᵀh with A and C positive definite, parameterised by
    their Cholesky factors (lower triangular, diagonal through its logarithm).

    p(h | v) = N(C⁻¹(Bᵀv + c), C⁻¹) and p(v) = N(Λ⁻¹(a + BC⁻¹c), Λ⁻¹) with Λ = A - BC⁻¹Bᵀ. The model
    is a density only where Λ is positive definite, which the initial parameters make certain;
    where it is not, `marginal` and what rests on it return NaN.

    Attributes:
      num_latents: the size of h.
      coupling_init_scale: the initial B has spectral norm at most this, below 1.

    Parameters: ``visible_cholesky``, ``latent_cholesky`` (log-diagonal and strictly lower part in
    one matrix), ``coupling`` B [D, L], ``visible_bias`` a [D], ``latent_bias`` c [L].

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = LinearGaussian(num_latents=2)
      >>> theta = model.init(jax.random.key(0), jnp.zeros(3), jnp.zeros(2))
      >>> model.apply(theta, method="marginal").mean.shape
      (3,)
    """

    num_latents: int
    coupling_init_scale: float = 0.5

    def __post_init__(self):
        _checks.integer("num_latents", self.num_latents, minimum=1)
        _checks.positive("coupling_init_scale", self.coupling_init_scale)
        if self.coupling_init_scale >= 1.0:
            raise ValueError(
                f"coupling_init_scale must be < 1 for a proper density, "
                f"got {self.coupling_init_scale}"
            )
        super().__post_init__()

    def __call__(self, v: Array, h: Array) -> Array:
        """Returns E(v, h) for one v [D] and one h [L]."""
        p = self._parameters(v)
        _checks.shape("h", h, (self.num_latents,))
        return (
            0.5 * jnp.sum((v @ p["visible_tril"]) ** 2)
            + 0.5 * jnp.sum((h @ p["latent_tril"]) ** 2)
            - jnp.dot(v @ p["coupling"], h)
            - jnp.dot(p["visible_bias"], v)
            - jnp.dot(p["latent_bias"], h)
        )

    def hidden_given_visible(self, v: Array) -> MultivariateNormal:
        """Returns p(h | v) = N(C⁻¹(Bᵀv + c), C⁻¹)."""
        p = self._parameters(v)
        field = v @ p["coupling"] + p["latent_bias"]
        return _from_precision(p["latent_tril"], field)

    def visible_given_hidden(self, h: Array) -> MultivariateNormal:
        """Returns p(v | h) = N(A⁻¹(Bh + a), A⁻¹)."""
        p = self._parameters(None)
        _checks.shape("h", h, (self.num_latents,))
        field = p["coupling"] @ h + p["visible_bias"]
        return _from_precision(p["visible_tril"], field)

    def marginal(self) -> MultivariateNormal:
        """Returns p(v) = N(Λ⁻¹(a + BC⁻¹c), Λ⁻¹)."""
        p = self._parameters(None)
        precision_tril, field = self._marginal_natural(p)
        return _from_precision(precision_tril, field)

    def log_partition(self) -> Array:
        """Returns log Z = log ∫∫ exp(-E(v, h)) dv dh."""
        p = self._parameters(None)
        precision_tril, field = self._marginal_natural(p)
        half_quadratics = 0.5 * (
            jnp.sum(solve_triangular(precision_tril, field, lower=True) ** 2)
            + jnp.sum(solve_triangular(p["latent_tril"], p["latent_bias"], lower=True) ** 2)
        )
        log_dets = jnp.sum(jnp.log(jnp.diagonal(precision_tril))) + jnp.sum(
            jnp.log(jnp.diagonal(p["latent_tril"]))
        )
        size = field.size + self.num_latents
        return half_quadratics - log_dets + 0.5 * size * math.log(2.0 * math.pi)

    def free_energy(self, v: Array) -> Array:
        """Returns F(v) = -log ∫ exp(-E(v, h)) dh; log p(v) = -F(v) - log Z."""
        p = self._parameters(v)
        field = v @ p["coupling"] + p["latent_bias"]
        return (
            0.5 * jnp.sum((v @ p["visible_tril"]) ** 2)
            - jnp.dot(p["visible_bias"], v)
            - 0.5 * jnp.sum(solve_triangular(p["latent_tril"], field, lower=True) ** 2)
            + jnp.sum(jnp.log(jnp.diagonal(p["latent_tril"])))
            - 0.5 * self.num_latents * math.log(2.0 * math.pi)
        )

    def _marginal_natural(self, p):
        a_matrix = p["visible_tril"] @ p["visible_tril"].T
        explained = solve_triangular(p["latent_tril"], p["coupling"].T, lower=True)
        precision_tril = jnp.linalg.cholesky(a_matrix - explained.T @ explained)
        field = p["visible_bias"] + p["coupling"] @ cho_solve(
            (p["latent_tril"], True), p["latent_bias"]
        )
        return precision_tril, field

    @nn.compact
    def _parameters(self, v):
        dim_v = visible_size(self, v)
        zeros = nn.initializers.zeros
        return {
            "visible_tril": _tril(self.param("visible_cholesky", zeros, (dim_v, dim_v))),
            "latent_tril": _tril(
                self.param("latent_cholesky", zeros, (self.num_latents, self.num_latents))
            ),
            "coupling": self.param("coupling", self._coupling_init, (dim_v, self.num_latents)),
            "visible_bias": self.param("visible_bias", zeros, (dim_v,)),
            "latent_bias": self.param("latent_bias", zeros, (self.num_latents,)),
        }

    def _coupling_init(self, key, shape, dtype=float):
        raw = jax.random.normal(key, shape, dtype)
        return self.coupling_init_scale * raw / jnp.linalg.norm(raw, ord=2)


def _tril(raw):
    """The Cholesky factor whose log-diagonal and strictly lower part ``raw`` holds."""
    return jnp.tril(raw, -1) + jnp.diag(jnp.exp(jnp.diagonal(raw)))


def _from_precision(precision_tril, field):
    """N(P⁻¹ field, P⁻¹) for P = T Tᵀ; the covariance's factor is that of the inverse."""
    mean = cho_solve((precision_tril, True), field)
    covariance = cho_solve((precision_tril, True), jnp.eye(field.size, dtype=field.dtype))
    return MultivariateNormal(mean, jnp.linalg.cholesky(covariance))
