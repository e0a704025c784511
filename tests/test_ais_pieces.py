"""Annealed importance sampling in pieces against the same uncut, to the bit, and in one call."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbism import likelihood

KEY = jax.random.key(0)
V = jax.random.normal(jax.random.key(1), (12, 3))
RBM = {
    "weights": jnp.array([[1.0, -0.5], [0.3, 0.8], [-0.7, 0.2]]),
    "visible_bias": jnp.array([0.1, -0.2, 0.3]),
    "hidden_bias": jnp.array([0.5, -0.4]),
    "log_sigma": jnp.array([0.0, 0.1, -0.1]),
}
NUM_STEPS = 11
SIZES = {"num_chains": 12, "num_temperatures": NUM_STEPS + 1}


def quartic(x):
    return jnp.sum(x["v"] ** 4) + jnp.sum((x["h"] - x["v"][:1]) ** 2)


HMC = {
    "energy": quartic,
    "base_mean": {"v": jnp.zeros(2), "h": jnp.zeros(1)},
    "base_scale": {"v": jnp.ones(2), "h": jnp.ones(1)},
    "num_leapfrog_steps": 2,
}
WALKED = {"num_temperatures": NUM_STEPS + 1}
KINDS = {  # in pieces, in one call
    "forward": (
        partial(likelihood.ais_gaussian_rbm_pieces, **RBM, **SIZES),
        partial(likelihood.ais_gaussian_rbm, **RBM, **SIZES),
    ),
    "chunks of chains": (
        partial(likelihood.ais_gaussian_rbm_pieces, **RBM, **SIZES, chunk_size=4),
        partial(likelihood.ais_gaussian_rbm, **RBM, **SIZES, chunk_size=4),
    ),
    "reverse": (
        partial(likelihood.reverse_ais_gaussian_rbm_pieces, V, **RBM, **WALKED),
        partial(likelihood.reverse_ais_gaussian_rbm, v=V, **RBM, **WALKED),
    ),
    "hmc": (
        partial(likelihood.ais_hmc_pieces, **HMC, **SIZES),
        partial(likelihood.ais_hmc, **HMC, **SIZES),
    ),
}


def same(left, right):
    """Equal to the bit; keys by their data."""
    chex.assert_trees_all_equal_structs(left, right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_wherever_a_run_is_cut_it_is_the_same_to_the_bit(kind):
    make, in_one_call = KINDS[kind]
    pieces, again = make(), make()  # as by another process
    start = jax.jit(pieces.init)(KEY)
    advance = jax.jit(pieces.advance)
    uncut = advance(start, NUM_STEPS)
    assert uncut.step == NUM_STEPS
    assert (jax.tree.leaves(uncut.chains)[0] != jax.tree.leaves(start.chains)[0]).any()
    state = start
    for length in (1, 4, 0, 3):
        state = advance(state, length)
    state = jax.jit(again.advance)(state, 100)
    same(state, uncut)
    result = jax.jit(again.finish)(state)
    same(result, jax.jit(pieces.finish)(uncut))
    assert len(np.unique(jax.tree.leaves(result)[1])) == 12
    chex.assert_trees_all_close(result, jax.jit(in_one_call)(KEY), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_eager_pieces_are_the_eager_one_call(kind):
    make, in_one_call = KINDS[kind]
    pieces = make()
    state = pieces.advance(pieces.init(KEY), 5)
    result = pieces.finish(pieces.advance(state, 6))
    chex.assert_trees_all_close(result, in_one_call(KEY), rtol=1e-5, atol=1e-5)


def test_pieces_are_compiled_once():
    pieces = likelihood.ais_gaussian_rbm_pieces(**RBM, **SIZES)
    advance = jax.jit(chex.assert_max_traces(pieces.advance, n=1))
    state = pieces.init(KEY)
    for length in (2, 5, 1):
        state = advance(state, length)
    assert state.step == 8
    chex.clear_trace_counter()


def test_a_cut_path_of_any_densities_goes_on_where_it_was():
    betas = jnp.linspace(0.0, 1.0, 8)
    run = partial(
        likelihood.annealed_importance_sampling,
        KEY,
        log_density=lambda x, beta: -0.5 * x**2 - beta * x**4,
        transition=lambda key, x, beta: 0.9 * x + (0.1 + beta) * jax.random.normal(key),
    )
    whole = run(V[:, 0], betas=betas)
    log_weights, x = run(V[:, 0], betas=betas[:4])
    rest = run(x, betas=betas[3:], start=3, log_weights=log_weights)
    same(rest, whole)
    traced = jax.jit(lambda start: run(x, betas=betas[3:], start=start, log_weights=log_weights))
    same(traced(3), whole)
    # Neither is there for nothing.
    assert (run(x, betas=betas[3:], log_weights=log_weights)[1] != whole[1]).any()
    assert (run(x, betas=betas[3:], start=3)[0] != whole[0]).any()


def test_the_whole_of_hmc_is_differentiable():
    def log_partition(scale):
        options = HMC | {"energy": lambda x: scale * quartic(x)}
        return likelihood.ais_hmc(KEY, **options, **SIZES)[0].log_partition

    gradient = jax.jit(jax.grad(log_partition))(1.0)
    assert jnp.isfinite(gradient)
    assert gradient < 0.0  # more energy, less Z


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda p, s: p.advance(s, -1), ValueError, "num_steps must be an integer >= 0, got -1"),
        (lambda p, s: p.advance(s, 1.0), TypeError, "num_steps must be an integer"),
        (lambda p, s: p.finish(s), ValueError, "state must have done 11 steps, got 0"),
        (lambda p, s: p.finish(p.advance(s, 10)), ValueError, "got 10"),
    ],
)
def test_pieces_errors(call, error, match):
    pieces = likelihood.ais_gaussian_rbm_pieces(**RBM, **SIZES)
    with pytest.raises(error, match=match):
        call(pieces, pieces.init(KEY))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"start": -1}, ValueError, "start"),
        ({"start": 1.0}, TypeError, "start"),
        ({"log_weights": jnp.zeros(2)}, ValueError, "log_weights"),
        ({"log_weights": jnp.zeros(3, int)}, TypeError, "log_weights"),
    ],
)
def test_cut_path_errors(change, error, match):
    with pytest.raises(error, match=match):
        likelihood.annealed_importance_sampling(
            KEY,
            jnp.zeros(3),
            log_density=lambda x, beta: beta * x,
            transition=lambda key, x, beta: x,
            betas=jnp.linspace(0.0, 1.0, 3),
            **change,
        )
