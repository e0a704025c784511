"""Score-matching objectives against closed forms on linear scores and Gaussian data."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbism import losses
from tests import oracles

BATCH, DIM_V = 5, 3
SIGMA = 0.4


@pytest.fixture
def problem(x64):
    """A linear score s(v) = -P(v - μ) with P dense and not symmetric, and data."""
    keys = jax.random.split(jax.random.key(0), 3)
    precision = jnp.eye(DIM_V) + 0.3 * jax.random.normal(keys[0], (DIM_V, DIM_V))
    mean = jax.random.normal(keys[1], (DIM_V,))
    return (precision, mean), jax.random.normal(keys[2], (BATCH, DIM_V))


def linear_score(parameters):
    precision, mean = parameters
    return lambda v: -(v - mean[None]) @ precision.T


def cubic_score(v):
    """A score whose Jacobian is dense, depends on v and is not symmetric."""
    mix = jnp.array([[0.5, -0.2, 0.1], [0.3, 0.7, -0.4], [-0.6, 0.2, 0.9]])
    return -(v**3) @ mix - jnp.sin(v @ mix.T)


def assert_value_and_gradient(objective, parameters, corrupted, key, values, gradients):
    """Compares with closed forms: values [batch], and gradients of their sum in (P, μ)."""

    def total(parameters):
        found, scores = objective(linear_score(parameters), key, corrupted)
        return jnp.sum(found), (found, scores)

    grad, (found, scores) = jax.grad(total, has_aux=True)(parameters)
    oracles.assert_close(found, values, rtol=1e-11)
    oracles.assert_close(scores, linear_score(parameters)(corrupted.inputs), rtol=1e-12)
    oracles.assert_trees_close(grad, gradients, rtol=1e-11, atol=1e-12)


def test_sm_closed_form(problem):
    parameters, v = problem
    precision, mean = map(np.asarray, parameters)
    d = np.asarray(v) - mean
    s = -d @ precision.T
    corrupted = losses.SM().corrupt(jax.random.key(1), v)
    np.testing.assert_array_equal(corrupted.inputs, v)
    assert_value_and_gradient(
        losses.SM(),
        parameters,
        corrupted,
        jax.random.key(2),
        0.5 * np.sum(s**2, 1) - np.trace(precision),
        (-s.T @ d - BATCH * np.eye(DIM_V), np.sum(s @ precision, 0)),
    )


@pytest.mark.parametrize("projection", ["rademacher", "gaussian"])
def test_ssm_closed_form(problem, projection):
    parameters, v = problem
    precision, mean = map(np.asarray, parameters)
    key = jax.random.key(2)
    u = np.asarray(
        getattr(jax.random, {"gaussian": "normal"}.get(projection, projection))(
            key, v.shape, v.dtype
        )
    )
    d = np.asarray(v) - mean
    s = -d @ precision.T
    objective = losses.SSM(projection)
    assert_value_and_gradient(
        objective,
        parameters,
        objective.corrupt(jax.random.key(1), v),
        key,
        0.5 * np.sum(s**2, 1) - np.einsum("bi,ij,bj->b", u, precision, u),
        (-s.T @ d - u.T @ u, np.sum(s @ precision, 0)),
    )


@pytest.mark.parametrize("projection", ["rademacher", "gaussian"])
def test_ssm_is_sm_in_expectation(x64, projection):
    v = jnp.array([[0.4, -0.8, 1.1]])
    objective = losses.SSM(projection)
    corrupted = losses.Corrupted(jnp.repeat(v, 20_000, axis=0), None, None)
    values, _ = objective(cubic_score, jax.random.key(0), corrupted)
    exact, _ = losses.SM()(cubic_score, jax.random.key(0), losses.Corrupted(v, None, None))
    oracles.assert_mean(values, exact[0])
    assert values.std() > 0.1


def test_sliced_over_all_signs_is_sm(x64):
    v = jax.random.normal(jax.random.key(0), (BATCH, DIM_V))

    def sliced(u):
        u = jnp.broadcast_to(u[None], v.shape)
        scores, derivative = jax.jvp(cubic_score, (v,), (u,))
        return losses.sliced_score_matching(scores, derivative, u)

    by_signs = jnp.mean(jax.vmap(sliced)(oracles.sign_vectors(DIM_V)), axis=0)
    exact, _ = losses.SM()(cubic_score, jax.random.key(1), losses.Corrupted(v, None, None))
    oracles.assert_close(by_signs, exact, rtol=1e-12)
    jacobians = jax.vmap(jax.jacfwd(lambda v: cubic_score(v[None])[0]))(v)
    expected = 0.5 * jnp.sum(cubic_score(v) ** 2, 1) + jnp.trace(jacobians, axis1=1, axis2=2)
    oracles.assert_close(exact, expected, rtol=1e-12)


def test_dsm_closed_form(problem):
    parameters, v = problem
    precision, mean = map(np.asarray, parameters)
    objective = losses.DSM(sigma=SIGMA)
    corrupted = objective.corrupt(jax.random.key(1), v)
    oracles.assert_close(corrupted.inputs, v + SIGMA * corrupted.noise, rtol=1e-15)
    d = np.asarray(corrupted.inputs) - mean
    residual = -d @ precision.T + np.asarray(corrupted.noise) / SIGMA
    assert_value_and_gradient(
        objective,
        parameters,
        corrupted,
        jax.random.key(2),
        0.5 * np.sum(residual**2, 1),
        (-residual.T @ d, np.sum(residual @ precision, 0)),
    )


@pytest.mark.parametrize("spacing", ["linear", "geometric"])
def test_mdsm_closed_form(problem, spacing):
    parameters, v = problem
    precision, mean = map(np.asarray, parameters)
    objective = losses.MDSM(sigma_min=0.1, sigma_max=1.6, sigma0=0.3, spacing=spacing)
    corrupted = objective.corrupt(jax.random.key(1), v)
    sigma = {"linear": [0.1, 0.475, 0.85, 1.225, 1.6], "geometric": [0.1, 0.2, 0.4, 0.8, 1.6]}
    oracles.assert_close(corrupted.sigma, sigma[spacing], rtol=1e-12)
    sigma = np.array(sigma[spacing])[:, None]
    oracles.assert_close(corrupted.inputs, v + sigma * corrupted.noise, rtol=1e-12)
    oracles.assert_close(objective.lower_weight(corrupted), 1.0 / sigma[:, 0], rtol=1e-12)
    d = np.asarray(corrupted.inputs) - mean
    residual = -d @ precision.T / sigma + np.asarray(corrupted.noise) / 0.3**2
    assert_value_and_gradient(
        objective,
        parameters,
        corrupted,
        jax.random.key(2),
        0.5 * np.sum(residual**2, 1),
        (-(residual / sigma).T @ d, np.sum(residual / sigma @ precision, 0)),
    )


def test_mdsm_at_one_scale_is_dsm_over_its_variance(problem):
    """½‖s/σ + ε/σ²‖² = ½‖s + ε/σ‖² / σ² where σ_min = σ_max = σ₀ = σ."""
    parameters, v = problem
    key = jax.random.key(1)
    single, multi = losses.DSM(SIGMA), losses.MDSM(SIGMA, SIGMA, SIGMA)
    score = linear_score(parameters)
    expected, _ = single(score, key, single.corrupt(key, v))
    values, _ = multi(score, key, multi.corrupt(key, v))
    oracles.assert_close(values, expected / SIGMA**2, rtol=1e-12)


@pytest.mark.parametrize(
    ("expected_loss", "minimiser"),
    [
        (
            lambda s, e, sigma: losses.denoising_score_matching(s, e, sigma=sigma),
            lambda sigma: 1.0 / (1.0 + sigma**2),
        ),
        (
            lambda s, e, sigma: losses.multiscale_denoising_score_matching(
                s, e, sigma=jnp.full(s.shape[:1], sigma), sigma0=0.3
            ),
            lambda sigma: sigma**2 / (0.3**2 * (1.0 + sigma**2)),
        ),
    ],
    ids=["dsm", "mdsm"],
)
def test_minimiser_on_gaussian_data(x64, expected_loss, minimiser):
    """For v ~ N(0, 1) and s(v) = -λ(v - m), the expected loss is least at m = 0 and this λ."""
    nodes, weights = oracles.gauss_hermite(2)
    v, noise = nodes[:, :1], nodes[:, 1:]

    def expectation(parameters):
        rate, mean = parameters
        scores = -rate * (v + SIGMA * noise - mean)
        return jnp.dot(weights, expected_loss(scores, noise, SIGMA))

    best = (minimiser(SIGMA), 0.0)
    oracles.assert_close(jax.grad(expectation)(best), (0.0, 0.0), atol=1e-11)
    for other in ((best[0] + 0.1, 0.0), (best[0] - 0.1, 0.0), (best[0], 0.1)):
        assert expectation(other) > expectation(best) + 1e-4


def test_sm_is_stationary_and_least_at_the_true_parameters(x64):
    """E over p(v; θ*) of SM, by Gauss–Hermite nodes, exact for the model's quadratic integrand."""
    model, truth = oracles.linear_gaussian(jax.random.key(3), 2, 2)
    marginal = model.apply(truth, method="marginal")
    nodes, weights = oracles.gauss_hermite(2, num=3)
    data = marginal.mean[None] + nodes @ marginal.scale_tril.T

    @oracles.jit
    @jax.value_and_grad
    def expectation(theta):
        def score(v):
            return -jax.vmap(jax.grad(lambda v: model.apply(theta, v, method="free_energy")))(v)

        values, _ = losses.SM()(score, jax.random.key(0), losses.Corrupted(data, None, None))
        return jnp.dot(weights, values)

    least, grad = expectation(truth)
    oracles.assert_close(least, -0.5 * np.trace(np.linalg.inv(marginal.covariance)), rtol=1e-10)
    for leaf in jax.tree.leaves(grad):
        oracles.assert_close(leaf, 0.0, atol=1e-10)
    for key in jax.random.split(jax.random.key(4), 5):
        assert expectation(oracles.perturbed(key, truth, 0.1))[0] > least + 1e-4


def test_values_sum_over_the_event(x64):
    keys = jax.random.split(jax.random.key(0), 3)
    s, e, u = (jax.random.normal(key, (BATCH, 2, 3, 1)) for key in keys)
    flat = [x.reshape(BATCH, -1) for x in (s, e, u)]
    sigma = jnp.linspace(0.1, 1.0, BATCH)
    oracles.assert_close(losses.ssm(s, e, u), losses.ssm(*flat), rtol=1e-14)
    oracles.assert_close(losses.sm(s, sigma), losses.sm(flat[0], sigma), rtol=1e-14)
    for loss in (losses.dsm, lambda *a, sigma: losses.mdsm(*a, sigma=sigma, sigma0=0.2)):
        oracles.assert_close(loss(s, e, sigma=sigma), loss(*flat[:2], sigma=sigma), rtol=1e-14)
    image = jax.random.normal(keys[0], (2, 2, 2, 1))
    exact, _ = losses.SM()(lambda v: -(v**3), keys[1], losses.Corrupted(image, None, None))
    expected = jnp.sum(0.5 * image**6 - 3.0 * image**2, axis=(1, 2, 3))
    oracles.assert_close(exact, expected, rtol=1e-12)


ONES = np.ones((4, 2), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: losses.SSM("uniform"), ValueError, "projection must be one of"),
        (lambda: losses.DSM(0.0), ValueError, "sigma must be a number > 0, got 0.0"),
        (lambda: losses.DSM(math.nan), ValueError, "sigma must be"),
        (lambda: losses.DSM(math.inf), ValueError, "sigma must be"),
        (lambda: losses.DSM(True), TypeError, "sigma must be"),
        (lambda: losses.DSM("0.1"), TypeError, "sigma must be"),
        (lambda: losses.MDSM(-0.1, 1.0, 0.1), ValueError, "sigma_min must be"),
        (lambda: losses.MDSM(0.1, 0.0, 0.1), ValueError, "sigma_max must be"),
        (lambda: losses.MDSM(0.1, 1.0, 0.0), ValueError, "sigma0 must be"),
        (lambda: losses.MDSM(0.3, 0.1, 0.1), ValueError, "sigma_max must be >= sigma_min"),
        (lambda: losses.MDSM(0.1, 1.0, 0.1, "log"), ValueError, "spacing must be one of"),
        (lambda: losses.sm(ONES, ONES), ValueError, r"divergence must have shape \(4\)"),
        (lambda: losses.sm(np.ones((4, 2), int), np.ones(4)), TypeError, "score must have a float"),
        (lambda: losses.sm(ONES[:0], np.ones(0)), ValueError, "score must have a non-empty"),
        (lambda: losses.ssm(ONES, ONES[:3], ONES), ValueError, "directional_derivative must have"),
        (lambda: losses.ssm(ONES, ONES, ONES[:3]), ValueError, "projection must have the shape"),
        (lambda: losses.dsm(ONES, ONES[:1], sigma=0.1), ValueError, "noise must have the shape"),
        (lambda: losses.dsm(ONES, ONES, sigma=-0.1), ValueError, "sigma must be"),
        (lambda: losses.dsm(ONES, ONES, sigma=ONES[:2, 0]), ValueError, r"sigma must have shape"),
        (lambda: losses.mdsm(ONES, ONES, sigma=0.1, sigma0=0.0), ValueError, "sigma0 must be"),
        (lambda: losses.mdsm(ONES, ONES[:1], sigma=0.1, sigma0=1.0), ValueError, "noise must have"),
    ],
)
def test_bad_input_names_the_argument(call, error, match):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize(
    "objective", [losses.SM(), losses.SSM(), losses.DSM(0.1), losses.MDSM(0.1, 3.0, 0.1)]
)
def test_only_floating_data_are_corrupted(objective):
    with pytest.raises(TypeError, match="v must have a floating dtype, got uint8"):
        objective.corrupt(jax.random.key(0), np.zeros((4, 2), np.uint8))


def test_mdsm_refuses_a_batch_that_it_cannot_spread_sigma_over():
    with pytest.raises(ValueError, match="at least 2 examples"):
        losses.MDSM(0.1, 3.0, 0.1).corrupt(jax.random.key(0), jnp.zeros((1, 2)))
    assert losses.MDSM(0.3, 0.3, 0.1).corrupt(jax.random.key(0), jnp.zeros((1, 2))).sigma == 0.3


@pytest.mark.parametrize("sigma", [np.float32(-0.5), np.float64(0.0), -1, 0])
def test_numpy_numbers_are_checked_like_python_numbers(sigma):
    with pytest.raises(ValueError, match="sigma must be a number > 0"):
        losses.DSM(sigma)
    with pytest.raises(ValueError, match="sigma must be a number > 0"):
        losses.dsm(jnp.zeros((1, 2)), jnp.ones((1, 2)), sigma=sigma)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: losses.DSM(sigma=x),
        lambda x: losses.MDSM(sigma_min=0.1, sigma_max=0.4, sigma0=x),
        lambda x: losses.MDSM(sigma_min=x / 2, sigma_max=x, sigma0=0.1),
    ],
)
def test_numbers_of_an_objective_can_be_mapped_over(make):
    v = jax.random.normal(jax.random.key(0), (4, 3))

    def value(number):
        objective = make(number)
        corrupted = objective.corrupt(jax.random.key(1), v)
        return objective(lambda v: -v, jax.random.key(2), corrupted)[0]

    numbers = [0.05, 0.3]
    mapped = jax.vmap(value)(jnp.array(numbers))
    np.testing.assert_allclose(mapped, jnp.stack([value(x) for x in numbers]), rtol=1e-6)
    np.testing.assert_array_equal(value(jnp.float32(0.3)), value(float(np.float32(0.3))))
    with pytest.raises(ValueError, match=r"must be a scalar, got shape \(2,\)"):
        jax.eval_shape(value, jnp.array(numbers))
