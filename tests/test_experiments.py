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
from jax.experimental.compilation_cache import compilation_cache

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
    "hypergradient.name": "first_order",
    "sampling.name": "langevin",
}


def make_config(name, overrides):
    """Returns a config of ``experiments.configs`` with dotted keys overridden."""
    config = importlib.import_module(f"experiments.configs.{name}").get_config()
    config.update_from_flattened_dict(overrides)
    return config


@pytest.fixture(scope="module", autouse=True)
def compilation_cache_of_this_file(tmp_path_factory):
    """Most tests here compile the same initialisations."""
    former = jax.config.jax_persistent_cache_min_compile_time_secs
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    yield
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", former)


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
    ("theta_optimizer.name", "sgd", {}),
    ("theta_optimizer.adam.b1", 0.5, {}),
    ("theta_optimizer.adam.b2", 0.5, {}),
    ("theta_optimizer.adam.eps", 1e-6, {}),
    ("theta_optimizer.adam.eps_root", 1e-6, {}),
    ("theta_optimizer.sgd.momentum", 0.5, {"theta_optimizer.name": "sgd"}),
    (
        "theta_optimizer.sgd.nesterov",
        True,
        {"theta_optimizer.name": "sgd", "theta_optimizer.sgd.momentum": 0.5},
    ),
    ("theta_optimizer.learning_rate", 0.5, {}),
    ("theta_optimizer.schedule", "cosine", {}),
    ("theta_optimizer.decay_steps", 7, {"theta_optimizer.schedule": "cosine"}),
    ("theta_optimizer.final_learning_rate", 1e-4, {"theta_optimizer.schedule": "cosine"}),
    ("phi_optimizer.name", "sgd", {}),
    ("phi_optimizer.learning_rate", 0.5, {}),
    ("phi_optimizer.schedule", "cosine", {}),
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


@pytest.fixture(scope="module")
def fingerprints():
    """Fingerprints by config: most options are compared with the same few configs."""
    known = {}

    def of(config):
        text = config.to_json()
        if text not in known:
            known[text] = fingerprint(config)
        return known[text]

    return of


def options_config(rest):
    sizes = {key: x for key, x in TINY_DEEP.items() if key.startswith(("energy", "posterior"))}
    return make_config("base", TINY | sizes | rest)


@pytest.mark.parametrize(("key", "value", "rest"), OPTIONS, ids=[key for key, _, _ in OPTIONS])
def test_every_option_reaches_training(key, value, rest, fingerprints):
    changed = options_config(rest | {key: value})
    assert fingerprints(changed) != fingerprints(options_config(rest))


def test_building_is_a_function_of_the_config(fingerprints):
    assert fingerprint(options_config({})) == fingerprints(options_config({}))


def test_what_training_does_not_depend_on(fingerprints):
    """These may differ when a run is resumed."""
    others = {
        "train.num_steps": 70,
        "log.log_every": 20,
        "sampling.num_samples": 3,
        "evaluation.num_examples": 3,
    }
    assert fingerprints(options_config(others)) == fingerprints(options_config({}))


def test_a_stored_config_is_the_config():
    """Through JSON, as restoring a run does: tuples come back as tuples."""
    config = make_config("digits_deep", TINY_DEEP)
    stored = load_config(json.loads(config.to_json()))
    assert stored.to_dict() == config.to_dict()
    assert stored.energy.deep_eblvm.trunk.mlp.features == (32, 32)


def test_the_evaluated_parameters(deep):
    state = deep.initial_state
    state = type(state)(**{**vars(state), "ema": jax.tree.map(jnp.zeros_like, state.theta)})
    assert deep.config.evaluation.use_ema
    assert deep.evaluated_theta(state) is state.ema
    plain = build(make_config("digits_deep", TINY_DEEP | {"evaluation.use_ema": False}))
    assert plain.evaluated_theta(state) is state.theta


# What is refused, before anything is built


REFUSED = {
    # overrides -> what the error says
    "train.num_steps": ({"train.num_steps": 0}, "config.train.num_steps must be an integer >= 1"),
    "train.batch_size": ({"train.batch_size": 401}, "config.train: batch_size must be at most"),
    "train.steps_per_call": ({"train.steps_per_call": 0}, "config.train.steps_per_call must be"),
    "train.num_lower_steps": ({"train.num_lower_steps": -1}, "config.train.num_lower_steps must"),
    "train.unroll_lower": ({"train.unroll_lower": -1}, "config.train.unroll_lower must be"),
    "train.ema_decay": ({"train.ema_decay": 1.0}, "config.train: ema_decay must be in [0, 1)"),
    "log.log_every": (
        {"log.log_every": 15},
        "config.log.log_every must be a multiple of config.train.steps_per_call, 10, got 15",
    ),
    "log.checkpoint_every": (
        {"log.checkpoint_every": 25},
        "config.log.checkpoint_every must be a multiple of config.log.log_every, 10, got 25",
    ),
    "log.max_checkpoints": ({"log.max_checkpoints": 0}, "config.log.max_checkpoints must be"),
    "seed": ({"seed": -1}, "config.seed must be an integer >= 0"),
    "data.name": ({"data.name": "mnist99"}, "config.data: name must be one of 'checkerboard'"),
    "data.toy.num_test": ({"data.toy.num_test": 0}, "config.data: num_test must be"),
    "data.dir": ({"data.name": "freyface"}, "config.data.dir must name the folder"),
    "energy.name": ({"energy.name": "rbm"}, "config.energy.name must be one of 'gaussian_rbm'"),
    "energy.num_hidden": (
        {"energy.gaussian_rbm.num_hidden": 0},
        "config.energy.gaussian_rbm: num_hidden must be an integer >= 1",
    ),
    "energy.sigma_init": (
        {"energy.gaussian_rbm.sigma_init": 0.0},
        "config.energy.gaussian_rbm: sigma_init must be a number > 0",
    ),
    "energy.deep_eblvm.num_latents": (
        DEEP | {"energy.deep_eblvm.num_latents": 0},
        "config.energy.deep_eblvm: num_latents must be an integer >= 1",
    ),
    "energy.trunk": (
        DEEP | {"energy.deep_eblvm.trunk.name": "none"},
        "config.energy.deep_eblvm.trunk.name must not be 'none'",
    ),
    "energy.trunk.name": (
        DEEP | {"energy.deep_eblvm.trunk.name": "resnet"},
        "config.energy.deep_eblvm.trunk.name must be one of",
    ),
    "energy.trunk.activation": (
        DEEP | {"energy.deep_eblvm.trunk.mlp.activation": "relu6"},
        "config.energy.deep_eblvm.trunk.mlp.activation must be one of",
    ),
    "energy.trunk of images": (
        DEEP | {"energy.deep_eblvm.trunk.name": "residual_conv"},
        "config.energy.deep_eblvm: ",
    ),
    "posterior.name": ({"posterior.name": "beta"}, "config.posterior.name must be one of"),
    "posterior.temperature": (
        {"posterior.bernoulli.temperature": 0.0},
        "config.posterior.bernoulli: temperature must be a number > 0",
    ),
    "posterior.covariance": (
        DEEP | {"posterior.gaussian.covariance": "banded"},
        "config.posterior.gaussian: covariance must be one of",
    ),
    "posterior of the RBM": (
        {"posterior.name": "gaussian"},
        "config.posterior.name must be 'bernoulli' with config.energy.name = 'gaussian_rbm'",
    ),
    "posterior of the deep model": (
        DEEP | {"posterior.name": "bernoulli"},
        "config.posterior.name must be 'gaussian' with config.energy.name = 'deep_eblvm'",
    ),
    "objective.name": ({"objective.name": "vsm"}, "config.objective.name must be one of"),
    "objective.dsm.sigma = 0": (
        {"objective.dsm.sigma": 0.0},
        "config.objective.dsm: sigma must be a number > 0, got 0.0",
    ),
    "objective.dsm.sigma = nan": (
        {"objective.dsm.sigma": math.nan},
        "config.objective.dsm: sigma must be a number > 0, got nan",
    ),
    "objective.mdsm": (
        {"objective.name": "mdsm", "objective.mdsm.sigma_min": 5.0},
        "config.objective.mdsm: sigma_max must be >= sigma_min",
    ),
    "objective.projection": (
        {"objective.name": "ssm", "objective.ssm.projection": "sphere"},
        "config.objective.ssm: projection must be one of",
    ),
    "divergence.name": ({"divergence.name": "js"}, "config.divergence.name must be one of"),
    "divergence.kl": (
        {"divergence.kl.num_samples": 0},
        "config.divergence.kl: num_samples must be an integer >= 1",
    ),
    "divergence.fisher of binary latents": (
        {"divergence.name": "fisher"},
        "config.divergence.fisher: ",
    ),
    "divergence.mean_field_kl of a Gaussian": (
        DEEP | {"divergence.name": "mean_field_kl"},
        "config.divergence.mean_field_kl: divergence MeanFieldKL needs a posterior that returns",
    ),
    "hypergradient.name": ({"hypergradient.name": "cg"}, "config.hypergradient.name must be one"),
    "hypergradient.num_steps": (
        {"hypergradient.unroll.num_steps": -1},
        "config.hypergradient.unroll: num_steps must be an integer >= 0",
    ),
    "hypergradient.optimizer": (
        {"hypergradient.unroll.optimizer": "adam"},
        "config.hypergradient.unroll.optimizer must be 'live' or 'sgd'",
    ),
    "hypergradient.sgd_rate": (
        {"hypergradient.unroll.sgd_rate": 0.0},
        "config.hypergradient.unroll.sgd_rate must be > 0",
    ),
    "optimizer.name": (
        {"theta_optimizer.name": "lion"},
        "config.theta_optimizer.name must be one of",
    ),
    "optimizer.learning_rate": (
        {"phi_optimizer.learning_rate": math.nan},
        "config.phi_optimizer.learning_rate must be > 0, got nan",
    ),
    "optimizer.schedule": (
        {"phi_optimizer.schedule": "linear"},
        "config.phi_optimizer.schedule must be 'constant' or 'cosine'",
    ),
    "optimizer.decay_steps": (
        {"phi_optimizer.schedule": "cosine", "phi_optimizer.decay_steps": 0},
        "config.phi_optimizer.decay_steps must be >= 1",
    ),
    "optimizer.final_learning_rate": (
        {"phi_optimizer.schedule": "cosine", "phi_optimizer.final_learning_rate": 2.0},
        "config.phi_optimizer.final_learning_rate must be in [0, learning_rate]",
    ),
    "sampling.name": ({"sampling.name": "hmc"}, "config.sampling.name must be one of 'gibbs'"),
    "sampling of the deep model": (
        DEEP | {"sampling.name": "gibbs"},
        "config.sampling.name must be 'langevin' with config.energy.name = 'deep_eblvm'",
    ),
    "sampling of the RBM": (
        {"sampling.name": "langevin"},
        "config.sampling.name must be 'gibbs' with config.energy.name = 'gaussian_rbm'",
    ),
    "sampling.num_samples": ({"sampling.num_samples": 0}, "config.sampling.num_samples must be"),
    "sampling.gibbs": ({"sampling.gibbs.num_steps": 0}, "config.sampling.gibbs.num_steps must be"),
    "sampling.langevin.step_size": (
        {"sampling.langevin.step_size": 0.0},
        "config.sampling.langevin.step_size must be a number > 0",
    ),
    "sampling.langevin.hot": (
        {"sampling.langevin.hot": -1.0},
        "config.sampling.langevin: hot must be a number > 0",
    ),
    "sampling.langevin.reconstruction_steps": (
        {"sampling.langevin.reconstruction_steps": 0},
        "config.sampling.langevin.reconstruction_steps must be",
    ),
    "evaluation.ais_chains": (
        {"evaluation.ais_chains": 1},
        "config.evaluation.ais_chains must be an integer >= 2",
    ),
    "evaluation.num_examples": (
        {"evaluation.num_examples": 0},
        "config.evaluation.num_examples must be an integer >= 1",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_value_that_cannot_be_used_is_named(case):
    overrides, message = REFUSED[case]
    with pytest.raises(ConfigError, match=re.escape(message)):
        build(options_config(overrides))


def test_keys_and_types_of_a_stored_config():
    stored = json.loads(base.get_config().to_json())
    for change, message in (
        (
            lambda c: c["train"].update(num_stps=3),
            "config.train.num_stps is not a known config key",
        ),
        (lambda c: c["objective"].pop("dsm"), "config.objective.dsm is missing"),
        (lambda c: c["train"].pop("num_steps"), "config.train.num_steps is missing"),
        (lambda c: c.update(train=3), "config.train must be a section, got 3"),
        (
            lambda c: c["train"].update(num_steps="many"),
            "config.train.num_steps must be an integer",
        ),
        (lambda c: c["objective"]["dsm"].update(sigma="x"), "sigma"),
    ):
        changed = copy.deepcopy(stored)
        change(changed)
        with pytest.raises(ConfigError, match=re.escape(message)):
            load_config(changed)
    with pytest.raises(ConfigError, match="config: the stored value must be dict, got list"):
        load_config([1, 2])
    with pytest.raises(ConfigError, match="must be ConfigDict, got dict"):
        validate({"train": 3})


def test_missing_and_unreadable_data_are_named(tmp_path, monkeypatch):
    frey = {"data.name": "freyface", "data.dir": str(tmp_path)}
    with pytest.raises(FileNotFoundError, match=r"frey_rawface\.mat") as caught:
        build(options_config(frey))
    assert str(tmp_path) in str(caught.value)
    (tmp_path / "frey_rawface.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(ConfigError, match=r"config\.data: .*frey_rawface\.mat is no readable"):
        build(options_config(frey))
    monkeypatch.setitem(
        jbism.data._toy.TOYS, "rings", lambda key, n: jnp.ones((n, 2)).at[3].set(jnp.nan)
    )
    with pytest.raises(ConfigError, match=r"config\.data: train must be finite, but example 3"):
        build(options_config({"data.name": "rings"}))


# What is reported


def enumerated_latents(parameters):
    """Returns every h of a Gaussian RBM, [2^H, H], and log ∫ exp(-E(v, h)) dv up to a constant."""
    w, b, c = (parameters[name] for name in ("weights", "visible_bias", "hidden_bias"))
    h = np.array(list(itertools.product((0.0, 1.0), repeat=len(c))))
    # exp(-E(v, h)) is a constant of h times N(v; mean, σ²): completing the square.
    sigma = np.exp(parameters["log_sigma"])
    means = b + sigma**2 * (h @ w.T)
    return h, h @ c + 0.5 * np.sum((means / sigma) ** 2 - (b / sigma) ** 2, axis=1)


def enumerated_log_likelihood(theta, v):
    """Returns the mean log p(v) of a Gaussian RBM in double precision, as a mixture."""
    parameters = {name: np.asarray(x, np.float64) for name, x in theta["params"].items()}
    h, log_weights = enumerated_latents(parameters)
    sigma = np.exp(parameters["log_sigma"])
    means = parameters["visible_bias"] + sigma**2 * (h @ parameters["weights"].T)
    z = (v[:, None] - means[None]) / sigma
    log_normal = np.sum(-0.5 * z**2 - np.log(sigma) - 0.5 * np.log(2 * np.pi), axis=-1)
    log_joint = log_normal + (log_weights - np.logaddexp.reduce(log_weights))
    return float(np.mean(np.logaddexp.reduce(log_joint, axis=1)))


@pytest.fixture(scope="module")
def shaped(rbm):
    """Parameters of an RBM whose latents matter."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), rbm.initial_state.theta
    )


def test_figures_of_an_rbm(rbm, shaped):
    phi = rbm.initial_state.phi
    figures = evaluation.evaluate(rbm, shaped, phi, jax.random.key(0))
    assert set(figures) == {
        "num_test_examples",
        "log_likelihood",
        "log_likelihood_method",
        "posterior_kl",
        "ssm",
        "vaes_bias",
        "vaes_bias_bound",
    }
    assert figures["num_test_examples"] == 50
    assert figures["log_likelihood_method"] == "exact, log Z by enumeration"
    expected = enumerated_log_likelihood(shaped, rbm.dataset.test.astype(np.float64))
    assert figures["log_likelihood"] == pytest.approx(expected, abs=1e-5)

    # KL(q‖p) = Σ q log(q/p) over both values of each latent.
    w, c = shaped["params"]["weights"], shaped["params"]["hidden_bias"]
    p = jax.nn.sigmoid(rbm.dataset.test @ w + c[None])
    q = jax.nn.sigmoid(jax.vmap(lambda v: rbm.posterior.apply(phi, v).logits)(rbm.dataset.test))
    kl = jnp.sum(q * jnp.log(q / p) + (1 - q) * jnp.log((1 - q) / (1 - p)), axis=1)
    assert figures["posterior_kl"] == pytest.approx(float(kl.mean()), rel=1e-4)


def test_figures_of_an_rbm_by_annealed_importance_sampling(shaped):
    settings = {
        "evaluation.exact_max_latents": 0,
        "evaluation.ais_chains": 200,
        "evaluation.ais_temperatures": 200,
    }
    experiment = build(make_config("checkerboard_rbm", TINY | settings))
    figures = evaluation.evaluate(
        experiment, shaped, experiment.initial_state.phi, jax.random.key(0)
    )
    assert set(figures) == {
        "num_test_examples",
        "log_likelihood",
        "log_likelihood_method",
        "log_partition",
        "log_partition_low",
        "log_partition_high",
        "ais_effective_sample_size",
        "posterior_kl",
        "ssm",
        "vaes_bias",
        "vaes_bias_bound",
    }
    assert figures["log_likelihood_method"] == "AIS, 200 chains, 200 temperatures"
    exact = enumerated_log_likelihood(shaped, experiment.dataset.test.astype(np.float64))
    standard_error = (figures["log_partition_high"] - figures["log_partition_low"]) / (2 * 1.96)
    assert 0 < standard_error < 0.1
    assert abs(figures["log_likelihood"] - exact) < 4 * standard_error


def test_figures_of_a_deep_model(deep):
    state = deep.initial_state
    figures = evaluation.evaluate(deep, state.theta, state.phi, jax.random.key(0))
    assert set(figures) == {
        "num_test_examples",
        "log_likelihood",
        "log_likelihood_method",
        "log_partition",
        "log_partition_low",
        "log_partition_high",
        "ais_effective_sample_size",
        "ais_acceptance",
        "posterior_fisher_divergence",
        "ssm",
    }
    assert figures["num_test_examples"] == 10
    assert figures["log_likelihood_method"].startswith("AIS, 4 chains, 5 temperatures; ")
    assert 0 <= figures["ais_acceptance"] <= 1
    assert figures["posterior_fisher_divergence"] > 0


def test_samples_of_an_rbm_have_its_moments(rbm, shaped):
    phi = rbm.initial_state.phi
    samples = sampling.draw(rbm, shaped, phi, jax.random.key(0), num_samples=4000, progress=False)
    assert list(samples.panels) == ["Gibbs samples v, 20 steps from noise"]
    (drawn,) = samples.panels.values()
    # The model is a mixture of Gaussians, one a latent.
    parameters = {name: np.asarray(x, np.float64) for name, x in shaped["params"].items()}
    sigma = np.exp(parameters["log_sigma"])
    h, log_weights = enumerated_latents(parameters)
    weights = np.exp(log_weights - np.logaddexp.reduce(log_weights))
    means = parameters["visible_bias"] + sigma**2 * (h @ parameters["weights"].T)
    mean = weights @ means
    deviation = np.sqrt(weights @ (means - mean) ** 2 + sigma**2)
    assert np.abs((drawn.mean(0) - mean) / (deviation / math.sqrt(4000))).max() < 4
    np.testing.assert_allclose(drawn.std(0), deviation, rtol=0.08)

    np.testing.assert_array_equal(samples.originals, rbm.dataset.test)
    q_mean = np.asarray(jax.vmap(lambda v: rbm.posterior.apply(phi, v).mean)(rbm.dataset.test))
    expected = parameters["visible_bias"] + sigma**2 * (q_mean @ parameters["weights"].T)
    np.testing.assert_allclose(samples.reconstructions, expected, rtol=1e-4, atol=1e-5)


def test_pictures_of_images(tmp_path):
    overrides = {
        "energy.gaussian_rbm.num_hidden": 4,
        "sampling.num_samples": 16,
        "sampling.gibbs.num_steps": 5,
    }
    experiment = build(make_config("digits_rbm", overrides))
    report.write_samples(
        experiment, experiment.initial_state, tmp_path, key=jax.random.key(0), progress=False
    )
    for name in ("samples.png", "reconstructions.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    with np.load(tmp_path / "samples.npz") as stored:
        assert list(stored["titles"]) == [
            "E[v | h] of the Gibbs samples",
            "Gibbs samples v, 5 steps from noise",
        ]
        noise = stored["panel_1"] - stored["panel_0"]
        assert noise.shape == (16, 64)
    assert abs(noise.mean()) < 5 / math.sqrt(noise.size)  # σ = 1 at the start
    assert abs((noise**2).mean() - 1) < 5 * math.sqrt(2 / noise.size)


def test_pictures_of_points_under_a_deep_model(tmp_path):
    """There is no density to draw, only the samples."""
    experiment = build(make_config("base", TINY | TINY_DEEP | DEEP))
    figures = report.write_samples(
        experiment, experiment.initial_state, tmp_path, key=jax.random.key(0), progress=False
    )
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")
    assert set(figures) == {
        "reconstruction_root_mean_squared_error",
        "reconstruction_summed_squared_error",
    }
    with np.load(tmp_path / "samples.npz") as stored:
        assert list(stored["titles"]) == [
            "v | h with h from q of training data",
            "joint samples (v, h)",
        ]
        assert stored["panel_0"].shape == stored["panel_1"].shape == (4, 2)
        assert stored["originals"].shape == stored["reconstructions"].shape == (4, 2)


def test_samples_that_are_not_finite_leave_no_file(rbm, tmp_path):
    state = rbm.initial_state
    theta = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), state.theta)
    broken = type(state)(**{**vars(state), "theta": theta})
    with pytest.raises(ValueError, match=r"sampling: 'Gibbs samples.* holds NaN or Inf"):
        report.write_samples(rbm, broken, tmp_path, key=jax.random.key(0), progress=False)
    assert not list(tmp_path.iterdir())


def test_figures_that_are_not_finite_are_not_written(tmp_path):
    path = tmp_path / "evaluation.json"
    with pytest.raises(ValueError, match="evaluation: ssm is nan"):
        report.write_json(path, {"num_test_examples": 3, "ssm": math.nan})
    assert not path.exists()
    figures = {"num_test_examples": 3, "ssm": -1.25, "log_likelihood_method": "log p̃(v)"}
    report.write_json(path, figures)
    assert json.loads(path.read_text()) == figures
    assert report.table(figures).splitlines() == [
        "  num_test_examples      3",
        "  ssm                    -1.25",
        "  log_likelihood_method  log p̃(v)",
    ]


def test_curves_of_a_run(tmp_path):
    records = [{"step": s, "wall_time": 0.0, "loss": -1.0 * s, "norm": 1.0} for s in (10, 20)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    report.write_curves(tmp_path)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
