"""Score-based objectives through the variational estimates of the score and of its gradient."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jbism import _checks, _random
from jbism.estimators import ParticleStatistics, vages
from jbism.losses._objectives import Objective
from jbism.losses._score_matching import mean_norm
from jbism.typing import Array, Energy, Key, Params, Posterior, Refinement


class VagesAux(NamedTuple):
    """What `vages_loss` saw on the way."""

    losses: Array  # [batch], the objective's value of each example
    score_norm: Array  # scalar, mean of ‖ŝ‖ over the batch, in 1 / units of v
    particles: ParticleStatistics  # of the set that the gradient is estimated with


def vages_loss(
    theta: Params,
    phi: Params,
    key: Key,
    v: Array,
    *,
    energy: Energy,
    posterior: Posterior,
    objective: Objective,
    num_particles: int | None,
    control_variate: bool = False,
    independent: bool = True,
    refinement: Refinement | None = None,
) -> tuple[Array, VagesAux]:
    """An objective of estimated scores, whose θ-gradient is VaGES (Bao et al., 2021, Algorithm 1).

    Value: the objective at the scores of `jbism.estimators.vaes`. Gradient: that of
    `jbism.estimators.vages`, z·∂s/∂θ with z the objective's derivative in the scores, from an
    independent set of particles. φ is a constant: it is trained by `jbism.hypergradients.descend`
    on `bism_lower_loss`, as in bi-level score matching, but nothing flows through its fit.

    Args:
      theta: parameters of the energy.
      phi: parameters of the posterior.
      key: for the corruption, the particles and the objective.
      v: data, [batch, *event].
      energy: ``(theta, v, h) -> scalar`` of one example.
      posterior: ``(phi, v) -> Distribution`` of one example; its samples need no derivatives. The
        energy's own posterior may stand here, see `jbism.estimators.vaes`; then pass theta for phi.
      objective: `DSM`, `MDSM`, `KSD` or another that takes the score at ``corrupted.inputs`` alone
        and no derivative of it.
      num_particles: L >= 2 in each of the two sets; None for exact expectations under q, over the
        ``support()`` of its distribution.
      control_variate: less variance in the scores, see `jbism.estimators.vaes`.
      independent: False shares one set between scores and gradient, which biases the gradient.
      refinement: such as `jbism.posteriors.LangevinRefinement`.

    Returns:
      The scalar loss and a `VagesAux`.

    Raises:
      ValueError: if the objective differentiates the score (SM, SSM) or takes it elsewhere,
        num_particles < 2, v is not [batch, *event], or shapes of energy and posterior do not fit.
      TypeError: if v is not floating, or an option is no instance.

    Example:
      >>> import jax, jax.numpy as jnp, jbism
      >>> rbm, q = jbism.energies.GaussianRBM(num_hidden=4), jbism.posteriors.Bernoulli(4)
      >>> v = jax.random.normal(jax.random.key(0), (10, 2))
      >>> theta = rbm.init(jax.random.key(1), v[0], jnp.zeros(4))
      >>> phi = q.init(jax.random.key(2), v[0])
      >>> (loss, aux), grads = jax.value_and_grad(jbism.losses.vages_loss, has_aux=True)(
      ...     theta, phi, jax.random.key(3), v, energy=rbm.apply, posterior=q.apply,
      ...     objective=jbism.losses.DSM(sigma=0.05), num_particles=2)
      >>> loss.shape, grads["params"]["weights"].shape, aux.losses.shape
      ((), (2, 4), (10,))
    """
    v = _checks.examples("v", v)
    _checks.option("objective", objective, "DSM(sigma=0.05)")
    key_corrupt, key_particles, key_objective = _random.split(key, 3)
    corrupted = jax.lax.stop_gradient(objective.corrupt(key_corrupt, v))

    def values(scores):
        def known(v):
            # A derivative in v would bring a tracer of its own.
            if v is not corrupted.inputs:
                raise ValueError(
                    f"objective {type(objective).__name__} must take the score at corrupted.inputs "
                    "alone, for VaGES estimates neither ∇_v of the score nor scores elsewhere; "
                    "use DSM, MDSM or KSD, or bism_loss"
                )
            return scores

        return objective(known, key_objective, corrupted)[0]

    loss, (scores, particles) = vages(
        theta,
        phi,
        key_particles,
        corrupted.inputs,
        functional=lambda scores: jnp.mean(values(scores)),
        energy=energy,
        posterior=posterior,
        num_particles=num_particles,
        control_variate=control_variate,
        independent=independent,
        refinement=refinement,
    )
    return loss, VagesAux(values(scores), mean_norm(scores), particles)
