"""The critic's estimate of the Fisher divergence against Gaussian closed forms."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jbism.stein import fisher_divergence
from tests import oracles

DIM = 3
KEY = jax.random.key(0)
FROZEN = optax.set_to_zero()  # the critic stays as it is given
HALF_WIDTH = 1.959964


def linear(params, v):
    return params["a"] @ v + params["b"]


LINEAR = {"a": jnp.zeros((DIM, DIM)), "b": jnp.zeros(DIM)}


def gaussians(scale=0.4):
    """Data N(0, Σ) through a square root L, the score of a model N(m, Λ⁻¹), and f* = Av + b."""
    keys = jax.random.split(KEY, 3)
    root = jnp.eye(DIM) + scale * jax.random.normal(keys[0], (DIM, DIM))
    m_root = jnp.eye(DIM) + scale * jax.random.normal(keys[1], (DIM, DIM))
    precision, mean = m_root @ m_root.T, jax.random.normal(keys[2], (DIM,))
    covariance = root @ root.T
    a, b = jnp.linalg.inv(covariance) - precision, precision @ mean
    divergence = 0.5 * jnp.trace(a @ covariance @ a.T) + 0.5 * b @ b
    return root, lambda key, v: (mean[None] - v) @ precision, {"a": a, "b": b}, divergence


ROOT, SCORE, BEST, TRUTH = gaussians()


def data(key, n):
    return jax.random.normal(key, (n, DIM)) @ ROOT.T


def rotation():
    return jnp.linalg.qr(jax.random.normal(jax.random.key(5), (DIM, DIM)))[0]


def sine(params, v):
    """sin(Rv): its Jacobian has entries off the diagonal."""
    return params * jnp.sin(rotation() @ v)


def shrunk(key, v):
    """The score of N(0, I/2)."""
    return -2.0 * v


def sine_objective():
    """E[f·s + tr ∇f - ½‖f‖²] of the two under N(0, I), by E cos z = E z sin z = e^{-½}."""
    trace = math.exp(-0.5) * float(jnp.trace(rotation()))
    return (1.0 - 2.0) * trace - DIM * (1.0 - math.exp(-2.0)) / 4.0


def frozen(key, v, **options):
    defaults = {
        "score": shrunk,
        "critic": sine,
        "critic_params": jnp.ones(()),
        "optimizer": FROZEN,
        "num_steps": 1,
        "batch_size": 50,
        "test_fraction": 0.6,
    }
    return fisher_divergence(key, v, **(defaults | options))


def fit(key, v, **options):
    defaults = {
        "score": SCORE,
        "critic": linear,
        "critic_params": LINEAR,
        "optimizer": optax.sgd(0.1),
        "num_steps": 20,
        "batch_size": 16,
        "validate_every": 5,
        "test_fraction": 0.2,
    }
    return fisher_divergence(key, v, **(defaults | options))


def standard_error(result):
    return float(result.interval[1] - result.value) / HALF_WIDTH


# The value


def test_linear_critic_reaches_the_divergence_of_gaussians():
    optimizer = optax.adam(optax.cosine_decay_schedule(0.03, 1500), b1=0.9, b2=0.95)
    options = {"optimizer": optimizer, "num_steps": 1500, "batch_size": 200, "patience": None}
    run = jax.jit(partial(fit, validate_every=500, evaluation_projections=None, **options))
    result = run(KEY, data(jax.random.key(1), 40_000))
    assert abs(float(result.value - TRUTH)) < 4.5 * standard_error(result)
    assert standard_error(result) < 0.03 * TRUTH
    oracles.assert_trees_close(result.critic_params, BEST, rtol=0.05, atol=0.1)


def test_value_of_a_fixed_critic_is_unbiased():
    v = jax.random.normal(jax.random.key(2), (20_021, DIM))
    variances = {}
    for number in (None, 1, 5):
        run = oracles.jit(partial(frozen, evaluation_projections=number, batch_size=1000))
        result = run(jax.random.key(3), v)
        error = standard_error(result)
        assert abs(float(result.value) - sine_objective()) < 4.5 * error
        variances[number] = error**2
    # The projections add their own variance, by their number.
    excess = [(variances[n] - variances[None]) / variances[None] for n in (1, 5)]
    assert excess[0] > 0.1
    assert 3.5 < excess[0] / excess[1] < 7.0


def test_interval_covers_as_often_as_it_says():
    def covers(key):
        key_v, key_split = jax.random.split(key)
        result = frozen(key_split, jax.random.normal(key_v, (200, DIM)), evaluation_projections=1)
        low, high = result.interval
        return (low < truth) & (truth < high)

    truth = sine_objective()
    covered = oracles.jit(jax.vmap(covers))(jax.random.split(jax.random.key(4), 600))
    assert abs(float(covered.mean()) - 0.95) < 4.5 * math.sqrt(0.95 * 0.05 / 600)


def test_value_is_a_lower_bound_where_the_critic_overfits():
    """Few points of the model itself, F = 0: above it on the points that were trained on."""

    def repeat(key):
        key_v, key_fit = jax.random.split(key)
        options = {"num_steps": 200, "batch_size": 30, "optimizer": optax.sgd(0.1)}
        v = jax.random.normal(key_v, (60, DIM))
        result = fit(key_fit, v, score=lambda key, v: -v, test_fraction=0.4, **options)
        return result.value, result.train_value

    keys = jax.random.split(jax.random.key(6), 200)
    value, train_value = map(np.asarray, oracles.jit(jax.vmap(repeat))(keys))
    errors = [x.std() / math.sqrt(len(x)) for x in (value, train_value)]
    assert value.mean() < -4.5 * errors[0]
    assert train_value.mean() > 4.5 * errors[1]


def test_noise_of_a_stochastic_score_averages_out():
    def noisy(key, v):
        return shrunk(key, v) + 3.0 * jax.random.normal(key, v.shape)

    v = jax.random.normal(jax.random.key(2), (10_000, DIM))
    run = oracles.jit(partial(frozen, score=noisy, batch_size=1000))
    result = run(jax.random.key(7), v)
    assert abs(float(result.value) - sine_objective()) < 4.5 * standard_error(result)


def test_events_of_any_shape_in_double_precision(x64):
    v = data(jax.random.key(8), 200).astype(float)
    options = {"evaluation_projections": None, "num_steps": 3, "batch_size": 10}
    params = oracles.to_float64(LINEAR)

    def column_score(key, v):
        return SCORE(key, v[..., 0])[..., None]

    def column_critic(params, v):
        return linear(params, v[:, 0])[:, None]

    flat = fit(KEY, v, critic_params=params, **options)
    columns = fit(
        KEY, v[..., None], score=column_score, critic=column_critic, critic_params=params, **options
    )
    assert flat.value.dtype == columns.value.dtype == jnp.float64
    # Values, not parameters: the projections of training are drawn in another order.
    oracles.assert_close(columns.validation_curve, flat.validation_curve, rtol=1e-12)


# The training


def test_patience_stops_and_the_best_critic_is_kept():
    v = data(jax.random.key(9), 300)
    away = optax.sgd(-0.05)  # from the second validation on, further from the best each time
    start = {"critic_params": BEST, "optimizer": away, "validate_every": 2}
    run = oracles.jit(partial(fit, num_steps=21, patience=3, **start))
    result = run(KEY, v)
    assert int(result.num_steps) == (1 + 3) * 2
    assert bool(result.stopped_early)
    curve = np.asarray(result.validation_curve)
    assert curve.shape == result.train_curve.shape == (11,)
    assert np.isfinite(curve[:4]).all()
    assert np.isnan(curve[4:]).all()
    assert (np.diff(curve[:4]) < 0).all()
    np.testing.assert_array_equal(result.validation_value, curve[0])
    first = oracles.jit(partial(fit, num_steps=2, **start))(KEY, v)
    assert not bool(first.stopped_early)
    oracles.assert_trees_close(result.critic_params, first.critic_params, rtol=1e-6)
    oracles.assert_close(result.value, first.value, rtol=1e-6)


def test_on_validation_hears_every_validation_and_the_last_step_is_one():
    v = data(jax.random.key(9), 300)
    heard = []

    def listen(*numbers):
        heard.append(tuple(map(float, numbers)))

    away = {"num_steps": 25, "optimizer": optax.sgd(-0.05), "critic_params": BEST, "patience": None}
    result = oracles.jit(partial(fit, validate_every=2, on_validation=listen, **away))(KEY, v)
    jax.effects_barrier()
    steps, train, validation = zip(*sorted(heard), strict=True)
    assert steps == (*range(2, 25, 2), 25)
    oracles.assert_close(train, result.train_curve)
    oracles.assert_close(validation, result.validation_curve)
    assert int(result.num_steps) == 25  # worse each time, yet not stopped
    assert validation[0] == max(validation)


def test_training_does_not_depend_on_when_it_is_validated():
    """The optimizer's moments and schedule go on over validations."""
    v = data(jax.random.key(9), 300)
    adam = optax.adam(optax.cosine_decay_schedule(0.1, 25))
    options = {"num_steps": 25, "optimizer": adam, "patience": None}
    often, once = (oracles.jit(partial(fit, validate_every=n, **options))(KEY, v) for n in (2, 25))
    oracles.assert_close(once.validation_curve[-1], often.validation_curve[-1], rtol=1e-4)


def test_a_pure_function_of_the_key_under_every_transformation():
    v = data(jax.random.key(11), 100)
    options = {"num_steps": 4, "validate_every": 2, "num_projections": 2}
    keys = jax.random.split(KEY, 2)
    run = oracles.jit(partial(fit, **options))
    loop = [run(key, v) for key in keys]
    jax.tree.map(np.testing.assert_array_equal, loop[0], run(keys[0], v))
    assert float(loop[0].value) != float(loop[1].value)
    oracles.assert_trees_close(fit(keys[0], v, **options), loop[0], rtol=1e-4, atol=1e-5)
    mapped = oracles.jit(jax.vmap(partial(fit, **options), in_axes=(0, None)))(keys, v)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *loop)
    oracles.assert_trees_close(mapped, stacked, rtol=1e-4, atol=1e-5)


# Bad input

V = data(jax.random.key(12), 20)
SMALL = {"num_steps": 2, "batch_size": 4}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"v": V[:, 0]}, ValueError, r"v must have shape \[batch, \*event\]"),
        ({"v": V.astype(int)}, TypeError, "v must have a floating dtype"),
        ({"num_steps": 0}, ValueError, "num_steps must be an integer >= 1"),
        ({"batch_size": 0}, ValueError, "batch_size must be an integer >= 1"),
        ({"batch_size": 15}, ValueError, "batch_size must be at most the 14 training points"),
        ({"num_projections": 0}, ValueError, "num_projections must be an integer >= 1"),
        ({"evaluation_projections": 0}, ValueError, "evaluation_projections must be an integer"),
        ({"validate_every": 0}, ValueError, "validate_every must be an integer >= 1"),
        ({"patience": 0}, ValueError, "patience must be an integer >= 1"),
        ({"validation_fraction": 1.0}, ValueError, r"validation_fraction must be in \(0, 1\)"),
        ({"validation_fraction": 0.02}, ValueError, "validation_fraction must leave at least 1"),
        ({"test_fraction": 0.0}, ValueError, "test_fraction must be a number > 0"),
        ({"test_fraction": 0.05}, ValueError, "test_fraction must leave at least 2 points"),
        (
            {"validation_fraction": 0.5, "test_fraction": 0.5},
            ValueError,
            r"validation_fraction \+ test_fraction must leave points to train on",
        ),
        ({"optimizer": 0.1}, TypeError, "optimizer must be GradientTransformation"),
        ({"on_validation": 3}, TypeError, "on_validation must be"),
        ({"score": lambda key, v: v[:, :2]}, ValueError, r"score\(key, v\) must have the shape"),
        ({"score": lambda key, v: v[0]}, ValueError, r"score\(key, v\) must have the shape of v"),
        ({"critic": lambda p, v: v[:2]}, ValueError, r"critic\(critic_params, v\) must have the"),
        ({"critic": lambda p, v: {"f": v}}, ValueError, r"critic\(critic_params, v\) must have"),
        ({"score": lambda key, v: v / jnp.zeros_like(v)}, ValueError, "score must be finite"),
        ({"v": V.at[3, 1].set(jnp.nan)}, ValueError, "v must be finite"),
        ({"critic": lambda p, v: linear(p, v) / 0.0}, ValueError, "critic must stay finite"),
    ],
)
def test_bad_input_names_the_argument(options, error, message):
    options = SMALL | options
    with pytest.raises(error, match=message):
        fit(KEY, options.pop("v", V), **options)


def test_scores_that_are_not_finite_give_nan_under_jit():
    run = oracles.jit(partial(fit, score=lambda key, v: v * jnp.nan, num_steps=50))
    result = run(KEY, data(KEY, 100))
    assert np.isnan(result.value)
    assert int(result.num_steps) == 5
    assert not bool(result.stopped_early)
