"""Particles: the latents of one v over which the variational estimates average."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jbism import _checks, _random
from jbism.typing import Array, Distribution, Energy, Key, Latent, Params, Posterior, Refinement


@dataclass(frozen=True)
class ParticleSource:
    """How the particles of the variational estimates come about; validated when made.

    Attributes:
      num_particles: L samples a set; None enumerates the distribution's ``support()``.
      num_sets: independent sets for each v.
      refinement: moves them, or None.
      minimum: the smallest L that the estimate can do with.
    """

    energy: Energy
    posterior: Posterior
    num_particles: int | None
    num_sets: int
    refinement: Refinement | None
    minimum: int

    def __post_init__(self):
        _checks.function("energy", self.energy)
        _checks.function("posterior", self.posterior)
        if self.num_particles is not None:
            _checks.integer("num_particles", self.num_particles, minimum=self.minimum)
        if self.refinement is not None:
            _checks.option("refinement", self.refinement, "LangevinRefinement(num_steps=5)")
            if self.num_particles is None:
                raise ValueError("refinement needs samples, but num_particles is None")

    @property
    def covariance_factor(self) -> float:
        """What makes a weighted covariance over a set unbiased: L / (L - 1), or 1 if exact."""
        count = self.num_particles
        return 1.0 if count is None else count / (count - 1)

    def distribution(self, phi: Params, v: Array) -> Distribution:
        """Returns q(h | v) of one v, checked to be one that the particles can come from."""
        q = self.posterior(phi, v)
        for needed in ("sample" if self.num_particles is not None else "support", "log_prob"):
            if not callable(getattr(q, needed, None)):
                raise TypeError(
                    f"posterior must return a distribution with a method {needed}() for "
                    f"num_particles = {self.num_particles}, got {type(q).__name__}"
                )
        if self.refinement is not None and getattr(q, "discrete", False):
            raise ValueError(
                "refinement needs continuous latents, but posterior returned the discrete "
                f"{type(q).__name__}"
            )
        return q

    def draw(
        self, theta: Params, phi: Params, key: Key, v: Array
    ) -> tuple[list[Latent], Array, Distribution]:
        """Returns the sets (leaves [L, ...]), the particles' weights [L], and where they are from.

        Nothing returned carries derivatives.
        """
        theta, phi, v = jax.lax.stop_gradient((theta, phi, v))
        q = self.distribution(phi, v)
        if self.num_particles is None:
            h, weights = q.support()  # type: ignore[attr-defined]
            return [h] * self.num_sets, weights, q
        count = self.num_particles
        key_sample, key_refine = _random.split(key)
        # A relaxed sample would put the estimate at latents that the model does not have.
        sample = getattr(q, "sample_hard", q.sample)
        h = jax.vmap(sample)(_random.split(key_sample, self.num_sets * count))
        if self.refinement is not None:
            h = self.refinement(theta, key_refine, v, h, energy=self.energy)
        sets = [
            jax.tree.map(lambda x, i=i: x[i * count : (i + 1) * count], h)
            for i in range(self.num_sets)
        ]
        weights = jnp.full(count, 1.0 / count, jnp.result_type(v))
        return jax.lax.stop_gradient(sets), weights, q


def log_joint(theta: Params, v: Array, h: Latent, *, energy: Energy) -> Array:
    """Returns -E(v, h_i; θ) of every particle, [L]; what depends on v alone is computed once."""
    return jax.vmap(lambda h: -_checks.scalar_energy(energy, theta, v, h))(h)
