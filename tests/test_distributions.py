"""Distributions against scipy, closed forms and Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jbism import distributions
from tests import oracles

NUM_SAMPLES = 40_000

LOGITS = np.array([-2.0, -0.3, 0.0, 0.4, 3.0])
MEAN = np.array([0.5, -1.0, 2.0])
LOG_SCALE = np.array([-0.7, 0.0, 0.6])
TRIL = np.array([[0.8, 0.0, 0.0], [-0.4, 1.3, 0.0], [0.9, 0.2, 0.5]])


def bernoulli():
    return distributions.Bernoulli(jnp.asarray(LOGITS))


def relaxed(temperature=0.1):
    return distributions.RelaxedBernoulli(jnp.asarray(LOGITS), temperature)


def normal():
    return distributions.Normal(jnp.asarray(MEAN), jnp.asarray(LOG_SCALE))


def multivariate_normal():
    return distributions.MultivariateNormal(jnp.asarray(MEAN), jnp.asarray(TRIL))


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


SCIPY = {
    bernoulli: lambda h: scipy.stats.bernoulli(sigmoid(LOGITS)).logpmf(h).sum(),
    relaxed: lambda h: scipy.stats.bernoulli(sigmoid(LOGITS)).logpmf(h).sum(),
    normal: lambda h: scipy.stats.norm(MEAN, np.exp(LOG_SCALE)).logpdf(h).sum(),
    multivariate_normal: scipy.stats.multivariate_normal(MEAN, TRIL @ TRIL.T).logpdf,
}
ENTROPY = {
    bernoulli: scipy.stats.bernoulli(sigmoid(LOGITS)).entropy().sum(),
    relaxed: scipy.stats.bernoulli(sigmoid(LOGITS)).entropy().sum(),
    normal: scipy.stats.norm(MEAN, np.exp(LOG_SCALE)).entropy().sum(),
    multivariate_normal: scipy.stats.multivariate_normal(MEAN, TRIL @ TRIL.T).entropy(),
}
COVARIANCE = {
    bernoulli: np.diag(sigmoid(LOGITS) * sigmoid(-LOGITS)),
    normal: np.diag(np.exp(2.0 * LOG_SCALE)),
    multivariate_normal: TRIL @ TRIL.T,
}
every = pytest.mark.parametrize("make", list(SCIPY), ids=lambda make: make.__name__)


@every
def test_log_prob_equals_scipy(x64, make):
    d = make()
    if d.discrete:
        points = np.array([[0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 1, 0, 1]], float)
    else:
        points = np.array([[0.0, 0.0, 0.0], MEAN, [3.0, -2.0, 1.5]])
    for h in points:
        oracles.assert_close(d.log_prob(jnp.asarray(h)), SCIPY[make](h), rtol=1e-12)


@every
def test_entropy_equals_scipy(x64, make):
    oracles.assert_close(make().entropy(), ENTROPY[make], rtol=1e-12)


@every
def test_sample_and_log_prob_is_sample_with_its_log_prob(x64, make):
    d, key = make(), jax.random.key(3)
    h, log_prob = d.sample_and_log_prob(key)
    np.testing.assert_array_equal(h, d.sample(key))
    oracles.assert_close(log_prob, d.log_prob(h), rtol=1e-12)


@pytest.mark.parametrize("make", list(COVARIANCE), ids=lambda make: make.__name__)
def test_moments_of_samples(x64, make):
    d = make()
    h = jax.vmap(d.sample)(jax.random.split(jax.random.key(0), NUM_SAMPLES))
    oracles.assert_mean(h, d.mean)
    centred = h - d.mean[None]
    oracles.assert_mean(centred[:, :, None] * centred[:, None, :], COVARIANCE[make])


def test_covariance_is_that_of_the_factor(x64):
    oracles.assert_close(multivariate_normal().covariance, TRIL @ TRIL.T, rtol=1e-15)


def test_relaxed_samples_exceed_one_half_with_the_bernoulli_probability(x64):
    h = jax.vmap(relaxed(0.7).sample)(jax.random.split(jax.random.key(1), NUM_SAMPLES))
    assert 0.0 < float(h.min()) < 0.5 < float(h.max()) < 1.0
    oracles.assert_mean((h > 0.5).astype(float), sigmoid(LOGITS))


def test_relaxed_samples_approach_hard_ones(x64):
    keys = jax.random.split(jax.random.key(2), 2_000)

    def distance_to_binary(temperature):
        h = jax.vmap(relaxed(temperature).sample)(keys)
        return float(jnp.mean(jnp.minimum(h, 1.0 - h)))

    # The logistic's density near 0 is about p(1 - p), so the distance is linear in τ.
    expected = np.mean(sigmoid(LOGITS) * sigmoid(-LOGITS)) * 2.0 * np.log(2.0)
    for temperature in (1e-1, 1e-2):
        assert distance_to_binary(temperature) == pytest.approx(expected * temperature, rel=0.25)


def test_relaxed_sample_derivative_and_hard_samples(x64):
    key = jax.random.key(5)
    h, slope = jax.jvp(
        lambda logits: distributions.RelaxedBernoulli(logits, 0.5).sample(key),
        (jnp.asarray(LOGITS),),
        (jnp.ones(5),),
    )
    oracles.assert_close(slope, h * (1.0 - h) / 0.5, rtol=1e-12)
    hard = jax.vmap(relaxed().sample_hard)(jax.random.split(key, NUM_SAMPLES))
    assert set(np.unique(hard)) == {0.0, 1.0}
    oracles.assert_mean(hard, sigmoid(LOGITS))


@pytest.mark.parametrize("make", [normal, multivariate_normal], ids=["normal", "multivariate"])
def test_gaussian_samples_are_reparameterised(x64, make):
    def second_moment(scale):
        d = make()
        d = jax.tree.unflatten(jax.tree.structure(d), [scale * x for x in jax.tree.leaves(d)])
        return jnp.sum(d.sample(jax.random.key(0)) ** 2)

    grad = jax.grad(second_moment)(1.0)
    oracles.assert_close(grad, oracles.directional_difference(second_moment, 1.0, 1.0), rtol=1e-8)
    assert abs(grad) > 0.1


def test_extreme_logits_stay_finite():
    d = distributions.Bernoulli(jnp.array([-200.0, 200.0]))
    assert float(d.log_prob(jnp.array([0.0, 1.0]))) == 0.0
    assert float(d.log_prob(jnp.array([1.0, 0.0]))) == -400.0
    assert float(d.entropy()) == 0.0
    grad = jax.grad(lambda logits: distributions.Bernoulli(logits).entropy())(d.logits)
    assert jnp.all(jnp.isfinite(grad))


@every
def test_log_prob_refuses_another_shape(make):
    with pytest.raises(ValueError, match=r"h must have the shape of .* got \(2,\)"):
        make().log_prob(jnp.zeros(2))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match="temperature must be"):
        relaxed(temperature)


def test_distributions_pass_through_transformations(x64):
    keys = jax.random.split(jax.random.key(0), 3)

    def draw(key, mean):
        return distributions.Normal(mean, jnp.zeros(3))

    batch = oracles.jit(jax.vmap(draw, in_axes=(0, None)))(keys, jnp.asarray(MEAN))
    h = jax.vmap(lambda d, key: d.sample(key))(batch, keys)
    assert batch.mean.shape == h.shape == (3, 3)
    d = oracles.jit(lambda d: d)(relaxed(0.3))
    assert isinstance(d, distributions.RelaxedBernoulli)
    assert d.temperature == 0.3


def test_a_shared_scale_is_refused_rather_than_counted_once():
    shared = distributions.Normal(jnp.zeros(3), jnp.ones(1))
    for use in (lambda: shared.log_prob(jnp.zeros(3)), shared.entropy):
        with pytest.raises(ValueError, match="log_scale must have the shape of mean"):
            use()
