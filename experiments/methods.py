"""Training methods: what posterior they learn, and the step that learns."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from experiments import parts
from experiments.validation import learns_posterior, naming
from jbism import _checks, distributions, divergences, losses, posteriors
from jbism.training import bism_step, marginal_step, vages_step


class Method(NamedTuple):
    """How an experiment trains."""

    step: Callable
    posterior: nn.Module | None  # None where none is learned
    phi: Any  # its initial parameters; empty likewise
    phi_optimizer: optax.GradientTransformation


def build_method(
    config: ConfigDict,
    *,
    energy: nn.Module,
    num_latents: int,
    theta: Any,
    v: jax.Array,
    key_phi: jax.Array,
    key_check: jax.Array,
    theta_optimizer: optax.GradientTransformation,
) -> Method:
    """Builds the method of a config for parameters θ and examples like v."""
    objective = parts.build_objective(config.objective)
    if not learns_posterior(config):
        loss = _marginal_loss(config.method, energy, num_latents, objective)
        with naming("config.train"):
            step = marginal_step(
                loss=loss, theta_optimizer=theta_optimizer, ema_decay=config.train.ema_decay
            )
        return Method(step, None, {}, optax.identity())
    posterior = parts.build_posterior(config.posterior, num_latents)
    phi_optimizer = parts.build_optimizer(config.phi_optimizer, "config.phi_optimizer")
    divergence = parts.build_divergence(config.divergence)
    with naming(f"config.posterior.{config.posterior.name}"):
        phi = jax.jit(posterior.init)(key_phi, v)
    model: dict[str, Any] = {"energy": energy.apply, "posterior": posterior.apply}
    with naming(f"config.divergence.{config.divergence.name}"):
        jax.eval_shape(partial(divergence, **model), theta, phi, key_check, v)
        if isinstance(divergence, divergences.MeanFieldKL):
            divergence.validate(theta, phi, key_check, v, **model)
    options = model | {
        "objective": objective,
        "divergence": divergence,
        "theta_optimizer": theta_optimizer,
        "phi_optimizer": phi_optimizer,
        "num_lower_steps": config.train.num_lower_steps,
        "unroll_lower": config.train.unroll_lower or True,
        "ema_decay": config.train.ema_decay,
    }
    if config.method.name == "bism":
        make = partial(
            bism_step,
            hypergradient=parts.build_hypergradient(config.hypergradient, phi_optimizer),
        )
    else:
        make = partial(vages_step, **_vages_options(config.method.vages))
    with naming("config.train"):
        return Method(make(**options), posterior, phi, phi_optimizer)


def _vages_options(section):
    options = dict(section)
    del options["exact_posterior"]
    options["num_particles"] = section.num_particles or None
    with naming("config.method.vages.refinement"):
        _checks.integer("num_steps", section.refinement.num_steps, minimum=0)
        refined = section.refinement.num_steps > 0
        options["refinement"] = (
            posteriors.LangevinRefinement(**section.refinement) if refined else None
        )
    return options


def _marginal_loss(section, energy, num_latents, objective):
    """The loss (theta, key, v) -> (loss, metrics) of a method that learns no posterior."""

    def marginal(theta, key, v):
        free_energy = partial(energy.apply, method="free_energy")
        return losses.marginal_loss(theta, key, v, free_energy=free_energy, objective=objective)

    def importance(theta, key, v):
        return losses.importance_loss(
            theta,
            key,
            v,
            energy=energy.apply,
            proposal=distributions.Bernoulli(jnp.zeros(num_latents)),
            num_particles=section.importance.num_particles,
            objective=objective,
        )

    def vages(theta, key, v):
        return losses.vages_loss(
            theta,
            theta,
            key,
            v,
            energy=energy.apply,
            posterior=partial(energy.apply, method="hidden_given_visible"),
            objective=objective,
            **_vages_options(section.vages),
        )

    evaluate = {"marginal": marginal, "importance": importance, "vages": vages}[section.name]

    def loss(theta, key, v):
        value, aux = evaluate(theta, key, v)
        return value, {"score_norm": aux.score_norm}

    return loss
