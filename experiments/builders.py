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

_MOMENT_EXAMPLES = 10_000


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
    generator: Any  # Flax module of BiDVL, whose energy has no latents; None of other methods
    num_latents: int  # of the energy; 0: it is of v alone
    augment: Callable[[Callable], Callable]  # of a step, to one on augmented batches
    step: Callable
    initial_state: TrainState

    def evaluated_theta(self, state: TrainState) -> Any:
        """Returns θ or its moving average, as the config says."""
        return state.ema if self.config.evaluation.use_ema else state.theta

    def train_sample(self) -> jax.Array:
        """Returns training examples, as floats, enough for the moments of the data."""
        return jnp.asarray(self.dataset.examples("train", slice(_MOMENT_EXAMPLES)))

    def joint_energy(self, theta: Any, v: jax.Array, h: jax.Array) -> jax.Array:
        """Returns E(v, h); without latents, where h is [0], E(v)."""
        return self.energy.apply(theta, v, h) if self.num_latents else self.energy.apply(theta, v)

    @property
    def latent_size(self) -> int:
        """How many latents an example has, the energy's or the generator's; 0 for none."""
        return self.num_latents if self.generator is None else self.config.generator.num_latents

    def generate(self, theta: Any, phi: Any) -> Callable[[jax.Array], jax.Array]:
        """Returns h ↦ the mean of p(v | h), of an energy that has one or a generator's G(h)."""
        if self.generator is not None:
            return partial(self.generator.apply, phi.generator)
        given: Any = partial(self.energy.apply, theta, method="visible_given_hidden")
        return lambda h: given(h).mean

    def infer(self, theta: Any, phi: Any) -> Callable[[jax.Array], Any]:
        """Returns v ↦ the distribution of h: the learned q(h | v), else the exact p(h | v)."""
        if self.posterior is not None:
            return partial(self.posterior.apply, phi if self.generator is None else phi.posterior)
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
    v = jnp.asarray(dataset.examples("train", 0))
    energy, num_latents = parts.build_energy(config.energy, v.shape)
    theta_optimizer = parts.build_optimizer(config, "theta_optimizer")
    with naming(f"config.energy.{config.energy.name}"):
        example = (v,) if config.energy.name == "marginal" else (v, jnp.zeros(num_latents))
        theta = jax.jit(energy.init)(keys["theta"], *example)
    method = build_method(
        config,
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
    augment = _augmentation(config, jax.random.fold_in(keys["data"], 1), v)
    return Experiment(
        config=config,
        key=keys["train"],
        report_key=keys["report"],
        dataset=dataset,
        order=order,
        energy=energy,
        posterior=method.posterior,
        generator=method.generator,
        num_latents=num_latents,
        augment=augment,
        step=augment(method.step),
        initial_state=state,
    )


def _augmentation(config, key, v):
    """Returns step ↦ the step on batches that are augmented as the config says."""
    if not config.train.flip:
        return lambda step: step
    if v.ndim != 3:
        raise ConfigError(
            f"config.train.flip needs images [height, width, channels], got examples {v.shape}"
        )

    def augment(step):
        def augmented(state, v):
            return step(state, data.random_flip(jax.random.fold_in(key, state.step), v))

        return augmented

    return augment


def _dataset(config, key):
    name = config.data.name
    section = name if name in config.data else "toy"
    directory = config.data.dir or None
    options = {key: x for key, x in config.data[section].items() if x != -1}
    if directory is None and (name == "freyface" or options.get("source") == "files"):
        raise ConfigError(f"config.data.dir must name the folder that holds {name}")
    with naming(f"config.data.{name}" if name in config.data else "config.data"):
        try:
            dataset = data.load(name, key=key, data_dir=directory, **options)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"config.data.dir: {error}") from None
    if config.energy.name == "gaussian_rbm":  # its v is a vector
        splits = {name: getattr(dataset, name) for name in ("train", "validation", "test")}
        if isinstance(dataset.train, data.LazyImages):
            raise ConfigError(
                "config.data.celeba.lazy must be False with config.energy.name = 'gaussian_rbm'"
            )
        return replace(dataset, **{name: x.reshape(len(x), -1) for name, x in splits.items()})
    return dataset
