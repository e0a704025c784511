"""The experiments in one process: what a config builds, what is refused, what is reported."""

import copy
import hashlib
import importlib
import itertools
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jbism.data._toy
from experiments import evaluation, report, sampling
from experiments.builders import build, load_config
from experiments.configs import base
from experiments.validation import ConfigError, validate

# What leaves a run its structure, at the least size.
TINY = {
    "data.toy.num_train": 400,
    "data.toy.num_validation": 10,
    "data.toy.num_test": 50,
    "train.num_steps": 60,
    "train.batch_size": 16,
    "train.steps_per_call": 10,
    "log.log_every": 10,
    "log.checkpoint_every": 20,
    "sampling.num_samples": 16,
    "sampling.gibbs.num_steps": 20,
    "evaluation.num_examples": 50,
}
TINY_DEEP = {
    "energy.deep_eblvm.num_latents": 4,
    "energy.deep_eblvm.num_features": 8,
    "energy.deep_eblvm.trunk.mlp.features": (32, 32),
    "posterior.gaussian.trunk.mlp.features": (32,),
    "train.num_steps": 20,
    "train.batch_size": 16,
    "train.steps_per_call": 10,
    "log.log_every": 10,
    "log.checkpoint_every": 10,
    "sampling.num_samples": 4,
    "sampling.langevin.hot_steps": 5,
    "sampling.langevin.annealed_steps": 10,
    "sampling.langevin.cool_steps": 5,
    "sampling.langevin.reconstruction_steps": 5,
    "evaluation.num_examples": 10,
    "evaluation.ais_chains": 4,
    "evaluation.ais_temperatures": 5,
    "evaluation.importance_samples": 3,
}
DEEP = {
    "energy.name": "deep_eblvm",
    "posterior.name": "gaussian",
    "divergence.name": "fisher",
    "sampling.name": "langevin",
}


def make_config(name, overrides):
    """Returns a config of ``experiments.configs`` with dotted keys overridden."""
    config = importlib.import_module(f"experiments.configs.{name}").get_config()
    config.update_from_flattened_dict(overrides)
    return config


@pytest.fixture(scope="module")
def rbm():
    return build(make_config("checkerboard_rbm", TINY))


@pytest.fixture(scope="module")
def deep():
    return build(make_config("digits_deep", TINY_DEEP))


# What a config builds


@pytest.mark.parametrize("name", ["checkerboard_rbm", "digits_rbm", "digits_deep", "freyface_rbm"])
def test_every_config_builds_a_step_that_keeps_the_state(name, request):
    overrides = {}
    if name == "freyface_rbm":
        overrides = {"data.dir": str(request.getfixturevalue("data_dir"))}
    config = make_config(name, overrides)
    assert config.name == name
    experiment = build(config)
    state = experiment.initial_state
    v = jnp.asarray(experiment.dataset.train[experiment.order.indices(0, 1)[0]])
    after, metrics = jax.eval_shape(experiment.step, state, v)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert {"loss", "grad_norm", "lower_loss", "score_norm"} <= set(metrics)


OPTIONS = [
    # (key, another value, what has to be chosen for the key to matter)
    ("seed", 1, {}),
    ("data.name", "rings", {}),
    ("data.toy.num_train", 300, {}),
    ("data.toy.num_validation", 11, {}),
    ("data.toy.num_test", 51, {}),
    ("energy.gaussian_rbm.num_hidden", 5, {}),
    ("energy.gaussian_rbm.learn_sigma", False, {}),
    ("energy.gaussian_rbm.sigma_init", 0.5, {}),
    ("energy.gaussian_rbm.weights_init_scale", 0.02, {}),
    ("energy.deep_eblvm.num_latents", 5, DEEP),
    ("energy.deep_eblvm.num_features", 9, DEEP),
    ("energy.deep_eblvm.trunk.mlp.features", (8, 8), DEEP),
    ("energy.deep_eblvm.trunk.mlp.activation", "silu", DEEP),
    ("energy.deep_eblvm.trunk.mlp.residual", True, DEEP),
    ("posterior.bernoulli.temperature", 0.2, {}),
    ("posterior.bernoulli.trunk.name", "mlp", {}),
    ("posterior.gaussian.covariance", "full", DEEP),
    ("posterior.gaussian.trunk.name", "none", DEEP),
    ("posterior.gaussian.trunk.mlp.features", (8,), DEEP),
    ("objective.name", "sm", {}),
    ("objective.ssm.projection", "gaussian", {"objective.name": "ssm"}),
    ("objective.dsm.sigma", 0.1, {}),
    *(
        (f"objective.mdsm.{key}", value, {"objective.name": "mdsm"})
        for key, value in {
            "sigma_min": 0.2,
            "sigma_max": 2.0,
            "sigma0": 0.2,
            "spacing": "linear",
        }.items()
    ),
    ("divergence.name", "mean_field_kl", {}),
    ("divergence.kl.num_samples", 2, {}),
    ("divergence.iwae.num_samples", 2, {"divergence.name": "iwae"}),
    ("divergence.fisher.num_samples", 2, DEEP),
    ("hypergradient.name", "first_order", {}),
    ("hypergradient.unroll.num_steps", 3, {}),
    ("hypergradient.unroll.optimizer", "sgd", {}),
    ("hypergradient.unroll.sgd_rate", 0.5, {"hypergradient.unroll.optimizer": "sgd"}),
    ("hypergradient.unroll.remat", True, {}),
    *(
        (f"{level}_optimizer.{key}", value, {f"{level}_optimizer.{k}": x for k, x in rest.items()})
        for level in ("theta", "phi")
        for key, value, rest in (
            ("name", "sgd", {}),
            ("adam.b1", 0.5, {}),
            ("adam.b2", 0.5, {}),
            ("adam.eps", 1e-6, {}),
            ("adam.eps_root", 1e-6, {}),
            ("sgd.momentum", 0.5, {"name": "sgd"}),
            ("sgd.nesterov", True, {"name": "sgd", "sgd.momentum": 0.5}),
            ("learning_rate", 0.5, {}),
            ("schedule", "cosine", {}),
            ("decay_steps", 7, {"schedule": "cosine"}),
            ("final_learning_rate", 1e-4, {"schedule": "cosine"}),
        )
    ),
    ("train.batch_size", 17, {}),
    ("train.num_lower_steps", 4, {}),
    ("train.ema_decay", 0.5, {}),
    ("train.unroll_lower", 2, {}),
]


def fingerprint(config):
    """Returns all that training depends on: the program of a step, its data, its start."""
    experiment = build(config)
    digest = hashlib.sha256()
    dataset = experiment.dataset
    for x in (dataset.train, dataset.validation, dataset.test, experiment.order.indices(0, 3)):
        digest.update(x.tobytes())
    for leaf in jax.tree.leaves((experiment.initial_state.theta, experiment.initial_state.phi)):
        digest.update(np.asarray(leaf).tobytes())
    digest.update(jax.random.key_data(experiment.key).tobytes())
    v = jnp.asarray(dataset.train[experiment.order.indices(0, 1)[0]])
    program = str(jax.make_jaxpr(experiment.step)(experiment.initial_state, v))
    digest.update(re.sub(r"0x[0-9a-f]+", "", program).encode())
    return digest.hexdigest()


@pytest.mark.parametrize(("key", "value", "rest"), OPTIONS, ids=[o[0] for o in OPTIONS])
def test_every_option_reaches_training(key, value, rest, fingerprints):
    overrides = TINY | {k: TINY_DEEP[k] for k in TINY_DEEP if k.startswith(("energy", "post"))}
    config = make_config("base", overrides | rest)
    assert fingerprints(config) == fingerprints(copy.deepcopy(config))
    changed = copy.deepcopy(config)
    changed.update_from_flattened_dict({key: value})
    assert fingerprints(changed) != fingerprints(config)


@pytest.fixture(scope="module")
def fingerprints():
    known = {}

    def of(config):
        text = config.to_json()
        if text not in known:
            known[text] = fingerprint(config)
        return known[text]

    return of
