"""Step builders: what a step reports, averages and refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jbism.training import (
    Checkpointer,
    bilevel_step,
    contrastive_step,
    create_state,
    make_mesh,
    train_steps,
)
from tests import oracles

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


# Steps that carry Markov chains


def drift(theta, key, x):
    """A transition that shows how often it was taken: v grows by one."""
    return jax.tree.map(lambda leaf: leaf + 1.0, x)


def contrastive(**replaced):
    options = {
        "energy": lambda theta, v: theta * jnp.sum(v),
        "transition": drift,
        "num_steps": 2,
        "persistent": True,
        "theta_optimizer": SGD["theta_optimizer"],
    }
    return contrastive_step(**(options | replaced))


def chained_state(chains, phi=None):
    lower = {"phi_optimizer": optax.identity()} if phi is None else {}
    phi = {} if phi is None else phi
    return create_state(jax.random.key(0), jnp.float32(1.0), phi, **(SGD | lower), chains=chains)


def test_persistent_chains_by_hand():
    """E = θv and v⁻ ← v⁻ + 2 a step, so the gradient is mean v - mean v⁻."""
    step, state = jax.jit(contrastive()), chained_state(jnp.zeros((3, 1)))
    for expected in (2.0, 4.0):
        theta = float(state.theta)
        state, metrics = step(state, jnp.full((5, 1), 7.0))
        np.testing.assert_array_equal(state.chains, np.full((3, 1), expected))
        np.testing.assert_allclose(state.theta, theta - 0.1 * (7.0 - expected), rtol=1e-6)
        np.testing.assert_allclose(metrics["data_energy"], 7.0 * theta, rtol=1e-6)
        np.testing.assert_allclose(metrics["chain_energy"], expected * theta, rtol=1e-6)
        np.testing.assert_allclose(metrics["loss"], (7.0 - expected) * theta, rtol=1e-6)


def test_chains_that_start_at_the_data_leave_no_trace():
    state, metrics = contrastive(persistent=False)(chained_state(()), jnp.full((5, 1), 7.0))
    assert state.chains == ()
    assert float(metrics["chain_energy"]) == 9.0


def test_a_posterior_completes_the_data():
    """x = (v, φ): φ fits the data at the lower level and gets no derivative from the upper one."""
    step = contrastive(
        energy=lambda theta, x: theta * (jnp.sum(x[0]) + jnp.sum(x[1])),
        complete=lambda theta, phi, key, v: (v, jnp.broadcast_to(theta * phi, v.shape)),
        lower_loss=lower_loss,
        phi_optimizer=SGD["phi_optimizer"],
        num_lower_steps=1,
    )
    chains = (jnp.zeros((3, 1)), jnp.zeros((3, 1)))
    state, metrics = jax.jit(step)(chained_state(chains, jnp.float32(0.0)), jnp.full((5, 1), 7.0))
    assert float(state.phi) == 7.0  # 0 - 0.5 * 2 (0 - 7)
    np.testing.assert_allclose(state.theta, 1.0 - 0.1 * (14.0 - 4.0), rtol=1e-6)
    assert float(metrics["lower_loss"]) == 49.0
    for chain in state.chains:
        np.testing.assert_array_equal(chain, np.full((3, 1), 2.0))


def test_chains_survive_a_resumption_to_the_bit(tmp_path):
    def noisy(theta, key, v):
        return 0.9 * v + jax.random.normal(key, v.shape)

    run = train_steps(contrastive(transition=noisy), np.linspace(0.0, 1.0, 12)[:, None])
    indices = np.arange(12, dtype=np.int32).reshape(4, 3)

    def fresh():
        return chained_state(jnp.zeros((5, 1)))

    whole, _ = run(fresh(), indices)
    half, _ = run(fresh(), indices[:2])
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(half)
        resumed, _ = run(checkpointer.restore(fresh()), indices[2:])
    assert float(jnp.std(whole.chains)) > 0.0
    np.testing.assert_array_equal(resumed.chains, whole.chains)
    np.testing.assert_array_equal(resumed.theta, whole.theta)


@pytest.mark.parametrize(
    ("change", "chains", "error", "match"),
    [
        ({"num_steps": 0}, (), ValueError, "num_steps must be an integer >= 1, got 0"),
        ({}, (), ValueError, "persistent chains need a state that has some"),
        ({}, jnp.zeros((3, 2)), ValueError, "chains must be configurations shaped as those of x"),
        ({"lower_loss": lower_loss}, (), ValueError, "phi_optimizer must be given with lower_loss"),
        ({"phi_optimizer": optax.sgd(0.1)}, (), ValueError, "phi_optimizer must be given with low"),
        ({"num_lower_steps": 1}, (), ValueError, "num_lower_steps must be 0 without lower_loss"),
        ({}, jnp.zeros((3, 1), int), TypeError, "chains must have a floating dtype"),
    ],
)
def test_bad_chains_and_levels_are_named(change, chains, error, match):
    with pytest.raises(error, match=match):
        contrastive(**change)(chained_state(chains), jnp.ones((5, 1)))


def test_steps_over_pixels_in_memory_and_in_batches():
    """uint8 data are floats in [0, 1] where a step sees them, however they come."""
    data = np.arange(0, 240, 5, dtype=np.uint8).reshape(12, 4)
    rows = np.array([[0, 3], [11, 2], [5, 5]])
    state = create_state(jax.random.key(0), jnp.float32(0.0), jnp.float32(0.0), **SGD)

    def copy():
        return jax.tree.map(jnp.copy, state)

    step = build(lower_loss=lambda theta, phi, key, v: jnp.mean((v - phi) ** 2))
    floats = train_steps(step, data.astype(np.float32) / 255)(copy(), rows)
    pixels = train_steps(step, data)(copy(), rows)
    batches = train_steps(step)(copy(), data[rows])
    for other in (pixels, batches):
        assert oracles.tree_distance(other[0].phi, floats[0].phi) < 1e-7
        np.testing.assert_allclose(other[1]["lower_loss"], floats[1]["lower_loss"], rtol=1e-6)
    with pytest.raises(TypeError, match="data must have a floating dtype, got int32"):
        train_steps(step, data.astype(np.int32))
    with pytest.raises(ValueError, match="data must have a non-empty leading batch axis"):
        train_steps(step, data[:0])


@pytest.mark.parametrize("rows", [[[0, 4]], [[-1, 0]], [0, 1]])
def test_indices_have_to_be_of_rows(rows):
    run = train_steps(lambda state, v: (state, {}), jnp.arange(4.0))
    message = r"must have shape" if np.ndim(rows) == 1 else r"must be in \[0, 4\), the rows of data"
    for indices in (np.array(rows), jnp.array(rows)):
        with pytest.raises(ValueError, match=f"indices {message}"):
            run(jnp.zeros(()), indices)


def test_a_step_may_be_mapped_over_seeds():
    """Each seed takes batches of its own from the same data."""

    def step(state, v):
        return state + v.sum(), {"sum": v.sum()}

    rows = np.random.default_rng(0).integers(4, size=(3, 2, 5))
    state, metrics = train_steps(jax.vmap(step), jnp.arange(4.0))(jnp.zeros(2), rows)
    np.testing.assert_array_equal(state, rows.sum((0, 2)))
    np.testing.assert_array_equal(metrics["sum"], rows.sum(2))


def test_a_mesh_is_no_layout():
    with pytest.raises(TypeError, match="layout must be DataParallel, got Mesh"):
        train_steps(lambda state, v: (state, {}), jnp.arange(4.0), layout=make_mesh(1))
