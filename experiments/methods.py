"""Training methods: what posterior they learn, and the step that learns."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from experiments import baselines, generative, parts
from experiments.validation import learns_posterior, naming
from jbism import _checks, distributions, divergences, losses, posteriors
from jbism.training import (
    bidvl_step,
    bilevel_step,
    bism_step,
    contrastive_step,
    marginal_step,
    vages_step,
)


class Method(NamedTuple):
    """How an experiment trains."""

    step: Callable
    theta: Any  # the energy's initial parameters, and what the method learns beside them
    posterior: nn.Module | None  # None where none is learned
    phi: Any  # its initial parameters; empty likewise
    phi_optimizer: optax.GradientTransformation
    chains: Any  # where persistent Markov chains start; empty where there are none
    generator: nn.Module | None = None  # of BiDVL


def build_method(
    config: ConfigDict,
    *,
    theta: Any,
    v: jax.Array,
    key_phi: jax.Array,
    key_chains: jax.Array,
    theta_optimizer: optax.GradientTransformation,
) -> Method:
    """Builds the method of a config for parameters θ and examples like v."""
    name = config.method.name
    section = config.method[name]
    objective = parts.build_objective(config.objective)
    train: dict[str, Any] = {
        "theta_optimizer": theta_optimizer,
        "ema_decay": config.train.ema_decay,
    }
    energy, num_latents = parts.build_energy(config.energy, v.shape)
    chains: Any = ()
    if name == "contrastive" and section.persistent:
        chains = baselines.initial_chains(section, energy, num_latents, key_chains, v)
    if name in ("nce", "vnce"):
        theta = baselines.with_log_partition(theta, section)
    if not learns_posterior(config):
        if name == "contrastive":
            make = partial(contrastive_step, **baselines.contrastive_options(section, energy))
        else:
            loss = _loss_of_theta(config.method, energy, num_latents, objective)
            make = partial(marginal_step, loss=loss)
        with naming("config.train"):
            return Method(make(**train), theta, None, {}, optax.identity(), chains)
    if name == "bidvl":
        num_latents = config.generator.num_latents
    posterior = parts.build_posterior(config.posterior, num_latents)
    phi_optimizer = parts.build_optimizer(config, "phi_optimizer")
    with naming(f"config.posterior.{config.posterior.name}"):
        phi = jax.jit(posterior.init)(key_phi, v)
    train |= {
        "phi_optimizer": phi_optimizer,
        "num_lower_steps": config.train.num_lower_steps,
        "unroll_lower": config.train.unroll_lower or True,
    }
    model: dict[str, Any] = {"energy": energy.apply, "posterior": posterior.apply}
    generator = None
    if name == "vnce":
        make = partial(bilevel_step, **baselines.vnce_losses(section, **model))
    elif name == "bidvl":
        form = generative.bidvl_form(section)
        decoder = config.generator.decoder
        generator = parts.build_decoder(decoder, v.shape, "config.generator.decoder")
        key_generator = jax.random.fold_in(key_phi, 1)
        start = jax.jit(generator.init)(key_generator, jnp.zeros(num_latents))
        phi = losses.BidvlParams(start, phi)
        hypergradient = None
        if section.form == "full":
            hypergradient = parts.build_hypergradient(config.hypergradient, phi_optimizer)
        make = partial(
            bidvl_step,
            form=form,
            generator=generator.apply,
            hypergradient=hypergradient,
            **model,
        )
    else:
        model["divergence"] = parts.build_divergence(config.divergence)
        if name == "bism":
            hypergradient = parts.build_hypergradient(config.hypergradient, phi_optimizer)
            make = partial(bism_step, objective=objective, hypergradient=hypergradient, **model)
        elif name == "vages":
            options = _vages_options(config.method.vages)
            make = partial(vages_step, objective=objective, **options, **model)
        elif name == "vae":
            make = partial(bilevel_step, **generative.vae_losses(**model))
        else:
            make = partial(
                contrastive_step, **baselines.joint_contrastive_options(section, **model)
            )
    with naming("config.train"):
        return Method(make(**train), theta, posterior, phi, phi_optimizer, chains, generator)


def check_divergence(
    config: ConfigDict, method: Method, *, energy: nn.Module, key: jax.Array, v: jax.Array
) -> None:
    """Raises unless the divergence, where the method has one, fits the initial parameters."""
    if method.posterior is None or config.method.name in ("vnce", "bidvl"):
        return
    model: dict[str, Any] = {"energy": energy.apply, "posterior": method.posterior.apply}
    divergence = parts.build_divergence(config.divergence)
    with naming(f"config.divergence.{config.divergence.name}"):
        jax.eval_shape(partial(divergence, **model), method.theta, method.phi, key, v)
        if isinstance(divergence, divergences.MeanFieldKL):
            divergence.validate(method.theta, method.phi, key, v, **model)


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


def _loss_of_theta(section, energy, num_latents, objective):
    """The loss (theta, key, v) -> (loss, metrics) of a method that learns no posterior."""
    if section.name == "nce":
        return baselines.nce_loss(section.nce, energy)
    if section.name == "maximum_likelihood":
        return baselines.maximum_likelihood_loss(energy, num_latents)

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
