"""BiDVL and variational autoencoders as experiments: closed forms, parts by hand, pictures."""

import importlib
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.scipy.stats import multivariate_normal, norm

from experiments import evaluation, generative, image_report, image_sampling, sampling
from experiments.builders import build
from jbism import distributions, posteriors
from jbism.divergences import IWAE, KL
from jbism.hypergradients import Unroll
from jbism.losses import BidvlCompact, BidvlFull, BidvlParams
from jbism.training import bidvl_step
from tests import oracles
from tests.configs import BIDVL, TINY, TINY_DEEP, VAE, make_config

KEY = jax.random.key(0)
WIDTHS = ("published", "small")
ADAM = {"b2": 0.95, "eps": 1e-8}


def points(rest):
    """An experiment on points of the plane."""
    return build(make_config("base", TINY | TINY_DEEP | rest))


# Variational autoencoders


def test_both_losses_of_an_autoencoder_are_minus_the_evidence_bound(x64):
    """In expectation, of a q that is not the posterior."""
    model, theta, _, _ = oracles.linear_decoder(KEY, 3, 2, scale=0.7)
    output = theta["params"]["decoder"]["output"]
    v, log_scale = jax.random.normal(jax.random.key(1), (4, 3)), jnp.array([-0.5, 0.2])

    def posterior(phi, v):
        return distributions.Normal(phi * v[:2], log_scale)

    losses = generative.vae_losses(KL(), energy=model.apply, posterior=posterior)
    keys = jax.random.split(jax.random.key(2), 2_000)
    found = oracles.jit(jax.vmap(lambda key: losses["lower_loss"](theta, 0.3, key, v)))(keys)
    mean, variance = 0.3 * v[:, :2], jnp.exp(2.0 * log_scale)
    decoded = mean @ output["kernel"] + output["bias"][None]
    log_given = norm.logpdf(v, decoded, 0.7).sum(1)
    log_given -= jnp.sum(variance[:, None] * output["kernel"] ** 2) / (2.0 * 0.7**2)
    kl = 0.5 * jnp.sum(mean**2 + (variance - 1.0 - 2.0 * log_scale)[None], axis=1)
    oracles.assert_mean(found, jnp.mean(kl - log_given))
    upper, metrics = losses["upper_loss"](theta, 0.3, None, keys[0], v)
    oracles.assert_close(upper, found[0], rtol=1e-12)
    assert metrics == {}


@pytest.mark.parametrize("divergence", [KL(), IWAE(2)])
def test_losses_of_an_autoencoder_at_the_exact_posterior(x64, divergence):
    model, theta, phi, marginal = oracles.linear_decoder(KEY, 3, 2, scale=0.7)
    posterior = posteriors.Gaussian(2, covariance="full").apply
    losses = generative.vae_losses(divergence, energy=model.apply, posterior=posterior)
    v = jax.random.normal(jax.random.key(1), (4, 3))
    expected = -jnp.mean(jax.vmap(lambda v: multivariate_normal.logpdf(v, *marginal))(v))
    oracles.assert_close(losses["lower_loss"](theta, phi, KEY, v), expected, rtol=1e-12)


SCALE = 0.25
LINEAR = VAE | {
    "energy.gaussian_decoder.num_latents": 1,
    "energy.gaussian_decoder.scale": SCALE,
    "energy.gaussian_decoder.decoder.mlp.features": (),
    "energy.gaussian_decoder.decoder.mlp.output_activation": "none",
    "posterior.gaussian.trunk.name": "none",
    "divergence.kl.num_samples": 10,
    "theta_optimizer.learning_rate": 0.03,
    "phi_optimizer.learning_rate": 0.03,
    "train.num_lower_steps": 1,
    "evaluation.num_examples": 50,
}


@pytest.fixture(scope="module")
def linear():
    """A linear autoencoder, trained on 200 points, and these."""
    experiment = points(LINEAR)
    v = jnp.asarray(experiment.dataset.train[:200])

    @jax.jit
    def train(state):
        return jax.lax.scan(lambda state, _: experiment.step(state, v), state, length=500)[0]

    return experiment, train(experiment.initial_state), v


def linear_marginal(theta):
    output = theta["params"]["decoder"]["output"]
    w, b = (np.asarray(output[name], np.float64) for name in ("kernel", "bias"))
    return b, w.T @ w + SCALE**2 * np.eye(2)


def test_a_linear_autoencoder_learns_principal_components(linear):
    """The largest likelihood of probabilistic PCA at a given σ (Tipping & Bishop, 1999)."""
    experiment, state, v = linear

    def log_likelihood(theta):
        return jnp.mean(
            jax.vmap(lambda v: multivariate_normal.logpdf(v, *linear_marginal(theta)))(v)
        )

    eigenvalues = np.linalg.eigvalsh(np.cov(np.asarray(v), rowvar=False, bias=True))
    small, large = eigenvalues
    assert large > SCALE**2
    most = -0.5 * (2 * math.log(2 * math.pi) + math.log(large) + 1)
    most -= 0.5 * (2 * math.log(SCALE) + small / SCALE**2)
    assert most - log_likelihood(experiment.initial_state.theta) > 0.2
    assert -1e-4 < most - log_likelihood(state.theta) < 0.02


def test_log_likelihood_of_a_linear_autoencoder(linear):
    experiment, state, _ = linear
    figures = evaluation.evaluate(experiment, state.theta, state.phi, KEY)
    assert set(figures) == {
        "num_test_examples",
        "log_likelihood",
        "log_likelihood_method",
        "posterior_fisher_divergence",
        "ssm",
    }
    assert figures["log_likelihood_method"] == "by 3 samples of q, log Z = 0"
    v = jnp.asarray(experiment.dataset.test[:50])
    exact = jax.vmap(lambda v: multivariate_normal.logpdf(v, *linear_marginal(state.theta)))(v)
    assert figures["log_likelihood"] == pytest.approx(float(exact.mean()), abs=0.02)
    assert experiment.latent_size == experiment.num_latents == 1
    h = jnp.array([0.7])
    output = state.theta["params"]["decoder"]["output"]
    found = experiment.generate(state.theta, state.phi)(h)
    oracles.assert_close(found, h @ output["kernel"] + output["bias"], rtol=1e-6)
    q = experiment.infer(state.theta, state.phi)(v[0])
    oracles.assert_trees_close(q, experiment.posterior.apply(state.phi, v[0]))


# BiDVL


FORMS = {
    "compact": (
        {"method.bidvl.compact.hinge": True, "method.bidvl.compact.scale": 0.3},
        lambda _: (BidvlCompact(scale=0.3, hinge=True), None),
    ),
    "coefficient": (
        {"method.bidvl.compact.latent_coefficient": 0.0},
        lambda _: (BidvlCompact(latent_coefficient=0.0), None),
    ),
    "full": (
        {
            "method.bidvl.form": "full",
            "method.bidvl.full.weights": "generator",
            "method.bidvl.full.clip": (0.5, 2.0),
            "hypergradient.unroll.num_steps": 2,
        },
        lambda live: (BidvlFull(weights="generator", clip=(0.5, 2.0)), Unroll(2, live)),
    ),
}


def program(step, state, v):
    return re.sub(r"0x[0-9a-f]+", "", str(jax.make_jaxpr(step)(state, v)))


@pytest.mark.parametrize("name", FORMS)
def test_the_step_of_bidvl_is_made_of_its_parts(name):
    overrides, make = FORMS[name]
    experiment = points(BIDVL | overrides | {"phi_optimizer.learning_rate": 3e-4})
    live = optax.adam(3e-4, b1=0.9, **ADAM, eps_root=1e-8)
    form, hypergradient = make(live)
    step = bidvl_step(
        energy=experiment.energy.apply,
        generator=experiment.generator.apply,
        posterior=experiment.posterior.apply,
        form=form,
        hypergradient=hypergradient,
        theta_optimizer=optax.adam(1e-3, b1=0.9, **ADAM),
        phi_optimizer=live,
        num_lower_steps=5,
    )
    state, v = experiment.initial_state, jnp.asarray(experiment.dataset.train[:16])
    assert program(experiment.step, state, v) == program(step, state, v)


@pytest.fixture(scope="module")
def bidvl():
    """BiDVL on the digits with parameters away from their initial values: θ, φ."""
    experiment = build(make_config("digits_bidvl", TINY_DEEP))
    state = experiment.initial_state
    phi = oracles.perturbed(jax.random.key(1), state.phi, 0.3)
    return experiment, state.theta, phi


def test_what_infers_and_what_generates(bidvl):
    experiment, theta, phi = bidvl
    assert experiment.num_latents == 0
    assert experiment.latent_size == 4
    v, h = jnp.asarray(experiment.dataset.test[0]), jnp.arange(4.0)
    found = experiment.generate(theta, phi)(h)
    oracles.assert_close(found, experiment.generator.apply(phi.generator, h))
    q = experiment.posterior.apply(phi.posterior, v)
    oracles.assert_trees_close(experiment.infer(theta, phi)(v), q)


def test_pictures_of_a_generator(bidvl):
    experiment, theta, phi = bidvl
    config = experiment.config.copy_and_resolve_references()
    config.sampling.generator.traversal.num_rows = 50  # more than there are latents
    experiment = replace(experiment, config=config)
    drawn = sampling.draw(experiment, theta, phi, KEY, num_samples=7, pictures=True, progress=False)
    decode = jax.jit(jax.vmap(lambda h: experiment.generator.apply(phi.generator, h)))
    encode = jax.jit(jax.vmap(lambda v: experiment.posterior.apply(phi.posterior, v).mean))

    def assert_decoded(images, h):
        oracles.assert_close(images, decode(jnp.asarray(h)), rtol=1e-5, atol=1e-6)

    ((title, panel),) = drawn.panels.items()
    assert title == "G(h), h ~ N(0, I)"
    assert_decoded(panel, jax.random.normal(KEY, (7, 4)))
    assert panel.std(0).max() > 0.1

    test = jnp.asarray(experiment.dataset.test)
    means = encode(test)
    np.testing.assert_array_equal(drawn.originals, test[:10])  # as many as figures are of
    assert_decoded(drawn.reconstructions, means[:10])
    again = sampling.reconstruct(experiment, theta, phi, KEY, num_samples=12, progress=False)
    np.testing.assert_array_equal(again[0], test[:12])
    assert_decoded(again[1], means[:12])

    between = drawn.interpolations
    np.testing.assert_array_equal(between.ends, test[:4].reshape(2, 2, 8, 8, 1))
    np.testing.assert_array_equal(between.weights, [0.0, 0.5, 1.0])
    for images, (a, b) in zip(between.images, means[:4].reshape(2, 2, 4), strict=True):
        assert_decoded(images, jnp.stack([a, (a + b) / 2, b]))

    moved = drawn.traversals
    np.testing.assert_array_equal(moved.original, test[0])
    np.testing.assert_array_equal(moved.values, [-2.5, 0.0, 2.5])
    np.testing.assert_array_equal(moved.latents, np.argsort(-np.std(means, axis=0)))
    for latent, images in zip(moved.latents, moved.images, strict=True):
        h = np.tile(means[0], (3, 1))
        h[:, latent] = moved.values
        assert_decoded(images, h)

    figures = image_report.draw(experiment.dataset, drawn)
    assert {name for name, figure in figures.items() if figure is not None} == {
        "reconstructions.png",
        "interpolations.png",
        "traversals.png",
    }
    assert [text.get_text() for text in figures["traversals.png"].texts] == [
        "original",
        "h_j = -2.5",
        "h_j = 0",
        "h_j = 2.5",
    ]
    arrays = image_report.arrays(drawn)
    for name, x in (
        ("traversals", moved.images),
        ("traversed_latents", moved.latents),
        ("traversal_values", moved.values),
    ):
        np.testing.assert_array_equal(arrays[name], x)

    plain = sampling.draw(
        experiment, theta, phi, KEY, num_samples=7, pictures=False, progress=False
    )
    np.testing.assert_array_equal(plain.panels[title], panel)
    assert plain.interpolations is plain.traversals is None
    section = config.sampling.generator
    section.interpolation.num_rows = section.traversal.num_rows = 0
    none = sampling.draw(experiment, theta, phi, KEY, num_samples=7, pictures=True, progress=False)
    assert none.interpolations is none.traversals is None


def test_traversals_are_of_the_latents_that_differ_most(bidvl):
    """And pass through the reconstruction where the value is that of the image."""
    experiment, theta, phi = bidvl
    section = experiment.config.sampling.generator.traversal.copy_and_resolve_references()
    section.num_rows, section.num_points = 2, 3
    spread = jnp.array([0.1, 3.0, 0.0, 2.0])
    first = jnp.asarray(experiment.dataset.test[0])

    def infer(v):
        """Zero of the first image."""
        return SimpleNamespace(mean=spread * jnp.sum(v - first))

    decode = jax.vmap(experiment.generate(theta, phi))
    found = image_sampling.traverse(experiment, infer, decode, section)
    assert found.latents.tolist() == [1, 3]
    at_zero = decode(jnp.zeros((1, 4)))
    oracles.assert_close(found.images[:, 1], np.tile(at_zero, (2, 1, 1, 1)), rtol=1e-5)
    assert np.abs(found.images[0] - found.images[1])[[0, 2]].max() > 1e-3


@pytest.mark.parametrize("weights", ["uniform", "generator"])
def test_one_test_image_has_figures_and_no_interpolations(bidvl, weights):
    experiment, theta, phi = bidvl
    config = experiment.config.copy_and_resolve_references()
    config.method.bidvl.form, config.method.bidvl.full.weights = "full", weights
    labels = dict.fromkeys(("train_labels", "validation_labels", "test_labels"))
    dataset = replace(experiment.dataset, test=experiment.dataset.test[:1], **labels)
    experiment = replace(experiment, config=config, dataset=dataset)
    drawn = sampling.draw(experiment, theta, phi, KEY, num_samples=3, pictures=True, progress=False)
    assert drawn.interpolations is None
    assert len(drawn.originals) == len(drawn.reconstructions) == 1
    assert drawn.traversals.images.shape == (3, 3, 8, 8, 1)
    figures = evaluation.evaluate(experiment, theta, phi, KEY)
    assert figures["num_test_examples"] == 1
    assert np.isfinite(figures["elbo"])


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10", "celeba"])
def test_an_autoencoder_has_the_networks_of_bidvl(name):
    """Where a config of BiDVL becomes one by two flags."""
    module = importlib.import_module(f"experiments.configs.{name}_bidvl")
    for config in (module.get_config(),) if name == "digits" else map(module.get_config, WIDTHS):
        decoder = config.energy.gaussian_decoder
        assert decoder.num_latents == config.generator.num_latents
        assert decoder.decoder.to_dict() == config.generator.decoder.to_dict()
        assert decoder.scale == config.method.bidvl.compact.scale


def test_figures_of_bidvl(bidvl):
    """With q the prior and a constant G = c: the bound is log N(v; c, σ² I)."""
    experiment, _, _ = bidvl

    def energy(theta, v, method=None):
        return theta * jnp.sum(v**2)

    def posterior(psi, v):
        return distributions.Normal(jnp.zeros(4), jnp.zeros(4))

    experiment = replace(
        experiment,
        energy=SimpleNamespace(apply=energy, free_energy=energy),
        generator=SimpleNamespace(apply=lambda c, h: jnp.full((8, 8, 1), c) + 0.0 * h.sum()),
        posterior=SimpleNamespace(apply=posterior),
    )
    phi = BidvlParams(jnp.float32(0.4), None)
    figures = evaluation.evaluate(experiment, 0.25, phi, KEY)
    v = experiment.dataset.test[:10].reshape(10, 64)
    expected = {
        "num_test_examples": 10,
        "data_energy": 0.25 * np.mean(np.sum(v**2, axis=1)),
        "generated_energy": 0.25 * 64 * 0.4**2,
        "elbo": float(norm.logpdf(v, 0.4, 0.2).sum(1).mean()),
        "ssm": 0.5 * 0.5**2 * np.mean(np.sum(v**2, axis=1)) - 0.5 * 64,
    }
    assert figures == pytest.approx(expected, rel=1e-5)
