"""What a config builds, and what is refused before anything is built."""

import copy
import hashlib
import importlib
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jbism.data
import jbism.data._toy
from experiments import parts
from experiments.builders import build, load_config
from experiments.configs import base
from experiments.validation import ConfigError, validate
from tests.configs import BIDVL, DEEP, MARGINAL, TINY, TINY_DEEP, VAE, make_config

# What a config builds


@pytest.mark.parametrize(
    "name", ["checkerboard_rbm", "digits_rbm", "digits_deep", "digits_bidvl", "freyface_rbm"]
)
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
    own = "elbo" if name == "digits_bidvl" else "score_norm"
    assert {"loss", "grad_norm", "lower_loss", own} <= set(metrics)


IMAGE_SETS = {"mnist": (32, 1), "fashion_mnist": (32, 1), "cifar10": (32, 3), "celeba": (32, 3)}


def load_instead(monkeypatch, name, image_shape):
    """Has images of that shape loaded; returns a dict of what `jbism.data.load` is given."""
    shape = (60, *image_shape)
    pixels = np.arange(np.prod(shape)).astype(np.uint8).reshape(shape)
    splits = dict.fromkeys(("train", "validation", "test"), pixels)
    dataset = jbism.data.Dataset(name, image_shape=image_shape, **splits)
    given = {}

    def load(loaded, **options):
        given[loaded] = options
        return dataset

    monkeypatch.setattr(jbism.data, "load", load)
    return given


@pytest.mark.parametrize("name", IMAGE_SETS)
def test_deep_image_configs(name, monkeypatch):
    """Small ones build and take a step's shape; published ones have the published networks."""
    side, channels = IMAGE_SETS[name]
    given = load_instead(monkeypatch, name, (side, side, channels))
    get_config = importlib.import_module(f"experiments.configs.{name}_deep").get_config
    small = get_config("small")
    assert small.name == f"{name}_deep"
    for method in ("bism", "vages", "marginal"):
        small.method.name = method
        small.energy.name = "marginal" if method == "marginal" else "deep_eblvm"
        experiment = build(small)
        state = experiment.initial_state
        v = jnp.asarray(experiment.dataset.examples("train", slice(small.train.batch_size)))
        after, _ = jax.eval_shape(experiment.step, state, v)
        assert jax.tree.map(jnp.shape, after.theta) == jax.tree.map(jnp.shape, state.theta)
    assert "num_test" not in given[name]
    assert given[name]["data_dir"] is None
    published = get_config()
    energy, num_latents = parts.build_energy(published.energy, (side, side, channels))
    theta = jax.eval_shape(energy.init, jax.random.key(0), v[0], jnp.zeros(num_latents))
    count = sum(leaf.size for leaf in jax.tree.leaves(theta))
    # The published code's energies have as many.
    assert round(count / 1e6, 1) == (9.9 if channels == 1 else 63.9)
    gray = channels == 1
    assert_deep_settings(
        published,
        **{
            "objective.name": "mdsm",
            "objective.mdsm.sigma_min": 0.1 if gray else 0.05,
            "objective.mdsm.sigma_max": 3.0 if gray else 1.2,
            "objective.mdsm.sigma0": 0.1,
            "objective.mdsm.spacing": "geometric" if gray else "linear",
            "divergence.name": "fisher",
            "hypergradient.name": "first_order",
            "hypergradient.first_order": {},  # N = 0
            "energy.deep_eblvm.num_latents": 50,
            "energy.deep_eblvm.trunk.residual_conv.blocks_per_level": 2 if gray else 3,
            "method.vages.num_particles": 2,
            "method.vages.refinement.num_steps": 5,
            "method.vages.refinement.step_size": 1e-2,
            "method.vages.refinement.noise_scale": 1e-4,
            "train.num_lower_steps": 5,
            "train.batch_size": 100,
            "train.num_steps": 100_000 if gray else 300_000,
            "train.ema_decay": 0.999,
            "train.flip": not gray,
        },
    )
    for optimizer in (published.theta_optimizer, published.phi_optimizer):
        assert (optimizer.name, optimizer.adam.b1, optimizer.adam.b2) == ("adam", 0.9, 0.95)
        assert optimizer.learning_rate == (1e-4 if gray else 5e-5)
        assert (optimizer.schedule, optimizer.final_learning_rate) == ("cosine", 1e-6)
        assert optimizer.decay_steps == published.train.num_steps
    if name == "mnist":  # small chains start where exp(-E/T) is the data under the widest noise
        mdsm = small.objective.mdsm
        assert small.sampling.langevin.hot == pytest.approx((mdsm.sigma_max / mdsm.sigma0) ** 2)
    with pytest.raises(ValueError, match=r"WIDTH of .*, got 'large'"):
        get_config("large")


def assert_deep_settings(config, **settings):
    for key, value in settings.items():
        found = config
        for part in key.split("."):
            found = found[part]
        assert (found.to_dict() if isinstance(value, dict) else found) == value, key


@pytest.mark.parametrize("name", ["mnist", "cifar10", "celeba"])
def test_bidvl_image_configs(name, monkeypatch):
    """Small ones build and take a step's shape; published ones have the published settings."""
    channels, levels = (1 if name == "mnist" else 3), (4 if name == "celeba" else 3)
    shape = (2**levels * 4, 2**levels * 4, channels)
    load_instead(monkeypatch, name, shape)
    get_config = importlib.import_module(f"experiments.configs.{name}_bidvl").get_config
    small = get_config("small")
    validate(small)
    if name != "cifar10":  # whose networks are those of mnist but for the colours
        experiment = build(small)
        state = experiment.initial_state
        v = jnp.asarray(experiment.dataset.examples("train", slice(small.train.batch_size)))
        after, metrics = jax.eval_shape(experiment.step, state, v)
        assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
        assert {"elbo", "data_energy", "generated_energy"} <= set(metrics)

    config = get_config()
    assert config.name == f"{name}_bidvl"
    assert config.data.name == name
    assert config.method.bidvl.form == "compact"
    assert config.method.bidvl.compact.elbo_coefficient == 0.05
    assert (config.train.num_lower_steps, config.train.batch_size) == (1, 100)
    assert config.train.flip == (name != "mnist")
    for optimizer, rate in ((config.theta_optimizer, 1e-4), (config.phi_optimizer, 3e-4)):
        assert (optimizer.name, optimizer.learning_rate) == ("adam", rate)
        assert (optimizer.adam.b1, optimizer.adam.b2) == (0.0, 0.9)
    validate(config)
    energy, _ = parts.build_energy(config.energy, shape)
    theta = jax.eval_shape(energy.init, jax.random.key(0), jnp.zeros(shape))
    # Of each kernel, those of the convolutions and of the head, there are both singular vectors.
    kernels = [x for x in jax.tree.leaves(theta["params"]) if len(x.shape) > 1]
    vectors = [x for x in jax.tree.leaves(theta["batch_stats"]) if len(x.shape) == 2]
    assert len(kernels) == len(vectors) == levels + 1
    generator = parts.build_decoder(config.generator.decoder, shape, "")
    phi = jax.eval_shape(generator.init, jax.random.key(0), jnp.zeros(100))["params"]
    assert config.generator.num_latents == 100
    assert phi["Dense_0"]["kernel"].shape == (100, 4 * 4 * 384)
    assert phi["output"]["kernel"].shape == (3, 3, 96, channels)
    with pytest.raises(ValueError, match=r"WIDTH of .*, got 'large'"):
        get_config("large")


VAGES = {"method.name": "vages"}
REFINED = VAGES | {"method.vages.refinement.num_steps": 2}
KSD = {"objective.name": "ksd"}
IMQ = KSD | {"objective.ksd.kernel.name": "imq"}
METHODS = (
    "vages",
    "marginal",
    "importance",
    "contrastive",
    "nce",
    "vnce",
    "maximum_likelihood",
)
CD = {"method.name": "contrastive"}
PCD = CD | {"method.contrastive.persistent": True}
IMAGES = DEEP | {
    "data.name": "digits",
    "energy.deep_eblvm.trunk.name": "residual_conv",
    "energy.deep_eblvm.trunk.residual_conv.channels": 2,
    "energy.deep_eblvm.trunk.residual_conv.blocks_per_level": 1,
    "posterior.gaussian.trunk.name": "conv_encoder",
    "posterior.gaussian.trunk.conv_encoder.features": (2, 2),
}
FULL = BIDVL | {"method.bidvl.form": "full", "hypergradient.name": "first_order"}
WEIGHTED = FULL | {"method.bidvl.full.weights": "generator"}
CONV_DECODER = {"data.name": "digits", "generator.decoder.name": "conv"}
CONV_DECODER |= {"generator.decoder.conv.features": (2, 2)}
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
    ("energy.deep_eblvm.trunk.mlp.dtype", "bfloat16", DEEP),
    ("energy.deep_eblvm.coupling_bias", True, DEEP),
    ("energy.marginal.head", "softplus", MARGINAL),
    ("energy.marginal.num_features", 9, MARGINAL),
    ("energy.marginal.trunk.mlp.features", (8, 8), MARGINAL),
    ("energy.marginal.spectral_norm_steps", 2, MARGINAL),
    ("method.name", "nce", MARGINAL),
    ("method.name", "contrastive", MARGINAL),
    ("energy.gaussian_decoder.num_latents", 5, VAE),
    ("energy.gaussian_decoder.scale", 0.2, VAE),
    ("energy.gaussian_decoder.decoder.mlp.features", (8, 8), VAE),
    ("energy.gaussian_decoder.decoder.mlp.activation", "silu", VAE),
    ("energy.gaussian_decoder.decoder.mlp.output_activation", "none", VAE),
    ("energy.gaussian_decoder.decoder.mlp.dtype", "bfloat16", VAE),
    ("energy.gaussian_decoder.decoder.name", "conv", VAE | {"data.name": "digits"}),
    *(("method.name", method, VAE) for method in ("bism", "vages")),
    ("divergence.name", "iwae", VAE),
    ("divergence.kl.num_samples", 2, VAE),
    ("method.name", "bidvl", MARGINAL | {"posterior.name": "gaussian"}),
    ("energy.marginal.head", "softplus", BIDVL),
    ("generator.num_latents", 5, BIDVL),
    ("generator.decoder.name", "conv", BIDVL | {"data.name": "digits"}),
    ("generator.decoder.mlp.features", (8, 8), BIDVL),
    ("generator.decoder.mlp.output_activation", "tanh", BIDVL),
    *(
        (f"generator.decoder.conv.{key}", value, BIDVL | CONV_DECODER)
        for key, value in {
            "features": (2, 3),
            "activation": "leaky_relu",
            "output_activation": "none",
            "implementation": "lax",
            "dtype": "bfloat16",
        }.items()
    ),
    *(
        (f"method.bidvl.compact.{key}", value, BIDVL)
        for key, value in {
            "scale": 0.2,
            "elbo_coefficient": 0.2,
            "latent_coefficient": 0.2,
            "hinge": True,
        }.items()
    ),
    ("method.bidvl.form", "full", BIDVL),
    ("method.bidvl.full.scale", 0.2, FULL),
    ("method.bidvl.full.elbo_coefficient", 0.2, FULL),
    ("method.bidvl.full.weights", "generator", FULL),
    ("method.bidvl.full.weights", "flat", WEIGHTED),
    ("method.bidvl.full.clip", (0.8, 1.2), WEIGHTED),
    ("method.bidvl.full.num_particles", 2, WEIGHTED),
    ("hypergradient.name", "unroll", FULL),
    ("posterior.gaussian.covariance", "full", BIDVL),
    ("method.contrastive.langevin.step_size", 0.1, MARGINAL | CD),
    ("method.contrastive.persistent", True, MARGINAL | CD),
    *(
        (f"energy.deep_eblvm.trunk.residual_conv.{key}", value, IMAGES)
        for key, value in {
            "channels": 3,
            "blocks_per_level": 2,
            "levels": 2,
            "variant": "published",
            "activation": "tanh",
            "implementation": "lax",
            "dtype": "bfloat16",
        }.items()
    ),
    *(
        (f"posterior.gaussian.trunk.conv_encoder.{key}", value, IMAGES)
        for key, value in {
            "features": (2, 3),
            "strides": (2, 2),
            "activation": "leaky_relu",
            "implementation": "lax",
            "dtype": "bfloat16",
        }.items()
    ),
    ("train.flip", True, IMAGES),
    ("theta_optimizer.clip_norm", 0.5, {}),
    ("phi_optimizer.clip_norm", 0.5, {}),
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
    ("hypergradient.unroll.truncate", 2, {}),
    ("hypergradient.name", "implicit_cg", {}),
    *(
        (f"hypergradient.implicit_cg.{key}", value, {"hypergradient.name": "implicit_cg"})
        for key, value in {
            "num_steps": 3,
            "ridge": 0.1,
            "tolerance": 0.1,
            "num_samples": 2,
            "on_failure": "first_order",
        }.items()
    ),
    ("hypergradient.name", "neumann", {}),
    *(
        (f"hypergradient.neumann.{key}", value, {"hypergradient.name": "neumann"})
        for key, value in {
            "num_terms": 3,
            "step_size": 0.1,
            "num_samples": 2,
            "on_failure": "first_order",
        }.items()
    ),
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
    ("theta_optimizer.name", "muon", {}),
    *(
        (f"theta_optimizer.muon.{key}", value, {"theta_optimizer.name": "muon"})
        for key, value in {
            "beta": 0.5,
            "consistent_rms": 0.1,
            "adam_b1": 0.5,
            "adam_b2": 0.5,
            "adam_eps_root": 1e-6,
        }.items()
    ),
    ("theta_optimizer.learning_rate", 0.5, {}),
    ("theta_optimizer.schedule", "cosine", {}),
    ("theta_optimizer.decay_steps", 7, {"theta_optimizer.schedule": "cosine"}),
    ("theta_optimizer.final_learning_rate", 1e-4, {"theta_optimizer.schedule": "cosine"}),
    ("phi_optimizer.name", "sgd", {}),
    ("phi_optimizer.learning_rate", 0.5, {}),
    ("phi_optimizer.schedule", "cosine", {}),
    *(("method.name", method, {}) for method in METHODS),
    *(
        (f"method.vages.{key}", value, VAGES)
        for key, value in {
            "num_particles": 3,
            "control_variate": True,
            "independent": False,
            "exact_posterior": True,
        }.items()
    ),
    ("method.vages.num_particles", 0, VAGES),
    ("method.vages.refinement.num_steps", 2, DEEP | VAGES),
    ("method.vages.refinement.step_size", 0.5, DEEP | REFINED),
    ("method.vages.refinement.noise_scale", 0.5, DEEP | REFINED),
    ("method.importance.num_particles", 6, {"method.name": "importance"}),
    ("method.contrastive.num_steps", 2, CD),
    ("method.contrastive.persistent", True, CD),
    ("method.contrastive.num_chains", 7, PCD),
    ("method.contrastive.persistent", True, DEEP | CD),
    ("method.contrastive.num_chains", 7, DEEP | PCD),
    ("method.contrastive.langevin.step_size", 0.1, DEEP | CD),
    ("method.contrastive.langevin.latent_step_size", 0.1, DEEP | CD),
    ("method.contrastive.langevin.num_latent_steps", 3, DEEP | CD),
    *(
        (f"method.{method}.{key}", 2.0, {"method.name": method})
        for method in ("nce", "vnce")
        for key in ("noise_ratio", "noise_mean", "noise_scale", "log_partition_init")
    ),
    ("method.vnce.num_particles", 6, {"method.name": "vnce"}),
    ("method.vnce.num_particles", 0, {"method.name": "vnce"}),
    ("method.vnce.num_particles", 6, DEEP | {"method.name": "vnce"}),
    ("objective.name", "ksd", {}),
    ("objective.ksd.kernel.name", "imq", KSD),
    ("objective.ksd.kernel.rbf.bandwidth", 0.2, KSD),
    ("objective.ksd.kernel.rbf.median", True, KSD),
    ("objective.ksd.kernel.imq.scale", 0.2, IMQ),
    ("objective.ksd.kernel.imq.exponent", -0.2, IMQ),
    ("objective.ksd.kernel.imq.median", True, IMQ),
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
    state = experiment.initial_state
    for leaf in jax.tree.leaves((state.theta, state.phi, state.chains)):
        digest.update(np.asarray(leaf).tobytes())
    digest.update(jax.random.key_data(experiment.key).tobytes())
    v = jnp.asarray(dataset.train[experiment.order.indices(0, 1)[0]])
    program = str(jax.make_jaxpr(experiment.step)(state, v))
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


SIZES = ("energy", "posterior", "generator")


def options_config(rest):
    sizes = {key: x for key, x in TINY_DEEP.items() if key.startswith(SIZES)}
    return make_config("base", TINY | sizes | rest)


@pytest.mark.parametrize(("key", "value", "rest"), OPTIONS, ids=[key for key, _, _ in OPTIONS])
def test_every_option_reaches_training(key, value, rest, fingerprints):
    changed = options_config(rest | {key: value})
    assert fingerprints(changed) != fingerprints(options_config(rest))


def test_muon_turns_kernels_as_matrices_to_their_outputs_and_biases_by_adam():
    overrides = {"theta_optimizer.name": "muon", "theta_optimizer.learning_rate": 0.1}
    optimizer = parts.build_optimizer(make_config("digits_deep", overrides), "theta_optimizer")
    # Far from orthogonal as a matrix [18, 4], and in another way along any other axes.
    u, _, w = jnp.linalg.svd(jax.random.normal(jax.random.key(0), (18, 4)), full_matrices=False)
    kernel = (u @ jnp.diag(jnp.array([1.0, 0.3, 0.1, 0.05])) @ w).reshape(3, 3, 2, 4)
    grads = {"kernel": kernel, "bias": jnp.array([1e-3, -5.0])}
    updates, _ = optimizer.update(grads, optimizer.init(grads), grads)
    matrix = updates["kernel"].reshape(18, 4)
    length = 0.1 * 0.2 * 18**0.5  # the rate, the root mean square, the matrix's longer side
    lengths = jnp.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(lengths, length, rtol=0.35)  # five Newton-Schulz steps' accuracy
    np.testing.assert_allclose(-jnp.diag(u.T @ matrix @ w.T), length, rtol=0.35)
    first = 0.1 * (1 + 0.9 * (1 - 0.9) / (1 - 0.9**2))  # of Nesterov's Adam
    np.testing.assert_allclose(updates["bias"], [-first, first], rtol=1e-4)


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


# What is refused, before anything is built


REFUSED = {
    # overrides -> what the error says
    "train.num_steps": ({"train.num_steps": 0}, "config.train.num_steps must be an integer >= 1"),
    "train.batch_size": ({"train.batch_size": 401}, "config.train: batch_size must be at most"),
    "train.steps_per_call": ({"train.steps_per_call": 0}, "config.train.steps_per_call must be"),
    "train.num_lower_steps": ({"train.num_lower_steps": -1}, "config.train.num_lower_steps must"),
    "train.unroll_lower": ({"train.unroll_lower": -1}, "config.train.unroll_lower must be"),
    "train.ema_decay": (
        {"train.ema_decay": 1.0},
        "config.train: ema_decay must be a number in [0, 1)",
    ),
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
    "data.dir of files": (
        {"data.name": "mnist", "data.mnist.source": "files"},
        "config.data.dir must name the folder that holds mnist",
    ),
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
    "objective.ksd.kernel.name": (
        KSD | {"objective.ksd.kernel.name": "linear"},
        "config.objective.ksd.kernel.name must be one of",
    ),
    "objective.ksd.kernel.bandwidth": (
        KSD | {"objective.ksd.kernel.rbf.bandwidth": 0.0},
        "config.objective.ksd.kernel.rbf: bandwidth must be a number > 0",
    ),
    "method.name": ({"method.name": "cd"}, "config.method.name must be one of 'bism'"),
    "method.vages.num_particles": (
        VAGES | {"method.vages.num_particles": 1},
        "config.method.vages.num_particles must be 0 or at least 2, got 1",
    ),
    "method.vages of ssm": (
        VAGES | {"objective.name": "ssm"},
        "config.objective.name must not be 'ssm' with config.method.name = 'vages'",
    ),
    "method.vages.exact_posterior of a deep model": (
        DEEP | VAGES | {"method.vages.exact_posterior": True},
        "config.method.vages.exact_posterior needs config.energy.name = 'gaussian_rbm'",
    ),
    "method.vages.num_particles of a deep model": (
        DEEP | VAGES | {"method.vages.num_particles": 0},
        "config.method.vages.num_particles = 0 needs config.energy.name = 'gaussian_rbm'",
    ),
    "method.vages.refinement of binary latents": (
        REFINED,
        "config.method.vages.refinement.num_steps > 0 needs config.energy.name = 'deep_eblvm'",
    ),
    "method.vages.refinement.num_steps": (
        DEEP | VAGES | {"method.vages.refinement.num_steps": -1},
        "config.method.vages.refinement: num_steps must be an integer >= 0",
    ),
    "method.vages.refinement.step_size": (
        DEEP | REFINED | {"method.vages.refinement.step_size": 0.0},
        "config.method.vages.refinement: step_size must be a number > 0",
    ),
    "method.vages.refinement with control_variate": (
        DEEP | REFINED | {"method.vages.control_variate": True},
        "config.method.vages.control_variate must be False",
    ),
    "method.importance": (
        {"method.name": "importance", "method.importance.num_particles": 0},
        "config.method.importance.num_particles must be an integer >= 1",
    ),
    "method.marginal of a deep model": (
        DEEP | {"method.name": "marginal"},
        "config.method.name = 'marginal' needs config.energy.name = 'gaussian_rbm'",
    ),
    "method.bism without latents": (
        MARGINAL | {"method.name": "bism"},
        "config.method.name = 'bism' needs config.energy.name = 'gaussian_rbm' or 'deep_eblvm' or "
        "'gaussian_decoder', got 'marginal'",
    ),
    "method.maximum_likelihood without latents": (
        MARGINAL | {"method.name": "maximum_likelihood"},
        "config.method.name = 'maximum_likelihood' needs config.energy.name = 'gaussian_rbm', got",
    ),
    "energy.marginal.head": (
        MARGINAL | {"energy.marginal.head": "quadratic"},
        "config.energy.marginal: head must be one of",
    ),
    "energy.marginal.num_features of another head": (
        MARGINAL | {"energy.marginal.head": "linear", "energy.marginal.num_features": 4},
        "config.energy.marginal.num_features must be -1 with config.energy.marginal.head = 'lin",
    ),
    "energy.marginal.num_features": (
        MARGINAL | {"energy.marginal.num_features": 0},
        "config.energy.marginal: num_features must be an integer >= 1",
    ),
    "energy.marginal.trunk": (
        MARGINAL | {"energy.marginal.trunk.name": "none"},
        "config.energy.marginal.trunk.name must not be 'none'",
    ),
    "sampling.name without latents": (
        MARGINAL | {"sampling.name": "gibbs"},
        "config.sampling.name must be 'langevin' with config.energy.name = 'marginal'",
    ),
    "energy.marginal.spectral_norm_steps": (
        MARGINAL | {"energy.marginal.spectral_norm_steps": -1},
        "config.energy.marginal: spectral_norm_steps must be an integer >= 0",
    ),
    "energy.gaussian_decoder.num_latents": (
        VAE | {"energy.gaussian_decoder.num_latents": 0},
        "config.energy.gaussian_decoder: num_latents must be an integer >= 1",
    ),
    "energy.gaussian_decoder.scale": (
        VAE | {"energy.gaussian_decoder.scale": 0.0},
        "config.energy.gaussian_decoder: scale must be a number > 0",
    ),
    "energy.gaussian_decoder.decoder.name": (
        VAE | {"energy.gaussian_decoder.decoder.name": "unet"},
        "config.energy.gaussian_decoder.decoder.name must be one of ['conv', 'mlp'], got 'unet'",
    ),
    "energy.gaussian_decoder.decoder.conv of points": (
        VAE | {"energy.gaussian_decoder.decoder.name": "conv"},
        "config.energy.gaussian_decoder.decoder.conv: shape must be (height, width, channels)",
    ),
    "generator.decoder.name": (
        BIDVL | {"generator.decoder.name": "unet"},
        "config.generator.decoder.name must be one of ['conv', 'mlp'], got 'unet'",
    ),
    "generator.decoder.output_activation": (
        BIDVL | {"generator.decoder.mlp.output_activation": "relu"},
        "config.generator.decoder.mlp.output_activation must be one of ['none', 'sigmoid', 'tanh']",
    ),
    "generator.decoder.conv of too many levels": (
        BIDVL | CONV_DECODER | {"generator.decoder.conv.features": (2, 2, 2, 2, 2)},
        "config.generator.decoder.conv: shape must be (height, width, channels) with sides that 16",
    ),
    "generator.num_latents": (
        BIDVL | {"generator.num_latents": 0},
        "config.generator.num_latents must be an integer >= 1, got 0",
    ),
    "method.bidvl of an RBM": (
        BIDVL | {"energy.name": "gaussian_rbm"},
        "config.method.name = 'bidvl' needs config.energy.name = 'marginal', got 'gaussian_rbm'",
    ),
    "method.bidvl.form": (
        {"method.bidvl.form": "half"},
        "config.method.bidvl.form must be one of 'compact', 'full', got 'half'",
    ),
    "method.bidvl.compact.latent_coefficient": (
        {"method.bidvl.compact.latent_coefficient": -0.5},
        "config.method.bidvl.compact.latent_coefficient must be a number >= 0, got -0.5",
    ),
    "method.bidvl.compact.latent_coefficient = nan": (
        {"method.bidvl.compact.latent_coefficient": math.nan},
        "config.method.bidvl.compact.latent_coefficient must be a number >= 0, got nan",
    ),
    "train.batch_size of weighted bidvl": (
        BIDVL
        | {
            "method.bidvl.form": "full",
            "method.bidvl.full.weights": "generator",
            "train.batch_size": 1,
        },
        "config.train.batch_size must be at least 2 with config.method.bidvl.full.weights = "
        "'generator', got 1",
    ),
    "method.bidvl.compact.scale": (
        BIDVL | {"method.bidvl.compact.scale": 0.0},
        "config.method.bidvl.compact: scale must be a number > 0",
    ),
    "method.bidvl.compact.elbo_coefficient": (
        BIDVL | {"method.bidvl.compact.elbo_coefficient": -1.0},
        "config.method.bidvl.compact: elbo_coefficient must be a number >= 0",
    ),
    "method.bidvl.full.weights": (
        FULL | {"method.bidvl.full.weights": "none"},
        "config.method.bidvl.full: weights must be one of 'uniform', 'generator', 'flat'",
    ),
    "method.bidvl.full.clip": (
        WEIGHTED | {"method.bidvl.full.clip": (1.2, 0.8)},
        "config.method.bidvl.full: clip must have low <= high, got (1.2, 0.8)",
    ),
    "method.bidvl.full.clip of one number": (
        WEIGHTED | {"method.bidvl.full.clip": (0.8,)},
        "config.method.bidvl.full: clip must be a pair (low, high) or None, got (0.8,)",
    ),
    "method.bidvl.full.clip of uniform weights": (
        FULL | {"method.bidvl.full.clip": (0.8, 1.2)},
        "config.method.bidvl.full: clip must be None for weights='uniform', got (0.8, 1.2)",
    ),
    "method.bidvl.full.num_particles": (
        FULL | {"method.bidvl.full.num_particles": 0},
        "config.method.bidvl.full: num_particles must be an integer >= 1",
    ),
    "method.bidvl through Adam": (
        FULL | {"hypergradient.name": "unroll", "phi_optimizer.adam.eps_root": 0.0},
        "config.phi_optimizer.adam.eps_root must be > 0 (such as 1e-8)",
    ),
    "method.bidvl through Muon": (
        FULL
        | {
            "hypergradient.name": "unroll",
            "phi_optimizer.name": "muon",
            "phi_optimizer.muon.adam_eps_root": 0.0,
        },
        "config.phi_optimizer.muon.adam_eps_root must be > 0 (such as 1e-8)",
    ),
    "adam.b1": (
        {"theta_optimizer.adam.b1": 1.0},
        "config.theta_optimizer.adam.b1 must be a number in [0, 1)",
    ),
    "sgd.momentum": (
        {"theta_optimizer.sgd.momentum": -0.5},
        "config.theta_optimizer.sgd.momentum must be a number in [0, 1)",
    ),
    "muon.beta": (
        {"phi_optimizer.muon.beta": 1.5},
        "config.phi_optimizer.muon.beta must be a number in [0, 1)",
    ),
    "muon.adam_eps_root": (
        {"theta_optimizer.muon.adam_eps_root": -1.0},
        "config.theta_optimizer.muon.adam_eps_root must be a number >= 0",
    ),
    "muon.consistent_rms": (
        {"theta_optimizer.muon.consistent_rms": 0.0},
        "config.theta_optimizer.muon.consistent_rms must be a number > 0",
    ),
    "posterior of BiDVL": (
        BIDVL | {"posterior.name": "bernoulli"},
        "config.posterior.name must be 'gaussian' with config.energy.name = 'marginal' and "
        "config.method.name = 'bidvl', got 'bernoulli'",
    ),
    "posterior of a Gaussian decoder": (
        VAE | {"posterior.name": "bernoulli"},
        "config.posterior.name must be 'gaussian' with config.energy.name = 'gaussian_decoder'",
    ),
    "sampling of BiDVL": (
        BIDVL | {"sampling.name": "gibbs"},
        "config.sampling.name must be 'generator' or 'langevin' with config.energy.name = "
        "'marginal' and config.method.name = 'bidvl', got 'gibbs'",
    ),
    "sampling of a Gaussian decoder": (
        VAE | {"sampling.name": "gibbs"},
        "config.sampling.name must be 'generator' or 'langevin' with config.energy.name = "
        "'gaussian_decoder', got 'gibbs'",
    ),
    "sampling of an RBM by a generator": (
        {"sampling.name": "generator"},
        "config.sampling.name must be 'gibbs' with config.energy.name = 'gaussian_rbm', got 'gen",
    ),
    "sampling by a generator that is not there": (
        MARGINAL | {"sampling.name": "generator"},
        "config.sampling.name must be 'langevin' with config.energy.name = 'marginal', got 'gen",
    ),
    "method.vae of a deep model": (
        DEEP | {"method.name": "vae", "divergence.name": "kl"},
        "config.method.name = 'vae' needs config.energy.name = 'gaussian_decoder', got 'deep",
    ),
    "method.vae by Fisher divergence": (
        VAE | {"divergence.name": "fisher"},
        "config.divergence.name must be 'kl' or 'iwae' with config.method.name = 'vae', whose "
        "evidence bounds they are, got 'fisher'",
    ),
    "method.contrastive of a Gaussian decoder": (
        VAE | CD,
        "config.method.name = 'contrastive' needs config.energy.name = 'gaussian_rbm' or "
        "'deep_eblvm' or 'marginal', got 'gaussian_decoder'",
    ),
    "method.vnce of a Gaussian decoder": (
        VAE | {"method.name": "vnce"},
        "config.method.name = 'vnce' needs config.energy.name = 'gaussian_rbm' or 'deep_eblvm'",
    ),
    "sampling.generator.traversal.span": (
        {"sampling.generator.traversal.span": 0.0},
        "config.sampling.generator.traversal.span must be a number > 0, got 0.0",
    ),
    "sampling.generator.traversal.num_points": (
        {"sampling.generator.traversal.num_points": 1},
        "config.sampling.generator.traversal.num_points must be an integer >= 2, got 1",
    ),
    "sampling.generator.interpolation.num_rows": (
        {"sampling.generator.interpolation.num_rows": -1},
        "config.sampling.generator.interpolation.num_rows must be an integer >= 0, got -1",
    ),
    "method.contrastive.num_steps": (
        {"method.contrastive.num_steps": 0},
        "config.method.contrastive.num_steps must be an integer >= 1, got 0",
    ),
    "method.contrastive.num_chains": (
        {"method.contrastive.num_chains": 0},
        "config.method.contrastive.num_chains must be an integer >= 1, got 0",
    ),
    "method.contrastive.langevin.step_size": (
        {"method.contrastive.langevin.step_size": 0.0},
        "config.method.contrastive.langevin.step_size must be a number > 0",
    ),
    "method.contrastive.langevin.num_latent_steps": (
        {"method.contrastive.langevin.num_latent_steps": -1},
        "config.method.contrastive.langevin.num_latent_steps must be an integer >= 0",
    ),
    "method.nce.noise_ratio": (
        {"method.nce.noise_ratio": 0.0},
        "config.method.nce.noise_ratio must be a number > 0, got 0.0",
    ),
    "method.vnce.noise_scale": (
        {"method.vnce.noise_scale": -1.0},
        "config.method.vnce.noise_scale must be a number > 0, got -1.0",
    ),
    "method.vnce.log_partition_init": (
        {"method.vnce.log_partition_init": math.inf},
        "config.method.vnce.log_partition_init must be finite, got inf",
    ),
    "method.vnce.num_particles": (
        {"method.vnce.num_particles": -1},
        "config.method.vnce.num_particles must be an integer >= 0, got -1",
    ),
    "method.vnce.num_particles of a deep model": (
        DEEP | {"method.name": "vnce", "method.vnce.num_particles": 0},
        "config.method.vnce.num_particles = 0 needs config.energy.name = 'gaussian_rbm'",
    ),
    "method.nce of a deep model": (
        DEEP | {"method.name": "nce"},
        "config.method.name = 'nce' needs config.energy.name = 'gaussian_rbm'",
    ),
    "method.maximum_likelihood of many latents": (
        {"method.name": "maximum_likelihood", "energy.gaussian_rbm.num_hidden": 21},
        "config.energy.gaussian_rbm.num_hidden must be <= 20, got 21; annealed importance sampling",
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
    "hypergradient.truncate": (
        {"hypergradient.unroll.truncate": 6},
        "config.hypergradient.unroll: truncate must be at most num_steps = 5, got 6",
    ),
    "hypergradient.implicit_cg": (
        {"hypergradient.name": "implicit_cg", "hypergradient.implicit_cg.ridge": -1.0},
        "config.hypergradient.implicit_cg: ridge must be a number >= 0",
    ),
    "hypergradient.neumann": (
        {"hypergradient.name": "neumann", "hypergradient.neumann.step_size": 0.0},
        "config.hypergradient.neumann: step_size must be a number > 0",
    ),
    "hypergradient.optimizer": (
        {"hypergradient.unroll.optimizer": "adam"},
        "config.hypergradient.unroll.optimizer must be 'live' or 'sgd'",
    ),
    "hypergradient.sgd_rate": (
        {"hypergradient.unroll.sgd_rate": 0.0},
        "config.hypergradient.unroll.sgd_rate must be a number > 0",
    ),
    "optimizer.name": (
        {"theta_optimizer.name": "lion"},
        "config.theta_optimizer.name must be one of",
    ),
    "optimizer.learning_rate": (
        {"phi_optimizer.learning_rate": math.nan},
        "config.phi_optimizer.learning_rate must be a number > 0, got nan",
    ),
    "optimizer.schedule": (
        {"phi_optimizer.schedule": "linear"},
        "config.phi_optimizer.schedule must be one of 'constant', 'cosine', got 'linear'",
    ),
    "optimizer.decay_steps": (
        {"phi_optimizer.schedule": "cosine", "phi_optimizer.decay_steps": 0},
        "config.phi_optimizer.decay_steps must be an integer >= 1, got 0",
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
    "interpolation.start_temperature without annealing": (
        DEEP
        | {
            "sampling.langevin.annealed_steps": 0,
            "sampling.langevin.interpolation.start_temperature": 25.0,
        },
        "config.sampling.langevin.interpolation.start_temperature = 25.0 needs "
        "config.sampling.langevin.annealed_steps > 0, got 0",
    ),
    "interpolation.start_temperature without cooling": (
        DEEP
        | {
            "sampling.langevin.cool_steps": 0,
            "sampling.langevin.interpolation.start_temperature": 0.5,
        },
        "config.sampling.langevin.interpolation.start_temperature = 0.5 needs "
        "config.sampling.langevin.cool_steps > 0, got 0",
    ),
    "sampling.langevin without a step": (
        {f"sampling.langevin.{name}_steps": 0 for name in ("hot", "annealed", "cool")},
        "config.sampling.langevin: hot_steps, annealed_steps and cool_steps must not",
    ),
    "sampling.langevin.reconstruction_steps": (
        {"sampling.langevin.reconstruction_steps": 0},
        "config.sampling.langevin.reconstruction_steps must be",
    ),
    **{
        f"sampling.langevin.interpolation.start_temperature = {value}": (
            DEEP | {"sampling.langevin.interpolation.start_temperature": value},
            f"config.sampling.langevin.interpolation.start_temperature must be {expected}",
        )
        for value, expected in (
            (0.0, "a number > 0, got 0.0"),
            (101.0, "-1 or at most config.sampling.langevin.hot, 100.0, got 101.0"),
            (25.0, "-1 without config.objective.name = 'mdsm'"),
        )
    },
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


@pytest.mark.parametrize("section", ["generator.decoder", "energy.gaussian_decoder.decoder"])
def test_there_has_to_be_a_decoder(section):
    model = VAE if section.startswith("energy") else BIDVL
    with pytest.raises(ConfigError, match=rf"config\.{section}\.name must"):
        build(options_config(model | {f"{section}.name": "none"}))


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
    with pytest.raises(ConfigError, match=r"config\.data\.freyface: .*frey_rawface\.mat is no"):
        build(options_config(frey))
    monkeypatch.setitem(
        jbism.data._toy.TOYS, "rings", lambda key, n: jnp.ones((n, 2)).at[3].set(jnp.nan)
    )
    with pytest.raises(ConfigError, match=r"config\.data: train must be finite, but example 3"):
        build(options_config({"data.name": "rings"}))
