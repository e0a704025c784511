"""Annealed importance sampling of continuous models, with Hamiltonian transitions."""

import math
from collections.abc import Callable
from functools import partial
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
      num_leapfrog_steps: gradients a transition, at least 1; it takes no others.
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

    def energy_of(z):
        return _checks.scalar("energy(x)", energy(unravel(mean + scale * z))).astype(z.dtype)

    def evaluate(z):
        return Point(z, *jax.value_and_grad(energy_of)(z))

    def log_density(point, beta):
        z = point.z
        base = -0.5 * jnp.sum(z**2) - 0.5 * z.size * math.log(2.0 * math.pi)
        # An energy may be infinite: the base knows nothing of it.
        model = jnp.where(beta == 0.0, 0.0, beta * (log_volume - point.energy))
        return (1.0 - beta) * base + model

    def slope(point, beta):
        return -(1.0 - beta) * point.z - jnp.where(beta == 0.0, 0.0, beta * point.gradient)

    def hmc(key, point, beta, step_size):
        density = Density(evaluate, partial(log_density, beta=beta), partial(slope, beta=beta))
        return hmc_step(key, point, density, step_size, num_leapfrog_steps)

    def transition(key, x, at):
        point, total_acceptance = x
        point, acceptance = hmc(key, point, *at)
        return point, total_acceptance + acceptance

    def from_base(key, count, sharding):
        z = _random.normal(key, (count, mean.size), mean.dtype)
        return jax.vmap(evaluate)(_layout.place(z, sharding))

    def init(key):
        key_pilot_base, key_pilot, key_base, key_chains = _random.split(key, 4)
        count = min(num_chains, _PILOT_CHAINS)
        points = from_base(key_pilot_base, count, _pilot_sharding(sharding, count))
        pilot = _begin_pilot(key_pilot, points, betas)
        points = from_base(key_base, num_chains, sharding)
        return begin(key_chains, (points, jnp.zeros_like(points.energy)), mean.dtype, pilot)

    def walk_both(state, num_steps):
        ahead = num_steps + 1
        # All steps at once are a number known beforehand, so that they can be differentiated.
        if not isinstance(num_steps, int) or num_steps < num_temperatures - 1:
            ahead += state.step - state.pilot.step
        pilot = _walk_pilot(state.pilot, ahead, hmc, betas, target_acceptance, sharding)
        return walk(
            state._replace(pilot=pilot),
            num_steps,
            log_density=lambda x, at: log_density(x[0], at[0]),
            transition=transition,
            path=(betas, pilot.step_sizes),
        )

    def summarize(state):
        result = summarize_weights(state.log_weights, jnp.zeros((), mean.dtype))
        return result, jnp.mean(state.chains[1]) / (num_temperatures - 1)

    return AISPieces(num_temperatures - 1, init, walk_both, summarize)


class Point(NamedTuple):
    """A chain in standard coordinates, with its energy there: no step evaluates it again."""

    z: Array  # [dim]
    energy: Array  # scalar
    gradient: Array  # ∇_z E, [dim]


class _Pilot(NamedTuple):
    """Chains that tune the step sizes, one temperature ahead of the chains that are weighed."""

    step: Array  # int32 scalar, temperatures seen
    key: Key
    points: Point  # [chains, ...]
    log_step_size: Array  # scalar
    step_sizes: Array  # [temperatures], 0 where the pilot has not been


class Density(NamedTuple):
    """A density, log f up to a constant."""

    evaluate: Callable[[Array], Point]
    log_density: Callable[[Point], Array]
    slope: Callable[[Point], Array]  # ∇_z log f, [dim]


def hmc_step(
    key: Key, start: Point, density: Density, step_size: Array | float, num_steps: int
) -> tuple[Point, Array]:
    """One trajectory of num_steps evaluations; returns where it ends and its acceptance."""
    key_momentum, key_jitter, key_accept = _random.split(key, 3)
    dtype = start.z.dtype
    momentum = _random.normal(key_momentum, start.z.shape, dtype)
    spread = _random.uniform(key_jitter, (), dtype, 1.0 - _JITTER, 1.0 + _JITTER)
    step_size = step_size * spread

    def leapfrog(state, _):
        point, momentum = state
        momentum += 0.5 * step_size * density.slope(point)
        point = density.evaluate(point.z + step_size * momentum)
        momentum += 0.5 * step_size * density.slope(point)
        return (point, momentum), None

    (end, end_momentum), _ = jax.lax.scan(leapfrog, (start, momentum), length=num_steps)
    gain = density.log_density(end) - density.log_density(start)
    gain += 0.5 * (jnp.sum(momentum**2) - jnp.sum(end_momentum**2))
    # A trajectory that overflowed ends where the density is 0 or not a number: it is rejected.
    acceptance = jnp.where(jnp.isnan(gain), 0.0, jnp.exp(jnp.minimum(gain, 0.0)))
    accepted = _random.uniform(key_accept, (), dtype) < acceptance
    return jax.tree.map(partial(jnp.where, accepted), end, start), acceptance


def _begin_pilot(key, points, betas):
    dim = points.z.shape[1]
    # Acceptance is constant in ε dim^¼.
    log_step_size = jnp.asarray(-0.25 * math.log(dim), betas.dtype)
    return _Pilot(jnp.zeros((), jnp.int32), key, points, log_step_size, jnp.zeros_like(betas))


def _walk_pilot(pilot, num_steps, hmc, betas, target, sharding):
    """Anneals the pilot on, one step size a temperature."""
    transitions = jax.vmap(hmc, in_axes=(0, 0, None, None))
    num_chains = pilot.points.z.shape[0]
    sharding = _pilot_sharding(sharding, num_chains)

    def step(_, carry):
        index, points, log_step_size, step_sizes = carry
        keys = _random.split(_random.fold_in(pilot.key, index), num_chains)
        points, acceptance = transitions(keys, points, betas[index], jnp.exp(log_step_size))
        if sharding is not None:  # summed in one order on however many devices
            acceptance = _layout.place(acceptance, NamedSharding(sharding.mesh, PartitionSpec()))
        log_step_size += _PILOT_GAIN * (jnp.mean(acceptance) - target)
        return index + 1, points, log_step_size, step_sizes.at[index].set(jnp.exp(log_step_size))

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
