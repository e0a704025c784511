"""Partition functions against quadrature, enumeration, closed forms, and their own error bars."""

import itertools
import math
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbism import likelihood
from jbism.energies import GaussianRBM, LinearGaussian
from jbism.likelihood._ais_hmc import Density, Point, hmc_step
from tests import oracles

KEY = jax.random.key(0)


def random_rbm(seed, dim_v, num_hidden, scale=0.7):
    keys = jax.random.split(jax.random.key(seed), 4)
    return {
        "weights": scale * jax.random.normal(keys[0], (dim_v, num_hidden)),
        "visible_bias": 0.5 * jax.random.normal(keys[1], (dim_v,)),
        "hidden_bias": 0.5 * jax.random.normal(keys[2], (num_hidden,)),
        "log_sigma": 0.3 * jax.random.normal(keys[3], (dim_v,)),
    }


def method(rbm, name):
    module = GaussianRBM(num_hidden=rbm["hidden_bias"].size)
    return partial(module.apply, {"params": rbm}, method=name)


@jax.jit
def enumerated_log_partition(rbm):
    marginal = method(rbm, "log_hidden_marginal")
    return likelihood.exact_log_partition(marginal, rbm["hidden_bias"].size)


# Enumeration


def test_enumerate_binary_lists_every_h_once():
    expected = list(itertools.product([0.0, 1.0], repeat=5))
    np.testing.assert_array_equal(likelihood.enumerate_binary(5), expected)


def test_exact_log_likelihood_is_a_density(x64):
    rbm = jax.tree.map(lambda x: x.astype(float), random_rbm(1, 1, 6, scale=1.0))
    grid = jnp.linspace(-40.0, 40.0, 8001)
    log_p = likelihood.exact_log_likelihood(
        grid[:, None],
        free_energy=method(rbm, "free_energy"),
        log_hidden_marginal=method(rbm, "log_hidden_marginal"),
        num_latents=6,
    )
    assert abs(float(jnp.sum(jnp.exp(log_p)) * 0.01) - 1.0) < 1e-10
    # log Z itself, by quadrature of the other marginal
    free_energy = jax.vmap(method(rbm, "free_energy"))(grid[:, None])
    quadrature = jax.nn.logsumexp(-free_energy) + math.log(0.01)
    np.testing.assert_allclose(enumerated_log_partition(rbm), quadrature, rtol=1e-10)


@pytest.mark.parametrize("block_size", [1, 8, 4096])
def test_blocks_do_not_change_the_sum_nor_its_gradient(x64, block_size):
    def log_partition(w, **options):
        def marginal(h):
            return 2.0 * jnp.sum(jnp.sin(w * h)) + h[0] * h[1]

        return likelihood.exact_log_partition(marginal, 6, **options)

    def dense(w):
        h = jnp.array(list(itertools.product([0.0, 1.0], repeat=6)))
        return jnp.log(jnp.sum(jnp.exp(2.0 * jnp.sum(jnp.sin(w[None] * h), 1) + h[:, 0] * h[:, 1])))

    w = jnp.linspace(-1.0, 2.0, 6)
    value, gradient = jax.value_and_grad(log_partition)(w, block_size=block_size)
    np.testing.assert_allclose(value, dense(w), rtol=1e-13)
    np.testing.assert_allclose(gradient, jax.grad(dense)(w), rtol=1e-10)


def test_memory_of_value_and_gradient_does_not_grow_with_the_number_of_latents():
    def temporaries(num_latents):
        def log_partition(rbm):
            marginal = method(rbm, "log_hidden_marginal")
            return likelihood.exact_log_partition(marginal, num_latents, block_size=64)

        compiled = jax.jit(jax.grad(log_partition)).lower(random_rbm(0, 50, num_latents)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    # 2^8 times the latents, a few more bytes a block; all σ⊙Wh together would be 13 MB.
    assert temporaries(16) < temporaries(8) + 100_000


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"num_latents": 25}, ValueError, "num_latents must be <= 24"),
        ({"num_latents": 0}, ValueError, "num_latents"),
        ({"num_latents": 2.0}, TypeError, "num_latents"),
        ({"num_latents": 2, "block_size": 3}, ValueError, "block_size"),
        ({"num_latents": 2, "block_size": 0}, ValueError, "block_size"),
        ({"num_latents": 2, "log_hidden_marginal": lambda h: h}, ValueError, "log_hidden_marginal"),
    ],
)
def test_exact_log_partition_errors(arguments, error, match):
    with pytest.raises(error, match=match):
        likelihood.exact_log_partition(**({"log_hidden_marginal": jnp.sum} | arguments))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"v": jnp.zeros((0, 2))}, ValueError, "v must"),
        ({"v": jnp.zeros((1, 2), int)}, TypeError, "v must"),
        ({"free_energy": lambda v: v}, ValueError, "free_energy"),
    ],
)
def test_exact_log_likelihood_errors(change, error, match):
    arguments = {"v": jnp.zeros((1, 2)), "free_energy": jnp.sum, "log_hidden_marginal": jnp.sum}
    with pytest.raises(error, match=match):
        likelihood.exact_log_likelihood(**(arguments | change), num_latents=2)


# The core of annealed importance sampling


def gaussian_path(x, beta):
    """From N(0, 1) to 3 exp(-½(2x - 2)²), in a tree of two coordinates."""
    x = jnp.stack([x["a"], x["b"]])
    return jnp.sum((1 - beta) * -0.5 * x**2 + beta * (jnp.log(3.0) - 0.5 * (2 * x - 2) ** 2))


def gaussian_transition(key, x, beta):
    precision = (1 - beta) + 4 * beta
    noise = jax.random.normal(key, (2,)) / jnp.sqrt(precision)
    mean = 4 * beta / precision
    return {"a": mean + noise[0], "b": mean + noise[1]}


def gaussian_start(key, n):
    noise = jax.random.normal(key, (2, n))
    return {"a": noise[0], "b": noise[1]}


def test_two_temperatures_are_importance_sampling():
    x = gaussian_start(KEY, 10)
    log_weights, _ = likelihood.annealed_importance_sampling(
        KEY,
        x,
        log_density=gaussian_path,
        transition=gaussian_transition,
        betas=jnp.array([0.0, 1.0]),
    )
    density = jax.vmap(gaussian_path, (0, None))
    np.testing.assert_allclose(log_weights, density(x, 1.0) - density(x, 0.0), rtol=1e-5)


def test_weights_are_unbiased_at_few_temperatures_and_the_chains_reach_the_target():
    n = 100_000
    log_weights, x = likelihood.annealed_importance_sampling(
        KEY,
        gaussian_start(jax.random.key(1), n),
        log_density=gaussian_path,
        transition=gaussian_transition,
        betas=jnp.array([0.0, 0.3, 1.0]),
    )
    ratio = np.exp(np.asarray(log_weights)) / (3.0 / 2.0) ** 2  # the normalisers' ratio is 1/σ
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(n)
    assert 0.005 < ratio.std() / math.sqrt(n) * 4 < 0.05  # the test sees a bias of 5 %
    for leaf in x.values():
        assert abs(float(leaf.mean()) - 1) < 4 * 0.5 / math.sqrt(n)
        assert abs(float(leaf.var()) / 0.25 - 1) < 4 * math.sqrt(2 / n)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"betas": jnp.ones(1)}, ValueError, "betas"),
        ({"betas": jnp.ones((2, 2))}, ValueError, "betas"),
        ({"betas": jnp.arange(2)}, TypeError, "betas"),
        ({"x": jnp.zeros(())}, ValueError, "x must"),
        ({"x": jnp.zeros((0, 2))}, ValueError, "x must"),
        ({"x": ()}, ValueError, "x must"),
        ({"log_density": lambda x, beta: jnp.stack([x, x])}, ValueError, "log_density"),
    ],
)
def test_annealed_importance_sampling_errors(change, error, match):
    arguments = {
        "x": jnp.zeros(3),
        "betas": jnp.linspace(0.0, 1.0, 3),
        "log_density": lambda x, beta: beta * x,
        "transition": lambda key, x, beta: x,
    }
    with pytest.raises(error, match=match):
        likelihood.annealed_importance_sampling(KEY, **(arguments | change))


# Gaussian RBMs


@partial(jax.jit, static_argnames="n")
def exact_samples(key, rbm, n):
    """Samples of the model by way of the enumerated p(h)."""
    key_h, key_v = jax.random.split(key)
    h = likelihood.enumerate_binary(rbm["hidden_bias"].size)
    log_p = jax.vmap(method(rbm, "log_hidden_marginal"))(h)
    h = h[jax.random.categorical(key_h, log_p, shape=(n,))]
    conditional = method(rbm, "visible_given_hidden")
    return jax.vmap(lambda k, h: conditional(h).sample(k))(jax.random.split(key_v, n), h)


def test_ais_agrees_with_enumeration_from_both_sides():
    dim_v, num_hidden, n = 4, 12, 500
    options = {"num_temperatures": 500}
    eager_ais = partial(likelihood.ais_gaussian_rbm, **options, num_chains=n)
    # One executable serves every model, so nothing can retrace.
    like = random_rbm(0, dim_v, num_hidden)
    lowered = jax.jit(eager_ais).lower(KEY, **like)
    forward_ais = lowered.compile(compiler_options=oracles.OPTIMIZED)
    lowered = jax.jit(partial(likelihood.reverse_ais_gaussian_rbm, **options)).lower(
        KEY, exact_samples(KEY, like, n), **like
    )
    reverse_ais = lowered.compile(compiler_options=oracles.OPTIMIZED)
    # One v W serves both densities and the transition; the other product is W h.
    assert forward_ais.as_text().count(" dot(") == 2
    bracketed = []
    for seed in range(10):
        rbm = random_rbm(seed, dim_v, num_hidden, scale=0.3)
        log_z = float(enumerated_log_partition(rbm))
        key_forward, key_reverse, key_v = jax.random.split(jax.random.key(seed), 3)
        forward = forward_ais(key_forward, **rbm)
        reverse = reverse_ais(key_reverse, exact_samples(key_v, rbm, n), **rbm)
        for result in (forward, reverse):
            assert abs(float(result.log_partition) - log_z) < 0.02
            assert float(result.interval[1] - result.interval[0]) < 0.05
            assert 1.0 < float(result.effective_sample_size) < n
        bracketed.append(forward.interval[0] < log_z < reverse.interval[1])
    assert sum(bracketed) >= 9  # each bound errs once in forty
    chex.assert_trees_all_close(
        eager_ais(key_forward, **rbm).log_partition, forward.log_partition, rtol=1e-5
    )
    weights = np.exp(np.asarray(forward.log_weights, float))
    base = rbm["log_sigma"].sum() + dim_v / 2 * math.log(2 * math.pi) + num_hidden * math.log(2)
    np.testing.assert_allclose(forward.log_partition, base + np.log(weights.mean()), rtol=1e-5)
    expected = weights.sum() ** 2 / (weights**2).sum()
    np.testing.assert_allclose(forward.effective_sample_size, expected, rtol=1e-4)
    half_width = 1.96 * weights.std(ddof=1) / math.sqrt(n) / weights.mean()
    np.testing.assert_allclose(np.diff(forward.interval)[0], 2 * half_width, rtol=1e-3)


def test_ais_in_chunks_of_chains():
    """Chunks are estimates of their own, in the memory of one."""
    rbm = random_rbm(0, 6, 5)
    log_z = float(enumerated_log_partition(rbm))
    v = exact_samples(KEY, rbm, 600)
    options = rbm | {"num_temperatures": 100}

    def forward(**chunks):
        return likelihood.ais_gaussian_rbm(KEY, **options, num_chains=600, **chunks)

    def reverse(**chunks):
        return likelihood.reverse_ais_gaussian_rbm(KEY, v, **options, **chunks)

    for ais in (forward, reverse):
        whole, chunked = ais(), ais(chunk_size=100)
        assert chunked.log_weights.shape == whole.log_weights.shape == (600,)
        assert len(np.unique(chunked.log_weights)) > 590  # the chunks' numbers differ
        assert chunked.interval[0] - 0.02 < log_z < chunked.interval[1] + 0.02
        with pytest.raises(ValueError, match="chunk_size must divide the number of chains, 600, g"):
            ais(chunk_size=7)
    wide = random_rbm(0, 6, 40) | {"num_temperatures": 100, "num_chains": 60_000}
    memory = [
        jax.jit(
            lambda key, n=n: likelihood.ais_gaussian_rbm(key, **wide, chunk_size=n).log_partition
        )
        .lower(KEY)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for n in (None, 600)
    ]
    assert memory[1] < 0.2 * memory[0]


def test_ais_is_unbiased_its_interval_covers_and_its_directions_bracket():
    rbm, replicates = random_rbm(3, 4, 4, scale=0.7), 800
    log_z = float(enumerated_log_partition(rbm))
    options = rbm | {"num_temperatures": 12}

    @jax.jit
    @jax.vmap
    def both(key):
        key_v, key_forward, key_reverse = jax.random.split(key, 3)
        v = exact_samples(key_v, rbm, 50)
        return (
            likelihood.ais_gaussian_rbm(key_forward, **options, num_chains=50),
            likelihood.reverse_ais_gaussian_rbm(key_reverse, v, **options),
        )

    forward, reverse = both(jax.random.split(KEY, replicates))
    for result, sign in ((forward, 1.0), (reverse, -1.0)):
        error = np.asarray(result.log_partition) - log_z
        ratio = np.exp(sign * error)
        standard_error = ratio.std() / math.sqrt(replicates)
        assert abs(ratio.mean() - 1) < 4 * standard_error < 0.1
        # Jensen: the logarithm is low on average forwards, high backwards.
        assert sign * error.mean() < -error.std() / math.sqrt(replicates)
        interval = np.asarray(result.interval)
        covered = ((interval[:, 0] < log_z) & (log_z < interval[:, 1])).mean()
        assert 0.88 < covered < 0.98


def test_ais_of_a_model_at_the_base_is_exact():
    rbm = random_rbm(4, 3, 2) | {"weights": jnp.zeros((3, 2)), "hidden_bias": jnp.zeros(2)}
    result = likelihood.ais_gaussian_rbm(KEY, **rbm, num_chains=10, num_temperatures=3)
    np.testing.assert_allclose(result.log_partition, enumerated_log_partition(rbm), rtol=1e-6)
    np.testing.assert_allclose(result.interval, result.log_partition[None].repeat(2), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"weights": jnp.zeros(3)}, ValueError, "weights"),
        ({"weights": jnp.zeros((3, 2), int)}, TypeError, "weights"),
        ({"visible_bias": jnp.zeros(2)}, ValueError, "visible_bias"),
        ({"hidden_bias": jnp.zeros(3)}, ValueError, "hidden_bias"),
        ({"log_sigma": jnp.zeros(())}, ValueError, "log_sigma"),
        ({"num_chains": 1}, ValueError, "num_chains"),
        ({"num_temperatures": 1}, ValueError, "num_temperatures"),
    ],
)
def test_ais_gaussian_rbm_errors(change, error, match):
    with pytest.raises(error, match=match):
        likelihood.ais_gaussian_rbm(KEY, **(random_rbm(0, 3, 2) | change))


@pytest.mark.parametrize(
    ("v", "error", "match"),
    [
        (jnp.zeros((4, 2)), ValueError, "v must"),
        (jnp.zeros((4, 3), int), TypeError, "v must"),
        (jnp.zeros((1, 3)), ValueError, "number of chains"),
    ],
)
def test_reverse_ais_gaussian_rbm_errors(v, error, match):
    with pytest.raises(error, match=match):
        likelihood.reverse_ais_gaussian_rbm(KEY, v, **random_rbm(0, 3, 2), num_temperatures=3)


# Continuous models


def gaussian_energy(dim, seed):
    """An energy with a random precision and mean, and its log Z."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(dim, dim)) / math.sqrt(dim) + np.eye(dim)
    precision = factor @ factor.T + 0.3 * np.eye(dim)
    mean = rng.normal(size=dim)
    log_z = dim / 2 * math.log(2 * math.pi) - 0.5 * np.linalg.slogdet(precision)[1] - 1.5
    precision, mean = jnp.asarray(precision, jnp.float32), jnp.asarray(mean, jnp.float32)
    return lambda x: 0.5 * (x - mean) @ precision @ (x - mean) + 1.5, log_z


def test_hmc_ais_of_a_gaussian_jitted_and_eager_without_retracing():
    energy, log_z = gaussian_energy(2, seed=2)

    def run(key):
        return likelihood.ais_hmc(
            key, energy=energy, base_mean=jnp.zeros(2), base_scale=2 * jnp.ones(2)
        )

    jitted = jax.jit(chex.assert_max_traces(run, n=1))
    for seed in range(3):
        result, acceptance = jitted(jax.random.key(seed))
        assert abs(float(result.log_partition) - log_z) < 0.05
        assert result.interval[0] < log_z < result.interval[1]
        assert float(np.diff(result.interval)[0]) < 0.1
        assert abs(float(acceptance) - 0.7) < 0.05
    chex.clear_trace_counter()
    eager, _ = run(jax.random.key(2))
    np.testing.assert_allclose(eager.log_partition, result.log_partition, atol=0.02)


def test_hmc_ais_of_a_mixture():
    weights, centres, scale = jnp.array([0.3, 0.7]), jnp.array([[-3.0, 1.0], [3.0, -1.0]]), 0.6

    def energy(x):
        quadratic = -0.5 * jnp.sum((x["v"][None] - centres) ** 2, 1) / scale**2
        return -jax.nn.logsumexp(quadratic + jnp.log(weights)) + 0.5 * jnp.sum((x["h"] / 0.5) ** 2)

    result, _ = likelihood.ais_hmc(
        KEY,
        energy=energy,
        base_mean={"v": jnp.zeros(2), "h": jnp.ones((1, 1))},
        base_scale={"v": jnp.full(2, 3.0), "h": jnp.ones((1, 1))},
        num_chains=1000,
        num_temperatures=300,
    )
    log_z = math.log(2 * math.pi * scale**2) + 0.5 * math.log(2 * math.pi) + math.log(0.5)
    assert abs(float(result.log_partition) - log_z) < 0.1
    assert result.interval[0] < log_z < result.interval[1]


def test_hmc_ais_of_a_latent_variable_model_in_20_dimensions_integrates_both():
    model = LinearGaussian(num_latents=6, coupling_init_scale=0.8)
    theta = model.init(KEY, jnp.zeros(14), jnp.zeros(6))
    bias = {"visible_bias": jnp.linspace(-1.0, 1.0, 14), "latent_bias": jnp.linspace(0.0, 1.0, 6)}
    theta = {"params": theta["params"] | bias}
    result, _ = likelihood.ais_hmc(
        KEY,
        energy=lambda x: model.apply(theta, *x),
        base_mean=(jnp.zeros(14), jnp.zeros(6)),
        base_scale=(jnp.full(14, 1.5), jnp.full(6, 1.5)),
        num_temperatures=500,
        num_leapfrog_steps=8,
    )
    log_z = float(model.apply(theta, method="log_partition"))
    assert abs(float(result.log_partition) - log_z) < 0.1
    assert result.interval[0] < log_z < result.interval[1]
    assert float(np.diff(result.interval)[0]) < 0.2


def test_mala_ais_is_unbiased_at_few_temperatures():
    energy, log_z = gaussian_energy(2, seed=7)
    run = partial(
        likelihood.ais_hmc,
        energy=energy,
        base_mean=jnp.zeros(2),
        base_scale=jnp.full(2, 2.0),
        num_chains=20,
        num_temperatures=6,
        num_leapfrog_steps=1,
    )
    replicates = 1000
    result, _ = jax.jit(jax.vmap(run))(jax.random.split(KEY, replicates))
    ratio = np.exp(np.asarray(result.log_partition) - log_z)
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(replicates) < 0.08


@pytest.mark.parametrize("outside", [-jnp.inf, jnp.nan])
def test_hmc_rejects_a_trajectory_without_density(outside):
    def log_density(z):
        return jnp.where(jnp.sum(z**2) < 1.0, -jnp.sum(z), outside)

    def evaluate(z):
        return Point(z, *jax.value_and_grad(lambda z: -log_density(z))(z))

    density = Density(evaluate, lambda point: -point.energy, lambda point: -point.gradient)
    start = evaluate(jnp.zeros(2))
    end, acceptance = hmc_step(KEY, start, density, 100.0, 3)
    chex.assert_trees_all_equal(end, start)
    assert float(acceptance) == 0.0


@pytest.mark.parametrize("num_leapfrog_steps", [1, 5])
def test_a_transition_evaluates_the_energy_once_a_leapfrog_step(num_leapfrog_steps):
    num_chains, num_temperatures, calls = 5, 7, []

    def energy(x):
        jax.debug.callback(lambda _: calls.append(1), x)
        return jnp.sum(x**2)

    likelihood.ais_hmc(
        KEY,
        energy=energy,
        base_mean=jnp.zeros(2),
        base_scale=jnp.ones(2),
        num_chains=num_chains,
        num_temperatures=num_temperatures,
        num_leapfrog_steps=num_leapfrog_steps,
    )
    jax.effects_barrier()
    of_pilot, of_chains = num_temperatures, num_temperatures - 1
    assert len(calls) == num_chains * (2 + (of_pilot + of_chains) * num_leapfrog_steps)


def test_hmc_ais_of_an_energy_with_a_bounded_support():
    """Uniform on [-1, 1]: chains that start outside weigh nothing, and the rest no less."""

    def energy(x):
        return jnp.where(jnp.all(jnp.abs(x) < 1.0), 0.0, jnp.inf)

    result, _ = likelihood.ais_hmc(
        KEY, energy=energy, base_mean=jnp.zeros(1), base_scale=jnp.ones(1), num_temperatures=30
    )
    assert jnp.isneginf(result.log_weights).any()
    assert result.interval[0] - 0.02 < math.log(2.0) < result.interval[1] + 0.02


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_ais_of_short_floats_is_done_in_single_precision(dtype):
    rbm = jax.tree.map(lambda x: x.astype(dtype), random_rbm(0, 3, 2))
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), rbm)
    v = jnp.zeros((50, 3), dtype)

    def both(rbm, v):
        return (
            likelihood.ais_gaussian_rbm(KEY, **rbm, num_chains=50, num_temperatures=5),
            likelihood.reverse_ais_gaussian_rbm(KEY, v, **rbm, num_temperatures=5),
        )

    chex.assert_trees_all_equal(both(rbm, v), both(wide, v.astype(jnp.float32)))
    narrow = [jnp.zeros(2, dtype), jnp.ones(2, dtype)]
    result, _ = likelihood.ais_hmc(
        KEY,
        energy=lambda x: jnp.sum(x**2),
        base_mean=narrow[0],
        base_scale=narrow[1],
        num_chains=20,
        num_temperatures=5,
    )
    assert result.log_partition.dtype == jnp.float32


def test_ais_draws_base_and_chains_by_different_keys():
    rbm, few = random_rbm(0, 3, 2), {"num_temperatures": 3}
    with jax.debug_key_reuse(True):
        forward = likelihood.ais_gaussian_rbm(jax.random.key(0), **rbm, **few, num_chains=4)
        v = jnp.zeros((4, 3))
        reverse = likelihood.reverse_ais_gaussian_rbm(jax.random.key(1), v, **rbm, **few)
        base = {"base_mean": jnp.zeros(2), "base_scale": jnp.ones(2)}
        hmc, _ = likelihood.ais_hmc(jax.random.key(2), energy=jnp.sum, **base, **few, num_chains=4)
    assert all(jnp.isfinite(x.log_partition) for x in (forward, reverse, hmc))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"base_mean": jnp.zeros(2, int)}, TypeError, "base_mean"),
        ({"base_mean": jnp.zeros(0), "base_scale": jnp.zeros(0)}, ValueError, "base_mean"),
        ({"base_scale": jnp.ones(2, int)}, TypeError, "base_scale"),
        ({"base_scale": jnp.ones(3)}, ValueError, "base_scale"),
        ({"base_scale": jnp.array([1.0, 0.0])}, ValueError, "base_scale must be above 0, got 0.0"),
        ({"energy": 3}, TypeError, "energy must be a function"),
        ({"base_scale": (jnp.ones(2),)}, ValueError, "base_scale"),
        ({"num_chains": 1}, ValueError, "num_chains"),
        ({"num_temperatures": 1}, ValueError, "num_temperatures"),
        ({"num_leapfrog_steps": 0}, ValueError, "num_leapfrog_steps"),
        ({"target_acceptance": 1.0}, ValueError, "target_acceptance"),
        ({"target_acceptance": 0.0}, ValueError, "target_acceptance"),
        ({"energy": lambda x: x}, ValueError, "energy"),
    ],
)
def test_ais_hmc_errors(change, error, match):
    arguments = {"energy": jnp.sum, "base_mean": jnp.zeros(2), "base_scale": jnp.ones(2)}
    with pytest.raises(error, match=match):
        likelihood.ais_hmc(KEY, **(arguments | change))
