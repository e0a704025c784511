"""Bi-level score matching: Theorem 1, its gradient by finite differences, and bad input."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import optax
import pytest

from jbism import distributions, energies, networks, posteriors
from jbism.divergences import IWAE, KL, Fisher, MeanFieldKL
from jbism.estimators import variational_score
from jbism.hypergradients import Descent, FirstOrder, ImplicitCG, LowerLevel, Neumann, Unroll
from jbism.losses import DSM, MDSM, SM, SSM, bism_loss, bism_lower_loss, bism_upper_loss
from tests import oracles

BATCH, DIM_V, NUM_LATENTS = 4, 2, 3
OBJECTIVES = (SM(), SSM(), DSM(0.3), MDSM(0.1, 0.8, 0.2, "geometric"))
KEY = jax.random.key(5)


def name(option):
    return getattr(option, "__name__", type(option).__name__)


@dataclasses.dataclass(frozen=True)
class Deterministic:
    """An objective whose noise and projection do not depend on the caller's keys."""

    objective: object

    def corrupt(self, key, v):
        return self.objective.corrupt(jax.random.key(1), v)

    def lower_weight(self, corrupted):
        return self.objective.lower_weight(corrupted)

    def __call__(self, score, key, corrupted):
        return self.objective(score, jax.random.key(2), corrupted)


@dataclasses.dataclass(frozen=True)
class ClosedForm:
    """The hypergradient of a lower level solved by hand: φ*(θ), differentiable."""

    solution: object

    def __call__(self, upper_loss, lower_loss, theta, phi, key, *, opt_state=None):
        phi = self.solution(theta)
        return upper_loss(theta, phi, key), LowerLevel(
            phi, Descent(jnp.zeros(0), jnp.zeros(0)), None
        )


def rbm():
    model, theta = oracles.gaussian_rbm(jax.random.key(0), DIM_V, NUM_LATENTS)
    return model, theta, posteriors.Bernoulli(NUM_LATENTS), oracles.exact_phi_rbm


def linear_gaussian():
    model, theta = oracles.linear_gaussian(jax.random.key(0), DIM_V, NUM_LATENTS)
    posterior = posteriors.Gaussian(NUM_LATENTS, covariance="full")
    return model, theta, posterior, oracles.exact_phi_linear_gaussian


def deep():
    model = energies.DeepEBLVM(NUM_LATENTS, networks.MLP((4,)))
    posterior = posteriors.Gaussian(NUM_LATENTS, networks.MLP((3,)))
    v = jnp.zeros(DIM_V)
    theta = oracles.jit(model.init)(jax.random.key(0), v, jnp.zeros(NUM_LATENTS))
    return model, oracles.to_float64(theta), posterior, None


def data():
    return jax.random.normal(jax.random.key(3), (BATCH, DIM_V), jnp.float64)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name)
@pytest.mark.parametrize("problem", [rbm, linear_gaussian])
def test_theorem_1(x64, problem, objective):
    """With q exact and φ*(θ) differentiated, the gradient is that of the marginal's objective."""
    model, theta, posterior, solution = problem()
    objective, v = Deterministic(objective), data()

    def bilevel(hypergradient):
        def loss(theta):
            # φ⁰ is the solution as well, so that FirstOrder meets the same value of the loss.
            value, aux = bism_loss(
                theta,
                solution(theta),
                KEY,
                v,
                energy=model.apply,
                posterior=posterior.apply,
                objective=objective,
                divergence=KL(),
                hypergradient=hypergradient,
            )
            return value, aux

        return jax.value_and_grad(loss, has_aux=True)

    def marginal(theta):
        def score(v):
            return -jax.vmap(jax.grad(lambda v: model.apply(theta, v, method="free_energy")))(v)

        values, scores = objective(score, KEY, objective.corrupt(KEY, v))
        return jnp.mean(values), (values, scores)

    @oracles.jit
    def evaluate(theta):
        return (
            bilevel(ClosedForm(solution))(theta),
            bilevel(FirstOrder())(theta),
            jax.value_and_grad(marginal, has_aux=True)(theta),
        )

    exact, first_order, ((value, (values, scores)), grad) = evaluate(theta)
    for (loss, aux), _ in (exact, first_order):
        oracles.assert_close(loss, value, rtol=1e-9)
        oracles.assert_close(aux.losses, values, rtol=1e-8, atol=1e-10)
        norm = jnp.mean(jnp.sqrt(jnp.sum(scores**2, axis=1)))
        oracles.assert_close(aux.score_norm, norm, rtol=1e-9)
    assert oracles.tree_distance(exact[1], grad) < 1e-8
    assert oracles.tree_distance(first_order[1], grad) > 0.01


@pytest.mark.parametrize("problem", [rbm, linear_gaussian])
def test_variational_score_at_the_exact_posterior_is_the_marginal_score_for_every_h(x64, problem):
    model, theta, posterior, solution = problem()
    v = data()[0]
    score = -jax.grad(lambda v: model.apply(theta, v, method="free_energy"))(v)
    for h in jax.random.uniform(KEY, (3, NUM_LATENTS)):
        found = variational_score(
            theta, solution(theta), v, h, energy=model.apply, posterior=posterior.apply
        )
        oracles.assert_close(found, score, rtol=1e-10)


@pytest.mark.parametrize("problem", [rbm, linear_gaussian])
def test_scores_of_the_standard_normal_are_minus_v(x64, problem):
    model, theta, posterior, solution = problem()
    theta = jax.tree.map(jnp.zeros_like, theta)
    v = data()[0]
    found = variational_score(
        theta, solution(theta), v, jnp.ones(3), energy=model.apply, posterior=posterior.apply
    )
    oracles.assert_close(found, -v, rtol=1e-13)


# Every objective with every divergence of discrete latents, and each once with continuous ones.
GRADIENT_CASES = [
    *itertools.product([rbm], OBJECTIVES, [KL(), IWAE(2), MeanFieldKL()]),
    *zip(itertools.repeat(deep), OBJECTIVES, [Fisher(), KL(), IWAE(2), Fisher()]),
]


@pytest.mark.parametrize(("problem", "objective", "divergence"), GRADIENT_CASES, ids=name)
def test_gradient_against_finite_differences(x64, problem, objective, divergence):
    model, theta, posterior, _ = problem()
    v = data()
    phi = oracles.to_float64(oracles.jit(posterior.init)(jax.random.key(1), v[0]))
    phi = oracles.perturbed(jax.random.key(2), phi, 0.2)
    optimizer = optax.adam(0.05, eps_root=1e-8) if objective == DSM(0.3) else optax.sgd(0.002)

    @oracles.jit
    def value_and_grads(theta):
        def loss(theta, phi):
            return bism_loss(
                theta,
                phi,
                KEY,
                v,
                energy=model.apply,
                posterior=posterior.apply,
                objective=objective,
                divergence=divergence,
                hypergradient=Unroll(3, optimizer),
            )[0]

        return jax.value_and_grad(loss, argnums=(0, 1))(theta, phi)

    value, (grad, phi_grad) = value_and_grads(theta)
    oracles.assert_gradient(
        lambda theta: value_and_grads(theta)[0], theta, grad, KEY, rtol=2e-6, atol=1e-8
    )
    assert jnp.isfinite(value)
    assert oracles.tree_dot(grad, grad) > 1e-4
    assert all(jnp.all(leaf == 0.0) for leaf in jax.tree.leaves(phi_grad))


@pytest.mark.parametrize(
    "hypergradient",
    [Unroll(2, optax.sgd(0.1)), FirstOrder(), ImplicitCG(2, num_samples=3), Neumann(2, 0.1)],
    ids=lambda strategy: type(strategy).__name__,
)
def test_no_key_is_used_twice_but_where_noise_is_shared(x64, hypergradient):
    model, theta, posterior, solution = rbm()

    def loss(theta, phi, key):
        parts = {"energy": model.apply, "posterior": posterior.apply}
        parts |= {"objective": MDSM(0.1, 1.0, 0.1), "divergence": KL()}
        return bism_loss(theta, phi, key, data(), **parts, hypergradient=hypergradient)[0]

    with jax.debug_key_reuse(True):
        oracles.jit(jax.grad(loss))(theta, solution(theta), jax.random.key(7))


def test_a_divergence_that_does_not_fit_is_refused_though_no_step_is_taken(x64):
    model, theta, posterior, _ = rbm()
    phi = posterior.init(KEY, jnp.zeros(DIM_V))
    parts = {"energy": model.apply, "posterior": posterior.apply, "objective": DSM(0.1)}
    v = jnp.zeros((BATCH, DIM_V))
    with pytest.raises(ValueError, match="Fisher needs continuous latents"):
        bism_loss(theta, phi, KEY, v, **parts, divergence=Fisher(), hypergradient=FirstOrder())


def test_both_levels_corrupt_the_data_alike_at_one_key(x64):
    """Of data at the origin, and a score that is zero, both see the noise alone."""
    sigma, v = 0.3, jnp.zeros((BATCH, DIM_V))
    parts = {
        "energy": lambda theta, v, h: jnp.sum(h**2),
        "posterior": lambda phi, v: distributions.Normal(phi, jnp.zeros(2)),
        "objective": DSM(sigma),
    }

    def squared(theta, phi, key, v, *, energy, posterior):
        return 0.5 * jnp.sum((v / sigma**2) ** 2)

    for key in jax.random.split(jax.random.key(8), 3):
        upper, _ = bism_upper_loss(None, jnp.zeros(2), key, v, **parts)
        lower = bism_lower_loss(None, jnp.zeros(2), key, v, **parts, divergence=squared)
        oracles.assert_close(upper, lower, rtol=1e-12)
        assert upper > 0.1


def test_lower_loss_is_the_weighted_mean_at_corrupted_data(x64):
    """MeanFieldKL at the exact posterior is F(ṽ), so the lower loss is Σ F(ṽ_i) / σ_i B."""
    model, theta, posterior, solution = rbm()
    objective = Deterministic(MDSM(0.1, 0.8, 0.2))
    corrupted = objective.corrupt(KEY, data())
    found = bism_lower_loss(
        theta,
        solution(theta),
        KEY,
        data(),
        energy=model.apply,
        posterior=posterior.apply,
        objective=objective,
        divergence=MeanFieldKL(),
    )
    free_energy = jax.vmap(lambda v: model.apply(theta, v, method="free_energy"))(corrupted.inputs)
    oracles.assert_close(found, jnp.mean(free_energy / corrupted.sigma), rtol=1e-11)
