"""Step builders of the methods."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from jbism.losses import Objective, bism_loss, bism_lower_loss, vages_loss
from jbism.training._step import Metrics, Step, bilevel_step
from jbism.typing import (
    Array,
    Divergence,
    Energy,
    Hypergradient,
    Key,
    Params,
    Posterior,
    Refinement,
)


def bism_step(
    *,
    energy: Energy,
    posterior: Posterior,
    objective: Objective,
    divergence: Divergence,
    hypergradient: Hypergradient,
    theta_optimizer: optax.GradientTransformation,
    phi_optimizer: optax.GradientTransformation,
    num_lower_steps: int,
    ema_decay: float = 0.999,
    unroll_lower: int | bool = 1,
) -> Step:
    """Builds one step of bi-level score matching (Bao et al., 2020, Algorithm 1).

    The virtual steps of the hypergradient start from the live state of ``phi_optimizer`` where the
    strategy's ``optimizer`` is that very object, else from a fresh state of its own.

    Args:
      energy: see `jbism.losses.bism_loss`.
      posterior: see `jbism.losses.bism_loss`.
      objective: see `jbism.losses.bism_loss`.
      divergence: see `jbism.losses.bism_loss`.
      hypergradient: see `jbism.losses.bism_loss`.
      theta_optimizer: see `bilevel_step`.
      phi_optimizer: see `bilevel_step`.
      num_lower_steps: see `bilevel_step`.
      ema_decay: see `bilevel_step`.
      unroll_lower: see `bilevel_step`.

    Returns:
      A step as of `bilevel_step`, whose metrics also hold ``score_norm`` and, of an implicit
      strategy, ``solve_residual``, ``solve_products`` and ``solve_failed`` (0 or 1) of the
      `jbism.hypergradients.Solve`.

    Raises:
      ValueError: as `bilevel_step`.

    Example:
      >>> import jax, jax.numpy as jnp, optax, jbism
      >>> rbm, q = jbism.energies.GaussianRBM(4), jbism.posteriors.Bernoulli(4)
      >>> adam = optax.adam(1e-3, eps_root=1e-8)
      >>> step = bism_step(
      ...     energy=rbm.apply, posterior=q.apply, objective=jbism.losses.SSM(),
      ...     divergence=jbism.divergences.KL(),
      ...     hypergradient=jbism.hypergradients.Unroll(2, adam),
      ...     theta_optimizer=adam, phi_optimizer=adam, num_lower_steps=2)
      >>> v = jnp.ones((10, 2))
      >>> theta = rbm.init(jax.random.key(0), v[0], jnp.zeros(4))
      >>> state = jbism.training.create_state(
      ...     jax.random.key(1), theta, q.init(jax.random.key(2), v[0]),
      ...     theta_optimizer=adam, phi_optimizer=adam)
      >>> state, metrics = jax.jit(step)(state, v)
      >>> int(state.step), sorted(metrics)
      (1, ['grad_norm', 'loss', 'lower_grad_norm', 'lower_loss', 'score_norm'])
    """
    parts: dict[str, Any] = {
        "energy": energy,
        "posterior": posterior,
        "objective": objective,
        "divergence": divergence,
    }
    live = getattr(hypergradient, "optimizer", None) is phi_optimizer

    def upper_loss(theta, phi, phi_opt_state, key, v):
        loss, aux = bism_loss(
            theta,
            phi,
            key,
            v,
            **parts,
            hypergradient=hypergradient,
            opt_state=phi_opt_state if live else None,
        )
        metrics = {"score_norm": aux.score_norm}
        if aux.lower.solve is not None:
            solve = aux.lower.solve
            metrics |= {
                "solve_residual": solve.residual,
                "solve_products": solve.num_products.astype(solve.residual.dtype),
                "solve_failed": solve.failed.astype(solve.residual.dtype),
            }
        return loss, metrics

    return bilevel_step(
        upper_loss=upper_loss,
        lower_loss=_lower_loss(**parts),
        theta_optimizer=theta_optimizer,
        phi_optimizer=phi_optimizer,
        num_lower_steps=num_lower_steps,
        ema_decay=ema_decay,
        unroll_lower=unroll_lower,
    )


def vages_step(
    *,
    energy: Energy,
    posterior: Posterior,
    objective: Objective,
    divergence: Divergence,
    num_particles: int | None,
    theta_optimizer: optax.GradientTransformation,
    phi_optimizer: optax.GradientTransformation,
    num_lower_steps: int,
    control_variate: bool = False,
    independent: bool = True,
    refinement: Refinement | None = None,
    ema_decay: float = 0.999,
    unroll_lower: int | bool = 1,
) -> Step:
    """Builds one step of learning by VaGES (Bao et al., 2021, Algorithm 1).

    For a posterior that the energy knows itself, φ would have to be the current θ: use
    `marginal_step` with ``vages_loss(theta, theta, key, v, ...)`` instead.

    Args:
      energy: see `jbism.losses.vages_loss`.
      posterior: see `jbism.losses.vages_loss`; reparameterised if the divergence samples it.
      objective: see `jbism.losses.vages_loss`.
      divergence: the lower level, one of `jbism.divergences`.
      num_particles: see `jbism.losses.vages_loss`.
      theta_optimizer: see `bilevel_step`.
      phi_optimizer: see `bilevel_step`.
      num_lower_steps: see `bilevel_step`.
      control_variate: see `jbism.losses.vages_loss`.
      independent: see `jbism.losses.vages_loss`.
      refinement: see `jbism.losses.vages_loss`.
      ema_decay: see `bilevel_step`.
      unroll_lower: see `bilevel_step`.

    Returns:
      A step as of `bilevel_step`, whose metrics also hold ``score_norm`` and those of
      `jbism.estimators.ParticleStatistics` that are known: what weighs particles against q is not
      if they are refined.

    Raises:
      ValueError: as `bilevel_step`; when it is traced, as `jbism.losses.vages_loss`.

    Example:
      >>> import jax, jax.numpy as jnp, optax, jbism
      >>> rbm, q = jbism.energies.GaussianRBM(4), jbism.posteriors.Bernoulli(4)
      >>> adam = optax.adam(1e-3)
      >>> step = vages_step(
      ...     energy=rbm.apply, posterior=q.apply, objective=jbism.losses.DSM(0.1),
      ...     divergence=jbism.divergences.MeanFieldKL(), num_particles=2,
      ...     theta_optimizer=adam, phi_optimizer=adam, num_lower_steps=5)
      >>> v = jnp.ones((10, 2))
      >>> theta = rbm.init(jax.random.key(0), v[0], jnp.zeros(4))
      >>> state = jbism.training.create_state(
      ...     jax.random.key(1), theta, q.init(jax.random.key(2), v[0]),
      ...     theta_optimizer=adam, phi_optimizer=adam)
      >>> state, metrics = jax.jit(step)(state, v)
      >>> int(state.step), "effective_sample_size" in metrics
      (1, True)
    """
    parts: dict[str, Any] = {"energy": energy, "posterior": posterior, "objective": objective}

    def upper_loss(theta, phi, phi_opt_state, key, v):  # noqa: ARG001
        loss, aux = vages_loss(
            theta,
            phi,
            key,
            v,
            **parts,
            num_particles=num_particles,
            control_variate=control_variate,
            independent=independent,
            refinement=refinement,
        )
        statistics = aux.particles._asdict()
        known = {name: x for name, x in statistics.items() if x is not None}
        return loss, {"score_norm": aux.score_norm, **known}

    return bilevel_step(
        upper_loss=upper_loss,
        lower_loss=_lower_loss(**parts, divergence=divergence),
        theta_optimizer=theta_optimizer,
        phi_optimizer=phi_optimizer,
        num_lower_steps=num_lower_steps,
        ema_decay=ema_decay,
        unroll_lower=unroll_lower,
    )


def marginal_step(
    *,
    loss: Callable[[Params, Key, Array], tuple[Array, Metrics]],
    theta_optimizer: optax.GradientTransformation,
    ema_decay: float = 0.999,
) -> Step:
    """Builds one step of learning without a posterior, on a `TrainState` whose phi is empty.

    Args:
      loss: ``(theta, key, v) -> (loss, metrics)``, such as `jbism.losses.marginal_loss` with its
        ``aux._asdict()`` reduced to scalars.
      theta_optimizer: optax transformation.
      ema_decay: see `bilevel_step`.

    Returns:
      A step as of `bilevel_step`, for states made by `create_state` with ``phi={}`` and
      ``phi_optimizer=optax.identity()``.

    Raises:
      ValueError: as `bilevel_step`.

    Example:
      >>> import jax, jax.numpy as jnp, optax, jbism
      >>> def loss(theta, key, v):
      ...     value, aux = jbism.losses.marginal_loss(
      ...         theta, key, v, objective=jbism.losses.SM(),
      ...         free_energy=lambda theta, v: 0.5 * theta * jnp.sum(v**2))
      ...     return value, {"score_norm": aux.score_norm}
      >>> step = marginal_step(loss=loss, theta_optimizer=optax.sgd(0.1))
      >>> state = jbism.training.create_state(
      ...     jax.random.key(0), jnp.ones(()), {}, theta_optimizer=optax.sgd(0.1),
      ...     phi_optimizer=optax.identity())
      >>> state, metrics = step(state, 2.0 * jnp.ones((10, 1)))
      >>> round(float(state.theta), 4)  # 1 - 0.1 (θ v² - 1)
      0.7
    """

    def upper_loss(theta, phi, phi_opt_state, key, v):  # noqa: ARG001
        return loss(theta, key, v)

    return bilevel_step(
        upper_loss=upper_loss,
        lower_loss=lambda *_: jnp.zeros(()),
        theta_optimizer=theta_optimizer,
        phi_optimizer=optax.identity(),
        num_lower_steps=0,
        ema_decay=ema_decay,
    )


def _lower_loss(**parts):
    return lambda theta, phi, key, v: bism_lower_loss(theta, phi, key, v, **parts)
