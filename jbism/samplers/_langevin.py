"""Unadjusted Langevin dynamics at given temperatures."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jbism import _checks, _random
from jbism.typing import Array, Key


def langevin(
    key: Key,
    x: Any,
    temperatures: Array,
    *,
    energy: Callable[[Any], Array],
    step_size: Any,
    start: int | Array = 0,
    shared_noise: bool = False,
) -> Any:
    """Langevin dynamics, one chain an example, one step a temperature.

    x ← x - ½η² ∇E(x) + √T η ξ with ξ ~ N(0, I): at a constant T and small η the chain's law is
    proportional to exp(-E(x)/T). There is no accept step, so a finite η leaves a bias.

    The noise of step i is a function of (key, start + i): a long run may be cut into chunks,
    ``langevin(key, x, t[n:], start=n)`` goes on exactly where ``t[:n]`` ended.

    Args:
      key: random key, the same for all chunks of a run.
      x: where the chains start: a pytree whose leaves are [chains, *event].
      temperatures: T >= 0 of each step, [num_steps].
      energy: maps ONE x to a scalar.
      step_size: η, in the units of x: a positive number, or a pytree of such that is
        a prefix of x.
      start: the number of steps that went before; may be traced.
      shared_noise: give every chain the same noise, as for interpolations.

    Returns:
      x after the last step.

    Raises:
      ValueError: if a step size is not positive or fits no leaf, temperatures is not a vector,
        start is negative, the leaves differ in their number of chains, or the energy is not a
        scalar.
      TypeError: if a leaf of x is not floating, or start is not an integer.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> energy = lambda x: 0.5 * jnp.sum((x - 3.0) ** 2)
      >>> x = langevin(jax.random.key(0), jnp.zeros((1000, 1)), jnp.ones(200), energy=energy,
      ...              step_size=0.3)
      >>> abs(float(x.mean()) - 3.0) < 0.1, abs(float(x.std()) - 1.0) < 0.1
      (True, True)
    """

    def scalar_energy(x):
        return _checks.scalar("energy(x)", energy(x))

    gradient, etas = jax.vmap(jax.grad(scalar_energy)), spread_step_size(step_size, x)
    return run_langevin(key, x, temperatures, gradient, etas, start, shared_noise)


def spread_step_size(step_size: Any, x: Any) -> Any:
    """Returns a step size, or a tree prefix of x of such, as one positive number a leaf of x."""
    try:
        spread = jax.tree.broadcast(step_size, x)
    except ValueError:
        raise ValueError(
            f"step_size must be a number or a tree prefix of x, {jax.tree.structure(x)}, got "
            f"{step_size!r}"
        ) from None
    return jax.tree.map(lambda eta: _checks.positive("step_size", eta), spread)


def run_langevin(
    key: Key,
    x: Any,
    temperatures: Array,
    gradient: Callable[[Any], Any],
    step_sizes: Any,
    start: int | Array,
    shared_noise: bool,
) -> Any:
    """`langevin` by the gradient of all chains' energies together.

    ``step_sizes`` is a pytree like x of numbers, or of arrays that broadcast to its leaves.
    """
    temperatures = _checks.rank("temperatures", temperatures, 1)
    leaves, structure = jax.tree.flatten(x)
    leaves = [_checks.batched("x", leaf) for leaf in leaves]
    chains = {leaf.shape[0] for leaf in leaves}
    if len(chains) != 1:
        raise ValueError(f"x must have one chain axis in all leaves, got sizes {sorted(chains)}")
    etas = jax.tree.leaves(step_sizes)

    def noise(leaf_key, leaf):
        shape = (1, *leaf.shape[1:]) if shared_noise else leaf.shape
        return _random.normal(leaf_key, shape, leaf.dtype) * jnp.ones_like(leaf)

    def step(leaves, inputs):
        temperature, index = inputs
        keys = _random.split(_random.fold_in(key, index), len(leaves))
        gradients = jax.tree.leaves(gradient(jax.tree.unflatten(structure, leaves)))
        moved = []
        for leaf_key, leaf, g, eta in zip(keys, leaves, gradients, etas, strict=True):
            scale = (jnp.sqrt(temperature) * eta).astype(leaf.dtype)
            moved.append(leaf - 0.5 * eta**2 * g + scale * noise(leaf_key, leaf))
        return moved, None

    steps = _checks.count("start", start) + jnp.arange(temperatures.shape[0])
    leaves, _ = jax.lax.scan(step, leaves, (temperatures, steps))
    return jax.tree.unflatten(structure, leaves)


def denoise(v: Array, *, energy: Callable[[Array], Array], sigma: float) -> Array:
    """One denoising step, v - σ² ∇E(v), the posterior mean under noise of scale σ.

    The empirical-Bayes estimate that ends annealed Langevin sampling of energies trained by
    denoising score matching.

    Args:
      v: one noisy visible, [*event].
      energy: maps ONE v to a scalar.
      sigma: σ in the units of v.

    Returns:
      The denoised visible, [*event].

    Raises:
      ValueError: if sigma is not positive or the energy is not a scalar.
      TypeError: if v is not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> energy = lambda v: 0.5 * jnp.sum(v**2) / 0.1**2  # all mass at 0, smoothed by 0.1
      >>> [round(float(x), 4) for x in denoise(jnp.ones(2), energy=energy, sigma=0.1)]
      [0.0, 0.0]
    """
    v = _checks.floating("v", v)
    sigma = _checks.positive("sigma", sigma)
    return v - sigma**2 * jax.grad(lambda v: _checks.scalar("energy(v)", energy(v)))(v)
