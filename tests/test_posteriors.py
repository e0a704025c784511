"""Posteriors: they contain the exact ones, start as documented and refuse what does not fit."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbism import distributions, networks, posteriors
from tests import oracles

V = np.array([0.7, -1.3])


def test_linear_bernoulli_contains_the_posterior_of_the_rbm(x64):
    model, theta = oracles.gaussian_rbm(jax.random.key(0), 2, 3)
    exact = model.apply(theta, V, method="hidden_given_visible")
    q = posteriors.Bernoulli(3).apply(oracles.exact_phi_rbm(theta), V)
    oracles.assert_close(q.logits, exact.logits, rtol=1e-13)


@pytest.mark.parametrize("num_latents", [1, 3])
def test_full_gaussian_contains_the_posterior_of_the_linear_gaussian(x64, num_latents):
    model, theta = oracles.linear_gaussian(jax.random.key(0), 2, num_latents)
    exact = model.apply(theta, V, method="hidden_given_visible")
    phi = oracles.exact_phi_linear_gaussian(theta)
    q = posteriors.Gaussian(num_latents, covariance="full").apply(phi, V)
    oracles.assert_close(q.mean, exact.mean, rtol=1e-12)
    oracles.assert_close(q.covariance, exact.covariance, rtol=1e-12)


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_gaussian_starts_with_unit_covariance_for_every_v(x64, covariance):
    q = posteriors.Gaussian(3, trunk=networks.MLP((8,)), covariance=covariance)
    phi = q.init(jax.random.key(0), jnp.zeros(2))
    d = q.apply(phi, V)
    scale = jnp.diag(jnp.exp(d.log_scale)) if covariance == "diagonal" else d.scale_tril
    np.testing.assert_array_equal(scale, np.eye(3))
    assert not np.allclose(d.mean, q.apply(phi, -V).mean)


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_gaussian_covariance_can_depend_on_v(x64, covariance):
    q = posteriors.Gaussian(3, covariance=covariance)
    phi = oracles.perturbed(jax.random.key(1), q.init(jax.random.key(0), jnp.zeros(2)), 0.3)

    def entropy(v):
        return q.apply(phi, v).entropy()

    assert abs(entropy(V) - entropy(-V)) > 1e-3
    expected = (
        distributions.Normal if covariance == "diagonal" else distributions.MultivariateNormal
    )
    assert isinstance(q.apply(phi, V), expected)


def test_bernoulli_is_relaxed_unless_asked_otherwise():
    soft, hard = posteriors.Bernoulli(3, temperature=0.4), posteriors.Bernoulli(3, relaxed=False)
    phi = soft.init(jax.random.key(0), jnp.zeros(2))
    d = soft.apply(phi, jnp.asarray(V))
    assert isinstance(d, distributions.RelaxedBernoulli)
    assert d.temperature == 0.4
    assert type(hard.apply(phi, jnp.asarray(V))) is distributions.Bernoulli
    assert set(np.unique(hard.apply(phi, jnp.asarray(V)).sample(jax.random.key(1)))) <= {0.0, 1.0}


@pytest.mark.parametrize("make", [posteriors.Bernoulli, posteriors.Gaussian])
def test_images_are_flattened_without_a_trunk_and_passed_whole_to_one(make):
    v = jnp.ones((8, 8, 1))
    for trunk, features in ((None, 64), (networks.ConvEncoder(features=(2, 3)), 12)):
        phi = jax.eval_shape(make(4, trunk=trunk).init, jax.random.key(0), v)
        kernels = [phi["params"][name]["kernel"] for name in phi["params"] if name != "trunk"]
        assert {k.shape[0] for k in kernels} == {features}


class _Images(nn.Module):
    def __call__(self, v):
        return v[None, :]


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: posteriors.Bernoulli(0), ValueError, "num_latents must be"),
        (lambda: posteriors.Bernoulli("4"), TypeError, "num_latents must be"),
        (lambda: posteriors.Bernoulli(4, temperature=0.0), ValueError, "temperature must be"),
        (lambda: posteriors.Bernoulli(4, temperature=True), TypeError, "temperature must be"),
        (
            lambda: posteriors.Bernoulli(4, trunk=_Images()),
            ValueError,
            r"trunk\(v\) must have rank",
        ),
        (lambda: posteriors.Gaussian(-2), ValueError, "num_latents must be"),
        (lambda: posteriors.Gaussian(True), TypeError, "num_latents must be"),
        (lambda: posteriors.Gaussian(2, covariance="low_rank"), ValueError, "covariance must be"),
        (lambda: posteriors.Gaussian(2, trunk=_Images()), ValueError, r"trunk\(v\) must have rank"),
    ],
)
def test_bad_input_names_the_argument(make, error, match):
    with pytest.raises(error, match=match):
        jax.eval_shape(make().init, jax.random.key(0), jnp.zeros(2))
