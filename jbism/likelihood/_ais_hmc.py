"""Annealed importance sampling of continuous models, with Hamiltonian transitions."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import NamedSharding, PartitionSpec

from jbism import _checks, _layout, _random
from jbism.likelihood._ais import AISResult, summarize_weights
from jbism.likelihood._ais_pieces import AISPieces, begin, walk
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
    sharding: NamedSharding | None = None,
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
      sharding: how the chains, one axis, are laid out over devices, such as
        ``NamedSharding(mesh, PartitionSpec("chains"))``; on one device by default. num_chains must
        be a multiple of its parts; the pilot is split if its chains are one too.

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
    return ais_hmc_pieces(
        energy=energy,
        base_mean=base_mean,
        base_scale=base_scale,
        num_chains=num_chains,
        num_temperatures=num_temperatures,
        num_leapfrog_steps=num_leapfrog_steps,
        target_acceptance=target_acceptance,
        sharding=sharding,
    ).run(key)


def ais_hmc_pieces(
    *,
    energy: Callable[[Any], Array],
    base_mean: Any,
    base_scale: Any,
    num_chains: int = 500,
    num_temperatures: int = 1_000,
    num_leapfrog_steps: int = 5,
    target_acceptance: float = 0.7,
    sharding: NamedSharding | None = None,
) -> AISPieces:
    """`ais_hmc` in pieces, to be interrupted; arguments, errors and result are its own.

    Returns:
      An `AISPieces`, which has an example. In each piece the pilot goes before the chains.
    """
    mean, scale, unravel = _check_base(base_mean, base_scale)
    num_chains = _checks.integer("num_chains", num_chains, minimum=2)
    num_temperatures = _checks.integer("num_temperatures", num_temperatures, minimum=2)
    num_leapfrog_steps = _checks.integer("num_leapfrog_steps", num_leapfrog_steps, minimum=1)
    target_acceptance = _checks.positive("target_acceptance", target_acceptance)
    _checks.fraction("target_acceptance", target_acceptance)
    _checks.function("energy", energy)
    _layout.check(sharding, "num_chains", num_chains)
    betas = jnp.linspace(0.0, 1.0, num_temperatures, dtype=mean.dtype)
    log_volume = jnp.sum(jnp.log(scale))

    def log_density(z, beta):
        e = _checks.scalar("energy(x)", energy(unravel(mean + scale * z))).astype(z.dtype)
        base = -0.5 * jnp.sum(z**2) - 0.5 * z.size * math.log(2.0 * math.pi)
        # An energy may be infinite: the base knows nothing of it.
        return (1.0 - beta) * base + jnp.where(beta == 0.0, 0.0, beta * (log_volume - e))

    def hmc(key, z, beta, step_size):
        return _hmc_step(key, z, lambda z: log_density(z, beta), step_size, num_leapfrog_steps)

    def transition(key, x, point):
        z, total_acceptance = x
        z, acceptance = hmc(key, z, *point)
        return z, total_acceptance + acceptance

    def init(key):
        key_pilot_base, key_pilot, key_base, key_chains = _random.split(key, 4)
        pilot = _begin_pilot(key_pilot, key_pilot_base, betas, num_chains, mean.size, sharding)
        z = _layout.place(_random.normal(key_base, (num_chains, mean.size), mean.dtype), sharding)
        return begin(key_chains, (z, jnp.zeros_like(z[:, 0])), mean.dtype, pilot)

    def walk_both(state, num_steps):
        ahead = num_steps + 1
        # All steps at once are a number known beforehand, so that they can be differentiated.
        if not isinstance(num_steps, int) or num_steps < num_temperatures - 1:
            ahead += state.step - state.pilot.step
        pilot = _walk_pilot(state.pilot, ahead, hmc, betas, target_acceptance, sharding)
        return walk(
            state._replace(pilot=pilot),
            num_steps,
            log_density=lambda x, point: log_density(x[0], point[0]),
            transition=transition,
            path=(betas, pilot.step_sizes),
        )

    def summarize(state):
        result = summarize_weights(state.log_weights, jnp.zeros((), mean.dtype))
        return result, jnp.mean(state.chains[1]) / (num_temperatures - 1)

    return AISPieces(num_temperatures - 1, init, walk_both, summarize)


class _Pilot(NamedTuple):
    """Chains that tune the step sizes, one temperature ahead of the chains that are weighed."""

    step: Array  # int32 scalar, temperatures seen
    key: Key
    z: Array  # [chains, dim]
    log_step_size: Array  # scalar
    step_sizes: Array  # [temperatures], 0 where the pilot has not been


def _hmc_step(key, z, log_density, step_size, num_steps):
    """One trajectory from z; returns the next z and the acceptance probability."""
    key_momentum, key_jitter, key_accept = _random.split(key, 3)
    momentum = _random.normal(key_momentum, z.shape, z.dtype)
    spread = _random.uniform(key_jitter, (), z.dtype, 1.0 - _JITTER, 1.0 + _JITTER)
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
    accepted = _random.uniform(key_accept, (), z.dtype) < acceptance
    return jnp.where(accepted, new_z, z), acceptance


def _begin_pilot(key, key_base, betas, num_chains, dim, sharding):
    z = _random.normal(key_base, (min(num_chains, _PILOT_CHAINS), dim), betas.dtype)
    log_step_size = jnp.asarray(-0.25 * math.log(dim), z.dtype)  # acceptance is constant in ε dim^¼
    z = _layout.place(z, _pilot_sharding(sharding, len(z)))
    return _Pilot(jnp.zeros((), jnp.int32), key, z, log_step_size, jnp.zeros_like(betas))


def _walk_pilot(pilot, num_steps, hmc, betas, target, sharding):
    """Anneals the pilot on, one step size a temperature."""
    transitions = jax.vmap(hmc, in_axes=(0, 0, None, None))
    sharding = _pilot_sharding(sharding, len(pilot.z))

    def step(_, carry):
        index, z, log_step_size, step_sizes = carry
        keys = _random.split(_random.fold_in(pilot.key, index), z.shape[0])
        z, acceptance = transitions(keys, z, betas[index], jnp.exp(log_step_size))
        if sharding is not None:  # summed in one order on however many devices
            acceptance = _layout.place(acceptance, NamedSharding(sharding.mesh, PartitionSpec()))
        log_step_size += _PILOT_GAIN * (jnp.mean(acceptance) - target)
        return index + 1, z, log_step_size, step_sizes.at[index].set(jnp.exp(log_step_size))

    carry = (pilot.step, *pilot[2:])
    index, *rest = jax.lax.fori_loop(0, num_steps, step, carry)
    return _Pilot(index, pilot.key, *rest)


def _pilot_sharding(sharding, num_chains):
    if sharding is None or num_chains % _layout.num_parts(sharding):
        return None
    return sharding


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
