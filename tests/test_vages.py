"""VaES and VaGES: exact with enumerated posteriors, unbiased with samples, bounded with wrong q."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp

from jbism import distributions, energies, metrics, networks, posteriors, stein
from jbism.estimators import (
    importance_free_energy,
    vaes,
    vaes_bias_bound,
    vages,
    vages_bias_bound,
)
from jbism.losses import (
    DSM,
    KSD,
    MDSM,
    SM,
    SSM,
    bism_loss,
    importance_loss,
    marginal_loss,
    vages_loss,
)
from tests import oracles

DIM_V, NUM_LATENTS, BATCH = 2, 4, 5
KEY = jax.random.key(7)
OBJECTIVES = {
    "DSM": DSM(0.3),
    "MDSM": MDSM(0.1, 0.8, 0.2, "geometric"),
    "KSD_rbf": KSD(stein.RBF(0.7)),
    "KSD_imq": KSD(stein.IMQ()),
}


def data(batch=BATCH):
    return jax.random.normal(jax.random.key(3), (batch, DIM_V), jnp.float64)


def rbm(num_latents=NUM_LATENTS):
    return oracles.gaussian_rbm(jax.random.key(0), DIM_V, num_latents)


def enumerated(model, num_latents):
    """-log Σ_h exp(-E(v, h)) from the energy alone."""
    states = oracles.binary_states(num_latents)

    def free_energy(theta, v):
        return -logsumexp(-jax.vmap(lambda h: model.apply(theta, v, h))(states))

    return free_energy


class Quadrature:
    """A normal distribution whose support is a rule that integrates polynomials under it."""

    def __init__(self, normal):
        self.normal = normal
        self.log_prob = normal.log_prob

    def support(self):
        nodes, weights = oracles.gauss_hermite(self.normal.mean.size)
        return self.normal.mean[None] + nodes @ self.normal.scale_tril.T, weights


def posterior_method(model):
    return functools.partial(model.apply, method="hidden_given_visible")


def value_and_gradient(loss, theta, **options):
    compute = jax.value_and_grad(functools.partial(loss, **options), has_aux=True)
    return oracles.jit(compute)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_exact_on_an_rbm(x64, name):
    """Expectations under the enumerated posterior: the gradient is that of the free energy."""
    model, theta = rbm()
    q = posteriors.Bernoulli(NUM_LATENTS)
    options = {"energy": model.apply, "num_particles": None, "objective": OBJECTIVES[name]}
    phi, options["posterior"] = oracles.exact_phi_rbm(theta), q.apply
    (loss, aux), grad = value_and_gradient(vages_loss, theta, **options)(theta, phi, KEY, data())
    (expected, marginal), expected_grad = value_and_gradient(
        marginal_loss,
        theta,
        free_energy=enumerated(model, NUM_LATENTS),
        objective=OBJECTIVES[name],
    )(theta, KEY, data())
    oracles.assert_close(loss, expected, rtol=1e-12)
    oracles.assert_close(aux.losses, marginal.losses, rtol=1e-12, atol=1e-12)
    oracles.assert_close(aux.score_norm, marginal.score_norm, rtol=1e-12)
    oracles.assert_trees_close(grad, expected_grad, rtol=1e-12, atol=1e-12)
    oracles.assert_close(aux.particles.effective_sample_size, 2.0**NUM_LATENTS, rtol=1e-9)
    oracles.assert_close(aux.particles.posterior_divergence, 0.0, atol=1e-9)
    assert aux.particles.score_variance == aux.particles.covariance_variance == 0.0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_exact_on_a_linear_gaussian_model(x64, name):
    """Gauss-Hermite quadrature against the closed-form marginal."""
    model, theta = oracles.linear_gaussian(jax.random.key(0), DIM_V, 2)
    known = posterior_method(model)
    (loss, _), grad = value_and_gradient(
        vages_loss,
        theta,
        energy=model.apply,
        posterior=lambda theta, v: Quadrature(known(theta, v)),
        num_particles=None,
        objective=OBJECTIVES[name],
    )(theta, theta, KEY, data())
    (expected, _), expected_grad = value_and_gradient(
        marginal_loss,
        theta,
        free_energy=functools.partial(model.apply, method="free_energy"),
        objective=OBJECTIVES[name],
    )(theta, KEY, data())
    oracles.assert_close(loss, expected, rtol=1e-12)
    oracles.assert_trees_close(grad, expected_grad, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("function", ["vaes", "vages", "importance_loss"])
def test_particles_of_examples_are_independent(x64, function):
    """Equal examples have different estimates."""
    model, theta = rbm()
    phi, v = oracles.exact_phi_rbm(theta), jnp.ones((3, DIM_V))
    options = {"energy": model.apply, "posterior": posteriors.Bernoulli(NUM_LATENTS).apply}
    if function == "vaes":
        values = vaes(theta, phi, KEY, v, num_particles=20, **options)
    elif function == "vages":
        linear = {"functional": jnp.sum, "num_particles": 20}
        values = vages(theta, phi, KEY, v, **linear, **options)[1][0]
    else:
        proposal = distributions.Bernoulli(jnp.zeros(NUM_LATENTS))
        rest = {"energy": model.apply, "proposal": proposal, "num_particles": 20}
        values = importance_loss(theta, KEY, v, **rest, objective=SM())[1].losses[:, None]
    assert len(np.unique(np.asarray(values), axis=0)) == 3


def test_bounds_in_closed_form(x64):
    """E = ½v² - wvh: a = z(-v + wh), ∂a/∂w and ∂b/∂w have the ranges |zw|, |z| and |v|."""
    w, v, z, kl = (jnp.array(x) for x in (0.7, 1.3, -0.4, 0.06))

    def energy(w, v, h):
        return 0.5 * v**2 - w * v * h

    latents = jnp.array([0.0, 1.0])
    score_bound = vaes_bias_bound(w, v, kl, latents, energy=energy)
    oracles.assert_close(score_bound, 0.7 * np.sqrt(0.03), rtol=1e-12)
    bound = vages_bias_bound(w, v, z, kl, latents, energy=energy)
    expected = 0.4 * np.sqrt(0.03) + (0.4 * 0.7) * 1.3 * np.sqrt(0.06)
    oracles.assert_close(bound, expected, rtol=1e-12)
    for function, rest in ((vaes_bias_bound, ()), (vages_bias_bound, (z,))):
        with pytest.raises(ValueError, match="latents must have leaves of one length"):
            function(w, v, *rest, kl, {}, energy=energy)


@dataclasses.dataclass(frozen=True)
class FixedNoise:
    """An objective whose corruption does not depend on the caller's key."""

    objective: object

    def corrupt(self, key, v):
        return self.objective.corrupt(jax.random.key(1), v)

    def __call__(self, score, key, corrupted):
        return self.objective(score, key, corrupted)


def sampled_gradients(objective, num_draws, **options):
    """VaGES gradients of a small RBM with q exact, raveled [num_draws, n], and the true one."""
    model, theta = rbm(3)
    v = data(2)
    flat, unravel = jax.flatten_util.ravel_pytree(theta)
    phi = oracles.exact_phi_rbm(theta)

    def gradient(key):
        def loss(flat):
            return vages_loss(
                unravel(flat),
                phi,
                key,
                v,
                energy=model.apply,
                posterior=posteriors.Bernoulli(3).apply,
                objective=FixedNoise(objective),
                **options,
            )[0]

        return jax.grad(loss)(flat)

    keys = jax.random.split(KEY, num_draws)
    samples = oracles.jit(lambda keys: jax.lax.map(gradient, keys, batch_size=10_000))(keys)
    loss = functools.partial(
        marginal_loss, free_energy=enumerated(model, 3), objective=FixedNoise(objective)
    )
    expected = jax.grad(lambda flat: loss(unravel(flat), KEY, v)[0])(flat)
    return samples, expected


@pytest.mark.parametrize("num_particles", [2, 3, 10])
def test_unbiased_with_q_exact(x64, num_particles):
    samples, expected = sampled_gradients(DSM(0.3), 200_000, num_particles=num_particles)
    oracles.assert_mean(samples, expected)


def test_unbiased_for_an_objective_of_pairs(x64):
    samples, expected = sampled_gradients(KSD(stein.RBF(0.7)), 200_000, num_particles=2)
    oracles.assert_mean(samples, expected)


def test_unbiased_with_the_control_variate(x64):
    """Where q is exact the scores have no variance, so one set would do."""
    options = {"num_particles": 2, "control_variate": True, "independent": False}
    samples, expected = sampled_gradients(DSM(0.3), 200_000, **options)
    oracles.assert_mean(samples, expected)


def test_one_set_of_particles_is_biased(x64):
    samples, expected = sampled_gradients(DSM(0.3), 50_000, num_particles=2, independent=False)
    samples = np.asarray(samples)
    z = (samples.mean(0) - expected) / (samples.std(0) / np.sqrt(len(samples)))
    assert np.abs(z).max() > 20


def wrong_posterior(theta, distance):
    """φ at a distance from the exact one, along a fixed direction."""
    exact = oracles.exact_phi_rbm(theta)
    direction = oracles.perturbed(jax.random.key(4), jax.tree.map(jnp.zeros_like, exact), 1.0)
    return jax.tree.map(lambda x, d: x + distance * d, exact, direction)


def test_bias_is_within_its_bound_and_falls_with_the_divergence(x64):
    model, theta = rbm()
    v, states = data(), oracles.binary_states(NUM_LATENTS)
    q = posteriors.Bernoulli(NUM_LATENTS)
    free_energy = enumerated(model, NUM_LATENTS)
    cotangents = jax.random.normal(jax.random.key(5), v.shape, v.dtype)
    true_scores = -jax.vmap(jax.grad(free_energy, 1), (None, 0))(theta, v)

    def functional(scores):
        return jnp.sum(cotangents * scores)

    def true_functional(theta):
        return functional(-jax.vmap(jax.grad(free_energy, 1), (None, 0))(theta, v))

    true_gradient = jax.grad(true_functional)(theta)
    true_logits = jax.vmap(lambda v: posterior_method(model)(theta, v).logits)(v)
    options = {"energy": model.apply, "posterior": q.apply, "num_particles": None}

    @oracles.jit
    def compare(phi):
        logits = jax.vmap(lambda v: q.apply(phi, v).logits)(v)
        kl = metrics.bernoulli_kl(logits, true_logits)
        scores = vaes(theta, phi, KEY, v, **options)
        gradient = jax.grad(
            lambda theta: vages(theta, phi, KEY, v, functional=functional, **options)[0]
        )(theta)
        bound = functools.partial(vaes_bias_bound, latents=states, energy=model.apply)
        gradient_bound = functools.partial(vages_bias_bound, latents=states, energy=model.apply)
        score_bounds = jax.vmap(bound, (None, 0, 0))(theta, v, kl)
        bounds = jax.vmap(gradient_bound, (None, 0, 0, 0))(theta, v, cotangents, kl)
        bounds = jax.tree.map(lambda x: jnp.sum(x, axis=0), bounds)
        return scores - true_scores, score_bounds, gradient, bounds, kl

    largest = []
    for distance in (1.0, 0.3, 0.1, 0.03, 0.0):
        score_bias, score_bound, gradient, bound, kl = compare(wrong_posterior(theta, distance))
        bias = jax.tree.map(lambda x, y: x - y, gradient, true_gradient)
        assert np.all(np.abs(score_bias) <= score_bound + 1e-12)
        jax.tree.map(lambda x, y: np.testing.assert_array_less(np.abs(x), y + 1e-12), bias, bound)
        largest.append(
            (
                np.abs(score_bias).max(),
                max(map(np.max, jax.tree.leaves(jax.tree.map(jnp.abs, bias)))),
                kl.max(),
            )
        )
    largest = np.array(largest)
    assert np.all(np.diff(largest, axis=0) < 0)
    assert np.all(largest[0] > 0.05)
    assert np.all(largest[-1] < 1e-12)
    # Both are O(√KL), as the bound is.
    ratio = largest[:-1, :2] / np.sqrt(largest[:-1, 2:])
    assert np.all(ratio.max(0) < 10 * ratio.min(0))


def test_control_variate_has_no_variance_at_the_posterior(x64):
    model, theta = rbm()
    phi, v = oracles.exact_phi_rbm(theta), data()
    options = {"energy": model.apply, "posterior": posteriors.Bernoulli(NUM_LATENTS).apply}
    exact = vaes(theta, phi, KEY, v, num_particles=None, **options)
    controlled = vaes(theta, phi, KEY, v, num_particles=1, control_variate=True, **options)
    plain = vaes(theta, phi, KEY, v, num_particles=1, **options)
    oracles.assert_close(controlled, exact, rtol=1e-12)
    assert np.abs(plain - exact).max() > 0.1
    draws = jax.vmap(lambda key: vaes(theta, phi, key, v, num_particles=3, **options))
    oracles.assert_mean(draws(jax.random.split(KEY, 20_000)), exact)


def test_particles_of_a_relaxed_posterior_are_hard(x64):
    """At a high temperature relaxed samples would be far from every latent of the model."""
    model, theta = rbm()
    phi = oracles.exact_phi_rbm(theta)
    q = posteriors.Bernoulli(NUM_LATENTS, temperature=5.0)
    draws = jax.vmap(
        lambda key: vaes(
            theta, phi, key, data(1), energy=model.apply, posterior=q.apply, num_particles=1
        )
    )(jax.random.split(KEY, 20_000))
    exact = vaes(
        theta, phi, KEY, data(1), energy=model.apply, posterior=q.apply, num_particles=None
    )
    oracles.assert_mean(draws, exact)


def test_statistics_of_particles(x64):
    """Effective sample size and divergence by enumeration, variances by repetition."""
    model, theta = rbm()
    phi, v = wrong_posterior(theta, 0.4), data(1)
    q, known = posteriors.Bernoulli(NUM_LATENTS).apply, posterior_method(model)
    options = {"energy": model.apply, "posterior": q, "functional": lambda s: jnp.sum(s**3)}
    _, (_, exact) = vages(theta, phi, KEY, v, num_particles=None, **options)
    h, weights = q(phi, v[0]).support()
    log_ratio = jax.vmap(known(theta, v[0]).log_prob)(h) - jnp.log(weights)
    kl = metrics.bernoulli_kl(q(phi, v[0]).logits, known(theta, v[0]).logits)
    oracles.assert_close(exact.posterior_divergence, kl, rtol=1e-9)
    oracles.assert_close(
        exact.effective_sample_size,
        len(h) / jnp.sum(weights * jnp.exp(2.0 * log_ratio)),
        rtol=1e-9,
    )
    assert 1.0 < exact.effective_sample_size < len(h)

    # Scores by the control variate at φ = φ*, so that z is fixed and only set B varies.
    phi = oracles.exact_phi_rbm(theta)
    count, z = (
        50,
        3.0 * vaes(theta, phi, KEY, v, num_particles=None, energy=model.apply, posterior=q)[0] ** 2,
    )

    def repetition(key):
        _, (_, statistics) = vages(
            theta, phi, key, v, num_particles=count, control_variate=True, **options
        )
        h = jax.vmap(known(theta, v[0]).sample)(jax.random.split(key, count))
        b, a = jax.vmap(lambda h: jax.jvp(lambda v: -model.apply(theta, v, h), (v[0],), (z,)))(h)
        covariance = jnp.sum((a - a.mean()) * (b - b.mean())) / (count - 1)
        return statistics, a.mean(), covariance

    statistics, means, covariances = oracles.jit(jax.vmap(repetition))(jax.random.split(KEY, 4_000))
    oracles.assert_close(statistics.effective_sample_size, count, rtol=1e-9)
    oracles.assert_close(statistics.score_variance.mean(), means.var(), rtol=0.1)
    oracles.assert_close(statistics.covariance_variance.mean(), covariances.var(), rtol=0.15)


def test_the_variance_of_the_first_term_is_unbiased_and_of_the_sum(x64):
    """Three particles, two examples, a linear functional: Var Σ_j mean_i a_ij in closed form."""
    model, theta = rbm()
    phi, v = oracles.exact_phi_rbm(theta), data(2)
    z = jax.random.normal(jax.random.key(6), v.shape, v.dtype)

    def estimate(key):
        _, (_, statistics) = vages(
            theta,
            phi,
            key,
            v,
            functional=lambda s: jnp.sum(z * s),
            energy=model.apply,
            posterior=posteriors.Bernoulli(NUM_LATENTS).apply,
            num_particles=3,
        )
        return statistics.score_variance

    w = theta["params"]["weights"]
    mean = jax.nn.sigmoid(theta["params"]["hidden_bias"][None] + v @ w)
    # a = z·W h + const, with the h_j independent.
    expected = jnp.sum((z @ w) ** 2 * mean * (1.0 - mean)) / 3.0
    draws = oracles.jit(jax.vmap(estimate))(jax.random.split(KEY, 20_000))
    oracles.assert_mean(draws, expected)


def test_values_and_other_derivatives(x64):
    """The value is J at the estimated scores; φ and v have no derivative."""
    model, theta = rbm()
    phi, v = wrong_posterior(theta, 0.2), data()

    def compute(theta, phi, v):
        value, (scores, _) = vages(
            theta,
            phi,
            KEY,
            v,
            functional=lambda s: jnp.sum(jnp.sin(s)),
            energy=model.apply,
            posterior=posteriors.Bernoulli(NUM_LATENTS).apply,
            num_particles=2,
        )
        return value, scores

    (value, scores), (to_theta, to_phi, to_v) = jax.value_and_grad(
        compute, argnums=(0, 1, 2), has_aux=True
    )(theta, phi, v)
    oracles.assert_close(value, jnp.sum(jnp.sin(scores)), rtol=1e-14)
    assert not any(np.any(x) for x in jax.tree.leaves((to_phi, to_v)))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(to_theta))


def test_refinement_approaches_the_posterior(x64):
    """Langevin steps from a q that knows nothing, against the closed-form score."""
    model, theta = oracles.linear_gaussian(jax.random.key(0), DIM_V, 2)
    v = data()
    far = distributions.Normal(jnp.full(2, 3.0), jnp.zeros(2))
    options = {"energy": model.apply, "posterior": lambda phi, v: far, "num_particles": 2_000}
    true = -jax.vmap(jax.grad(lambda v: model.apply(theta, v, method="free_energy")))(v)

    def error(**refined):
        return np.abs(vaes(theta, None, KEY, v, **options, **refined) - true).max()

    errors = [error(refinement=posteriors.LangevinRefinement(n, 0.1, 0.1**0.5)) for n in (1, 5, 60)]
    assert error() > errors[0] > errors[1] > 10 * errors[2]
    options["num_particles"] = 2
    _, aux = vages_loss(
        theta,
        None,
        KEY,
        v,
        objective=DSM(0.1),
        refinement=posteriors.LangevinRefinement(),
        **options,
    )
    # The refined particles are not q's, so no weight against q is known.
    assert aux.particles.effective_sample_size is aux.particles.posterior_divergence is None
    assert aux.particles.covariance_variance is None  # two particles do not tell
    assert aux.particles.score_variance > 0


def test_refinement_noise(x64):
    """Of scale ς, √α if not given, and another for each leaf."""

    def flat(theta, v, h):
        return jnp.zeros(())

    h = {"a": jnp.zeros((2_000, 2)), "b": jnp.zeros((2_000, 2))}
    for given, scale in ((None, 0.3), (0.7, 0.7)):
        refine = posteriors.LangevinRefinement(1, 0.09, given)
        moved = refine(None, KEY, jnp.zeros(2), h, energy=flat)
        assert float(moved["a"].std()) == pytest.approx(scale, rel=0.05)
        assert abs(np.corrcoef(moved["a"].ravel(), moved["b"].ravel())[0, 1]) < 0.1


def test_refinement_steps_are_those_of_the_energy(x64):
    """Without noise: n gradient steps; twelve are a loop, two are written out."""

    def energy(theta, v, h):
        return 0.5 * theta * jnp.sum((h["a"] - v) ** 2) + jnp.sum(jnp.cosh(h["b"]))

    h = {"a": jnp.ones((3, 2)), "b": jnp.ones((3, 1))}
    for num_steps in (2, 12):
        refine = posteriors.LangevinRefinement(num_steps, 0.5, 0.0)
        found = refine(2.0, KEY, jnp.zeros(2), h, energy=energy)
        a, b = 1.0, 1.0
        for _ in range(num_steps):
            a, b = a - 0.25 * 2.0 * a, b - 0.25 * np.sinh(b)
        oracles.assert_close(found["a"], np.full((3, 2), a), rtol=1e-12)
        oracles.assert_close(found["b"], np.full((3, 1), b), rtol=1e-12)


def test_importance_free_energy_tends_to_the_free_energy(x64):
    model, theta = rbm()
    v, uniform = data(1)[0], distributions.Bernoulli(jnp.zeros(NUM_LATENTS))
    estimate = functools.partial(
        importance_free_energy, theta, energy=model.apply, proposal=uniform, num_particles=3
    )
    values = jax.vmap(lambda key: estimate(key, v))(jax.random.split(KEY, 50_000))
    exact = enumerated(model, NUM_LATENTS)(theta, v)
    oracles.assert_mean(jnp.exp(exact - values), 1.0)  # exp(-F̂) is unbiased
    assert values.mean() > exact + 0.01  # and F̂ itself is not


def test_a_relaxed_proposal_is_sampled_hard(x64):
    """The energy is far above everywhere but on binary latents."""
    proposal = distributions.RelaxedBernoulli(jnp.zeros(2), 1.0)
    found = importance_free_energy(
        None,
        KEY,
        data(1)[0],
        energy=lambda theta, v, h: 1e3 * jnp.sum((h - jnp.round(h)) ** 2),
        proposal=proposal,
        num_particles=10,
    )
    oracles.assert_close(found, -np.log(4.0), rtol=1e-9)


def test_importance_loss_tends_to_the_marginal_loss(x64):
    model, theta = rbm()
    uniform = distributions.Bernoulli(jnp.zeros(NUM_LATENTS))
    objective = KSD(stein.RBF(0.7))
    (loss, _), grad = value_and_gradient(
        importance_loss,
        theta,
        energy=model.apply,
        proposal=uniform,
        num_particles=50_000,
        objective=objective,
    )(theta, KEY, data(3))
    (expected, _), expected_grad = value_and_gradient(
        marginal_loss, theta, free_energy=enumerated(model, NUM_LATENTS), objective=objective
    )(theta, KEY, data(3))
    oracles.assert_close(loss, expected, rtol=0.05)
    assert oracles.tree_distance(grad, expected_grad) < 0.05


def test_the_ksd_objective_is_the_u_statistic(x64):
    v, scores = data(), jnp.cos(data())
    objective = KSD(stein.IMQ())
    values, _ = objective(lambda v: scores, KEY, objective.corrupt(KEY, v))
    oracles.assert_close(values.mean(), stein.ksd(v, scores, kernel=stein.IMQ()), rtol=1e-12)


def test_a_trunk_of_v_is_computed_once_a_set():
    """Compiled FLOPs hardly grow with the particles, nor with refinement steps of h."""
    trunk = networks.ResidualConvNet(channels=8, blocks_per_level=1, levels=2)
    model = energies.DeepEBLVM(4, trunk)
    q = posteriors.Gaussian(4, networks.MLP((8,)))
    v = jnp.zeros((2, 8, 8, 1))
    theta, phi = (
        jax.eval_shape(model.init, KEY, v[0], jnp.zeros(4)),
        jax.eval_shape(q.init, KEY, v[0]),
    )

    def flops(function):
        return jax.jit(function).lower(theta, phi, KEY, v).compile().cost_analysis()["flops"]

    def step(num_particles, refinement=None):
        def loss(theta, phi, key, v):
            return vages_loss(
                theta,
                phi,
                key,
                v,
                energy=model.apply,
                posterior=q.apply,
                objective=DSM(0.1),
                num_particles=num_particles,
                refinement=refinement,
            )[0]

        return flops(jax.grad(loss))

    trunk_flops = flops(
        lambda theta, phi, key, v: jax.vmap(
            lambda v: model.apply(theta, v, method=lambda m, v: m.trunk(v))
        )(v)
    )
    two, sixteen = step(2), step(16)
    refined = step(2, posteriors.LangevinRefinement(5))
    # A trunk a particle would add 2 × 14 forward passes, a trunk a refinement step 5.
    assert sixteen - two < 0.5 * trunk_flops
    assert refined - two < 0.5 * trunk_flops
    # Set A: forward and reverse in v; set B: jvp, and the reverse pass of both.
    assert two < 12 * trunk_flops


def loss_with(**replaced):
    """A VaGES loss over shapes that fit, but for what is replaced; evaluated abstractly."""
    model, q = energies.GaussianRBM(NUM_LATENTS), posteriors.Bernoulli(NUM_LATENTS)
    options = {
        "energy": model.apply,
        "posterior": q.apply,
        "objective": DSM(0.1),
        "num_particles": 2,
    }
    v = replaced.pop("v", jnp.ones((4, DIM_V)))
    theta = jax.eval_shape(model.init, KEY, jnp.ones(DIM_V), jnp.ones(NUM_LATENTS))
    phi = jax.eval_shape(q.init, KEY, jnp.ones(DIM_V))
    function = functools.partial(vages_loss, **(options | replaced))
    jax.eval_shape(jax.grad(function, has_aux=True), theta, phi, KEY, v)


class NoSamples:
    """Has a density, but nothing to draw."""

    def log_prob(self, h):
        return jnp.zeros(())


class NoDensity:
    """Can be drawn from, and no more."""

    def sample(self, key):
        return jnp.zeros(NUM_LATENTS)


class Elsewhere(type(DSM(0.1))):
    """An objective that differentiates the score by a finite difference."""

    def __call__(self, score, key, corrupted):
        difference = score(corrupted.inputs + 0.1) - score(corrupted.inputs)
        return jnp.sum(difference**2, axis=1), difference


def normal(phi, v):
    return distributions.Normal(jnp.zeros(NUM_LATENTS), jnp.zeros(NUM_LATENTS))


BAD_INPUT = {
    "one_particle": ({"num_particles": 1}, ValueError, "num_particles must be an integer >= 2"),
    "half_particles": ({"num_particles": 2.5}, TypeError, "num_particles must be an integer"),
    "sm": ({"objective": SM()}, ValueError, "objective SM must take the score at"),
    "ssm": ({"objective": SSM()}, ValueError, "objective SSM must take the score at"),
    "objective_class": ({"objective": DSM}, TypeError, "objective must be"),
    "no_samples": (
        {"posterior": lambda phi, v: NoSamples()},
        TypeError,
        r"posterior must return a distribution with a method sample\(\)",
    ),
    "score_elsewhere": (
        {"objective": Elsewhere(0.1)},
        ValueError,
        "objective Elsewhere must take the score at corrupted.inputs alone",
    ),
    "no_log_prob": (
        {"posterior": lambda phi, v: NoDensity()},
        TypeError,
        r"posterior must return a distribution with a method log_prob\(\)",
    ),
    "posterior_module": (
        {"posterior": posteriors.Bernoulli(NUM_LATENTS)},
        TypeError,
        "posterior must be a function, got the module Bernoulli; pass its apply",
    ),
    "no_energy": ({"energy": None}, TypeError, "energy must be a function, got NoneType"),
    "text_for_bool": ({"independent": "no"}, TypeError, "independent must be bool"),
    "no_support": (
        {"posterior": normal, "num_particles": None},
        TypeError,
        r"posterior must return a distribution with a method support\(\)",
    ),
    "latent_size": (
        {"posterior": lambda phi, v: distributions.Bernoulli(jnp.zeros(3))},
        ValueError,
        r"h must have shape \(4\), got \(3,\)",
    ),
    "large_support": (
        {"posterior": lambda phi, v: distributions.Bernoulli(jnp.zeros(17)), "num_particles": None},
        ValueError,
        "logits must have at most 16",
    ),
    "discrete_refinement": (
        {"refinement": posteriors.LangevinRefinement()},
        ValueError,
        "refinement needs continuous latents",
    ),
    "refinement_class": (
        {"refinement": posteriors.LangevinRefinement, "posterior": normal},
        TypeError,
        "refinement must be an instance",
    ),
    "refined_support": (
        {"refinement": posteriors.LangevinRefinement(), "num_particles": None},
        ValueError,
        "refinement needs samples",
    ),
    "refined_control_variate": (
        {"refinement": posteriors.LangevinRefinement(), "control_variate": True},
        ValueError,
        "control_variate must be False with refinement",
    ),
    "vector_energy": (
        {"energy": lambda theta, v, h: v * jnp.sum(h)},
        ValueError,
        "must be a scalar, got shape",
    ),
    "image_v": ({"v": jnp.ones((4, 2, 1))}, ValueError, "v must have shape|v must have 2 entries"),
    "integer_v": ({"v": jnp.ones((4, 2), int)}, TypeError, "v must have a floating dtype"),
    "v_without_batch": ({"v": jnp.ones(2)}, ValueError, "v must have shape"),
    "one_point_of_ksd": (
        {"objective": KSD(stein.RBF()), "v": jnp.ones((1, 2))},
        ValueError,
        "v must hold at least 2 points",
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_names_the_argument(name):
    replaced, error, match = BAD_INPUT[name]
    with pytest.raises(error, match=match):
        loss_with(**replaced)


def test_good_input_passes():
    loss_with()
    loss_with(posterior=normal, refinement=posteriors.LangevinRefinement())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"step_size": 0.0}, "step_size"),
        ({"noise_scale": -1.0}, "noise_scale"),
    ],
)
def test_refinement_options(options, match):
    with pytest.raises(ValueError, match=match):
        posteriors.LangevinRefinement(**options)


def test_other_bad_input():
    with pytest.raises(TypeError, match="kernel must be an instance"):
        KSD(stein.RBF)
    with pytest.raises(ValueError, match=r"functional\(scores\) must be a scalar"):
        vages(
            None,
            None,
            KEY,
            jnp.ones((2, 4)),
            functional=lambda s: s,
            energy=lambda theta, v, h: jnp.sum(v * h),
            posterior=normal,
            num_particles=2,
        )
    with pytest.raises(ValueError, match=r"free_energy\(theta, v\) must be a scalar"):
        marginal_loss(None, KEY, jnp.ones((2, 4)), objective=SM(), free_energy=lambda _, v: v)
    with pytest.raises(ValueError, match="num_particles"):
        vaes(
            None,
            None,
            KEY,
            jnp.ones((2, 4)),
            energy=lambda theta, v, h: jnp.sum(v * h),
            posterior=normal,
            num_particles=0,
        )


def test_the_score_estimate_refuses_to_be_differentiated():
    def total(theta):
        return jnp.sum(
            vaes(
                theta,
                None,
                KEY,
                jnp.ones((2, 4)),
                energy=lambda theta, v, h: theta * jnp.sum(v * h),
                posterior=normal,
                num_particles=2,
            )
        )

    assert np.isfinite(total(1.0))
    with pytest.raises(ValueError, match="vaes must not be differentiated"):
        jax.grad(total)(1.0)


def test_ksd_serves_bilevel_score_matching_too():
    """It takes no derivative of the score, nor needs noise."""
    from jbism.divergences import MeanFieldKL
    from jbism.hypergradients import FirstOrder

    model, q = energies.GaussianRBM(3), posteriors.Bernoulli(3)
    v = jax.random.normal(KEY, (6, 2))
    theta, phi = model.init(KEY, v[0], jnp.zeros(3)), q.init(KEY, v[0])
    loss, aux = bism_loss(
        theta,
        phi,
        KEY,
        v,
        energy=model.apply,
        posterior=q.apply,
        objective=KSD(stein.RBF()),
        divergence=MeanFieldKL(),
        hypergradient=FirstOrder(),
    )
    assert aux.losses.shape == (6,)
    oracles.assert_close(loss, aux.losses.mean(), rtol=1e-6)
