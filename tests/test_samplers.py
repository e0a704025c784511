"""Samplers against enumeration, the exact law of a discretised Gaussian, and themselves."""

from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jbism import samplers
from jbism.distributions import Bernoulli, Normal
from jbism.likelihood import enumerate_binary
from tests import oracles

KEY = jax.random.key(0)
W = jnp.array([[1.0, -2.0, 0.5], [0.5, 1.0, -1.5]])
B = jnp.array([0.3, -0.2])
C = jnp.array([-0.5, 0.2, 0.4])
LOG_SIGMA = jnp.log(jnp.array([0.8, 1.2]))


def hidden(v):
    return Bernoulli(C + v @ W)


def visible(h):
    return Normal(B + jnp.exp(2 * LOG_SIGMA) * (W @ h), LOG_SIGMA)


gibbs = partial(samplers.block_gibbs, hidden_given_visible=hidden, visible_given_hidden=visible)


class Point(NamedTuple):
    """A distribution of one value, to follow a chain by hand."""

    value: jax.Array

    def sample(self, key):
        return self.value


# Block Gibbs


def test_gibbs_leaves_the_enumerated_joint_invariant():
    wh = enumerate_binary(3) @ W.T
    quadratic = 0.5 * jnp.sum((wh * jnp.exp(LOG_SIGMA)[None]) ** 2, 1)
    probability = np.asarray(jax.nn.softmax(enumerate_binary(3) @ C + wh @ B + quadratic))
    n = 20_000

    def z_scores(num_steps):
        v, h = gibbs(KEY, jnp.full((n, 2), -4.0), num_steps=num_steps)
        row = np.asarray(h @ jnp.array([4.0, 2.0, 1.0])).astype(int)
        count = np.bincount(row, minlength=8)
        return v, h, (count - n * probability) / np.sqrt(n * probability * (1 - probability))

    v, h, z = z_scores(40)
    assert np.abs(z).max() < 4.0
    assert np.abs(z_scores(1)[2]).max() > 10.0  # far from the start, so the chains did mix
    # The returned h is the one that v was drawn from: the residual is N(0, 1) given any h.
    residual = (v - jax.vmap(lambda h: visible(h).mean)(h)) / jnp.exp(LOG_SIGMA)[None]
    for j in range(3):
        for on in (0.0, 1.0):
            chosen = np.asarray(residual)[np.asarray(h[:, j] == on)]
            assert np.abs(chosen.mean(0) * np.sqrt(len(chosen))).max() < 4.0
            assert np.abs((chosen.var(0) - 1) * np.sqrt(len(chosen) / 2)).max() < 4.0


def test_gibbs_draws_the_hidden_first_and_returns_the_pair():
    v, h = samplers.block_gibbs(
        KEY,
        jnp.zeros((2, 1)),
        hidden_given_visible=lambda v: Point({"a": v + 1.0}),
        visible_given_hidden=lambda h: Point(2.0 * h["a"]),
        num_steps=2,
    )
    assert h["a"].tolist() == [[3.0], [3.0]]
    assert v.tolist() == [[6.0], [6.0]]


def test_gibbs_chains_and_steps_have_their_own_noise():
    v, _ = gibbs(KEY, jnp.zeros((50, 2)), num_steps=1)
    v_later, _ = gibbs(KEY, jnp.zeros((50, 2)), num_steps=2)
    values = np.concatenate([v, v_later]).ravel()
    assert len(np.unique(values)) == values.size


def test_gibbs_jit_is_eager_and_does_not_retrace():
    def run(key, v):
        return gibbs(key, v, num_steps=3)

    jitted = jax.jit(chex.assert_max_traces(run, n=1))
    for seed in range(2):
        key, v = jax.random.key(seed), jnp.full((7, 2), float(seed))
        result = jitted(key, v)
    with jax.disable_jit():
        chex.assert_trees_all_close(run(key, v), result, rtol=1e-5, atol=1e-6)
    chex.clear_trace_counter()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"num_steps": 0}, ValueError, "num_steps"),
        ({"num_steps": 1.5}, TypeError, "num_steps"),
        ({"v": jnp.zeros((0, 2))}, ValueError, "v must have a non-empty"),
        ({"v": jnp.zeros((3, 2), int)}, TypeError, "v must have a floating"),
        ({"visible_given_hidden": Point}, ValueError, "visible_given_hidden"),
    ],
)
def test_gibbs_errors(change, error, match):
    arguments = {"v": jnp.zeros((3, 2)), "num_steps": 2} | change
    with pytest.raises(error, match=match):
        gibbs(KEY, **arguments)


# Langevin


def test_langevin_has_the_stationary_variance_of_its_discretisation():
    scale, step, temperature, n = np.array([0.6, 1.0, 3.0]), 1.0, 2.0, 20_000

    def energy(x):
        return 0.5 * jnp.sum((x / jnp.asarray(scale, x.dtype)) ** 2)

    x = samplers.langevin(
        KEY, jnp.zeros((n, 3)), jnp.full(150, temperature), energy=energy, step_size=step
    )
    # AR(1) with coefficient a = 1 - η²/(2s²) and noise T η²
    exact = temperature * step**2 / (1 - (1 - step**2 / (2 * scale**2)) ** 2)
    np.testing.assert_allclose(exact, temperature * scale**2 / (1 - step**2 / (4 * scale**2)))

    def z(variance):
        return (np.asarray(x).var(0) / variance - 1) * np.sqrt(n / 2)

    assert np.abs(z(exact)).max() < 4.0
    assert np.abs(z(temperature * scale**2)).min() > 2.0  # the bias of η is visible
    assert np.abs(np.asarray(x).mean(0) / np.sqrt(exact / n)).max() < 4.0


def test_langevin_mean_follows_the_gradient_downhill():
    start, step, n = 5.0, 0.5, 40_000
    x = samplers.langevin(
        KEY,
        jnp.full((n, 1), start),
        jnp.ones(4),
        energy=lambda x: 0.5 * jnp.sum(x**2),
        step_size=step,
    )
    a = 1 - step**2 / 2
    variance = step**2 * sum(a ** (2 * i) for i in range(4))
    assert abs(float(x.mean()) - a**4 * start) < 4.0 * np.sqrt(variance / n)
    assert abs(float(x.var()) / variance - 1) < 4.0 * np.sqrt(2 / n)


def test_langevin_uses_each_temperature_in_its_place():
    x = samplers.langevin(
        KEY,
        jnp.zeros((2000, 1)),
        jnp.array([100.0, 0.0]),
        energy=lambda x: 0.5 * jnp.sum(x**2),
        step_size=1.0,
    )
    assert abs(float(x.var()) / 25.0 - 1) < 4.0 * np.sqrt(2 / 2000)  # (½ · 10 ξ), no noise after


def quartic(theta, v, h):
    return jnp.sum(theta * (v - 1.0) ** 4) + jnp.sum((v[:2] - h["a"]) ** 2) + jnp.sum(h["b"] ** 2)


THETA = jnp.array([0.5, 1.0, 2.0])
V = jax.random.normal(jax.random.key(1), (6, 3))
H = {"a": jnp.ones((6, 2)), "b": jnp.zeros((6, 2, 2))}
MISSING = jnp.arange(18).reshape(6, 3) % 2 == 0
TEMPERATURES = jnp.linspace(2.0, 0.5, 8)
LANGEVIN = {
    "joint": partial(samplers.langevin_joint, energy=quartic, step_size=0.3),
    "visible": partial(samplers.langevin_visible, energy=quartic, step_size=0.3),
    "hidden": partial(samplers.langevin_hidden, energy=quartic, step_size=0.3),
    "inpaint": lambda key, theta, v, h, temperatures, **options: samplers.langevin_inpaint(
        key, theta, v, h, MISSING[: len(v)], temperatures, energy=quartic, step_size=0.3, **options
    ),
}
langevin_rows = pytest.mark.parametrize("name", list(LANGEVIN))


def as_pair(name, result, v, h):
    """The (v, h) that a sampler's result continues from."""
    return {"visible": (result, h), "hidden": (v, result)}.get(name, result)


@langevin_rows
def test_langevin_in_pieces_is_the_whole_run_bit_for_bit(name):
    def run(*arguments, start):
        return LANGEVIN[name](*arguments, start=start)

    jitted = jax.jit(chex.assert_max_traces(run, n=2))  # the whole, and a half wherever it starts
    whole = jitted(KEY, THETA, V, H, TEMPERATURES, start=3)
    v, h = as_pair(name, jitted(KEY, THETA, V, H, TEMPERATURES[:4], start=3), V, H)
    second = jitted(KEY, THETA, v, h, TEMPERATURES[4:], start=7)
    chex.assert_trees_all_equal(second, whole)
    elsewhere = jitted(KEY, THETA, v, h, TEMPERATURES[4:], start=0)
    pairs = zip(jax.tree.leaves(elsewhere), jax.tree.leaves(whole), strict=True)
    assert not any(np.array_equal(a, b) for a, b in pairs)
    chex.clear_trace_counter()


@langevin_rows
def test_langevin_jitted_over_chains_is_eager_chain_by_chain(name):
    # Sharing one noise makes a chain alone and the same chain among others comparable.
    run = partial(LANGEVIN[name], shared_noise=True)
    together = jax.jit(run)(KEY, THETA, V, H, TEMPERATURES[:3])
    alone = run(KEY, THETA, V[:1], jax.tree.map(lambda x: x[:1], H), TEMPERATURES[:3])
    first = jax.tree.map(lambda x: x[:1], together)
    chex.assert_trees_all_close(alone, first, rtol=1e-5, atol=1e-6)


def test_langevin_moves_what_it_names_along_the_gradient_of_each_example():
    options = {"temperatures": jnp.zeros(1), "energy": quartic}
    v_new = samplers.langevin_visible(KEY, THETA, V, H, step_size=0.3, **options)
    h_new = samplers.langevin_hidden(KEY, THETA, V, H, step_size=0.2, **options)
    for i in range(len(V)):
        h = jax.tree.map(lambda x, i=i: x[i], H)
        g_v, g_h = jax.grad(quartic, (1, 2))(THETA, V[i], h)
        np.testing.assert_allclose(v_new[i], V[i] - 0.045 * g_v, rtol=1e-5, atol=1e-6)
        for name in h:
            expected = h[name] - 0.02 * g_h[name]
            np.testing.assert_allclose(h_new[name][i], expected, rtol=1e-5, atol=1e-6)
    # Together, with a step size each: the same moves, for both gradients are at the old point.
    joint = samplers.langevin_joint(KEY, THETA, V, H, step_size=(0.3, 0.2), **options)
    chex.assert_trees_all_close(joint, (v_new, h_new), rtol=1e-6)


def test_langevin_joint_is_langevin_of_the_pair():
    generic = samplers.langevin(
        KEY, (V, H), TEMPERATURES, energy=lambda x: quartic(THETA, *x), step_size=0.3
    )
    joint = LANGEVIN["joint"](KEY, THETA, V, H, TEMPERATURES)
    chex.assert_trees_all_close(joint, generic, rtol=1e-5, atol=1e-6)


def test_langevin_noise_is_fresh_for_every_leaf_chain_and_step_unless_shared():
    x = {"a": jnp.zeros((4, 3)), "b": jnp.zeros((4, 3))}

    def flat(x):
        return 0.0 * (jnp.sum(x["a"]) + jnp.sum(x["b"]))

    run = partial(samplers.langevin, KEY, x, energy=flat, step_size=0.5)
    one, two = run(jnp.ones(1)), run(jnp.ones(2))
    noise = np.concatenate([one["a"], one["b"], two["a"] - one["a"], two["b"] - one["b"]]).ravel()
    assert len(np.unique(noise)) == noise.size
    shared = run(jnp.ones(1), shared_noise=True)
    for leaf in shared.values():
        assert len(np.unique(leaf)) == 3
        np.testing.assert_array_equal(leaf, jnp.broadcast_to(leaf[:1], leaf.shape))
    # Unit noise times η, over many entries
    wide = {"a": jnp.zeros((1, 20_000)), "b": jnp.zeros((1, 1))}
    options = {"energy": flat, "step_size": 0.5, "shared_noise": True}
    noise = samplers.langevin(KEY, wide, jnp.ones(1), **options)
    assert abs(float(noise["a"].var()) / 0.25 - 1) < 4.0 * np.sqrt(2 / 20_000)


def test_inpainting_samples_the_conditional_and_keeps_what_is_observed():
    precision = jnp.array([[1.0, 0.6, 0.3], [0.6, 1.2, -0.4], [0.3, -0.4, 0.9]])

    def energy(theta, v, h):
        x = jnp.concatenate([v, h])
        return 0.5 * x @ theta @ x

    n, step = 20_000, 0.2
    v = jnp.concatenate([jnp.zeros((n, 1)), jnp.full((n, 1), 2.0)], 1)
    missing = jnp.broadcast_to(jnp.array([[True, False]]), v.shape)
    v, h = samplers.langevin_inpaint(
        KEY, precision, v, jnp.zeros((n, 1)), missing, jnp.ones(600), energy=energy, step_size=step
    )
    assert bool(jnp.all(v[:, 1] == 2.0))
    # (v₀, h) given v₁ = 2: AR(1) with fixed point P_ff⁻¹(-P_fo 2) and a known stationary covariance
    free = np.asarray(precision)[np.ix_([0, 2], [0, 2])]
    mean = np.linalg.solve(free, -2.0 * np.asarray(precision)[[0, 2], 1])
    covariance = np.linalg.inv(free @ (np.eye(2) - step**2 * free / 4))
    x = np.stack([v[:, 0], h[:, 0]], 1)
    variance = np.diag(covariance)
    assert np.abs((x.mean(0) - mean) / np.sqrt(variance / n)).max() < 4.0
    assert np.abs((x.var(0) / variance - 1) * np.sqrt(n / 2)).max() < 4.0


@pytest.mark.parametrize("step", [0.2, 1.2])  # less and more than the noise
def test_inpainting_under_noise_has_the_observed_entries_move_about_their_values(step):
    precision = np.array([[1.0, 0.6, 0.3], [0.6, 1.2, -0.4], [0.3, -0.4, 0.9]])
    n, sigma, temperature, seen = 20_000, 0.5, 1.7, 2.0

    def energy(theta, v, h):
        x = jnp.concatenate([v, h])
        return 0.5 * x @ theta @ x

    observed = jnp.concatenate([jnp.zeros((n, 1)), jnp.full((n, 1), seen)], 1)
    missing = jnp.broadcast_to(jnp.array([[True, False]]), observed.shape)
    v, h = observed, jnp.zeros((n, 1))
    temperatures = jnp.full(300, temperature)
    for start in (0, 300):  # goes on from where it was, the values beside it
        v, h = samplers.langevin_inpaint(
            KEY,
            jnp.asarray(precision),
            v,
            h,
            missing,
            temperatures,
            energy=energy,
            step_size=step,
            observed=observed,
            noise_scale=sigma,
            start=start,
        )
    # x <- x - step²/2 (P x)₀₂ + sqrt(T) step xi, with v₁ by its own exact autoregression.
    kept = np.exp(-0.5 * (step / sigma) ** 2)
    contraction = np.eye(3) - step**2 / 2 * precision
    contraction[1] = [0.0, kept, 0.0]
    mean = np.linalg.solve(np.eye(3) - contraction, [0.0, (1 - kept) * seen, 0.0])
    np.testing.assert_allclose(mean[1], seen)
    noise = temperature * np.array([step**2, sigma**2 * (1 - kept**2), step**2])
    covariance = scipy.linalg.solve_discrete_lyapunov(contraction, np.diag(noise))
    x = np.stack([v[:, 0], v[:, 1], h[:, 0]], 1)
    variance = np.diag(covariance)
    np.testing.assert_allclose(variance[1], sigma**2 * temperature)
    assert np.abs((x.mean(0) - mean) / np.sqrt(variance / n)).max() < 4.0
    assert np.abs((x.var(0) / variance - 1) * np.sqrt(n / 2)).max() < 4.0


def test_inpainting_under_noise_ends_at_the_values_as_the_temperature_falls():
    missing = jnp.zeros(V.shape, bool)
    v, _ = samplers.langevin_inpaint(
        KEY,
        THETA,
        V + 1.0,
        H,
        missing,
        jnp.zeros(100),
        energy=quartic,
        step_size=0.1,
        observed=V,
        noise_scale=0.1,
    )
    np.testing.assert_allclose(v, V, atol=1e-5)


@pytest.mark.parametrize(
    "option", [{"observed": jnp.zeros((1, 9))}, {"noise_scale": -1.0}], ids=lambda o: next(iter(o))
)
def test_inpainting_under_noise_errors(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        LANGEVIN["inpaint"](KEY, THETA, V, H, TEMPERATURES, **option)


def test_inpainting_refuses_a_traced_noise_scale():
    def run(sigma):
        return LANGEVIN["inpaint"](KEY, THETA, V, H, TEMPERATURES, noise_scale=sigma)

    with pytest.raises(TypeError, match="noise_scale must be a number, got the traced"):
        jax.jit(run)(0.1)


def test_inpainting_takes_observed_values_in_the_dtype_of_the_chains():
    v, h = V.astype(jnp.bfloat16), jax.tree.map(lambda x: x.astype(jnp.bfloat16), H)
    v_new, _ = LANGEVIN["inpaint"](KEY, THETA, v, h, TEMPERATURES, observed=V, noise_scale=0.1)
    assert v_new.dtype == jnp.bfloat16


def test_langevin_keeps_the_dtype_of_mixed_precision(x64):
    x = (jnp.ones((2, 3), jnp.float32), jnp.ones((2, 1), jnp.float64))
    out = samplers.langevin(
        KEY, x, jnp.ones(3), energy=lambda x: jnp.sum(x[0] ** 2) + jnp.sum(x[1]), step_size=0.1
    )
    assert [leaf.dtype for leaf in out] == [jnp.float32, jnp.float64]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"step_size": 0.0}, ValueError, "step_size"),
        ({"step_size": (0.1, 0.1)}, ValueError, "step_size"),
        ({"start": -1}, ValueError, "start"),
        ({"start": 0.5}, TypeError, "start"),
        ({"start": jnp.zeros(())}, TypeError, "start"),
        ({"start": jnp.zeros(2, int)}, ValueError, "start"),
        ({"temperatures": jnp.ones((2, 2))}, ValueError, "temperatures"),
        ({"x": jnp.ones((2, 1), int)}, TypeError, "x must have a floating"),
        ({"x": (jnp.ones((2, 1)), jnp.ones((3, 1)))}, ValueError, "one chain axis"),
        ({"x": ()}, ValueError, "one chain axis"),
        ({"energy": lambda x: x}, ValueError, "energy"),
    ],
)
def test_langevin_errors(change, error, match):
    arguments = {
        "x": jnp.ones((2, 1)),
        "temperatures": jnp.ones(2),
        "energy": lambda x: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(x)),
        "step_size": 0.1,
    }
    with pytest.raises(error, match=match):
        samplers.langevin(KEY, **(arguments | change))


@pytest.mark.parametrize(
    ("missing", "error"), [(jnp.ones((6, 2), bool), ValueError), (jnp.ones((6, 3)), TypeError)]
)
def test_inpainting_errors(missing, error):
    with pytest.raises(error, match="missing"):
        samplers.langevin_inpaint(
            KEY, THETA, V, H, missing, TEMPERATURES, energy=quartic, step_size=0.1
        )


def test_latent_langevin_refuses_an_energy_that_is_not_scalar():
    with pytest.raises(ValueError, match="energy"):
        samplers.langevin_visible(
            KEY, THETA, V, H, TEMPERATURES, energy=lambda theta, v, h: v, step_size=0.1
        )


# Interpolation: chains that differ in h alone


def test_chains_of_equal_latents_and_shared_noise_are_equal():
    h = H | {"a": H["a"].at[1::2].set(3.0)}
    v = samplers.langevin_visible(
        KEY,
        THETA,
        jnp.broadcast_to(V[:1], V.shape),
        h,
        TEMPERATURES,
        energy=quartic,
        step_size=0.3,
        shared_noise=True,
    )
    for same in (v[0::2], v[1::2]):
        np.testing.assert_array_equal(same, jnp.broadcast_to(same[:1], same.shape))
    # The energy couples h with v₀ and v₁ only.
    assert np.all(v[0, :2] != v[1, :2])
    assert v[0, 2] == v[1, 2]


# Frames


@pytest.mark.parametrize(
    ("name", "every"), [("joint", 3), ("visible", 3), ("hidden", 3), ("inpaint", 3), ("joint", 1)]
)
def test_frames_are_shorter_runs_and_change_nothing(name, every):
    def chain(x, temperatures, start):
        return as_pair(name, LANGEVIN[name](KEY, THETA, *x, temperatures, start=start), *x)

    def watched(x, start):
        return samplers.record(chain, x, TEMPERATURES, every=every, start=start)

    last, frames = oracles.jit(watched)((V, H), 3)
    step, x, expected = oracles.jit(chain), (V, H), []
    for i in range(8):
        x = step(x, TEMPERATURES[i : i + 1], 3 + i)
        expected += [x] if (i + 1) % every == 0 else []
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected)
    # Compiled in loops of another length, the same steps round otherwise.
    chex.assert_trees_all_close((last, frames), (x, expected), rtol=1e-5, atol=1e-6)


def test_frames_are_what_is_observed_and_carry_derivatives(x64):
    def chain(x, temperatures, start):
        return samplers.langevin(
            KEY,
            x,
            temperatures,
            energy=lambda x: 0.5 * jnp.sum(x**2),
            step_size=1.0,
            start=start,
        )

    def frames(x):
        return samplers.record(chain, x, jnp.zeros(7), every=3, observe=lambda x: x.sum(0))[1]

    x = jnp.array([[1.0], [2.0]])
    np.testing.assert_array_equal(frames(x), [[3 * 0.5**3], [3 * 0.5**6]])
    derivatives = jax.jacobian(frames)(x)  # [frame, 1, chain, 1]
    np.testing.assert_array_equal(derivatives[:, 0, :, 0], [[0.5**3] * 2, [0.5**6] * 2])


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"every": 0}, ValueError, "every must be an integer >= 1"),
        ({"every": 1.5}, TypeError, "every"),
        ({"every": 4}, ValueError, "every must be at most the number of steps, 3"),
        ({"temperatures": jnp.ones((2, 2))}, ValueError, "temperatures"),
        ({"start": -1}, ValueError, "start"),
        ({"chain": None}, TypeError, "chain must be a function"),
        ({"observe": 3}, TypeError, "observe must be a function"),
    ],
)
def test_record_errors(change, error, match):
    arguments = {"chain": lambda x, t, start: x, "x": jnp.ones(2), "temperatures": jnp.ones(3)}
    with pytest.raises(error, match=match):
        samplers.record(**(arguments | {"every": 2} | change))


# Denoising and schedules


def test_denoise_is_the_posterior_mean_of_a_gaussian(x64):
    covariance, sigma = jnp.array([[2.0, 0.5], [0.5, 1.0]]), 0.7
    noisy = covariance + sigma**2 * jnp.eye(2)
    v = jnp.array([1.5, -0.4])
    clean = samplers.denoise(v, energy=lambda v: 0.5 * v @ jnp.linalg.solve(noisy, v), sigma=sigma)
    np.testing.assert_allclose(clean, covariance @ jnp.linalg.solve(noisy, v), rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"sigma": 0.0, "energy": jnp.sum}, "sigma"),
        ({"sigma": 1.0, "energy": lambda v: v}, "energy"),
    ],
)
def test_denoise_errors(arguments, match):
    with pytest.raises(ValueError, match=match):
        samplers.denoise(jnp.ones(2), **arguments)


def test_annealing_schedule_has_the_published_shape():
    t = np.asarray(samplers.annealing_schedule())
    assert t.shape == (2700,)
    np.testing.assert_array_equal(t[:500], 100.0)
    np.testing.assert_allclose(t[500:2500], 100.0 ** (1 - np.arange(2000) / 1999), rtol=1e-5)
    np.testing.assert_allclose(t[2500:], 1 - np.arange(200) / 199, atol=1e-6)
    assert t[-1] == 0.0


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"hot": 0.0}, "hot"),
        ({"hot_steps": -1}, "hot_steps"),
        ({"annealed_steps": -1}, "annealed_steps"),
        ({"cool_steps": -1}, "cool_steps"),
        ({"hot_steps": 0, "annealed_steps": 0, "cool_steps": 0}, "not all be 0"),
    ],
)
def test_annealing_schedule_errors(arguments, match):
    with pytest.raises(ValueError, match=match):
        samplers.annealing_schedule(**arguments)


@pytest.mark.parametrize("sampler", ["langevin_joint", "langevin_visible", "langevin_hidden"])
def test_latent_langevin_refuses_other_numbers_of_chains(sampler):
    few = jax.tree.map(lambda x: x[:1], H)
    with pytest.raises(ValueError, match=f"h must have the {len(V)} chains of v, got shape"):
        getattr(samplers, sampler)(KEY, THETA, V, few, TEMPERATURES, energy=quartic, step_size=0.1)
