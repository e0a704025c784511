"""From a config to the objects it names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from experiments import parts
from experiments.configs import base
from experiments.methods import build_method, check_divergence
from experiments.validation import ConfigError, naming, validate
from jbism import _checks, data
from jbism.training import TrainState, create_state


@dataclass(frozen=True)
class Experiment:
    """All that a config names, built."""

    config: ConfigDict
    key: jax.Array  # base key of training
    report_key: jax.Array  # of the samples and estimates made at its end
    dataset: data.Dataset
    order: data.BatchOrder
    energy: Any  # Flax module
    posterior: Any  # Flax module; None where the method learns none
    num_latents: int
    step: Callable
    initial_state: TrainState

    def evaluated_theta(self, state: TrainState) -> Any:
        """Returns θ or its moving average, as the config says."""
        return state.ema if self.config.evaluation.use_ema else state.theta

    def infer(self, theta: Any, phi: Any) -> Callable[[jax.Array], Any]:
        """Returns v ↦ the distribution of h: the learned q(h | v), else the exact p(h | v)."""
        if self.posterior is not None:
            return partial(self.posterior.apply, phi)
        return partial(self.energy.apply, theta, method="hidden_given_visible")


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
    with naming("config.train"):
        order = data.BatchOrder(keys["order"], len(dataset.train), config.train.batch_size)
    energy, num_latents = parts.build_energy(config.energy)
    theta_optimizer = parts.build_optimizer(config.theta_optimizer, "config.theta_optimizer")
    v = jnp.asarray(dataset.train[0])
    with naming(f"config.energy.{config.energy.name}"):
        theta = jax.jit(energy.init)(keys["theta"], v, jnp.zeros(num_latents))
    method = build_method(
        config,
        energy=energy,
        num_latents=num_latents,
        theta=theta,
        v=v,
        key_phi=keys["phi"],
        key_chains=keys["check"],
        theta_optimizer=theta_optimizer,
    )
    check_divergence(config, method, energy=energy, key=keys["check"], v=v)
    state = create_state(
        keys["train"],
        method.theta,
        method.phi,
        theta_optimizer=theta_optimizer,
        phi_optimizer=method.phi_optimizer,
        chains=method.chains,
    )
    return Experiment(
        config=config,
        key=keys["train"],
        report_key=keys["report"],
        dataset=dataset,
        order=order,
        energy=energy,
        posterior=method.posterior,
        num_latents=num_latents,
        step=method.step,
        initial_state=state,
    )


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
