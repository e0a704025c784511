"""Two-dimensional toy distributions, drawn example by example independently.

Each generator is jittable with ``num_samples`` static and returns ``[num_samples, 2]`` float32.
"""

import jax
import jax.numpy as jnp

from jbism import _checks
from jbism.typing import Array, Key


def two_moons(key: Key, num_samples: int, *, noise: float = 0.1) -> Array:
    """Draws from two interleaved half circles: (cos t, sin t) and (1 - cos t, ½ - sin t).

    Args:
      key: random key.
      num_samples: number of points.
      noise: standard deviation of the Gaussian noise around the curves.

    Returns:
      ``[num_samples, 2]`` points.

    Raises:
      ValueError: ``num_samples`` is below 1, or ``noise`` negative.

    Example:
      >>> import jax
      >>> import jbism.data
      >>> jbism.data.two_moons(jax.random.key(0), 5).shape
      (5, 2)
    """
    num_samples = _checks.integer("num_samples", num_samples, minimum=1)
    noise = _checks.non_negative("noise", noise)
    key_moon, key_angle, key_noise = jax.random.split(key, 3)
    lower = _choice(key_moon, num_samples, 2)
    t = _uniform(key_angle, num_samples, 0, jnp.pi)
    sign = 1 - 2 * lower
    v = jnp.stack([lower + sign * jnp.cos(t), 0.5 * lower + sign * jnp.sin(t)], axis=1)
    return v + _noise(key_noise, num_samples, noise)


def pinwheel(key: Key, num_samples: int, *, num_arms: int = 5) -> Array:
    """Draws from Gaussians stretched along their radius, then swirled by exp(radius) / 4.

    Johnson et al. (2016): v = 2 R(2πk/num_arms + exp(r)/4) (r, s), r ~ N(1, 0.3²), s ~ N(0, 0.1²).

    Args:
      key: random key.
      num_samples: number of points.
      num_arms: number of arms.

    Returns:
      ``[num_samples, 2]`` points.

    Raises:
      ValueError: ``num_samples`` or ``num_arms`` is below 1.

    Example:
      >>> import jax
      >>> import jbism.data
      >>> jbism.data.pinwheel(jax.random.key(0), 5).shape
      (5, 2)
    """
    num_samples = _checks.integer("num_samples", num_samples, minimum=1)
    num_arms = _checks.integer("num_arms", num_arms, minimum=1)
    key_arm, key_place = jax.random.split(key)
    arm = _choice(key_arm, num_samples, num_arms)
    r, s = jax.random.normal(key_place, (2, num_samples), jnp.float32)
    r, s = 1 + 0.3 * r, 0.1 * s
    angle = 2 * jnp.pi * arm / num_arms + jnp.exp(r) / 4
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return 2 * jnp.stack([r * cos - s * sin, r * sin + s * cos], axis=1)


def rings(key: Key, num_samples: int, *, noise: float = 0.08) -> Array:
    """Draws from four circles about 0 of radius 0.75, 1.5, 2.25 and 3, each equally likely.

    Args:
      key: random key.
      num_samples: number of points.
      noise: standard deviation of the Gaussian noise around the circles.

    Returns:
      ``[num_samples, 2]`` points.

    Raises:
      ValueError: ``num_samples`` is below 1, or ``noise`` negative.

    Example:
      >>> import jax
      >>> import jbism.data
      >>> jbism.data.rings(jax.random.key(0), 5).shape
      (5, 2)
    """
    num_samples = _checks.integer("num_samples", num_samples, minimum=1)
    noise = _checks.non_negative("noise", noise)
    key_ring, key_angle, key_noise = jax.random.split(key, 3)
    radius = 0.75 * (1 + _choice(key_ring, num_samples, 4))
    angle = _uniform(key_angle, num_samples, 0, 2 * jnp.pi)
    return _polar(radius, angle) + _noise(key_noise, num_samples, noise)


def eight_gaussians(key: Key, num_samples: int, *, noise: float = 0.125**0.5) -> Array:
    """Draws from eight Gaussians whose means lie evenly on a circle of radius √8.

    Args:
      key: random key.
      num_samples: number of points.
      noise: standard deviation of each Gaussian.

    Returns:
      ``[num_samples, 2]`` points.

    Raises:
      ValueError: ``num_samples`` is below 1, or ``noise`` negative.

    Example:
      >>> import jax
      >>> import jbism.data
      >>> jbism.data.eight_gaussians(jax.random.key(0), 5).shape
      (5, 2)
    """
    num_samples = _checks.integer("num_samples", num_samples, minimum=1)
    noise = _checks.non_negative("noise", noise)
    key_mean, key_noise = jax.random.split(key)
    angle = _choice(key_mean, num_samples, 8) * (jnp.pi / 4)
    radius = jnp.full((num_samples,), 8**0.5, jnp.float32)
    return _polar(radius, angle) + _noise(key_noise, num_samples, noise)


def two_spirals(key: Key, num_samples: int, *, noise: float = 0.1) -> Array:
    """Draws from ±t (cos t, sin t) / 3 with t = 3π√u, u uniform on [0, 1].

    Args:
      key: random key.
      num_samples: number of points.
      noise: standard deviation of the Gaussian noise around the curves.

    Returns:
      ``[num_samples, 2]`` points.

    Raises:
      ValueError: ``num_samples`` is below 1, or ``noise`` negative.

    Example:
      >>> import jax
      >>> import jbism.data
      >>> jbism.data.two_spirals(jax.random.key(0), 5).shape
      (5, 2)
    """
    num_samples = _checks.integer("num_samples", num_samples, minimum=1)
    noise = _checks.non_negative("noise", noise)
    key_arm, key_turn, key_noise = jax.random.split(key, 3)
    sign = 2 * _choice(key_arm, num_samples, 2) - 1
    t = 3 * jnp.pi * jnp.sqrt(_uniform(key_turn, num_samples, 0, 1))
    return _polar(sign * t / 3, t) + _noise(key_noise, num_samples, noise)


def swiss_roll(key: Key, num_samples: int, *, noise: float = 0.2) -> Array:
    """Draws from the spiral t (cos t, sin t) / 5 with t uniform on [1.5π, 4.5π].

    Args:
      key: random key.
      num_samples: number of points.
      noise: standard deviation of the Gaussian noise around the curve.

    Returns:
      ``[num_samples, 2]`` points.

    Raises:
      ValueError: ``num_samples`` is below 1, or ``noise`` negative.

    Example:
      >>> import jax
      >>> import jbism.data
      >>> jbism.data.swiss_roll(jax.random.key(0), 5).shape
      (5, 2)
    """
    num_samples = _checks.integer("num_samples", num_samples, minimum=1)
    noise = _checks.non_negative("noise", noise)
    key_turn, key_noise = jax.random.split(key)
    t = _uniform(key_turn, num_samples, 1.5 * jnp.pi, 4.5 * jnp.pi)
    return _polar(t / 5, t) + _noise(key_noise, num_samples, noise)


def _choice(key, num_samples, num_choices):
    return jax.random.randint(key, (num_samples,), 0, num_choices).astype(jnp.float32)


def _uniform(key, num_samples, minval, maxval):
    return jax.random.uniform(key, (num_samples,), jnp.float32, minval, maxval)


def _noise(key, num_samples, noise):
    return noise * jax.random.normal(key, (num_samples, 2), jnp.float32)


def _polar(radius, angle):
    return jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle)], axis=1)
