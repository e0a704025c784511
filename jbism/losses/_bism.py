"""Bi-level score matching."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jbism import _checks, _random
from jbism.estimators import variational_score
from jbism.hypergradients import LowerLevel
from jbism.losses._objectives import Objective
from jbism.losses._score_matching import mean_norm
from jbism.typing import Array, Divergence, Energy, Hypergradient, Key, Params, Posterior


class BismAux(NamedTuple):
    """What `bism_loss` saw on the way."""

    losses: Array  # [batch], the upper objective of each example
    score_norm: Array  # scalar, mean of ‖s_φ‖ over the batch, in 1 / units of v
    lower: LowerLevel  # φ_N, the virtual steps that led to it, and an implicit strategy's solve


def bism_lower_loss(
    theta: Params,
    phi: Params,
    key: Key,
    v: Array,
    *,
    energy: Energy,
    posterior: Posterior,
    objective: Objective,
    divergence: Divergence,
) -> Array:
    """The lower level of bi-level score matching: how far q(h | v; φ) is from p(h | v; θ).

    G(θ, φ) = mean_i w_i G(θ, φ; ṽ_i) with ṽ corrupted as the upper objective does
    it, by noise drawn afresh from the key, and w_i = 1/σ_i for MDSM, else 1 (Bao et al., 2020,
    Eqn. 10).

    Args:
      theta: parameters of the energy.
      phi: parameters of the posterior.
      key: for the corruption and the samples of q.
      v: data, [batch, *event].
      energy: ``(theta, v, h) -> scalar`` of one example.
      posterior: ``(phi, v) -> Distribution`` of one example.
      objective: `SM`, `SSM`, `DSM`, `MDSM` or `KSD`; decides where q is fitted.
      divergence: one of `jbism.divergences`.

    Returns:
      The scalar lower loss.

    Raises:
      ValueError: if v is not [batch, *event], or the parts do not fit together.
      TypeError: if v is not floating, or an option is no instance.

    Example:
      >>> import jax, jax.numpy as jnp, jbism
      >>> posterior = lambda phi, v: jbism.distributions.Normal(phi + v, jnp.zeros(2))
      >>> energy = lambda theta, v, h: 0.5 * jnp.sum(v**2) + 0.5 * jnp.sum((h - v) ** 2)
      >>> loss = jbism.losses.bism_lower_loss(
      ...     None, jnp.full(2, 0.5), jax.random.key(0), jnp.ones((10, 2)),
      ...     energy=energy, posterior=posterior,
      ...     objective=jbism.losses.SSM(), divergence=jbism.divergences.Fisher())
      >>> round(float(loss), 4)
      0.25
    """
    v = _checks.examples("v", v)
    _checks.function("energy", energy)
    _checks.function("posterior", posterior)
    _checks.option("objective", objective, "DSM(sigma=0.05)")
    _checks.option("divergence", divergence, "KL()")
    key_corrupt, key_divergence = _random.split(key)
    corrupted = objective.corrupt(key_corrupt, v)

    def one(example_key, v):
        value = divergence(theta, phi, example_key, v, energy=energy, posterior=posterior)
        return _checks.scalar("divergence of one example", value)

    values = jax.vmap(one)(_random.split(key_divergence, v.shape[0]), corrupted.inputs)
    return jnp.mean(objective.lower_weight(corrupted) * values)


def bism_upper_loss(
    theta: Params,
    phi: Params,
    key: Key,
    v: Array,
    *,
    energy: Energy,
    posterior: Posterior,
    objective: Objective,
) -> tuple[Array, tuple[Array, Array]]:
    """The upper level of bi-level score matching at a given φ.

    F(θ, φ) = mean_i F(s_φ(ṽ_i, h_i)), h_i ~ q(h | stop_gradient(ṽ_i); φ), differentiable in both;
    ṽ is that of `bism_lower_loss` at the same key. `bism_loss` puts the two together.

    Args:
      theta: parameters of the energy.
      phi: parameters of the posterior.
      key: for the corruption, the samples of q and the objective.
      v: data, [batch, *event].
      energy: ``(theta, v, h) -> scalar`` of one example.
      posterior: ``(phi, v) -> Distribution`` of one example, reparameterised.
      objective: `SM`, `SSM`, `DSM`, `MDSM` or `KSD`.

    Returns:
      The scalar loss, and the pair of its values [batch] and the mean norm of s_φ.

    Raises:
      ValueError: if v is not [batch, *event], shapes of energy and posterior do not fit, or the
        distribution's samples carry no derivatives.
      TypeError: if v is not floating, or the objective is no instance.

    Example:
      >>> import jax, jax.numpy as jnp, jbism
      >>> posterior = lambda phi, v: jbism.distributions.Normal(phi + v, jnp.zeros(2))
      >>> energy = lambda theta, v, h: 0.5 * jnp.sum(v**2) + 0.5 * jnp.sum((h - v) ** 2)
      >>> loss, (losses, score_norm) = jbism.losses.bism_upper_loss(
      ...     None, jnp.zeros(2), jax.random.key(0), jnp.ones((10, 2)),
      ...     energy=energy, posterior=posterior, objective=jbism.losses.SM())
      >>> round(float(loss), 4), losses.shape  # ½‖-v‖² - 2
      (-1.0, (10,))
    """
    v = _checks.examples("v", v)
    _checks.function("energy", energy)
    _checks.function("posterior", posterior)
    _checks.option("objective", objective, "DSM(sigma=0.05)")
    key_corrupt, key_rest = _random.split(key)
    key_latent, key_objective = _random.split(key_rest)
    corrupted = objective.corrupt(key_corrupt, v)

    def latent(example_key, v):
        q = posterior(phi, v)
        _checks.reparameterized(q, "bism_loss")
        return q.sample(example_key)

    latent_keys = _random.split(key_latent, v.shape[0])
    h = jax.vmap(latent)(latent_keys, jax.lax.stop_gradient(corrupted.inputs))

    def scores(v):
        return jax.vmap(
            lambda v, h: variational_score(theta, phi, v, h, energy=energy, posterior=posterior)
        )(v, h)

    losses, s = objective(scores, key_objective, corrupted)
    return jnp.mean(losses), (losses, mean_norm(s))


def bism_loss(
    theta: Params,
    phi: Params,
    key: Key,
    v: Array,
    *,
    energy: Energy,
    posterior: Posterior,
    objective: Objective,
    divergence: Divergence,
    hypergradient: Hypergradient,
    opt_state: optax.OptState | None = None,
) -> tuple[Array, BismAux]:
    """Bi-level score matching, differentiable in θ through φ_N(θ).

    F(θ) = mean_i F(s_{φ_N(θ)}(ṽ_i, h_i)), h_i ~ q(h | stop_gradient(ṽ_i); φ_N(θ)), where
    s_φ(v, h) = ∇_v[-E(v, h; θ) - log q(h | v; φ)] and φ_N(θ) follows from φ by the strategy's
    virtual steps on `bism_lower_loss`; φ itself is a constant (Bao et al., 2020, Algorithm 1). The
    gradient with respect to ``phi`` is zero: φ is trained by `jbism.hypergradients.descend`.

    Args:
      theta: parameters of the energy.
      phi: φ⁰, parameters of the posterior after the committed lower steps.
      key: for the virtual steps, and for the corruption, the samples of q and the objective.
      v: data, [batch, *event].
      energy: ``(theta, v, h) -> scalar`` of one example.
      posterior: ``(phi, v) -> Distribution`` of one example, reparameterised.
      objective: upper level F: `SM`, `SSM`, `DSM`, `MDSM` or `KSD`.
      divergence: lower level G: one of `jbism.divergences`.
      hypergradient: one of `jbism.hypergradients`, such as ``Unroll(5, optimizer)``, or any
        `jbism.typing.Hypergradient`.
      opt_state: state in which the virtual steps' optimizer starts, the live one where it is the
        same optimizer; None starts a fresh one.

    Returns:
      The scalar loss and a `BismAux`.

    Raises:
      ValueError: if v is not [batch, *event], shapes of energy and posterior do not fit, or the
        distribution's samples carry no derivatives.
      TypeError: if v is not floating, or an option is no instance.

    Example:
      >>> import jax, jax.numpy as jnp, optax, jbism
      >>> rbm, q = jbism.energies.GaussianRBM(num_hidden=4), jbism.posteriors.Bernoulli(4)
      >>> v = jax.random.normal(jax.random.key(0), (10, 2))
      >>> theta = rbm.init(jax.random.key(1), v[0], jnp.zeros(4))
      >>> phi = q.init(jax.random.key(2), v[0])
      >>> (loss, aux), grads = jax.value_and_grad(jbism.losses.bism_loss, has_aux=True)(
      ...     theta, phi, jax.random.key(3), v, energy=rbm.apply, posterior=q.apply,
      ...     objective=jbism.losses.DSM(sigma=0.05), divergence=jbism.divergences.KL(),
      ...     hypergradient=jbism.hypergradients.Unroll(5, optax.sgd(1.0)))
      >>> loss.shape, grads["params"]["weights"].shape, aux.lower.descent.losses.shape
      ((), (2, 4), (5,))
    """
    _checks.option("divergence", divergence, "KL()")
    _checks.option("hypergradient", hypergradient, "FirstOrder()")
    phi = jax.lax.stop_gradient(phi)
    parts: dict[str, Any] = {"energy": energy, "posterior": posterior, "objective": objective}

    def lower_loss(theta, phi, key):
        return bism_lower_loss(theta, phi, key, v, **parts, divergence=divergence)

    def upper_loss(theta, phi, key):
        return bism_upper_loss(theta, phi, key, v, **parts)

    (loss, (losses, score_norm)), lower = hypergradient(
        upper_loss, lower_loss, theta, phi, key, opt_state=opt_state
    )
    return loss, BismAux(losses, score_norm, lower)
