"""Langevin refinement of particles."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from jbism import _checks, _random
from jbism.typing import Array, Energy, Key, Latent, Params

_WRITTEN_OUT = 10  # steps up to which the loop is written out, as `hypergradients.Unroll` does


@dataclass(frozen=True)
class LangevinRefinement:
    """A few Langevin steps from samples of q(h | v) towards p(h | v; θ).

    h ← h - ½α ∇_h E(v, h; θ) + ς ξ, ξ ~ N(0, I) (Bao et al., 2021). With ς = √α it is Langevin
    dynamics of the posterior. A smaller ς, such as the published one, descends the energy: few
    steps correct where q is off, many gather the particles at a mode, and VaGES loses its
    covariance. Up to ten steps are written out, so that the compiler computes what depends on v
    alone, a trunk, once.

    Args:
      num_steps: number of steps, at least 1.
      step_size: α, in the units of h squared. Published for natural images: 1e-2.
      noise_scale: ς >= 0, in the units of h; None for √α. Published for natural images: 1e-4.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> energy = lambda theta, v, h: 0.5 * jnp.sum((h - v) ** 2)
      >>> refine = LangevinRefinement(num_steps=1, step_size=1.0, noise_scale=0.0)
      >>> refine(None, jax.random.key(0), jnp.ones(2), jnp.zeros((3, 2)), energy=energy)[0].tolist()
      [0.5, 0.5]
    """

    num_steps: int = 5
    step_size: float = 1e-2
    noise_scale: float | None = None

    def __post_init__(self):
        _checks.integer("num_steps", self.num_steps, minimum=1)
        _checks.positive("step_size", self.step_size)
        if self.noise_scale is not None:
            _checks.non_negative("noise_scale", self.noise_scale)

    def __call__(self, theta: Params, key: Key, v: Array, h: Latent, *, energy: Energy) -> Latent:
        """Returns the particles of one v after the steps; leaves [L, ...]."""
        leaves, structure = jax.tree.flatten(h)
        leaves = [_checks.batched("h", leaf) for leaf in leaves]

        noise_scale = self.step_size**0.5 if self.noise_scale is None else self.noise_scale

        def total(leaves):
            h = jax.tree.unflatten(structure, leaves)
            return jnp.sum(jax.vmap(partial(_checks.scalar_energy, energy, theta, v))(h))

        def step(leaves, step_key):
            keys = _random.split(step_key, len(leaves))
            gradients = jax.grad(total)(leaves)
            moved = [
                leaf
                - 0.5 * self.step_size * g
                + noise_scale * _random.normal(k, leaf.shape, leaf.dtype)
                for leaf, g, k in zip(leaves, gradients, keys, strict=True)
            ]
            return moved, None

        unroll = self.num_steps if self.num_steps <= _WRITTEN_OUT else 1
        leaves, _ = jax.lax.scan(step, leaves, _random.split(key, self.num_steps), unroll=unroll)
        return jax.tree.unflatten(structure, leaves)
