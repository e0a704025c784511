"""From a config to the objects it names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from experiments.configs import base
from experiments.validation import ConfigError, naming, validate
from jbism import _checks, data, divergences, energies, hypergradients, losses, networks, posteriors
from jbism.training import TrainState, bism_step, create_state

_ACTIVATIONS = {"elu": nn.elu, "silu": nn.silu, "softplus": nn.softplus, "tanh": jnp.tanh}
_TRUNKS = {
    "mlp": networks.MLP,
    "conv_encoder": networks.ConvEncoder,
    "residual_conv": networks.ResidualConvNet,
}
_ENERGIES = {"gaussian_rbm": energies.GaussianRBM, "deep_eblvm": energies.DeepEBLVM}
_POSTERIORS = {"bernoulli": posteriors.Bernoulli, "gaussian": posteriors.Gaussian}
_OBJECTIVES = {"sm": losses.SM, "ssm": losses.SSM, "dsm": losses.DSM, "mdsm": losses.MDSM}
_DIVERGENCES = {
    "kl": divergences.KL,
    "mean_field_kl": divergences.MeanFieldKL,
    "iwae": divergences.IWAE,
    "fisher": divergences.Fisher,
}


@dataclass(frozen=True)
class Experiment:
    """All that a config names, built."""

    config: ConfigDict
    key: jax.Array  # base key of training
    report_key: jax.Array  # of the samples and estimates made at its end
    dataset: data.Dataset
    order: data.BatchOrder
    energy: Any  # Flax module
    posterior: Any  # Flax module
    num_latents: int
    step: Callable
    initial_state: TrainState

    def evaluated_theta(self, state: TrainState) -> Any:
        """Returns θ or its moving average, as the config says."""
        return state.ema if self.config.evaluation.use_ema else state.theta


def load_config(values: Mapping[str, Any]) -> ConfigDict:
    """Returns the config of stored values, each of the type of its default.

    Raises:
      ConfigError: if a key is unknown or missing, or a value cannot be used.
    """
    with naming("config"):
        _checks.instance("the stored value", values, dict)
    validate(ConfigDict(values))
    config = base.get_config()
    with naming("config"):
        config.update(values)
    return config


def build(config: ConfigDict) -> Experiment:
    """Builds the data, the model, the step and the initial state.

    Raises:
      ConfigError: if a key is unknown or missing, a value cannot be used, or the parts do not fit
        together.
      FileNotFoundError: if a data file is missing.
    """
    validate(config)
    keys = dict(
        zip(
            ("data", "theta", "phi", "train", "check", "report", "order"),
            jax.random.split(jax.random.key(config.seed), 7),
            strict=True,
        )
    )
    dataset = _dataset(config, keys["data"])
    energy, num_latents = _energy(config.energy)
    posterior = _posterior(config.posterior, num_latents)
    divergence = _choose(config.divergence, _DIVERGENCES, "config.divergence")
    theta_optimizer = _optimizer(config.theta_optimizer, "config.theta_optimizer")
    phi_optimizer = _optimizer(config.phi_optimizer, "config.phi_optimizer")
    with naming("config.train"):
        order = data.BatchOrder(keys["order"], len(dataset.train), config.train.batch_size)
        step = bism_step(
            energy=energy.apply,
            posterior=posterior.apply,
            objective=_choose(config.objective, _OBJECTIVES, "config.objective"),
            divergence=divergence,
            hypergradient=_hypergradient(config.hypergradient, phi_optimizer),
            theta_optimizer=theta_optimizer,
            phi_optimizer=phi_optimizer,
            num_lower_steps=config.train.num_lower_steps,
            ema_decay=config.train.ema_decay,
            unroll_lower=config.train.unroll_lower or True,
        )
    v = jnp.asarray(dataset.train[0])
    with naming(f"config.energy.{config.energy.name}"):
        theta = jax.jit(energy.init)(keys["theta"], v, jnp.zeros(num_latents))
    with naming(f"config.posterior.{config.posterior.name}"):
        phi = jax.jit(posterior.init)(keys["phi"], v)
    with naming(f"config.divergence.{config.divergence.name}"):
        parts = {"energy": energy.apply, "posterior": posterior.apply}
        jax.eval_shape(partial(divergence, **parts), theta, phi, keys["check"], v)
        if isinstance(divergence, divergences.MeanFieldKL):
            divergence.validate(theta, phi, keys["check"], v, **parts)
    state = create_state(
        keys["train"],
        theta,
        phi,
        theta_optimizer=theta_optimizer,
        phi_optimizer=phi_optimizer,
    )
    return Experiment(
        config=config,
        key=keys["train"],
        report_key=keys["report"],
        dataset=dataset,
        order=order,
        energy=energy,
        posterior=posterior,
        num_latents=num_latents,
        step=step,
        initial_state=state,
    )


def _pick(section, registry, path):
    name = section.name
    if name not in registry:
        raise ConfigError(f"{path}.name must be one of {sorted(registry)}, got {name!r}")
    return registry[name], dict(section[name])


def _choose(section, registry, path):
    make, options = _pick(section, registry, path)
    with naming(f"{path}.{section.name}"):
        return make(**options)


def _dataset(config, key):
    name = config.data.name
    section = name if name in ("digits", "freyface") else "toy"
    directory = config.data.dir or None
    if name == "freyface" and directory is None:
        raise ConfigError("config.data.dir must name the folder that holds Frey face")
    with naming("config.data"):
        dataset = data.load(name, key=key, data_dir=directory, **config.data[section])
    if config.energy.name == "gaussian_rbm":  # its v is a vector
        flat = {s: getattr(dataset, s) for s in ("train", "validation", "test")}
        return replace(dataset, **{s: x.reshape(len(x), -1) for s, x in flat.items()})
    return dataset


def _energy(section):
    if section.name == "deep_eblvm":
        options = dict(section.deep_eblvm)
        trunk = _trunk(options.pop("trunk"), "config.energy.deep_eblvm.trunk")
        if trunk is None:
            raise ConfigError("config.energy.deep_eblvm.trunk.name must not be 'none'")
        with naming("config.energy.deep_eblvm"):
            return energies.DeepEBLVM(trunk=trunk, **options), options["num_latents"]
    energy = _choose(section, _ENERGIES, "config.energy")
    return energy, energy.num_hidden


def _posterior(section, num_latents):
    make, options = _pick(section, _POSTERIORS, "config.posterior")
    trunk = _trunk(options.pop("trunk"), f"config.posterior.{section.name}.trunk")
    with naming(f"config.posterior.{section.name}"):
        return make(num_latents=num_latents, trunk=trunk, **options)


def _trunk(section, path):
    if section.name == "none":
        return None
    make, options = _pick(section, _TRUNKS, path)
    if options["activation"] not in _ACTIVATIONS:
        raise ConfigError(
            f"{path}.{section.name}.activation must be one of {sorted(_ACTIVATIONS)}, "
            f"got {options['activation']!r}"
        )
    options["activation"] = _ACTIVATIONS[options["activation"]]
    if "features" in options:
        options["features"] = tuple(options["features"])
    with naming(f"{path}.{section.name}"):
        return make(**options)


def _optimizer(section, path):
    rate = section.learning_rate
    if not rate > 0:
        raise ConfigError(f"{path}.learning_rate must be > 0, got {rate}")
    if section.schedule == "cosine":
        if not 0 <= section.final_learning_rate <= rate:
            raise ConfigError(
                f"{path}.final_learning_rate must be in [0, learning_rate], "
                f"got {section.final_learning_rate}"
            )
        if section.decay_steps < 1:
            raise ConfigError(f"{path}.decay_steps must be >= 1, got {section.decay_steps}")
        rate = optax.cosine_decay_schedule(
            rate, section.decay_steps, alpha=section.final_learning_rate / rate
        )
    elif section.schedule != "constant":
        raise ConfigError(
            f"{path}.schedule must be 'constant' or 'cosine', got {section.schedule!r}"
        )
    make, options = _pick(section, {"adam": optax.adam, "sgd": optax.sgd}, path)
    return make(rate, **options)


def _hypergradient(section, phi_optimizer):
    registry = {"unroll": hypergradients.Unroll, "first_order": hypergradients.FirstOrder}
    make, options = _pick(section, registry, "config.hypergradient")
    if section.name == "first_order":
        return make(**options)
    rate = options.pop("sgd_rate")
    kind = options.pop("optimizer")
    if kind not in ("live", "sgd"):
        raise ConfigError(
            f"config.hypergradient.unroll.optimizer must be 'live' or 'sgd', got {kind!r}"
        )
    if not rate > 0:
        raise ConfigError(f"config.hypergradient.unroll.sgd_rate must be > 0, got {rate}")
    optimizer = phi_optimizer if kind == "live" else optax.sgd(rate)
    with naming("config.hypergradient.unroll"):
        return make(optimizer=optimizer, **options)
