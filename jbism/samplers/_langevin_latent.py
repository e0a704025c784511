"""Langevin dynamics of energies E(v, h; θ): of both, of one given the other, of missing parts."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jbism import _checks
from jbism.samplers._langevin import run_langevin, spread_step_size
from jbism.typing import Array, Energy, Key, Latent, Params


def langevin_joint(
    key: Key,
    theta: Params,
    v: Array,
    h: Latent,
    temperatures: Array,
    *,
    energy: Energy,
    step_size: Any,
    start: int | Array = 0,
    shared_noise: bool = False,
) -> tuple[Array, Latent]:
    """Samples (v, h) together by `langevin`, which documents what is not documented here.

    Args:
      key: the same key in every piece of a run.
      theta: parameters of the energy.
      v: [chains, *event].
      h: a pytree of floating arrays, each [chains, ...].
      temperatures: [steps].
      energy: ``(theta, v, h) -> scalar`` of ONE v and ONE h.
      step_size: η > 0, or a pair of them for v and h.
      start: steps of the run taken before.
      shared_noise: one noise for all chains.

    Returns:
      v and h after the last step.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> energy = lambda theta, v, h: 0.5 * theta * jnp.sum((v - h) ** 2)
      >>> v, h = langevin_joint(jax.random.key(0), 1.0, jnp.ones((1, 1)), jnp.zeros((1, 1)),
      ...                       jnp.zeros(1), energy=energy, step_size=1.0)
      >>> v.tolist(), h.tolist()
      ([[0.5]], [[0.5]])
    """
    gradient = _gradient(theta, energy, (1, 2), v, h)
    etas, x = spread_step_size(step_size, (v, h)), (v, h)
    return run_langevin(key, x, temperatures, lambda x: gradient(*x), etas, start, shared_noise)


def langevin_visible(
    key: Key,
    theta: Params,
    v: Array,
    h: Latent,
    temperatures: Array,
    *,
    energy: Energy,
    step_size: Any,
    start: int | Array = 0,
    shared_noise: bool = False,
) -> Array:
    """Samples v given h, one h a chain; arguments as in `langevin_joint`.

    Returns:
      v after the last step.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> energy = lambda theta, v, h: 0.5 * theta * jnp.sum((v - h) ** 2)
      >>> langevin_visible(jax.random.key(0), 1.0, jnp.ones((1, 1)), jnp.zeros((1, 1)),
      ...                  jnp.zeros(1), energy=energy, step_size=1.0).tolist()
      [[0.5]]
    """
    gradient = _gradient(theta, energy, 1, v, h)
    etas = spread_step_size(step_size, v)
    return run_langevin(key, v, temperatures, lambda v: gradient(v, h), etas, start, shared_noise)


def langevin_hidden(
    key: Key,
    theta: Params,
    v: Array,
    h: Latent,
    temperatures: Array,
    *,
    energy: Energy,
    step_size: Any,
    start: int | Array = 0,
    shared_noise: bool = False,
) -> Latent:
    """Samples h given v, one v a chain; arguments as in `langevin_joint`.

    Returns:
      h after the last step.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> energy = lambda theta, v, h: 0.5 * theta * jnp.sum((v - h) ** 2)
      >>> langevin_hidden(jax.random.key(0), 1.0, jnp.ones((1, 1)), jnp.zeros((1, 1)),
      ...                 jnp.zeros(1), energy=energy, step_size=1.0).tolist()
      [[0.5]]
    """
    gradient = _gradient(theta, energy, 2, v, h)
    etas = spread_step_size(step_size, h)
    return run_langevin(key, h, temperatures, lambda h: gradient(v, h), etas, start, shared_noise)


def langevin_inpaint(
    key: Key,
    theta: Params,
    v: Array,
    h: Latent,
    missing: Array,
    temperatures: Array,
    *,
    energy: Energy,
    step_size: Any,
    observed: Array | None = None,
    noise_scale: float = 0.0,
    start: int | Array = 0,
    shared_noise: bool = False,
) -> tuple[Array, Latent]:
    """Samples the missing entries of v, and h, given the other entries of v.

    Multiscale denoising score matching has exp(-E/T) be a density of v under noise of scale σ √T.
    There a clean entry beside a noisy one is like no v that the energy was trained on. With that σ
    as ``noise_scale`` the observed entries move as well, by the Ornstein-Uhlenbeck process of

        N(observed, σ² T),

    whose steps are exact for any η: x ← o + a (x - o) + σ √(T (1 - a²)) ξ with a = exp(-½η²/σ²).
    They follow a T that falls with some 2σ²/η² steps' delay, and are clean that long after it is 0.

    Args:
      key: as in `langevin_joint`, and so are theta, h, temperatures and the options.
      theta: parameters of the energy.
      v: [chains, *event]; its missing entries are where the chains start.
      h: a pytree of floating arrays, each [chains, ...].
      missing: booleans of the shape of v; True where v is to be sampled.
      temperatures: [steps].
      energy: ``(theta, v, h) -> scalar`` of ONE v and ONE h.
      step_size: η > 0, or a pair of them for v and h.
      observed: of the shape of v; the values of the entries that are not missing. None means those
        of v, which are where the chains start.
      noise_scale: σ >= 0 in the units of v, a number; 0 holds the observed entries at their values.
      start: steps of the run taken before; where σ > 0, v is then what that run returned, and
        observed is given.
      shared_noise: one noise for all chains.

    Returns:
      v, equal to observed (up to the noise) where it is not missing, and h after the last step.

    Raises:
      ValueError: if missing or observed has not the shape of v, if noise_scale is negative, and as
        `langevin`.
      TypeError: if missing is not boolean, or noise_scale is traced.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> energy = lambda theta, v, h: 0.5 * theta * jnp.sum((v - h) ** 2)
      >>> v, h = langevin_inpaint(jax.random.key(0), 1.0, jnp.ones((1, 2)), jnp.zeros((1, 2)),
      ...                         jnp.array([[True, False]]), jnp.zeros(1),
      ...                         energy=energy, step_size=1.0)
      >>> v.tolist(), h.tolist()
      ([[0.5, 1.0]], [[0.5, 0.5]])
    """
    missing = jnp.asarray(missing)
    _checks.same_shape("missing", missing, "v", v)
    if missing.dtype != bool:
        raise TypeError(f"missing must be boolean, got dtype {missing.dtype}")
    v = _checks.batched("v", v)
    observed = v if observed is None else _checks.floating("observed", observed).astype(v.dtype)
    _checks.same_shape("observed", observed, "v", v)
    if isinstance(noise_scale, jax.core.Tracer):
        raise TypeError(f"noise_scale must be a number, got the traced {noise_scale}")
    noise_scale = _checks.non_negative("noise_scale", noise_scale)
    gradient = _gradient(theta, energy, (1, 2), v, h)
    eta, etas_h = spread_step_size(step_size, (v, h))
    if noise_scale > 0:
        # As Langevin steps of another size along another gradient.
        a = jnp.exp(-0.5 * (eta / noise_scale) ** 2)
        pull = 2.0 / ((1.0 + a) * noise_scale**2)
        own = noise_scale * jnp.sqrt(-jnp.expm1(-((eta / noise_scale) ** 2)))
        eta = jnp.where(missing, eta, own).astype(v.dtype)

    # Without noise the observed entries of the chain wander, but nothing ever sees them.
    def clamped(v):
        return v if noise_scale > 0 else jnp.where(missing, v, observed)

    def gradients(x):
        of_v, of_h = gradient(clamped(x[0]), x[1])
        if noise_scale > 0:
            of_v = jnp.where(missing, of_v, pull.astype(v.dtype) * (x[0] - observed))
        return of_v, of_h

    etas = eta, etas_h
    v, h = run_langevin(key, (v, h), temperatures, gradients, etas, start, shared_noise)
    return clamped(v), h


def _gradient(theta, energy, argnums, v, h):
    """The gradient of the energy for all chains together, ``(v, h) -> gradient``."""
    chains = _checks.batched("v", v).shape[0]
    for leaf in jax.tree.leaves(h):
        if jnp.shape(leaf)[:1] != (chains,):
            raise ValueError(f"h must have the {chains} chains of v, got shape {jnp.shape(leaf)}")
    gradient = jax.grad(partial(_checks.scalar_energy, energy), argnums)
    gradient = jax.vmap(gradient, in_axes=(None, 0, 0))
    return lambda v, h: gradient(theta, v, h)
