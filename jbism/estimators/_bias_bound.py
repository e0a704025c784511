"""How far the variational estimates may be off, by the divergence of q from the posterior."""

import jax
import jax.numpy as jnp

from jbism import _checks
from jbism.estimators._particles import log_joint
from jbism.typing import Array, ArrayLike, Energy, Latent, Params


def vaes_bias_bound(
    theta: Params, v: Array, kl: ArrayLike, latents: Latent, *, energy: Energy
) -> Array:
    """Bounds the bias of `vaes` at one v.

    |E_q f - E_p f| ≤ (max_h f - min_h f) min(1, √(KL(q‖p) / 2)), by Pinsker's inequality, for each
    component f(h) of ∇_v log p̃(v, h) (Bao et al., 2021, Theorem 1, with the constant explicit).

    Args:
      theta: parameters of the energy.
      v: one visible, [*event].
      kl: KL(q(h | v)‖p(h | v)) in nats, a scalar.
      latents: every value that h may take, leaves [n, ...], such as
        `jbism.likelihood.enumerate_binary(4)`.
      energy: ``(theta, v, h) -> scalar``.

    Returns:
      A bound for each component of the score, [*event], in 1 / units of v.

    Raises:
      ValueError: if kl is no scalar or latents are empty.

    Example:
      >>> import jax.numpy as jnp
      >>> energy = lambda w, v, h: 0.5 * jnp.sum(v**2) - jnp.dot(v, w) * h
      >>> bound = vaes_bias_bound(jnp.array([2.0, 0.0]), jnp.zeros(2), 0.02, jnp.array([0.0, 1.0]),
      ...                         energy=energy)
      >>> [round(float(x), 4) for x in bound]
      [0.2, 0.0]
    """
    kl, v = _checks.scalar("kl", kl), _checks.floating("v", v)

    def score(h):
        return jax.grad(lambda v: -_checks.scalar_energy(energy, theta, v, h))(v)

    return _range(jax.lax.map(score, _check(latents))) * _total_variation(kl)


def vages_bias_bound(
    theta: Params,
    v: Array,
    cotangent: Array,
    kl: ArrayLike,
    latents: Latent,
    *,
    energy: Energy,
) -> Params:
    """Bounds the bias of `vages` at one v, for a fixed derivative z of the functional.

    With ranges R over all h, the first term of z·∂s/∂θ_k is off by at most
    R(∂a/∂θ_k) min(1, √(KL/2)), and Cov(a, ∂b/∂θ_k) by R(a) R(∂b/∂θ_k) min(1, √KL), where
    a = z·∇_v log p̃ and b = log p̃: a covariance is an expectation over pairs, of twice the
    divergence (Bao et al., 2021, Theorem 3, with the constants explicit).

    Args:
      theta: parameters of the energy.
      v: one visible, [*event].
      cotangent: z, [*event].
      kl: KL(q(h | v)‖p(h | v)) in nats, a scalar.
      latents: every value that h may take, leaves [n, ...].
      energy: ``(theta, v, h) -> scalar``.

    Returns:
      A bound for each parameter, a tree like theta.

    Raises:
      ValueError: if kl is no scalar, latents are empty, or the cotangent has not v's shape.

    Example:
      >>> import jax.numpy as jnp
      >>> energy = lambda w, v, h: 0.5 * v**2 - w * v * h
      >>> float(vages_bias_bound(jnp.zeros(()), jnp.zeros(()), jnp.ones(()), 0.02,
      ...                        jnp.array([0.0, 1.0]), energy=energy))  # ∂a/∂w = h
      0.1...
    """
    kl, v = _checks.scalar("kl", kl), _checks.floating("v", v)
    _checks.same_shape("cotangent", cotangent, "v", v)

    def derivatives(h):
        def terms(theta):
            one = jax.tree.map(lambda x: x[None], h)
            b, a = jax.jvp(lambda v: log_joint(theta, v, one, energy=energy)[0], (v,), (cotangent,))
            return a, b

        (a, _), pull_back = jax.vjp(terms, theta)
        one, zero = jnp.ones_like(a), jnp.zeros_like(a)
        return a, pull_back((one, zero))[0], pull_back((zero, one))[0]

    a, da, db = jax.lax.map(derivatives, _check(latents))
    pairs = _range(a) * _total_variation(2.0 * kl)
    return jax.tree.map(lambda x, y: _range(x) * _total_variation(kl) + pairs * _range(y), da, db)


def _check(latents):
    leaves = jax.tree.leaves(latents)
    if len({jnp.shape(leaf)[:1] for leaf in leaves}) != 1:
        raise ValueError(
            "latents must have leaves of one length, all the values of h, got shapes "
            f"{[jnp.shape(leaf) for leaf in leaves]}"
        )
    return jax.tree.map(lambda x: _checks.batched("latents", x), latents)


def _range(x):
    return jnp.max(x, axis=0) - jnp.min(x, axis=0)


def _total_variation(kl):
    # A divergence of zero may come out negative by rounding.
    return jnp.minimum(1.0, jnp.sqrt(0.5 * jnp.maximum(kl, 0.0)))
