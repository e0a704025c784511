"""Score-matching objectives as pure functions of arrays, one value an example."""

import numbers

import jax
import jax.numpy as jnp

from jbism import _checks
from jbism.typing import Array


def score_matching(score: Array, divergence: Array) -> Array:
    """Score matching (Hyvärinen, 2005).

    ½‖s‖² + tr ∇_v s. Its expectation under the data is the Fisher divergence between data and
    model, up to a constant of the data.

    Args:
      score: s(v), [batch, *event].
      divergence: tr ∇_v s(v), [batch].

    Returns:
      One value an example, [batch].

    Raises:
      ValueError: if the shapes do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> score_matching(jnp.array([[3.0, 4.0]]), jnp.array([-2.0])).tolist()
      [10.5]
    """
    score = _checks.batched("score", score)
    divergence = _checks.shape("divergence", divergence, score.shape[:1])
    return 0.5 * _squared_norm(score) + divergence


def sliced_score_matching(score: Array, directional_derivative: Array, projection: Array) -> Array:
    """Sliced score matching with the squared norm kept exact (Song et al., 2019).

    ½‖s‖² + uᵀ(∇_v s)u, with E[uuᵀ] = I.

    Args:
      score: s(v), [batch, *event].
      directional_derivative: (∇_v s)u, such as the tangent of ``jax.jvp(s, (v,), (u,))``;
        [batch, *event].
      projection: u, [batch, *event].

    Returns:
      One value an example, [batch].

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> u = jnp.array([[1.0, -1.0]])
      >>> sliced_score_matching(jnp.array([[3.0, 4.0]]), -u, u).tolist()
      [10.5]
    """
    score = _checks.batched("score", score)
    _checks.same_shape("directional_derivative", directional_derivative, "score", score)
    _checks.same_shape("projection", projection, "score", score)
    curvature = jnp.sum((directional_derivative * projection).reshape(score.shape[0], -1), axis=1)
    return 0.5 * _squared_norm(score) + curvature


def denoising_score_matching(score: Array, noise: Array, *, sigma: float | Array) -> Array:
    """Denoising score matching (Vincent, 2011).

    ½‖s(ṽ) + ε/σ‖² with ṽ = v + σε.

    Args:
      score: s(ṽ), [batch, *event].
      noise: ε ~ N(0, I), [batch, *event].
      sigma: the noise's standard deviation in the units of v; a number or [batch].

    Returns:
      One value an example, [batch].

    Raises:
      ValueError: if the shapes do not fit, or sigma is a number that is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> denoising_score_matching(jnp.zeros((1, 2)), jnp.ones((1, 2)), sigma=0.5).tolist()
      [4.0]
    """
    score = _checks.batched("score", score)
    _checks.same_shape("noise", noise, "score", score)
    return 0.5 * _squared_norm(score + noise / _per_example("sigma", sigma, score))


def multiscale_denoising_score_matching(
    score: Array, noise: Array, *, sigma: Array, sigma0: float
) -> Array:
    """Multiscale denoising score matching (Li et al., 2019).

    ½‖s(ṽ)/σ_i + ε/σ₀²‖² with ṽ = v + σ_i ε: the energy is fitted at every noise level as the data
    smoothed by σ₀, with a weight that keeps the levels comparable.

    Args:
      score: s(ṽ), [batch, *event].
      noise: ε ~ N(0, I), [batch, *event].
      sigma: σ_i in the units of v; [batch] or a number.
      sigma0: σ₀ in the units of v.

    Returns:
      One value an example, [batch].

    Raises:
      ValueError: if the shapes do not fit or a sigma that is a number is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> multiscale_denoising_score_matching(
      ...     jnp.zeros((1, 2)), jnp.ones((1, 2)), sigma=jnp.ones(1), sigma0=0.5).tolist()
      [16.0]
    """
    score = _checks.batched("score", score)
    _checks.same_shape("noise", noise, "score", score)
    sigma0 = _checks.positive("sigma0", sigma0)
    return 0.5 * _squared_norm(score / _per_example("sigma", sigma, score) + noise / sigma0**2)


def mean_norm(scores: Array) -> Array:
    """Returns the mean of ‖s‖ over a batch [batch, *event], without derivatives."""
    return jnp.mean(jnp.sqrt(_squared_norm(jax.lax.stop_gradient(scores))))


def _squared_norm(x):
    return jnp.sum(x.reshape(x.shape[0], -1) ** 2, axis=1)


def _per_example(name, sigma, like):
    """``sigma`` shaped to divide [batch, *event]."""
    if isinstance(sigma, numbers.Real):
        return _checks.positive(name, sigma)
    sigma = jnp.asarray(sigma)
    if sigma.ndim == 0:
        return sigma
    sigma = _checks.shape(name, sigma, like.shape[:1])
    return sigma.reshape((-1,) + (1,) * (like.ndim - 1))
