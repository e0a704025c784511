"""The exact Kullback-Leibler divergence of a Bernoulli posterior."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jbism import _checks, _random, distributions
from jbism.typing import Array, Energy, Key, Params, Posterior


@dataclass(frozen=True)
class MeanFieldKL:
    """KL(q‖p(h|v)) + const without sampling, for Bernoulli q and energies affine in each h_j.

    G(v) = E(v, E_q[h]; θ) - H[q(h | v; φ)]. An energy that is affine in each h_j separately (as the
    Gaussian RBM's is, and any Boltzmann machine's without self-coupling) has
    E_q[E(v, h)] = E(v, E_q[h]), so this equals `KL` in expectation, at no variance.

    The energy cannot be inspected while tracing; call `validate` once, before training.

    Raises:
      TypeError: if the posterior does not return a `jbism.distributions.Bernoulli`.

    Example:
      >>> import jax, jax.numpy as jnp, jbism
      >>> posterior = lambda phi, v: jbism.distributions.Bernoulli(phi)
      >>> energy = lambda theta, v, h: -jnp.sum(h)
      >>> g = MeanFieldKL()(None, jnp.ones(2), jax.random.key(0), jnp.zeros(3),
      ...                   energy=energy, posterior=posterior)
      >>> round(float(g), 4)  # q is the posterior: G = -log Σ_h exp(-E) = -2 log(1 + e)
      -2.6265
    """

    def __call__(
        self,
        theta: Params,
        phi: Params,
        key: Key,  # noqa: ARG002  (every divergence takes one)
        v: Array,
        *,
        energy: Energy,
        posterior: Posterior,
    ) -> Array:
        """Returns the scalar value for one v; the key is not used."""
        q = self._bernoulli(posterior(phi, v))
        return _checks.scalar_energy(energy, theta, v, q.mean) - q.entropy()

    def validate(
        self,
        theta: Params,
        phi: Params,
        key: Key,
        v: Array,
        *,
        energy: Energy,
        posterior: Posterior,
    ) -> None:
        """Raises ValueError unless E(v, h) is affine in each h_j, at random h and this one v.

        Evaluates second differences E(h_j=0) - 2 E(h_j=½) + E(h_j=1), the other latents drawn
        uniformly from [0, 1], in double precision; not for use under jit.
        """
        size = self._bernoulli(posterior(phi, v)).logits.size
        with jax.enable_x64(True):
            theta, v = jax.tree.map(_to_double, (theta, v))
            h = _random.uniform(key, (size, size), jnp.float64)

            def along(value):
                points = jnp.where(jnp.eye(size, dtype=bool), value, h)
                return jax.vmap(lambda point: energy(theta, v, point))(points)

            self._check_second_difference(along(0.0), along(0.5), along(1.0))

    def _check_second_difference(self, low, middle, high):
        curvature = jnp.abs(low - 2.0 * middle + high)
        magnitude = 1.0 + jnp.abs(low) + 2.0 * jnp.abs(middle) + jnp.abs(high)
        relative = curvature / magnitude
        worst = int(jnp.argmax(relative))
        if not relative[worst] <= 50.0 * jnp.finfo(relative.dtype).eps:
            raise ValueError(
                "divergence MeanFieldKL needs an energy that is affine in each h_j, but its second "
                f"difference along h_{worst} is {float(curvature[worst]):.3g}; use KL"
            )

    def _bernoulli(self, q):
        if not isinstance(q, distributions.Bernoulli):
            raise TypeError(
                "divergence MeanFieldKL needs a posterior that returns a Bernoulli distribution, "
                f"got {type(q).__name__}"
            )
        return q


def _to_double(x):
    x = jnp.asarray(x)
    return x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x
