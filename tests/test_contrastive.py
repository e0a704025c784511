"""Contrastive divergence: its gradient, its chains, the two phases."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jbism import energies, likelihood, samplers
from jbism.losses import contrastive_loss, maximum_likelihood_loss
from jbism.training import contrastive_step, create_state
from tests import oracles

BATCH = 6


@pytest.fixture
def rbm(x64):
    """A GRBM 2/3 away from its initial values, and data that are not its own."""
    model, theta = oracles.gaussian_rbm(jax.random.key(0), 2, 3)
    return model, theta, 1.0 + jax.random.normal(jax.random.key(1), (BATCH, 2))


def gibbs(model):
    def transition(theta, key, v):
        return samplers.block_gibbs(key, v, num_steps=1, **energies.conditionals(model, theta))[0]

    return transition


def free_energy(model):
    return partial(model.apply, method="free_energy")


def exact_gradient(model, theta, v):
    """Of the negative log-likelihood, log Z by enumeration."""

    def log_partition(theta):
        marginal = partial(model.apply, theta, method="log_hidden_marginal")
        return likelihood.exact_log_partition(marginal, 3)

    def loss(theta):
        options = {"free_energy": free_energy(model), "log_partition": log_partition}
        return maximum_likelihood_loss(theta, v, **options)[0]

    return oracles.jit(jax.grad(loss))(theta)


def exact_draws(model, theta, key, count):
    """Draws of v from the model itself, h by enumeration."""
    latents = likelihood.enumerate_binary(3)
    log_p = jax.vmap(partial(model.apply, theta, method="log_hidden_marginal"))(latents)
    key_h, key_v = jax.random.split(key)
    h = latents[jax.random.categorical(key_h, log_p, shape=(count,))]
    visible = jax.vmap(partial(model.apply, theta, method="visible_given_hidden"))(h)
    return jax.vmap(lambda d, k: d.sample(k))(visible, jax.random.split(key_v, count))


def gradients_of(keys, theta, v, **options):
    """The gradient of one loss a key, each leaf [keys, ...]."""
    one = jax.grad(lambda theta, key: contrastive_loss(theta, key, v, **options)[0])
    return oracles.jit(jax.vmap(partial(one, theta)))(keys)


KEYS = jax.random.split(jax.random.key(2), 3000)


def test_from_chains_of_the_model_the_gradient_is_that_of_the_likelihood(rbm):
    """The second implementation is the derivative of the enumerated log Z."""
    model, theta, v = rbm

    def perfect(theta, key, v):
        return exact_draws(model, theta, key, v.shape[0])

    energy = free_energy(model)
    found = gradients_of(KEYS, theta, v, energy=energy, transition=perfect, num_steps=1)
    expected = exact_gradient(model, theta, v)
    jax.tree.map(oracles.assert_mean, found, expected)
    # Short chains from the data do not have it: the test can tell.
    short = gradients_of(KEYS, theta, v, energy=energy, transition=gibbs(model), num_steps=1)
    with pytest.raises(AssertionError, match="z ="):
        jax.tree.map(oracles.assert_mean, short, expected)


def test_gibbs_leaves_the_model_invariant(rbm):
    """On data of the model's own, contrastive divergence is zero in expectation."""
    model, theta, _ = rbm

    def one(key):
        key_data, key_loss = jax.random.split(key)
        v = exact_draws(model, theta, key_data, BATCH)
        options = {"energy": free_energy(model), "transition": gibbs(model), "num_steps": 2}
        return jax.grad(lambda theta: contrastive_loss(theta, key_loss, v, **options)[0])(theta)

    jax.tree.map(lambda g: oracles.assert_mean(g, 0.0 * g[0]), oracles.jit(jax.vmap(one))(KEYS))


def test_k_transitions_by_hand(x64):
    """E = θv²/2 and v ← θv + noise: the gradient is (mean v² - mean v⁻²)/2, v⁻ held fixed."""
    v, theta, key = jnp.arange(1.0, 4.0)[:, None], jnp.float64(0.5), jax.random.key(0)
    options = {
        "energy": lambda theta, v: 0.5 * theta * jnp.sum(v**2),
        "transition": lambda theta, key, v: theta * v + 1e-3 * jax.random.normal(key, v.shape),
    }
    value = jax.value_and_grad(contrastive_loss, has_aux=True)
    (loss, aux), grad = value(theta, key, v, **options, num_steps=3)
    moved = v
    for step_key in jax.random.split(key, 3):
        moved = theta * moved + 1e-3 * jax.random.normal(step_key, v.shape)
    oracles.assert_close(aux.chains, moved, rtol=1e-12)
    difference = 0.5 * (jnp.mean(v**2) - jnp.mean(moved**2))
    oracles.assert_close((loss, grad), (theta * difference, difference), rtol=1e-12)
    oracles.assert_close(aux.data_energies, 0.25 * v[:, 0] ** 2, rtol=1e-12)
    oracles.assert_close(aux.chain_energies, 0.25 * moved[:, 0] ** 2, rtol=1e-12)


def test_persistent_chains_go_on_from_where_they_were(rbm):
    """The data do not enter them, and there may be any number of them."""
    model, theta, v = rbm
    options = {"energy": free_energy(model), "transition": gibbs(model), "num_steps": 1}
    chains = jax.random.normal(jax.random.key(3), (9, 2))
    loss = oracles.jit(partial(contrastive_loss, **options))
    key, following = jax.random.split(jax.random.key(4))
    _, aux = loss(theta, key, v, chains=chains)
    _, again = loss(theta, key, -v, chains=chains)
    np.testing.assert_array_equal(aux.chains, again.chains)
    assert aux.chains.shape == (9, 2)
    _, aux = loss(theta, following, v, chains=aux.chains)
    expected, transition = chains, oracles.jit(gibbs(model))
    for k in (key, following):
        expected = transition(theta, jax.random.split(k, 1)[0], expected)
    oracles.assert_close(aux.chains, expected, rtol=1e-10)
    # Data as the chains: the first step of CD-k.
    same = [loss(theta, key, v, **start)[0] for start in ({}, {"chains": v})]
    assert same[0] == same[1]


def test_configurations_of_visibles_and_latents(x64):
    """E(v, h) by Langevin chains on both: with h of the data from p(h | v), the same gradient.

    The transition draws (v, h) of the linear-Gaussian model exactly.
    """
    model, theta = oracles.linear_gaussian(jax.random.key(0), 2, 2)
    v = 1.0 + jax.random.normal(jax.random.key(1), (BATCH, 2))

    def draw_latents(theta, key, v):
        hidden = jax.vmap(partial(model.apply, theta, method="hidden_given_visible"))(v)
        return jax.vmap(lambda d, k: d.sample(k))(hidden, jax.random.split(key, v.shape[0]))

    def transition(theta, key, x):
        key_v, key_h = jax.random.split(key)
        marginal = model.apply(theta, method="marginal")
        v = jax.vmap(marginal.sample)(jax.random.split(key_v, x[0].shape[0]))
        return v, draw_latents(theta, key_h, v)

    def one(key):
        key_positive, key_loss = jax.random.split(key)
        x = (v, draw_latents(theta, key_positive, v))
        options = {"energy": lambda theta, x: model.apply(theta, *x), "transition": transition}
        loss = partial(contrastive_loss, **options, num_steps=1)
        return jax.grad(lambda theta: loss(theta, key_loss, x)[0])(theta)

    def negative_log_likelihood(theta):
        options = {
            "free_energy": free_energy(model),
            "log_partition": partial(model.apply, method="log_partition"),
        }
        return maximum_likelihood_loss(theta, v, **options)[0]

    found = oracles.jit(jax.vmap(one))(KEYS)
    expected = oracles.jit(jax.grad(negative_log_likelihood))(theta)
    jax.tree.map(oracles.assert_mean, found, expected)


def test_langevin_is_a_transition():
    def energy(theta, x):
        return 0.5 * jnp.sum((x["v"] - theta) ** 2) + 0.5 * jnp.sum((x["h"] - x["v"]) ** 2)

    def transition(theta, key, x):
        temperatures = jnp.ones(1)
        return samplers.langevin(key, x, temperatures, energy=partial(energy, theta), step_size=0.1)

    x = {"v": jnp.zeros((4, 2)), "h": jnp.ones((4, 2))}
    loss = partial(contrastive_loss, energy=energy, transition=transition, num_steps=5)
    value, aux = oracles.jit(loss)(1.0, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, aux.chains) == jax.tree.map(jnp.shape, x)
    assert np.isfinite(value)
    assert float(jnp.min(jnp.abs(aux.chains["h"] - x["h"]))) > 0.0


V = jnp.ones((3, 2))
GOOD = {
    "energy": lambda theta, x: jnp.sum(jax.tree.leaves(x)[0] ** 2),
    "transition": lambda theta, key, x: x,
    "num_steps": 1,
}


@pytest.mark.parametrize(
    ("x", "change", "error", "match"),
    [
        (V, {"num_steps": 0}, ValueError, "num_steps must be an integer >= 1, got 0"),
        (V, {"num_steps": 1.5}, TypeError, "num_steps must be an integer"),
        (V, {"energy": 3}, TypeError, "energy must be a function"),
        (V, {"energy": lambda theta, x: x}, ValueError, r"energy\(theta, x\) must be a scalar"),
        (V, {"transition": None}, TypeError, "transition must be a function"),
        (V, {"transition": lambda t, k, x: x[:1]}, ValueError, "transition.* must be shaped as x"),
        (V, {"chains": jnp.ones((3, 4))}, ValueError, r"chains must be .*float32\[2\].*float32\[4"),
        (V, {"chains": ()}, ValueError, "chains must have leaves"),
        (V, {"chains": (V, V)}, ValueError, "chains must be configurations"),
        (V, {"chains": jnp.ones((3, 2), jnp.bfloat16)}, ValueError, "chains must be .*bfloat16"),
        (V, {"chains": jnp.ones((0, 2))}, ValueError, "chains must have a non-empty"),
        (jnp.ones((3, 2), int), {}, TypeError, "x must have a floating dtype"),
        ((V, V[:2]), {}, ValueError, r"x must have leaves \[n, ...\] of one n, got n in \[2, 3\]"),
    ],
)
def test_bad_input_names_the_argument(x, change, error, match):
    with pytest.raises(error, match=match):
        contrastive_loss(None, jax.random.key(0), x, **(GOOD | change))


@jax.tree_util.register_pytree_node_class
class Box:
    """A configuration of a class that does not compare."""

    def __init__(self, v):
        self.v = v

    def tree_flatten(self):
        """Returns its leaves."""
        return (self.v,), None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        """Returns it from its leaves."""
        return cls(*leaves)


def test_configurations_of_any_class():
    x = Box(jnp.ones((3, 2)))
    options = {"energy": lambda theta, x: theta * jnp.sum(x.v), "num_steps": 1}
    moved = {"transition": lambda theta, key, x: Box(2.0 * x.v), "chains": x}
    loss, aux = contrastive_loss(jnp.ones(()), jax.random.key(0), x, **options, **moved)
    assert (float(loss), float(aux.chains.v[0, 0])) == (-2.0, 2.0)
    with pytest.raises(ValueError, match="must be shaped as x"):
        contrastive_loss(
            jnp.ones(()), jax.random.key(0), x, **options, transition=lambda theta, key, x: 1.0
        )


def test_latents_and_transitions_have_keys_of_their_own():
    def noisy(*arguments):
        key, v = arguments[-2:]
        return v + jax.random.normal(key, v.shape)

    adam = {"theta_optimizer": optax.adam(1e-3)}
    step = contrastive_step(
        energy=lambda theta, v: theta * jnp.sum(v**2), transition=noisy, num_steps=2,
        persistent=False, complete=noisy, **adam,
    )  # fmt: skip
    state = create_state(jax.random.key(0), jnp.ones(()), **adam)
    with jax.debug_key_reuse(True):
        state, metrics = step(state, jnp.ones((4, 2)))
    assert jnp.isfinite(metrics["loss"])
    with pytest.raises(ValueError, match=r"need a state that has some: create_state\(..., chains"):
        contrastive_step(
            energy=lambda theta, v: theta * jnp.sum(v), transition=noisy, num_steps=1,
            persistent=True, **adam,
        )(state, jnp.ones((4, 2)))  # fmt: skip
    with pytest.raises(ValueError, match="phi_optimizer must be given with phi, got None"):
        create_state(jax.random.key(0), jnp.ones(()), jnp.ones(2), **adam)
    with pytest.raises(TypeError, match="persistent must be bool, got str"):
        contrastive_step(energy=noisy, transition=noisy, num_steps=1, persistent="no", **adam)
