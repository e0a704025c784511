"""Energies against enumeration, quadrature and dense Gaussians."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp

from jbism import energies, networks, posteriors
from jbism.divergences import IWAE, KL
from tests import oracles

DIM_V, NUM_HIDDEN = 2, 3
STATES = oracles.binary_states(NUM_HIDDEN)


@pytest.fixture
def rbm(x64):
    return oracles.gaussian_rbm(jax.random.key(0), DIM_V, NUM_HIDDEN)


@pytest.fixture
def gaussian(x64):
    return oracles.linear_gaussian(jax.random.key(1), 3, 2)


V = np.array([0.7, -1.3])
V3 = np.array([0.7, -1.3, 0.4])


def test_rbm_energy_by_hand(rbm):
    model, theta = rbm
    p = jax.tree.map(np.asarray, theta["params"])
    h = np.array([1.0, 0.0, 0.25])
    by_hand = sum(
        0.5 * (V[i] - p["visible_bias"][i]) ** 2 / math.exp(p["log_sigma"][i]) ** 2
        for i in range(DIM_V)
    )
    by_hand -= sum(p["hidden_bias"][j] * h[j] for j in range(NUM_HIDDEN))
    by_hand -= sum(
        V[i] * p["weights"][i, j] * h[j] for i in range(DIM_V) for j in range(NUM_HIDDEN)
    )
    oracles.assert_close(model.apply(theta, V, h), by_hand, rtol=1e-13)


def test_rbm_free_energy_and_posterior_by_enumeration(rbm):
    model, theta = rbm
    log_joint = -jax.vmap(model.apply, (None, None, 0))(theta, V, STATES)
    free_energy = model.apply(theta, V, method="free_energy")
    oracles.assert_close(free_energy, -logsumexp(log_joint), rtol=1e-13)
    q = model.apply(theta, V, method="hidden_given_visible")
    oracles.assert_close(jax.vmap(q.log_prob)(STATES), log_joint - logsumexp(log_joint), rtol=1e-12)


def test_rbm_score_is_minus_the_mean_energy_gradient(rbm):
    model, theta = rbm
    log_joint = -jax.vmap(model.apply, (None, None, 0))(theta, V, STATES)
    gradients = jax.vmap(jax.grad(model.apply, 1), (None, None, 0))(theta, jnp.asarray(V), STATES)
    score = -jax.grad(lambda v: model.apply(theta, v, method="free_energy"))(jnp.asarray(V))
    oracles.assert_close(score, -jax.nn.softmax(log_joint) @ gradients, rtol=1e-12)


def test_rbm_visible_conditional_and_log_hidden_marginal_by_quadrature(rbm):
    model, theta = rbm
    for h in STATES:
        log_z_h = oracles.log_integral(lambda v, h=h: -model.apply(theta, v, h), DIM_V)
        log_marginal = model.apply(theta, h, method="log_hidden_marginal")
        oracles.assert_close(log_marginal, log_z_h, rtol=1e-10)
        d = model.apply(theta, h, method="visible_given_hidden")
        oracles.assert_close(d.log_prob(V), -model.apply(theta, V, h) - log_z_h, rtol=1e-9)


def test_rbm_log_partition_two_ways(rbm):
    model, theta = rbm
    by_states = logsumexp(
        jax.vmap(lambda h: model.apply(theta, h, method="log_hidden_marginal"))(STATES)
    )
    by_quadrature = oracles.log_integral(
        lambda v: -model.apply(theta, v, method="free_energy"), DIM_V
    )
    oracles.assert_close(by_states, by_quadrature, rtol=1e-10)


def test_rbm_without_coupling_is_the_standard_normal(x64):
    model = energies.GaussianRBM(num_hidden=2, learn_sigma=False)
    theta = oracles.to_float64(model.init(jax.random.key(0), jnp.zeros(2), jnp.zeros(2)))
    assert "log_sigma" not in theta["params"]
    theta = jax.tree.map(jnp.zeros_like, theta)
    score = -jax.grad(lambda v: model.apply(theta, v, method="free_energy"))(jnp.asarray(V))
    oracles.assert_close(score, -V, rtol=1e-15)


def test_rbm_sigma_is_in_the_units_of_v(x64):
    """A fixed σ, and a learned one that starts at the same value, give the same energy."""
    h = jnp.ones(2)
    values = []
    for learn_sigma in (False, True):
        model = energies.GaussianRBM(num_hidden=2, learn_sigma=learn_sigma, sigma_init=0.3)
        theta = oracles.to_float64(model.init(jax.random.key(0), jnp.zeros(2), h))
        theta["params"]["weights"] = jnp.zeros((2, 2))
        values.append(model.apply(theta, V, h))
    oracles.assert_close(values, 0.5 * np.sum((V / 0.3) ** 2), rtol=1e-7)


def test_linear_gaussian_energy_is_the_dense_quadratic(gaussian):
    model, theta = gaussian
    precision, field = oracles.joint_gaussian(theta)
    h = np.array([0.3, -2.0])
    x = np.concatenate([V3, h])
    oracles.assert_close(model.apply(theta, V3, h), 0.5 * x @ precision @ x - field @ x, rtol=1e-13)


def test_linear_gaussian_against_the_dense_joint(gaussian):
    model, theta = gaussian
    precision, field = oracles.joint_gaussian(theta)
    covariance = np.linalg.inv(precision)
    mean = covariance @ field
    log_z = (
        0.5 * field @ mean - 0.5 * np.linalg.slogdet(precision)[1] + 2.5 * math.log(2.0 * math.pi)
    )
    oracles.assert_close(model.apply(theta, method="log_partition"), log_z, rtol=1e-12)

    v, h = slice(0, 3), slice(3, 5)
    marginal = model.apply(theta, method="marginal")
    oracles.assert_close(marginal.mean, mean[v], rtol=1e-11)
    oracles.assert_close(marginal.covariance, covariance[v, v], rtol=1e-11)
    free_energy = model.apply(theta, V3, method="free_energy")
    oracles.assert_close(-free_energy - log_z, marginal.log_prob(jnp.asarray(V3)), rtol=1e-11)

    def assert_conditional(d, target, given, value):
        gain = covariance[target, given] @ np.linalg.inv(covariance[given, given])
        oracles.assert_close(d.mean, mean[target] + gain @ (value - mean[given]), rtol=1e-10)
        oracles.assert_close(
            d.covariance, covariance[target, target] - gain @ covariance[given, target], rtol=1e-10
        )

    latent = np.array([0.3, -2.0])
    assert_conditional(model.apply(theta, V3, method="hidden_given_visible"), h, v, V3)
    assert_conditional(model.apply(theta, latent, method="visible_given_hidden"), v, h, latent)


def test_linear_gaussian_by_quadrature(x64):
    model, theta = oracles.linear_gaussian(jax.random.key(4), 1, 1)

    def log_joint(x):
        return -model.apply(theta, x[:1], x[1:])

    log_z = oracles.log_integral(log_joint, 2)
    oracles.assert_close(model.apply(theta, method="log_partition"), log_z, rtol=1e-10)
    v = jnp.array([0.6])
    log_marginal = oracles.log_integral(lambda h: -model.apply(theta, v, h), 1)
    free_energy = model.apply(theta, v, method="free_energy")
    oracles.assert_close(free_energy, -log_marginal, rtol=1e-10)


@pytest.mark.parametrize("scale", [0.01, 0.5, 0.99])
def test_linear_gaussian_starts_as_a_density(x64, scale):
    model = energies.LinearGaussian(num_latents=4, coupling_init_scale=scale)
    for seed in range(5):
        theta = model.init(jax.random.key(seed), jnp.zeros(3), jnp.zeros(4))
        precision, _ = oracles.joint_gaussian(theta)
        assert np.linalg.eigvalsh(precision).min() == pytest.approx(1.0 - scale, abs=1e-5)


def test_linear_gaussian_that_is_no_density_gives_nan(x64):
    model = energies.LinearGaussian(num_latents=1)
    theta = oracles.to_float64(model.init(jax.random.key(0), jnp.zeros(1), jnp.zeros(1)))
    theta["params"]["coupling"] = jnp.full((1, 1), 1.5)
    assert jnp.isnan(model.apply(theta, method="log_partition"))
    assert jnp.isfinite(model.apply(theta, jnp.ones(1), method="free_energy"))


def test_deep_energy_by_hand(x64):
    model = energies.DeepEBLVM(num_latents=2, trunk=networks.MLP(features=(5,)), num_features=3)
    h = jnp.array([0.4, -1.1])
    theta = oracles.to_float64(model.init(jax.random.key(0), jnp.asarray(V), h))
    theta = oracles.perturbed(jax.random.key(1), theta, 0.3)
    p = jax.tree.map(np.asarray, theta["params"])

    def elu(x):
        return np.where(x > 0.0, x, np.expm1(x))

    dense = p["trunk"]["Dense_0"]
    coupled = p["coupling"]["kernel"].T @ elu(V @ dense["kernel"] + dense["bias"]) + h
    output = np.concatenate([coupled, h]) @ p["head"]["kernel"] + p["head"]["bias"]
    assert p["head"]["kernel"].shape == (4, 3)
    oracles.assert_close(model.apply(theta, V, h), np.sum(elu(output) ** 2), rtol=1e-13)


def test_deep_energy_has_twice_as_many_features_as_latents_by_default():
    model = energies.DeepEBLVM(num_latents=5, trunk=networks.MLP(features=(4,)))
    theta = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(3), jnp.zeros(5))
    assert theta["params"]["head"]["kernel"].shape == (10, 10)


def test_a_coupling_bias_is_a_bias_of_the_head(x64):
    options = {"num_latents": 2, "trunk": networks.MLP(features=(5,)), "num_features": 3}
    biased = energies.DeepEBLVM(**options, coupling_bias=True)
    h = jnp.array([0.4, -1.1])
    theta = oracles.to_float64(biased.init(jax.random.key(0), jnp.asarray(V), h))
    theta = oracles.perturbed(jax.random.key(1), theta, 0.3)
    p = theta["params"]
    coupling = dict(p["coupling"])
    moved = p["head"]["bias"] + coupling.pop("bias") @ p["head"]["kernel"][:2]
    without = {"params": {**p, "coupling": coupling, "head": {**p["head"], "bias": moved}}}
    expected = energies.DeepEBLVM(**options).apply(without, V, h)
    oracles.assert_close(biased.apply(theta, V, h), expected, rtol=1e-12)


def test_gaussian_decoder_is_a_density(x64):
    decoder = networks.MLPDecoder(shape=(1,), features=(4,), activation=jnp.tanh)
    model = energies.GaussianDecoder(1, decoder, scale=0.6)
    theta = oracles.to_float64(model.init(jax.random.key(0), jnp.zeros(1), jnp.zeros(1)))
    theta = oracles.perturbed(jax.random.key(1), theta, 1.0)
    assert abs(model.apply(theta, jnp.ones(1), method="visible_given_hidden").mean[0]) > 0.1
    log_z = oracles.log_integral(lambda x: -model.apply(theta, x[:1], x[1:]), 2)
    oracles.assert_close(log_z, 0.0, atol=1e-12)


@pytest.mark.parametrize("shape", [(3,), (2, 2, 1)])
def test_gaussian_decoder_is_prior_times_decoder(x64, shape):
    model = energies.GaussianDecoder(2, networks.MLPDecoder(shape, (5,)), scale=0.3)
    v, h = jax.random.normal(jax.random.key(0), shape), jnp.array([0.4, -1.1])
    theta = oracles.to_float64(model.init(jax.random.key(1), v, h))
    mean = model.decoder.apply({"params": theta["params"]["decoder"]}, h)
    log_prior = jax.scipy.stats.norm.logpdf(h).sum()
    log_given = jax.scipy.stats.norm.logpdf(v, mean, 0.3).sum()
    oracles.assert_close(model.apply(theta, v, h), -log_prior - log_given, rtol=1e-13)
    given = model.apply(theta, h, method="visible_given_hidden")
    oracles.assert_close(given.mean, mean, rtol=1e-13)
    oracles.assert_close(given.log_prob(v), log_given, rtol=1e-13)


@pytest.mark.parametrize("divergence", [KL(), IWAE(3)])
def test_bounds_of_a_gaussian_decoder_are_tight_at_its_posterior(x64, divergence):
    """By every sample: log p(v) = log N(v; b, W Wᵀ + σ² I)."""
    model, theta, phi, marginal = oracles.linear_decoder(jax.random.key(0), 3, 2, scale=0.7)
    posterior = posteriors.Gaussian(2, covariance="full").apply
    log_density = jax.scipy.stats.multivariate_normal.logpdf(V3, *marginal)
    for key in jax.random.split(jax.random.key(1), 3):
        bound = divergence(
            theta, phi, key, jnp.asarray(V3), energy=model.apply, posterior=posterior
        )
        oracles.assert_close(-bound, log_density, rtol=1e-12)


class _Images(nn.Module):
    def __call__(self, v):
        return v[None, :]


def _decoder(num_latents=2, **options):
    return energies.GaussianDecoder(num_latents, networks.MLPDecoder((2,), (4,)), **options)


@pytest.mark.parametrize(
    ("make", "v", "h", "error", "match"),
    [
        (lambda: energies.GaussianRBM(0), 2, 0, ValueError, "num_hidden must be"),
        (lambda: energies.GaussianRBM(2.0), 2, 2, TypeError, "num_hidden must be"),
        (lambda: energies.GaussianRBM(2, sigma_init=0.0), 2, 2, ValueError, "sigma_init must be"),
        (lambda: energies.GaussianRBM(2, sigma_init="1"), 2, 2, TypeError, "sigma_init must be"),
        (
            lambda: energies.GaussianRBM(2, weights_init_scale=math.nan),
            2,
            2,
            ValueError,
            "weights_init_scale must be",
        ),
        (lambda: energies.LinearGaussian(-1), 2, 2, ValueError, "num_latents must be"),
        (
            lambda: energies.LinearGaussian(2, coupling_init_scale=1.0),
            2,
            2,
            ValueError,
            "coupling_init_scale must be < 1",
        ),
        (lambda: energies.GaussianRBM(2), (4, 2), 2, ValueError, r"v must have shape \(\*\)"),
        (lambda: energies.GaussianRBM(2), 2, 3, ValueError, r"h must have shape \(2\)"),
        (lambda: energies.LinearGaussian(2), (4, 2), 2, ValueError, r"v must have shape \(\*\)"),
        (lambda: energies.LinearGaussian(2), 2, (2, 2), ValueError, r"h must have shape \(2\)"),
        (lambda: energies.DeepEBLVM(0, networks.MLP()), 2, 0, ValueError, "num_latents must be"),
        (lambda: energies.DeepEBLVM(2, networks.MLP()), 2, 3, ValueError, r"h must have shape"),
        (lambda: energies.DeepEBLVM(2, _Images()), 2, 2, ValueError, r"trunk\(v\) must have rank"),
        (
            lambda: energies.DeepEBLVM(2, networks.MLP(), num_features=0),
            2,
            2,
            ValueError,
            "num_features must be",
        ),
        (lambda: _decoder(num_latents=0), 2, 0, ValueError, "num_latents must be"),
        (lambda: _decoder(), 2, 3, ValueError, r"h must have shape \(2\), got \(3,\)"),
        (lambda: _decoder(), 3, 2, ValueError, r"decoder\(h\) must have shape \(3\), got \(2,\)"),
        (lambda: _decoder(scale=0.0), 2, 2, ValueError, "scale must be a number > 0"),
        (lambda: _decoder(scale=math.nan), 2, 2, ValueError, "scale must be a number > 0"),
    ],
)
def test_bad_input_names_the_argument(make, v, h, error, match):
    with pytest.raises(error, match=match):
        jax.eval_shape(make().init, jax.random.key(0), jnp.zeros(v), jnp.zeros(h))


@pytest.mark.parametrize(("head", "rows"), [("squared_norm", 3), ("linear", 1), ("softplus", 1)])
def test_marginal_energy_by_hand(x64, head, rows):
    num_features = 3 if head == "squared_norm" else None
    model = energies.MarginalEnergy(networks.MLP(features=(5,)), head, num_features)
    theta = oracles.to_float64(model.init(jax.random.key(0), jnp.asarray(V)))
    theta = oracles.perturbed(jax.random.key(1), theta, 0.3)
    p = jax.tree.map(np.asarray, theta["params"])
    dense = p["trunk"]["Dense_0"]
    features = V @ dense["kernel"] + dense["bias"]
    features = np.where(features > 0, features, np.expm1(features))
    output = features @ p["head"]["kernel"] + p["head"]["bias"]
    assert output.shape == (rows,)
    expected = {
        "squared_norm": np.sum(np.where(output > 0, output, np.expm1(output)) ** 2),
        "linear": output[0],
        "softplus": np.log1p(np.exp(output[0])),
    }[head]
    oracles.assert_close(model.apply(theta, V), expected, rtol=1e-13)
    oracles.assert_close(model.apply(theta, V, method="free_energy"), expected, rtol=1e-13)


def test_marginal_energy_is_the_deep_one_where_that_has_no_coupling(x64):
    deep = energies.DeepEBLVM(num_latents=4, trunk=networks.MLP(features=(5,)), num_features=3)
    h = jnp.zeros(4)
    theta = oracles.to_float64(deep.init(jax.random.key(0), jnp.asarray(V), h))
    p = theta["params"]
    rows = p["coupling"]["kernel"] @ p["head"]["kernel"][:4]  # A W, h = 0
    head = {"kernel": rows, "bias": p["head"]["bias"]}
    marginal = energies.MarginalEnergy(networks.MLP(features=(5,)), num_features=3)
    value = marginal.apply({"params": {"trunk": p["trunk"], "head": head}}, V)
    oracles.assert_close(value, deep.apply(theta, V, h), rtol=1e-13)


@pytest.mark.parametrize(
    ("head", "rows", "steps"), [("squared_norm", 3, 40), ("softplus", None, 1)]
)
def test_the_head_of_a_marginal_energy_has_unit_spectral_norm(x64, head, rows, steps):
    """With as many iterations as it takes, one for a vector: the kernel over its norm."""
    trunk = networks.MLP(features=(5,))
    plain = energies.MarginalEnergy(trunk, head, rows)
    model = energies.MarginalEnergy(trunk, head, rows, spectral_norm_steps=steps)
    theta = oracles.to_float64(model.init(jax.random.key(0), jnp.asarray(V)))
    assert set(theta["params"]) == set(plain.init(jax.random.key(0), jnp.asarray(V))["params"])
    scaled = {name: dict(x) for name, x in theta["params"].items()}
    kernel = 3.0 * scaled["head"]["kernel"]
    norm = jnp.linalg.norm(kernel, 2)
    assert norm > 1.5
    theta["params"]["head"] = {**scaled["head"], "kernel": kernel}
    scaled["head"]["kernel"] = kernel / norm
    expected = plain.apply({"params": scaled}, V)
    oracles.assert_close(model.apply(theta, V), expected, rtol=1e-6)
    unscaled = plain.apply({"params": theta["params"]}, V)
    assert abs(unscaled - expected) > 1e-2 * abs(expected)
    none = energies.MarginalEnergy(trunk, head, rows, spectral_norm_steps=0)
    oracles.assert_close(none.apply({"params": theta["params"]}, V), unscaled, rtol=0.0)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"spectral_norm_steps": -1}, ValueError, "spectral_norm_steps must be an integer >= 0"),
        ({"spectral_norm_steps": 1.5}, TypeError, "spectral_norm_steps must be an integer"),
        ({"head": "quadratic"}, ValueError, "head must be one of"),
        ({"num_features": 0}, ValueError, "num_features must be"),
        ({"head": "linear", "num_features": 2}, ValueError, "num_features must be None with head"),
        ({"trunk": True}, ValueError, r"trunk\(v\) must have rank"),
    ],
)
def test_marginal_energy_names_bad_arguments(options, error, match):
    trunk = _Images() if options.pop("trunk", False) else networks.MLP((4,))
    model = energies.MarginalEnergy(trunk, **options)
    with pytest.raises(error, match=match):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(2))


@pytest.mark.parametrize("model", [energies.GaussianRBM(2), energies.LinearGaussian(2)])
def test_a_visible_of_another_size_than_the_parameters_is_refused(model):
    theta = model.init(jax.random.key(0), jnp.zeros(3), jnp.zeros(2))
    with pytest.raises(ValueError, match=r"v must have shape \(3\), got \(4,\)"):
        model.apply(theta, jnp.zeros(4), jnp.zeros(2))
    with pytest.raises(ValueError, match="must go through a method that takes v"):
        model.init(jax.random.key(0), jnp.zeros(2), method="visible_given_hidden")


def test_conditionals_need_both_methods():
    with pytest.raises(ValueError, match="energy must have the method hidden_given_visible, got D"):
        energies.conditionals(energies.DeepEBLVM(2, networks.MLP()), {})
