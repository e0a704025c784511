"""Noise-contrastive estimation against closed forms, a second implementation and enumeration."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbism import energies, posteriors
from jbism.distributions import Bernoulli, Normal, RelaxedBernoulli
from jbism.losses import nce_loss, vnce_loss
from tests import oracles

RATIO, BATCH = 1.5, 4
LOG_Z = 0.5 * np.log(2.0 * np.pi)


def gaussian_free_energy(theta, v):
    """Of N(μ, s²), θ = (μ, log s): log Z = log s + ½ log 2π."""
    return 0.5 * jnp.sum(((v - theta[0]) * jnp.exp(-theta[1])) ** 2)


def test_the_truth_is_stationary_and_the_log_partition_is_learned(x64):
    """At the data's N(1, 0.5²) with c = log Z the gradient in (θ, c) is zero in expectation."""
    truth, log_z = (jnp.float64(1.0), jnp.log(0.5)), jnp.log(0.5) + LOG_Z
    noise = Normal(jnp.zeros(1), jnp.full(1, jnp.log(2.0)))

    def gradient(theta, c, key):
        key_data, key_loss = jax.random.split(key)
        v = theta_data[0] + jnp.exp(theta_data[1]) * jax.random.normal(key_data, (BATCH, 1))
        options = {"free_energy": gaussian_free_energy, "noise": noise, "noise_ratio": RATIO}
        loss = partial(nce_loss, **options)
        return jax.grad(loss, argnums=(0, 1), has_aux=True)(theta, c, key_loss, v)[0]

    theta_data = truth
    of_keys = oracles.jit(jax.vmap(gradient, in_axes=(None, None, 0)))
    keys = jax.random.split(jax.random.key(0), 4000)
    jax.tree.map(lambda g: oracles.assert_mean(g, 0.0), of_keys(truth, log_z, keys))
    for theta, c in (((truth[0] + 0.2, truth[1]), log_z), (truth, log_z + 0.2)):
        with pytest.raises(AssertionError, match="z ="):
            jax.tree.map(lambda g: oracles.assert_mean(g, 0.0), of_keys(theta, c, keys))


def value_and_gradients(loss):
    return oracles.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


@pytest.mark.parametrize("ratio", [RATIO, 0.2, 0.1, 0.45])
def test_values_and_gradients_by_a_second_implementation(x64, ratio):
    """As Gutmann and Hyvärinen write it: h = p_m / (p_m + ν p_n), classified by its logarithm."""
    v = jnp.array([[0.3], [-1.2], [0.9], [2.0]])
    noise = Normal(jnp.full(1, 0.2), jnp.full(1, 0.4))
    key, theta, c = jax.random.key(1), (jnp.float64(0.3), jnp.float64(-0.2)), jnp.float64(0.7)
    count = {RATIO: 6, 0.2: 1, 0.1: 1, 0.45: 2}[ratio]
    y = jax.vmap(noise.sample)(jax.random.split(key, count))

    def written_out(theta, c):
        def model(v):
            return jnp.exp(-0.5 * ((v[:, 0] - theta[0]) / jnp.exp(theta[1])) ** 2 - c)

        def of_noise(v):
            scale = np.exp(0.4)
            z = (v[:, 0] - 0.2) / scale
            return ratio * jnp.exp(-0.5 * z**2) / (scale * np.sqrt(2.0 * np.pi))

        data = -jnp.log(model(v) / (model(v) + of_noise(v)))
        contrast = -jnp.log(of_noise(y) / (model(y) + of_noise(y)))
        return jnp.mean(data) + ratio * jnp.mean(contrast), (data, contrast)

    options = {"free_energy": gaussian_free_energy, "noise": noise, "noise_ratio": ratio}
    loss = partial(nce_loss, key=key, v=v, **options)
    (value, aux), grads = value_and_gradients(loss)(theta, c)
    (expected, parts), expected_grads = value_and_gradients(written_out)(theta, c)
    oracles.assert_close(value, expected, rtol=1e-12)
    oracles.assert_trees_close(tuple(aux), parts, rtol=1e-10)
    oracles.assert_trees_close(grads, expected_grads, rtol=1e-10)


# With a posterior


@pytest.fixture
def problem(x64):
    """A GRBM 2/3, data, and the options of both losses but for the posterior's."""
    model, theta = oracles.gaussian_rbm(jax.random.key(0), 2, 3)
    v = 0.7 * jax.random.normal(jax.random.key(1), (BATCH, 2))
    options = {"noise": Normal(jnp.zeros(2), jnp.full(2, 0.3)), "noise_ratio": RATIO}
    return model, theta, v, options


def linear_posterior(kind):
    """q with logits φ = (W, b): the posterior of the GRBM at its weights and hidden biases."""
    return lambda phi, v: kind(v @ phi[0] + phi[1])


def exact_phi(theta):
    return theta["params"]["weights"], theta["params"]["hidden_bias"]


KEY, C = jax.random.key(2), 0.8


def key_of_noise(key):
    return jax.random.split(key, 3)[0]


@pytest.mark.parametrize("num_particles", [1, None])
def test_with_the_exact_posterior_it_is_nce(problem, num_particles):
    """Every weight is then exp(-F): the same loss on the same noise, its θ- and c-gradients too."""
    model, theta, v, options = problem
    free_energy = partial(model.apply, method="free_energy")
    nce = partial(nce_loss, free_energy=free_energy, key=key_of_noise(KEY), v=v, **options)
    (expected, parts), grads = value_and_gradients(nce)(theta, C)
    vnce = partial(
        vnce_loss,
        energy=model.apply,
        posterior=linear_posterior(RelaxedBernoulli),
        num_particles=num_particles,
        **options,
    )
    loss, aux = oracles.jit(vnce)(theta, exact_phi(theta), C, KEY, v)
    oracles.assert_close(loss, expected, rtol=1e-10)
    oracles.assert_trees_close(aux, parts, rtol=1e-9)
    if num_particles is None:
        of_both = jax.grad(vnce, argnums=(0, 2), has_aux=True)
        found = oracles.jit(of_both)(theta, exact_phi(theta), C, KEY, v)[0]
        oracles.assert_trees_close(found, grads, rtol=1e-9, atol=1e-12)


def other_phi(theta):
    return oracles.perturbed(jax.random.key(3), exact_phi(theta), 0.8)


def test_the_terms_of_any_posterior_by_enumeration(problem):
    """Exact expectations: the noise term is NCE's whatever q is, the data term bounds NCE's."""
    model, theta, v, options = problem
    phi = other_phi(theta)
    free_energy = partial(model.apply, method="free_energy")
    nce_of = oracles.jit(partial(nce_loss, free_energy=free_energy, **options))
    _, nce = nce_of(theta, C, key_of_noise(KEY), v)
    arguments = {"energy": model.apply, "posterior": linear_posterior(Bernoulli)} | options
    loss = oracles.jit(partial(vnce_loss, **arguments, num_particles=None))
    _, aux = loss(theta, phi, C, KEY, v)
    oracles.assert_close(aux.noise_losses, nce.noise_losses, rtol=1e-10)
    assert np.all(aux.data_losses > nce.data_losses + 1e-4)

    # The data term, written out over every h.
    p = {name: np.asarray(x) for name, x in theta["params"].items()}
    x, (w, b) = np.asarray(v), map(np.asarray, phi)
    h = np.array(oracles.binary_states(3))
    logits = x @ w + b
    log_q = logits @ h.T - np.sum(np.logaddexp(0.0, logits), 1)[:, None]
    scaled = (x - p["visible_bias"]) / np.exp(p["log_sigma"])
    fields = x @ p["weights"] + p["hidden_bias"]
    log_joint = -0.5 * np.sum(scaled**2, 1)[:, None] + fields @ h.T
    log_noise = np.sum(-0.5 * (x / np.exp(0.3)) ** 2 - 0.3 - LOG_Z, 1)[:, None] + np.log(RATIO)
    expected = np.sum(np.exp(log_q) * np.logaddexp(0.0, C + log_noise + log_q - log_joint), 1)
    oracles.assert_close(aux.data_losses, expected, rtol=1e-10)


class AtItsMean(Normal):
    """Noise of one known place, but the density of all."""

    def sample(self, key):
        return self.mean


def test_samples_have_the_exact_terms_as_their_mean(problem):
    """Of the data term; of the noise term it is exp(loss) - 1, the average weight times p̃ / ν p_n.

    Latents of the data are nearly hard.
    """
    model, theta, v, _ = problem
    phi = other_phi(theta)
    arguments = {
        "energy": model.apply,
        "posterior": linear_posterior(partial(RelaxedBernoulli, temperature=1e-4)),
        "noise": AtItsMean(jnp.full(2, 0.5), jnp.full(2, 0.3)),
    }
    exact = oracles.jit(partial(vnce_loss, **arguments, num_particles=None))
    _, expected = exact(theta, phi, C, KEY, v)
    loss = partial(vnce_loss, theta, phi, C, **arguments, num_particles=2)
    keys = jax.random.split(jax.random.key(4), 4000)
    aux = oracles.jit(jax.vmap(lambda key: loss(key, v)[1]))(keys)
    oracles.assert_mean(aux.data_losses, expected.data_losses)
    oracles.assert_mean(jnp.expm1(aux.noise_losses), jnp.expm1(expected.noise_losses))


def test_gradients_by_finite_differences(problem):
    """θ and c in both terms, φ in that of the data alone."""
    model, theta, v, options = problem
    arguments = {"energy": model.apply, "posterior": linear_posterior(RelaxedBernoulli)} | options
    loss = oracles.jit(partial(vnce_loss, **arguments, num_particles=3))
    phi, c = other_phi(theta), jnp.float64(C)
    gradient = jax.grad(partial(vnce_loss, **arguments, num_particles=3), (0, 1, 2), has_aux=True)
    of_theta, of_phi, of_c = oracles.jit(gradient)(theta, phi, c, KEY, v)[0]

    def total(model_parameters):
        return loss(model_parameters[0], phi, model_parameters[1], KEY, v)[0]

    def data_term(phi):
        return jnp.mean(loss(theta, phi, c, KEY, v)[1].data_losses)

    oracles.assert_gradient(total, (theta, c), (of_theta, of_c), jax.random.key(5))
    oracles.assert_gradient(data_term, phi, of_phi, jax.random.key(6))


def test_the_exact_posterior_is_stationary(problem):
    """In φ, where the data term is the bound's minimum."""
    model, theta, v, options = problem
    arguments = {"energy": model.apply, "posterior": linear_posterior(Bernoulli)} | options

    @oracles.jit
    @partial(jax.grad, has_aux=True)
    def of_phi(phi):
        return vnce_loss(theta, phi, C, KEY, v, **arguments, num_particles=None)

    for leaf in of_phi(exact_phi(theta))[0]:
        oracles.assert_close(leaf, 0.0, atol=1e-12)
    assert oracles.tree_dot(*[of_phi(other_phi(theta))[0]] * 2) > 1e-4


STANDARD = Normal(jnp.zeros(2), jnp.zeros(2))
GOOD = {
    "theta": None,
    "log_partition": jnp.zeros(()),
    "v": jnp.ones((3, 2)),
    "noise": STANDARD,
}
NCE = {"free_energy": lambda theta, v: jnp.sum(v)}
VNCE = {
    "phi": None,
    "energy": lambda theta, v, h: jnp.sum(v) + jnp.sum(h),
    "posterior": lambda phi, v: STANDARD,
    "num_particles": 2,
}
BAD = [
    ({"v": jnp.ones(2)}, ValueError, r"v must have shape \[batch, \*event\]"),
    ({"v": jnp.ones((3, 2), int)}, TypeError, "v must have a floating dtype"),
    ({"log_partition": jnp.zeros(1)}, ValueError, "log_partition must be a scalar"),
    ({"log_partition": 0}, TypeError, "log_partition must have a floating dtype"),
    ({"noise": Normal(jnp.zeros(3), jnp.zeros(3))}, ValueError, r"noise.sample\(key\) of each"),
    ({"noise": None}, TypeError, "noise must be Distribution"),
    ({"noise_ratio": 0.0}, ValueError, "noise_ratio must be a number > 0"),
    ({"noise_ratio": -1}, ValueError, "noise_ratio must be a number > 0"),
]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        *BAD,
        ({"free_energy": None}, TypeError, "free_energy must be a function"),
        ({"free_energy": lambda theta, v: v}, ValueError, r"free_energy\(theta, v\) must be a sc"),
    ],
)
def test_bad_input_of_nce_names_the_argument(change, error, match):
    with pytest.raises(error, match=match):
        nce_loss(key=jax.random.key(0), **(GOOD | NCE | change))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        *BAD,
        ({"energy": None}, TypeError, "energy must be a function"),
        ({"energy": lambda theta, v, h: v}, ValueError, r"energy\(theta, v, h\) must be a scalar"),
        ({"posterior": None}, TypeError, "posterior must be a function"),
        ({"num_particles": 0}, ValueError, "num_particles must be an integer >= 1"),
        ({"num_particles": None}, TypeError, r"posterior must return .* a method support\(\)"),
        (
            {"posterior": lambda phi, v: Bernoulli(jnp.zeros(3))},
            ValueError,
            "posterior must return a reparameterised distribution for vnce_loss",
        ),
    ],
)
def test_bad_input_of_vnce_names_the_argument(change, error, match):
    with pytest.raises(error, match=match):
        vnce_loss(key=jax.random.key(0), **(GOOD | VNCE | change))


def test_draws_have_keys_of_their_own():
    noise = Normal(jnp.zeros(1), jnp.zeros(1))
    rbm, q = energies.GaussianRBM(2), posteriors.Bernoulli(2)
    v = jnp.ones((4, 1))
    theta, phi = rbm.init(jax.random.key(0), v[0], jnp.zeros(2)), q.init(jax.random.key(1), v[0])
    model = {"energy": rbm.apply, "posterior": q.apply, "noise": noise, "num_particles": 3}
    c = jnp.zeros(())
    with jax.debug_key_reuse(True):
        loss, aux = vnce_loss(theta, phi, c, jax.random.key(2), v, **model)
    # One noise example a data example, unless another ratio is given.
    assert aux.noise_losses.shape == (4,)
    more, aux = vnce_loss(theta, phi, c, jax.random.key(2), v, noise_ratio=2.0, **model)
    assert aux.noise_losses.shape == (8,)
    assert loss != more


def test_learned_noise_has_no_derivative_through_its_draws():
    """∂/∂μ of -log σ(-G(y)) at a fixed y, and of the data term, is by log p_n alone."""
    v, key, c = jnp.array([[0.3], [-1.2]]), jax.random.key(1), jnp.float32(0.7)
    theta = (jnp.float32(0.3), jnp.float32(-0.2))

    def loss(mean, draws):
        noise = Fixed(draws, mean)
        return nce_loss(
            theta, c, key, v, free_energy=gaussian_free_energy, noise=noise, noise_ratio=1.0
        )[0]

    mean = jnp.full(1, 0.2)
    moving = jax.grad(lambda mean: loss(mean, mean))(mean)
    fixed = jax.grad(lambda mean: loss(mean, jnp.full(1, 0.2)))(mean)
    np.testing.assert_allclose(moving, fixed, rtol=1e-6)
    assert abs(float(fixed[0])) > 1e-3


class Fixed(Normal):
    """Draws of N(draw_mean, 1), by the density of N(mean, 1)."""

    def __init__(self, draw_mean, mean):
        super().__init__(mean, jnp.zeros_like(mean))
        self.draw_mean = draw_mean

    def sample(self, key):
        """Returns a draw."""
        return self.draw_mean + jax.random.normal(key, self.draw_mean.shape)
