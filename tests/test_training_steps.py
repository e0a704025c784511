"""Step builders: what a step reports, averages and refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jbism.training import bilevel_step, create_state, train_steps

SGD = {"theta_optimizer": optax.sgd(0.1), "phi_optimizer": optax.sgd(0.5)}


def upper_loss(theta, phi, phi_opt_state, key, v):
    return jnp.sum((theta - phi) ** 2), {}


def lower_loss(theta, phi, key, v):
    return jnp.mean((v - phi) ** 2)


def build(**replaced):
    options = {"upper_loss": upper_loss, "lower_loss": lower_loss, "num_lower_steps": 1, **SGD}
    return bilevel_step(**(options | replaced))


def test_one_step_by_hand():
    state = create_state(jax.random.key(0), jnp.float32(0.0), jnp.float32(0.0), **SGD)
    state, metrics = jax.jit(build(ema_decay=0.75))(state, jnp.ones(4))
    assert float(state.phi) == 1.0  # 0 - 0.5 * 2 (0 - 1)
    assert float(metrics["loss"]) == 1.0
    np.testing.assert_allclose(state.theta, 0.2, rtol=1e-6)  # 0 - 0.1 * 2 (0 - 1)
    np.testing.assert_allclose(state.ema, 0.05, rtol=1e-6)  # a quarter of the way
    assert float(metrics["grad_norm"]) == float(metrics["lower_grad_norm"]) == 2.0
    assert float(metrics["lower_loss"]) == 1.0


def test_the_average_of_short_floats_does_not_stand_still():
    state = create_state(jax.random.key(0), jnp.bfloat16(0.0), jnp.float32(0.0), **SGD)
    step = build(upper_loss=lambda theta, *_: (-theta.astype(jnp.float32), {}))
    for _ in range(3):
        state, _ = jax.jit(step)(state, jnp.ones(2))
    assert state.theta.dtype == jnp.bfloat16
    # θ is 0.1, 0.2, 0.3 and the decay 0.999.
    expected = 0.001 * (0.1 * 0.999**2 + 0.2 * 0.999 + 0.3)
    np.testing.assert_allclose(state.ema, expected, rtol=0.02)


def test_metrics_of_the_upper_loss_may_not_hide_the_loss():
    step = build(upper_loss=lambda theta, *_: (theta, {"loss": theta}))
    state = create_state(jax.random.key(0), jnp.float32(0.0), jnp.float32(0.0), **SGD)
    with pytest.raises(ValueError, match="upper_loss must not return metrics"):
        step(state, jnp.ones(2))


def test_steps_one_by_one_equal_steps_in_one_call():
    run = train_steps(build(), np.arange(12.0, dtype=np.float32))
    indices = np.arange(12, dtype=np.int32).reshape(4, 3)

    def fresh():
        return create_state(jax.random.key(0), jnp.float32(0.0), jnp.float32(0.0), **SGD)

    together, metrics = run(fresh(), indices)
    state, losses = fresh(), []
    for rows in indices:
        state, one = run(state, rows[None])
        losses.append(one["loss"])
    assert float(state.theta) == float(together.theta)
    assert int(state.step) == int(together.step) == 4
    np.testing.assert_array_equal(np.concatenate(losses), metrics["loss"])
