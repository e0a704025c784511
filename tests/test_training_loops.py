"""Use 1 of the library: the user's own jitted loop, with energies of three makes."""

import functools

import chex
import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jbism
from tests import oracles

NUM_HIDDEN, DIM_V, BATCH, NUM_STEPS = 3, 2, 64, 60
NAMES = ("weights", "visible_bias", "hidden_bias", "log_sigma")


class NNXRBM(nnx.Module):
    """The Gaussian RBM as an NNX module."""

    def __init__(self, initial):
        for name in NAMES:
            setattr(self, name, nnx.Param(initial[name]))

    def __call__(self, v, h):
        return plain_energy({name: getattr(self, name)[...] for name in NAMES}, v, h)


def plain_energy(p, v, h):
    """The Gaussian RBM as a function of a dict of arrays."""
    quadratic = 0.5 * jnp.sum(((v - p["visible_bias"]) * jnp.exp(-p["log_sigma"])) ** 2)
    return quadratic - jnp.dot(p["hidden_bias"], h) - jnp.dot(v @ p["weights"], h)


def linen(initial):
    return jbism.energies.GaussianRBM(NUM_HIDDEN).apply, {"params": initial}


def plain(initial):
    return plain_energy, initial


def nnx_module(initial):
    graphdef, params = nnx.split(NNXRBM(initial))
    return lambda params, v, h: nnx.merge(graphdef, params)(v, h), params


def train(make_energy):
    """Sixty steps of BiDSM; returns the losses and the final arrays in the order of NAMES."""
    rbm = jbism.energies.GaussianRBM(NUM_HIDDEN, weights_init_scale=0.3)
    v = 2.0 + 0.3 * jax.random.normal(jax.random.key(0), (10 * BATCH, DIM_V), jnp.float64)
    initial = oracles.to_float64(
        oracles.jit(rbm.init)(jax.random.key(1), v[0], jnp.zeros(NUM_HIDDEN))["params"]
    )
    energy, theta = make_energy(initial)
    q = jbism.posteriors.Bernoulli(NUM_HIDDEN)
    phi = oracles.to_float64(oracles.jit(q.init)(jax.random.key(2), v[0]))
    optimizer, lower_optimizer = optax.adam(2e-2), optax.adam(1e-2, eps_root=1e-8)
    options = {
        "energy": energy,
        "posterior": q.apply,
        "objective": jbism.losses.DSM(sigma=0.5),
        "divergence": jbism.divergences.KL(),
    }
    hypergradient = jbism.hypergradients.Unroll(2, lower_optimizer)

    @oracles.jit
    @functools.partial(chex.assert_max_traces, n=1)
    def step(theta, phi, states, key, v):
        key_lower, key_upper = jax.random.split(key)
        phi, lower_state, _ = jbism.hypergradients.descend(
            lambda *args: jbism.losses.bism_lower_loss(*args, v, **options),
            theta,
            phi,
            key_lower,
            num_steps=2,
            optimizer=lower_optimizer,
            opt_state=states[1],
        )
        (loss, _), grads = jax.value_and_grad(jbism.losses.bism_loss, has_aux=True)(
            theta, phi, key_upper, v, hypergradient=hypergradient, opt_state=lower_state, **options
        )
        updates, state = optimizer.update(grads, states[0], theta)
        return optax.apply_updates(theta, updates), phi, (state, lower_state), loss

    states, losses = (optimizer.init(theta), lower_optimizer.init(phi)), []
    for i in range(NUM_STEPS):
        batch = jax.random.choice(jax.random.key(100 + i), v, (BATCH,))
        theta, phi, states, loss = step(theta, phi, states, jax.random.key(1000 + i), batch)
        losses.append(float(loss))
    final = nnx.to_pure_dict(theta) if isinstance(theta, nnx.State) else theta
    final = final.get("params", final)
    return losses, [final[name] for name in NAMES], [initial[name] for name in NAMES]


@pytest.fixture(scope="module")
def runs():
    finished = {}
    with jax.enable_x64(True):
        for make in (linen, nnx_module, plain):
            chex.clear_trace_counter()  # it counts by name: three different steps are "step"
            finished[make.__name__] = train(make)
    return finished


@pytest.mark.parametrize("name", ["linen", "nnx_module", "plain"])
def test_the_loss_decreases(runs, name):
    losses, final, initial = runs[name]
    assert np.mean(losses[-15:]) < 0.9 * np.mean(losses[:15])
    assert all(np.max(np.abs(f - i)) > 0.05 for f, i in zip(final, initial, strict=True))


@pytest.mark.parametrize("name", ["nnx_module", "plain"])
def test_every_make_of_energy_trains_alike(runs, name):
    oracles.assert_close(runs[name][0], runs["linen"][0], rtol=1e-6)
    oracles.assert_trees_close(runs[name][1], runs["linen"][1], rtol=1e-6, atol=1e-8)
