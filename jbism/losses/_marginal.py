"""Score-based objectives of a free energy that is known, or estimated by importance sampling."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jbism import _checks, _random
from jbism.estimators import importance_free_energy
from jbism.losses._objectives import Objective
from jbism.losses._score_matching import mean_norm
from jbism.typing import Array, Distribution, Energy, FreeEnergy, Key, Params


class MarginalAux(NamedTuple):
    """What `marginal_loss` and `importance_loss` saw on the way."""

    losses: Array  # [batch], the objective's value of each example
    score_norm: Array  # scalar, mean of ‖s‖ over the batch, in 1 / units of v


def marginal_loss(
    theta: Params, key: Key, v: Array, *, free_energy: FreeEnergy, objective: Objective
) -> tuple[Array, MarginalAux]:
    """A score-based objective of a model without latents, or with a tractable free energy.

    F(θ) = mean_i F(s(ṽ_i)) with s(v) = -∇_v F(v; θ), the exact score: the yardstick of every
    estimate.

    Args:
      theta: parameters of the free energy.
      key: for the corruption and the objective.
      v: data, [batch, *event].
      free_energy: ``(theta, v) -> scalar`` of one example, -log p(v) up to a constant, such as
        ``functools.partial(rbm.apply, method="free_energy")``.
      objective: `SM`, `SSM`, `DSM`, `MDSM` or `KSD`.

    Returns:
      The scalar loss and a `MarginalAux`.

    Raises:
      ValueError: if v is not [batch, *event] or the free energy is not a scalar.
      TypeError: if v is not floating, or the objective is no instance.

    Example:
      >>> import jax, jax.numpy as jnp, jbism
      >>> loss, aux = marginal_loss(
      ...     2.0, jax.random.key(0), jnp.ones((10, 3)), objective=jbism.losses.SM(),
      ...     free_energy=lambda theta, v: 0.5 * theta * jnp.sum(v**2))
      >>> float(loss)  # ½‖2v‖² - 2·3
      0.0
    """

    _checks.function("free_energy", free_energy)

    def score(theta, example_key, v):  # noqa: ARG001
        return -jax.grad(lambda v: _checks.scalar("free_energy(theta, v)", free_energy(theta, v)))(
            v
        )

    return _loss(theta, key, v, score=score, objective=objective)


def importance_loss(
    theta: Params,
    key: Key,
    v: Array,
    *,
    energy: Energy,
    proposal: Distribution,
    num_particles: int,
    objective: Objective,
) -> tuple[Array, MarginalAux]:
    """A score-based objective of the free energy by importance sampling, such as IS-KSD.

    `marginal_loss` with `jbism.estimators.importance_free_energy`, whose particles are independent
    for each example; biased, for the logarithm of an average is (the baseline of
    Bao et al., 2021, Section 5.1).

    Args:
      theta: parameters of the energy.
      key: for the corruption, the particles and the objective.
      v: data, [batch, *event].
      energy: ``(theta, v, h) -> scalar`` of one example.
      proposal: a distribution of one h, such as ``Bernoulli(jnp.zeros(num_latents))``.
      num_particles: L >= 1.
      objective: `SM`, `SSM`, `DSM`, `MDSM` or `KSD`.

    Returns:
      The scalar loss and a `MarginalAux`.

    Raises:
      ValueError: if v is not [batch, *event], num_particles < 1, or shapes do not fit.
      TypeError: if v is not floating, or the objective is no instance.

    Example:
      >>> import jax, jax.numpy as jnp, jbism
      >>> rbm = jbism.energies.GaussianRBM(num_hidden=4)
      >>> v = jax.random.normal(jax.random.key(0), (10, 2))
      >>> theta = rbm.init(jax.random.key(1), v[0], jnp.zeros(4))
      >>> loss, aux = importance_loss(
      ...     theta, jax.random.key(2), v, energy=rbm.apply, num_particles=5,
      ...     proposal=jbism.distributions.Bernoulli(jnp.zeros(4)),
      ...     objective=jbism.losses.KSD(jbism.stein.RBF(bandwidth=0.5)))
      >>> loss.shape, aux.losses.shape
      ((), (10,))
    """

    def score(theta, example_key, v):
        def free_energy(v):
            return importance_free_energy(
                theta,
                example_key,
                v,
                energy=energy,
                proposal=proposal,
                num_particles=num_particles,
            )

        return -jax.grad(free_energy)(v)

    return _loss(theta, key, v, score=score, objective=objective)


def _loss(theta, key, v, *, score, objective):
    """``score`` maps (theta, key, v) of one example to its score."""
    v = _checks.examples("v", v)
    _checks.option("objective", objective, "DSM(sigma=0.05)")
    key_corrupt, key_latent, key_objective = _random.split(key, 3)
    keys = _random.split(key_latent, v.shape[0])

    def scores(v):
        return jax.vmap(score, in_axes=(None, 0, 0))(theta, keys, v)

    losses, s = objective(scores, key_objective, objective.corrupt(key_corrupt, v))
    return jnp.mean(losses), MarginalAux(losses, mean_norm(s))
