"""Annealed importance sampling of continuous models, with Hamiltonian transitions."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jbism import _checks
from jbism.likelihood._ais import AISResult, annealed_importance_sampling, summarize_weights
from jbism.typing import Array, Key

_PILOT_CHAINS = 64
_PILOT_GAIN = 0.2  # change of log step size for a full unit of acceptance, a temperature
_JITTER = 0.2  # relative spread of step sizes, against periodic orbits


def ais_hmc(
    key: Key,
    *,
    energy: Callable[[Any], Array],
    base_mean: Any,
    base_scale: Any,
    num_chains: int = 500,
    num_temperatures: int = 1_000,
    num_leapfrog_steps: int = 5,
    target_acceptance: float = 0.7,
) -> tuple[AISResult, Array]:
    """Estimates log Z = log ∫ exp(-E(x)) dx from a diagonal Gaussian base.

    The path is geometric, log f_β = (1 - β) log N(x; mean, scale²) - β E(x), β from 0 to 1 in equal
    steps. Each transition is one Metropolis-adjusted Hamiltonian trajectory in the base's standard
    coordinates, of num_leapfrog_steps (1 is MALA) with step sizes spread by ±20 %.

    A pilot of at most 64 chains goes first and tunes one step size a temperature by its mean
    acceptance. The chains that are weighed use these fixed sizes, so E[Ẑ] = Z holds exactly, and
    log Ẑ is low on average.

    Args:
      key: randomness of pilot and chains.
      energy: maps ONE x to its scalar energy; log p(x) = -E(x) - log Z.
      base_mean: mean of the base, a pytree of floating arrays like ONE x.
      base_scale: standard deviations of the base, each above 0, in a pytree like base_mean. A base
        wider than the model is safe; a narrower one spreads the weights.
      num_chains: independent chains, at least 2.
      num_temperatures: values of β, 0 and 1 among them, at least 2.
      num_leapfrog_steps: gradients a transition, at least 1.
      target_acceptance: mean acceptance the pilot steers to, in (0, 1).

    Returns:
      An `AISResult`, its interval by the delta method, and the mean acceptance probability of the
      weighed chains over all temperatures.

    Raises:
      ValueError: if base_mean and base_scale differ in structure or shapes, or a number is out of
        range, or the energy is not a scalar.
      TypeError: if the base is not floating.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> result, acceptance = ais_hmc(
      ...     jax.random.key(0), energy=lambda x: 0.5 * jnp.sum((x / 2) ** 2), num_chains=200,
      ...     base_mean=jnp.zeros(1), base_scale=jnp.full(1, 3.0), num_temperatures=50)
      >>> round(float(result.log_partition), 1)  # log(2 √2π) = 1.61
      1.6
    """
    mean, scale, unravel = _check_base(base_mean, base_scale)
    num_chains = _checks.integer("num_chains", num_chains, minimum=2)
    num_temperatures = _checks.integer("num_temperatures", num_temperatures, minimum=2)
    num_leapfrog_steps = _checks.integer("num_leapfrog_steps", num_leapfrog_steps, minimum=1)
    target_acceptance = _checks.positive("target_acceptance", target_acceptance)
    _checks.fraction("target_acceptance", target_acceptance)
    _checks.function("energy", energy)
    key_pilot_base, key_pilot, key_base, key_chains = jax.random.split(key, 4)
    betas = jnp.linspace(0.0, 1.0, num_temperatures, dtype=mean.dtype)
    log_volume = jnp.sum(jnp.log(scale))

    def log_density(z, beta):
        e = _checks.scalar("energy(x)", energy(unravel(mean + scale * z))).astype(z.dtype)
        base = -0.5 * jnp.sum(z**2) - 0.5 * z.size * math.log(2.0 * math.pi)
        # An energy may be infinite: the base knows nothing of it.
        return (1.0 - beta) * base + jnp.where(beta == 0.0, 0.0, beta * (log_volume - e))

    def hmc(key, z, beta, step_size):
        return _hmc_step(key, z, lambda z: log_density(z, beta), step_size, num_leapfrog_steps)

    pilot = jax.random.normal(
        key_pilot_base, (min(num_chains, _PILOT_CHAINS), mean.size), mean.dtype
    )
    step_sizes = _tune(key_pilot, pilot, hmc, betas, target_acceptance)

    def transition(key, state, beta):
        z, total_acceptance = state
        z, acceptance = hmc(key, z, beta, jnp.interp(beta, betas, step_sizes))
        return z, total_acceptance + acceptance

    z = jax.random.normal(key_base, (num_chains, mean.size), mean.dtype)
    log_weights, (_, total_acceptance) = annealed_importance_sampling(
        key_chains,
        (z, jnp.zeros(num_chains, mean.dtype)),
        log_density=lambda state, beta: log_density(state[0], beta),
        transition=transition,
        betas=betas,
    )
    result = summarize_weights(log_weights, jnp.zeros((), log_weights.dtype))
    return result, jnp.mean(total_acceptance) / (num_temperatures - 1)


def _hmc_step(key, z, log_density, step_size, num_steps):
    """One trajectory from z; returns the next z and the acceptance probability."""
    key_momentum, key_jitter, key_accept = jax.random.split(key, 3)
    momentum = jax.random.normal(key_momentum, z.shape, z.dtype)
    spread = jax.random.uniform(key_jitter, (), z.dtype, 1.0 - _JITTER, 1.0 + _JITTER)
    step_size = step_size * spread
    value_and_grad = jax.value_and_grad(log_density)

    def leapfrog(state, _):
        z, momentum, _, gradient = state
        momentum += 0.5 * step_size * gradient
        z += step_size * momentum
        value, gradient = value_and_grad(z)
        momentum += 0.5 * step_size * gradient
        return (z, momentum, value, gradient), None

    value, gradient = value_and_grad(z)
    start = (z, momentum, value, gradient)
    (new_z, new_momentum, new_value, _), _ = jax.lax.scan(leapfrog, start, length=num_steps)
    gain = new_value - value + 0.5 * (jnp.sum(momentum**2) - jnp.sum(new_momentum**2))
    # A trajectory that overflowed ends where the density is 0 or not a number: it is rejected.
    acceptance = jnp.where(jnp.isnan(gain), 0.0, jnp.exp(jnp.minimum(gain, 0.0)))
    accepted = jax.random.uniform(key_accept, (), z.dtype) < acceptance
    return jnp.where(accepted, new_z, z), acceptance


def _tune(key, z, hmc, betas, target):
    """Step sizes [temperatures] that a pilot population found while it was annealed."""
    transitions = jax.vmap(hmc, in_axes=(0, 0, None, None))

    def step(state, inputs):
        z, log_step_size = state
        step_key, beta = inputs
        keys = jax.random.split(step_key, z.shape[0])
        z, acceptance = transitions(keys, z, beta, jnp.exp(log_step_size))
        log_step_size += _PILOT_GAIN * (jnp.mean(acceptance) - target)
        return (z, log_step_size), jnp.exp(log_step_size)

    dim = z.shape[1]
    start = (z, jnp.asarray(-0.25 * math.log(dim), z.dtype))  # acceptance is constant in ε dim^¼
    _, step_sizes = jax.lax.scan(step, start, (jax.random.split(key, betas.size), betas))
    return step_sizes


def _check_base(base_mean, base_scale):
    expected, structure = str(jax.tree.structure(base_mean)), str(jax.tree.structure(base_scale))
    if structure != expected:
        raise ValueError(
            f"base_scale must have the structure of base_mean, {expected}, got {structure}"
        )
    base_mean = jax.tree.map(lambda m: _checks.floating("base_mean", m), base_mean)
    base_scale = jax.tree.map(lambda s: _checks.floating("base_scale", s), base_scale)
    jax.tree.map(
        lambda m, s: _checks.same_shape("base_scale", s, "base_mean", m), base_mean, base_scale
    )
    mean, _ = ravel_pytree(base_mean)
    if mean.size == 0:
        raise ValueError("base_mean must not be empty")
    scale, _ = ravel_pytree(base_scale)
    for leaf in jax.tree.leaves(base_scale):
        # What is traced has no value to check.
        if not isinstance(leaf, jax.core.Tracer) and not np.all(np.asarray(leaf) > 0):
            raise ValueError(f"base_scale must be above 0, got {np.min(leaf)}")
    # Weights want single precision at least; E decides what x it is given.
    dtype = jnp.promote_types(jnp.result_type(mean, scale), jnp.float32)
    wide = jax.tree.map(lambda m: m.astype(jnp.promote_types(m.dtype, dtype)), base_mean)
    mean, unravel = ravel_pytree(wide)
    return mean, scale.astype(mean.dtype), unravel
