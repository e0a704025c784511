"""Lower divergences against enumeration, Gaussian closed forms and each other."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbism import distributions, energies, networks, posteriors
from jbism.divergences import IWAE, KL, Fisher, MeanFieldKL
from tests import oracles

NUM_SAMPLES = 20_000
V = np.array([0.7, -1.3])
KEY = jax.random.key(21)


def gaussian_posterior(phi, v):
    """A diagonal Gaussian that ignores v, with φ = (mean, log-scale)."""
    return distributions.Normal(*phi)


@pytest.fixture
def gaussian(x64):
    model, theta = oracles.linear_gaussian(jax.random.key(1), 2, 2)
    phi = (jnp.array([0.4, -0.7]), jnp.array([-0.3, 0.2]))
    return model, theta, phi


@pytest.fixture
def rbm(x64):
    model, theta = oracles.gaussian_rbm(jax.random.key(0), 2, 3)
    logits = jnp.array([0.5, -1.2, 2.0])
    return model, theta, logits


def value_and_grads(divergence, model, theta, phi, posterior, num=NUM_SAMPLES):
    """Values [num] and φ-gradients of independent draws."""

    def one(key):
        return jax.value_and_grad(divergence, argnums=1)(
            theta, phi, key, jnp.asarray(V), energy=model.apply, posterior=posterior
        )

    return oracles.jit(jax.vmap(one))(jax.random.split(KEY, num))


def gaussian_kl(model, theta, phi):
    """KL(q‖p(h|v)) - log p̃(v), the first term from its textbook formula."""
    exact = model.apply(theta, V, method="hidden_given_visible")
    mean, log_scale = phi
    precision = jnp.linalg.inv(exact.covariance)
    difference = mean - exact.mean
    kl = 0.5 * (
        jnp.sum(jnp.diagonal(precision) * jnp.exp(2.0 * log_scale))
        + difference @ precision @ difference
        - mean.size
        - jnp.linalg.slogdet(precision)[1]
        - 2.0 * jnp.sum(log_scale)
    )
    return kl + model.apply(theta, V, method="free_energy")


@pytest.mark.parametrize("divergence", [KL(), KL(num_samples=3), IWAE(num_samples=1)])
def test_kl_of_gaussians(gaussian, divergence):
    model, theta, phi = gaussian
    values, grads = value_and_grads(divergence, model, theta, phi, gaussian_posterior)
    expected, expected_grads = jax.value_and_grad(gaussian_kl, 2)(model, theta, phi)
    oracles.assert_mean(values, expected)
    for found, one in zip(grads, expected_grads, strict=True):
        oracles.assert_mean(found, one)


@pytest.mark.parametrize("make", [KL, Fisher])
def test_more_samples_are_the_mean_of_single_ones(gaussian, make):
    model, theta, phi = gaussian
    fixed = {"energy": model.apply, "posterior": gaussian_posterior}
    several = make(num_samples=4)(theta, phi, KEY, V, **fixed)
    single = [make()(theta, phi, key, V, **fixed) for key in jax.random.split(KEY, 4)]
    oracles.assert_close(several, np.mean(single), rtol=1e-12)
    assert np.std(single) > 0.01


def test_iwae_is_the_log_mean_weight_and_falls_to_the_free_energy(gaussian):
    model, theta, phi = gaussian
    free_energy = float(model.apply(theta, V, method="free_energy"))
    means = []
    for k in (1, 3, 10, 100):
        values, _ = value_and_grads(IWAE(k), model, theta, phi, gaussian_posterior, num=2_000)
        means.append(float(values.mean()))
    assert means[0] > means[1] + 0.05 > means[2] + 0.05 > means[3] > free_energy - 0.005
    # E[exp(-G)] = p̃(v) for every k.
    values, _ = value_and_grads(IWAE(10), model, theta, phi, gaussian_posterior)
    oracles.assert_mean(jnp.exp(free_energy - values), 1.0)


def test_iwae_equals_kl_on_the_same_sample(gaussian):
    model, theta, phi = gaussian
    fixed = {"energy": model.apply, "posterior": gaussian_posterior}
    (sample_key,) = jax.random.split(KEY, 1)
    oracles.assert_close(
        IWAE(1)(theta, phi, KEY, V, **fixed), KL()(theta, phi, sample_key, V, **fixed), rtol=1e-13
    )


def test_fisher_of_gaussians(gaussian):
    """½‖P(m - μ)‖² + ½ tr (P - S⁻¹) S (P - S⁻¹)ᵀ for q = N(m, S) and p = N(μ, P⁻¹)."""
    model, theta, phi = gaussian

    def closed_form(phi):
        exact = model.apply(theta, V, method="hidden_given_visible")
        precision = jnp.linalg.inv(exact.covariance)
        mean, log_scale = phi
        scale = jnp.exp(log_scale)
        slope = precision * scale[None] - jnp.diag(1.0 / scale)
        return 0.5 * jnp.sum((precision @ (mean - exact.mean)) ** 2) + 0.5 * jnp.sum(slope**2)

    values, grads = value_and_grads(Fisher(), model, theta, phi, gaussian_posterior)
    expected, expected_grads = jax.value_and_grad(closed_form)(phi)
    oracles.assert_mean(values, expected)
    for found, one in zip(grads, expected_grads, strict=True):
        oracles.assert_mean(found, one)


@pytest.mark.parametrize("divergence", [KL(), IWAE(5), Fisher()])
def test_every_draw_is_exact_at_the_posterior(gaussian, divergence):
    """There KL and IWAE equal -log p̃(v) = F(v) without variance, and Fisher is zero."""
    model, theta, _ = gaussian
    posterior = posteriors.Gaussian(2, covariance="full").apply
    phi = oracles.exact_phi_linear_gaussian(theta)
    values, _ = value_and_grads(divergence, model, theta, phi, posterior, num=10)
    if isinstance(divergence, Fisher):
        oracles.assert_close(values, 0.0, atol=1e-20)
    else:
        free_energy = model.apply(theta, V, method="free_energy")
        oracles.assert_close(values, jnp.full(10, free_energy), rtol=1e-12)


@pytest.mark.parametrize(
    "posterior", [distributions.Bernoulli, lambda logits: distributions.RelaxedBernoulli(logits)]
)
def test_mean_field_kl_by_enumeration(rbm, posterior):
    model, theta, logits = rbm

    def enumerated(logits):
        q = distributions.Bernoulli(logits)
        states = oracles.binary_states(3)
        log_q = jax.vmap(q.log_prob)(states)
        energy = jax.vmap(model.apply, (None, None, 0))(theta, V, states)
        return jnp.sum(jnp.exp(log_q) * (log_q + energy))

    def found(logits):
        return MeanFieldKL()(
            theta, logits, KEY, V, energy=model.apply, posterior=lambda phi, v: posterior(phi)
        )

    oracles.assert_trees_close(
        jax.value_and_grad(found)(logits), jax.value_and_grad(enumerated)(logits), rtol=1e-12
    )


def test_mean_field_kl_is_the_free_energy_at_the_posterior(rbm):
    model, theta, _ = rbm
    phi, q = oracles.exact_phi_rbm(theta), posteriors.Bernoulli(3)
    found, slope = jax.value_and_grad(MeanFieldKL(), argnums=1)(
        theta, phi, KEY, jnp.asarray(V), energy=model.apply, posterior=q.apply
    )
    oracles.assert_close(found, model.apply(theta, V, method="free_energy"), rtol=1e-12)
    assert all(np.allclose(leaf, 0.0, atol=1e-14) for leaf in jax.tree.leaves(slope))


def test_sampled_kl_of_a_relaxed_bernoulli_scores_by_the_extended_pmf(rbm):
    model, theta, logits = rbm
    q = distributions.RelaxedBernoulli(logits, 0.3)
    h = q.sample(KEY)
    found = KL()(theta, logits, KEY, V, energy=model.apply, posterior=lambda phi, v: q)
    expected = distributions.Bernoulli(logits).log_prob(h) + model.apply(theta, V, h)
    oracles.assert_close(found, expected, rtol=1e-13)


def validate(energy, num_latents=5, dim_v=2):
    theta, v = None, jnp.full(dim_v, 1.7)
    MeanFieldKL().validate(
        theta,
        jnp.zeros(num_latents),
        KEY,
        v,
        energy=energy,
        posterior=lambda phi, v: distributions.Bernoulli(phi),
    )


@pytest.mark.parametrize("strength", [1.0, 1e-3])
def test_validate_refuses_self_coupling(strength):
    with pytest.raises(ValueError, match=r"energy that is affine in each h_j.* along h_2"):
        validate(lambda theta, v, h: jnp.sum(v**2) + jnp.sum(h) + strength * h[2] ** 2)


def test_validate_accepts_pair_coupling():
    validate(lambda theta, v, h: jnp.sum(v**2) - 3.0 * h[0] * h[1] * h[4] + jnp.sum(h) * v[0])


@pytest.mark.parametrize(("dim_v", "num_hidden"), [(2, 4), (560, 400)])
@pytest.mark.parametrize("sigma", [0.05, 1.0])
def test_validate_accepts_the_rbm_in_single_precision(dim_v, num_hidden, sigma):
    model = energies.GaussianRBM(num_hidden, sigma_init=sigma, weights_init_scale=1.0)
    v = jax.random.uniform(jax.random.key(0), (dim_v,))
    theta = model.init(jax.random.key(1), v, jnp.zeros(num_hidden))
    q = posteriors.Bernoulli(num_hidden)
    phi = q.init(jax.random.key(2), v)
    MeanFieldKL().validate(theta, phi, KEY, v, energy=model.apply, posterior=q.apply)


def test_validate_finds_the_deep_energy_not_affine():
    model = energies.DeepEBLVM(3, networks.MLP((4,)))
    v = jnp.asarray(V, jnp.float32)
    theta = model.init(jax.random.key(1), v, jnp.zeros(3))
    q = posteriors.Bernoulli(3)
    with pytest.raises(ValueError, match="affine in each h_j"):
        MeanFieldKL().validate(theta, q.init(KEY, v), KEY, v, energy=model.apply, posterior=q.apply)


HARD = distributions.Bernoulli(jnp.zeros(3))
SOFT = distributions.RelaxedBernoulli(jnp.zeros(3))
CONTINUOUS = distributions.Normal(jnp.zeros(3), jnp.zeros(3))


@pytest.mark.parametrize(
    ("divergence", "distribution", "error", "match"),
    [
        (KL(), HARD, ValueError, "posterior must return a reparameterised .* KL, got Bernoulli"),
        (IWAE(), HARD, ValueError, "posterior must return a reparameterised .* IWAE"),
        (Fisher(), HARD, ValueError, "Fisher needs continuous latents .* discrete Bernoulli"),
        (Fisher(), SOFT, ValueError, "Fisher needs continuous .* discrete RelaxedBernoulli"),
        (MeanFieldKL(), CONTINUOUS, TypeError, "MeanFieldKL needs a posterior .* got Normal"),
    ],
)
def test_a_posterior_that_does_not_fit_is_named(divergence, distribution, error, match):
    with pytest.raises(error, match=match):
        divergence(
            None,
            None,
            KEY,
            jnp.zeros(2),
            energy=lambda theta, v, h: jnp.sum(h),
            posterior=lambda phi, v: distribution,
        )


@pytest.mark.parametrize("make", [KL, IWAE, Fisher])
@pytest.mark.parametrize(
    ("value", "error"),
    [(0, ValueError), (1.0, TypeError), (True, TypeError), (math.nan, TypeError)],
)
def test_num_samples_must_be_a_positive_integer(make, value, error):
    with pytest.raises(error, match="num_samples must be an integer"):
        make(num_samples=value)


@pytest.mark.parametrize("divergence", [KL(), KL(2), IWAE(3), Fisher(), Fisher(2)], ids=str)
def test_an_energy_that_is_no_scalar_is_named(divergence):
    with pytest.raises(ValueError, match=r"energy\(theta, v, h\) must be a scalar"):
        divergence(
            None,
            None,
            jax.random.key(0),
            jnp.zeros(3),
            energy=lambda theta, v, h: 0.5 * (h - v) ** 2,
            posterior=lambda phi, v: distributions.Normal(v, jnp.zeros(3)),
        )
