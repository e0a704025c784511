"""What the experiments report of a trained model: figures, samples, pictures."""

import itertools
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import evaluation, report, sampling
from experiments.builders import build
from jbism import distributions
from tests.configs import DEEP, MARGINAL, TINY, TINY_DEEP, make_config


@pytest.fixture(scope="module")
def rbm():
    return build(make_config("checkerboard_rbm", TINY))


@pytest.fixture(scope="module")
def deep():
    return build(make_config("digits_deep", TINY_DEEP))


def test_the_evaluated_parameters(deep):
    state = deep.initial_state
    state = type(state)(**{**vars(state), "ema": jax.tree.map(jnp.zeros_like, state.theta)})
    assert deep.config.evaluation.use_ema
    assert deep.evaluated_theta(state) is state.ema
    plain = build(make_config("digits_deep", TINY_DEEP | {"evaluation.use_ema": False}))
    assert plain.evaluated_theta(state) is state.theta


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
        "log_partition",
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


METHODS_WITHOUT_POSTERIOR = {
    "marginal": {"method.name": "marginal"},
    "importance": {"method.name": "importance", "objective.name": "ksd"},
    "exact_posterior": {"method.name": "vages", "method.vages.exact_posterior": True},
}


@pytest.mark.parametrize("name", METHODS_WITHOUT_POSTERIOR)
def test_a_method_without_a_posterior_reports_by_the_exact_one(name, shaped):
    experiment = build(make_config("checkerboard_rbm", TINY | METHODS_WITHOUT_POSTERIOR[name]))
    state = experiment.initial_state
    v = jnp.asarray(experiment.dataset.train[:16])
    after, metrics = jax.jit(experiment.step)(state, v)
    assert np.isfinite(metrics["loss"])
    assert not jax.tree.leaves(after.phi)
    assert any(
        np.any(x != y)
        for x, y in zip(jax.tree.leaves(after.theta), jax.tree.leaves(state.theta), strict=True)
    )
    figures = evaluation.evaluate(experiment, shaped, state.phi, jax.random.key(0))
    estimated = {"log_likelihood", "log_likelihood_method", "log_partition"}
    assert set(figures) == {"num_test_examples", "ssm"} | estimated
    experiment.config.evaluation.log_likelihood = False
    figures = evaluation.evaluate(experiment, shaped, state.phi, jax.random.key(0))
    assert set(figures) == {"num_test_examples", "ssm"}
    samples = sampling.draw(
        experiment, shaped, state.phi, jax.random.key(0), num_samples=16, progress=False
    )
    w, b, c, log_sigma = (
        np.asarray(shaped["params"][name])
        for name in ("weights", "visible_bias", "hidden_bias", "log_sigma")
    )
    mean = 1.0 / (1.0 + np.exp(-(samples.originals @ w + c)))
    expected = b + np.exp(2.0 * log_sigma) * (mean @ w.T)
    np.testing.assert_allclose(samples.reconstructions, expected, rtol=1e-4, atol=1e-5)


def test_the_bias_of_a_posterior_is_reported_with_its_bound(rbm, shaped):
    """By the difference of the means of h: the score of the RBM is affine in h."""
    phi = rbm.initial_state.phi
    figures = evaluation.evaluate(rbm, shaped, phi, jax.random.key(0))
    v = jnp.asarray(rbm.dataset.test)
    w, c = shaped["params"]["weights"], shaped["params"]["hidden_bias"]
    q = jax.nn.sigmoid(jax.vmap(lambda v: rbm.posterior.apply(phi, v).logits)(v))
    bias = jnp.linalg.norm((q - jax.nn.sigmoid(v @ w + c[None])) @ w.T, axis=1)
    assert figures["vaes_bias"] == pytest.approx(float(bias.mean()), rel=1e-3)
    assert 0 < figures["vaes_bias"] < figures["vaes_bias_bound"]


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


class _Quadratic(nn.Module):
    """E(v) = ½‖v‖²/s², whose log Z is known."""

    scale: float

    def __call__(self, v):
        return 0.5 * jnp.sum((v / self.scale) ** 2)

    free_energy = __call__


def test_figures_of_an_energy_without_latents():
    overrides = {"evaluation.ais_chains": 300, "evaluation.ais_temperatures": 100}
    experiment = build(make_config("base", TINY | TINY_DEEP | MARGINAL | overrides))
    experiment = replace(experiment, energy=_Quadratic(0.5))
    figures = evaluation.evaluate(experiment, {}, {}, jax.random.key(0))
    v = experiment.dataset.test[:10]
    log_partition = math.log(2 * math.pi * 0.5**2)
    assert figures["log_partition"] == pytest.approx(log_partition, abs=0.05)
    expected = -0.5 * np.mean(np.sum((v / 0.5) ** 2, axis=1)) - log_partition
    assert figures["log_likelihood"] == pytest.approx(expected, abs=0.05)
    assert figures["ssm"] == pytest.approx(
        0.5 * np.mean(np.sum(v**2, axis=1)) / 0.5**4 - 2 / 0.5**2, rel=1e-4
    )
    assert "posterior_fisher_divergence" not in figures


def test_log_density_by_samples_of_the_exact_posterior():
    """E = ½‖v‖² + ½‖h - v‖² and q = N(v, I): log p̃(v) = -½‖v‖² + L/2 log 2π by any sample."""
    experiment = SimpleNamespace(
        energy=SimpleNamespace(
            apply=lambda _, v, h: 0.5 * jnp.sum(v**2) + 0.5 * jnp.sum((h - v) ** 2)
        ),
        posterior=SimpleNamespace(
            apply=lambda _, v: distributions.Normal(v, jnp.zeros_like(v)),
        ),
        config=SimpleNamespace(evaluation=SimpleNamespace(importance_samples=7)),
    )
    v = jax.random.normal(jax.random.key(0), (5, 3))
    found = evaluation.log_density_by_samples(experiment, {}, {}, v, jax.random.key(1))
    expected = -0.5 * np.sum(np.square(v), axis=1) + 1.5 * math.log(2 * math.pi)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_table_of_nothing():
    assert report.table({}) == ""


@pytest.mark.parametrize("method", ["marginal", "nce", "contrastive"])
def test_images_of_an_energy_without_latents(tmp_path, method):
    overrides = TINY_DEEP | MARGINAL | {"method.name": method}
    experiment = build(make_config("digits_deep", overrides))
    state, metrics = jax.jit(experiment.step)(
        experiment.initial_state, jnp.asarray(experiment.dataset.train[:16])
    )
    assert math.isfinite(metrics["loss"])
    (tmp_path / "reconstructions.png").write_text("of an earlier run")
    figures = report.write_samples(
        experiment, state, tmp_path, key=jax.random.key(0), progress=False
    )
    assert figures == {}
    expected = {"samples.png", "samples.npz", "frames.png", "inpaintings.png"}
    assert {path.name for path in tmp_path.iterdir()} == expected
    with np.load(tmp_path / "samples.npz") as stored:
        assert list(stored["titles"]) == ["samples v"]
        assert stored["panel_0"].shape == (4, 8, 8, 1)
        assert stored["inpaintings"].shape == (2, 2, 2, 8, 8, 1)
        # Only what MDSM trained is denoised at the end.
        denoised = stored["frame_titles"][-1] == "denoised"
        assert denoised == (method == "marginal")
        if not denoised:
            np.testing.assert_array_equal(stored["frames"][-1], stored["panel_0"][:2])


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
