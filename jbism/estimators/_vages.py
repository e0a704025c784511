"""The variational estimate of the score's derivative in θ, for any functional of the scores."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from jbism import _checks, _random
from jbism.estimators._particles import ParticleSource, log_joint
from jbism.estimators._vaes import check_control_variate, score_of_particles
from jbism.typing import Array, Energy, Key, Latent, Params, Posterior, Refinement


class ParticleStatistics(NamedTuple):
    """How good the particles were; what weighs them against q is None if q did not draw them.

    With r_i = p̃(v, h_i) / q(h_i | v) over the set that the gradient is estimated with. The
    two variances, due to the L particles, are of the two terms of the surrogate, the numbers whose
    θ-gradients make up the estimate.
    """

    effective_sample_size: (
        Array | None
    )  # batch mean of L (Σ w r)² / Σ w r²; L of all latents if enumerated
    posterior_divergence: Array | None  # mean of log Σ w r - Σ w log r; tends to KL(q‖p) in L
    score_variance: Array  # Var[Σ_j mean_i a_ij], a = z·∇_v(-E), z the functional's derivative
    # Var[Σ_j cov_i(a_ij, b_ij)], b = -E, to first order in 1/L; None for L = 2, too few to tell
    covariance_variance: Array | None


def vages(
    theta: Params,
    phi: Params,
    key: Key,
    v: Array,
    *,
    functional: Callable[[Array], Array],
    energy: Energy,
    posterior: Posterior,
    num_particles: int | None,
    control_variate: bool = False,
    independent: bool = True,
    refinement: Refinement | None = None,
) -> tuple[Array, tuple[Array, ParticleStatistics]]:
    """A functional of the scores whose θ-gradient is VaGES, the variational gradient estimate.

    Value: J(ŝ_1, ..., ŝ_B) with ŝ_j from `vaes` by one set of particles. Its derivative in θ stands
    for Σ_j z_j·∂s_j/∂θ with z_j = ∂J/∂s_j and

        z·∂s/∂θ = E[z·∂²log p̃/∂v∂θ] + Cov(z·∇_v log p̃, ∇_θ log p̃)

    over h ~ p(h | v) (Bao et al., 2021, Theorem 2), estimated with a second set of L particles of q
    by the surrogate mean_i a_i + Σ_i stop_gradient(a_i - mean a) b_i / (L - 1), where
    a_i = z·(-∇_v E(v, h_i)) and b_i = -E(v, h_i) are the tangent and the primal of one `jax.jvp`.
    With q the true posterior it is unbiased if J is at most quadratic, as those of DSM, MDSM and
    KSD are; with one set for both it is biased (``independent=False``, at half the particles).

    Derivatives in phi and v are zero, and second derivatives in θ are none of J's. J must depend on
    θ through the scores alone.

    Args:
      theta: parameters of the energy.
      phi: parameters of the posterior.
      key: for the particles, independent for each example.
      v: [batch, *event].
      functional: J, maps scores [batch, *event] to a differentiable scalar.
      energy: ``(theta, v, h) -> scalar`` of one example.
      posterior: see `vaes`.
      num_particles: L >= 2, in each set; None for exact expectations under q, over its
        ``support()``.
      control_variate: see `vaes`; it serves the scores, the covariance would vanish by it.
      independent: draw a set for the scores and another for the gradient.
      refinement: see `vaes`.

    Returns:
      The value, and a pair of the scores ŝ [batch, *event] and `ParticleStatistics`.

    Raises:
      ValueError: if v is not [batch, *event], num_particles < 2, the functional is not scalar, or
        as `vaes`.
      TypeError: as `vaes`.

    Example:
      >>> import jax, jax.numpy as jnp, jbism
      >>> posterior = lambda phi, v: jbism.distributions.Normal(v, jnp.zeros(2))
      >>> energy = lambda a, v, h: 0.5 * a * jnp.sum(v**2) + 0.5 * jnp.sum((h - v) ** 2)
      >>> def loss(a):  # J = ½‖s‖² where s(v) = -a v
      ...     return vages(a, None, jax.random.key(0), jnp.array([[1.0, 2.0]]), energy=energy,
      ...                  functional=lambda s: 0.5 * jnp.sum(s**2), posterior=posterior,
      ...                  num_particles=2, control_variate=True)[0]
      >>> round(float(loss(3.0)), 4), round(float(jax.grad(loss)(3.0)), 4)  # ½ a² ‖v‖² and a ‖v‖²
      (22.5, 15.0)
    """
    v = jax.lax.stop_gradient(_checks.examples("v", v))
    _checks.function("functional", functional)
    _checks.instance("independent", independent, bool)
    source = ParticleSource(
        energy=energy,
        posterior=posterior,
        num_particles=num_particles,
        num_sets=2 if independent else 1,
        refinement=refinement,
        minimum=2,
    )
    check_control_variate(control_variate, refinement)
    constant = jax.lax.stop_gradient(theta)

    keys = _random.split(key, v.shape[0])

    def scored(example_key, v):
        sets, weights, q = source.draw(constant, phi, example_key, v)
        infer = partial(source.distribution, phi) if control_variate else None
        score = score_of_particles(
            constant, v, sets[0], weights, energy=energy, control_variate=infer
        )
        log_q = None if refinement is not None else jax.vmap(q.log_prob)(sets[-1])
        return score, sets[-1], weights, log_q

    scores, h, weights, log_q = jax.vmap(scored)(keys, v)
    scores = jax.lax.stop_gradient(scores)
    value, cotangents = jax.value_and_grad(
        lambda s: _checks.scalar("functional(scores)", functional(s))
    )(scores)

    estimate = partial(_surrogate, theta, energy=energy, factor=source.covariance_factor)
    surrogate, a, b = jax.vmap(estimate)(v, jax.lax.stop_gradient(cotangents), h, weights)
    total = jnp.sum(surrogate)
    value = jax.lax.stop_gradient(value) + total - jax.lax.stop_gradient(total)
    a, b, log_q = jax.lax.stop_gradient((a, b, log_q))
    return value, (scores, _statistics(a, b, log_q, weights, num_particles))


def _surrogate(
    theta: Params,
    v: Array,
    cotangent: Array,
    h: Latent,
    weights: Array,
    *,
    energy: Energy,
    factor: float,
) -> tuple[Array, Array, Array]:
    """Returns the surrogate of one v, and a and b, [L]."""
    b, a = jax.jvp(lambda v: log_joint(theta, v, h, energy=energy), (v,), (cotangent,))
    mean = jnp.dot(weights, a)
    centred = jax.lax.stop_gradient(factor * weights * (a - mean))
    return mean + jnp.dot(centred, b), a, b


def _statistics(a, b, log_q, weights, num_particles):
    def centred(x):
        return x - jnp.sum(weights * x, axis=1, keepdims=True)

    def variance(x):
        if num_particles is None:
            return jnp.zeros((), x.dtype)  # no sampling, no variance
        return jnp.sum(weights * centred(x) ** 2) / (num_particles - 1)

    effective, divergence = None, None
    if log_q is not None:
        log_ratio = b - log_q
        log_mean = logsumexp(log_ratio, axis=1, b=weights)
        log_mean_square = logsumexp(2.0 * log_ratio, axis=1, b=weights)
        effective = b.shape[1] * jnp.mean(jnp.exp(2.0 * log_mean - log_mean_square))
        divergence = jnp.mean(log_mean - jnp.sum(weights * log_ratio, axis=1))
    covariance = None if num_particles == 2 else variance(centred(a) * centred(b))
    return ParticleStatistics(effective, divergence, variance(a), covariance)
