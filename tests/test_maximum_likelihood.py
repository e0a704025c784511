"""Maximum likelihood against quadrature and moments."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from jbism import likelihood
from jbism.losses import maximum_likelihood_loss
from tests import oracles


@pytest.fixture
def rbm(x64):
    model, theta = oracles.gaussian_rbm(jax.random.key(0), 1, 3)
    return model, theta, 1.0 + jax.random.normal(jax.random.key(1), (5, 1))


def enumerated(model, theta):
    marginal = partial(model.apply, theta, method="log_hidden_marginal")
    return likelihood.exact_log_partition(marginal, 3)


def test_value_and_gradient_by_quadrature(rbm):
    """The gradient is E_data[∇F] - E_model[∇F], with p(v) = exp(-F)/Z on a grid."""
    model, theta, v = rbm
    free_energy = partial(model.apply, method="free_energy")
    options = {"free_energy": free_energy, "log_partition": partial(enumerated, model)}
    loss = jax.value_and_grad(partial(maximum_likelihood_loss, **options), has_aux=True)
    (value, aux), grad = oracles.jit(loss)(theta, v)

    @oracles.jit
    def second_opinion(theta):
        grid = jnp.linspace(-30.0, 30.0, 2001)[:, None]
        of_grid, grid_gradients = jax.vmap(jax.value_and_grad(free_energy), (None, 0))(theta, grid)
        of_data, gradients = jax.vmap(jax.value_and_grad(free_energy), (None, 0))(theta, v)
        p = jax.nn.softmax(-of_grid)
        log_z = jax.nn.logsumexp(-of_grid) + jnp.log(grid[1, 0] - grid[0, 0])
        differences = jax.tree.map(
            lambda data, model: jnp.mean(data, 0) - jnp.tensordot(p, model, 1),
            gradients,
            grid_gradients,
        )
        return of_data + log_z, log_z, differences

    losses, log_z, expected = second_opinion(theta)
    oracles.assert_trees_close(grad, expected, rtol=1e-9, atol=1e-10)
    oracles.assert_close(aux.losses, losses, rtol=1e-10)
    oracles.assert_close(value, jnp.mean(losses), rtol=1e-10)
    oracles.assert_close(aux.log_partition, log_z, rtol=1e-10)


def test_stationary_at_the_moments_of_the_data(x64):
    """F = ½ (v - μ)² / s: least at the sample's mean and variance."""
    v = jnp.array([[0.5], [2.0], [-1.0], [3.0]])

    def loss(theta):
        return maximum_likelihood_loss(
            theta,
            v,
            free_energy=lambda theta, v: 0.5 * jnp.sum((v - theta[0]) ** 2) / theta[1],
            log_partition=lambda theta: 0.5 * jnp.log(2.0 * jnp.pi * theta[1]),
        )[0]

    best = (jnp.mean(v), jnp.var(v))
    oracles.assert_close(jax.grad(loss)(best), (0.0, 0.0), atol=1e-12)
    oracles.assert_close(loss(best), 0.5 * jnp.log(2.0 * jnp.pi * jnp.e * best[1]), rtol=1e-12)
    assert loss((best[0] + 0.1, best[1])) > loss(best)


GOOD = {"free_energy": lambda theta, v: jnp.sum(v), "log_partition": lambda theta: jnp.zeros(())}


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"v": jnp.ones(3)}, ValueError, r"v must have shape \[batch, \*event\]"),
        ({"v": jnp.ones((3, 2), int)}, TypeError, "v must have a floating dtype"),
        ({"free_energy": lambda theta, v: v}, ValueError, r"free_energy\(theta, v\) must be a sc"),
        ({"free_energy": None}, TypeError, "free_energy must be a function"),
        ({"log_partition": lambda theta: jnp.ones(2)}, ValueError, r"log_partition\(theta\) must"),
        ({"log_partition": 0.0}, TypeError, "log_partition must be a function"),
    ],
)
def test_bad_input_names_the_argument(change, error, match):
    arguments = {"v": jnp.ones((3, 2))} | GOOD | change
    with pytest.raises(error, match=match):
        maximum_likelihood_loss(None, **arguments)
