"""Implicit hypergradients on problems whose optimum φ*(θ) is known, and where they fail."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jbism.hypergradients import FirstOrder, ImplicitCG, Neumann, Unroll, bias
from tests import oracles

KEY = jax.random.key(11)
DIM_THETA, DIM_PHI, RATE = 3, 5, 0.1


class Quadratic:
    """G = ½φᵀHφ - φᵀMθ with φ*(θ) = H⁻¹Mθ, and an F that is not quadratic in either."""

    def __init__(self):
        keys = jax.random.split(jax.random.key(0), 4)
        root = jax.random.normal(keys[0], (DIM_PHI, DIM_PHI))
        self.hessian = jnp.eye(DIM_PHI) + 0.4 * root @ root.T
        self.mixed = jax.random.normal(keys[1], (DIM_PHI, DIM_THETA))
        self.theta = jax.random.normal(keys[2], (DIM_THETA,))
        self.target = jax.random.normal(keys[3], (DIM_PHI,))

    def lower_loss(self, theta, phi, key):
        return 0.5 * phi @ self.hessian @ phi - phi @ (self.mixed @ theta)

    def upper_loss(self, theta, phi, key=None):
        value = jnp.sum(jnp.cosh(phi - self.target)) + jnp.sum(theta**2) * phi[0]
        return value, None

    def optimum(self, theta):
        return jnp.linalg.solve(self.hessian, self.mixed @ theta)

    def true_value(self, theta):
        return self.upper_loss(theta, self.optimum(theta))[0]

    def gradient(self, strategy, phi, key=KEY):
        def compute(theta):
            (value, _), lower = strategy(self.upper_loss, self.lower_loss, theta, phi, key)
            return value, lower

        return oracles.jit(jax.grad(compute, has_aux=True))(self.theta)


@pytest.fixture
def problem(x64):
    return Quadratic()


def test_cg_is_exact_at_the_optimum(problem):
    phi = problem.optimum(problem.theta)
    strategy = ImplicitCG(num_steps=50, ridge=0.0, tolerance=1e-14)
    found, lower = problem.gradient(strategy, phi)
    oracles.assert_close(found, jax.grad(problem.true_value)(problem.theta), rtol=1e-10)
    oracles.assert_gradient(problem.true_value, problem.theta, found, jax.random.key(1))
    assert lower.solve.residual < 1e-10
    # A Krylov space of five dimensions holds the solution, up to rounding.
    assert lower.solve.num_products <= DIM_PHI + 2
    assert not lower.solve.negative_curvature
    assert not lower.solve.failed


@pytest.mark.parametrize("num_steps", [1, 4, 9])
def test_unrolled_sgd_is_the_neumann_series_at_the_optimum(problem, num_steps):
    phi = problem.optimum(problem.theta)
    unrolled, _ = problem.gradient(Unroll(num_steps, optax.sgd(RATE)), phi)
    series, lower = problem.gradient(Neumann(num_steps, RATE), phi)
    oracles.assert_close(series, unrolled, rtol=1e-12, atol=1e-13)
    truncated, _ = problem.gradient(Unroll(12, optax.sgd(RATE), truncate=num_steps), phi)
    oracles.assert_close(truncated, series, rtol=1e-12, atol=1e-13)
    assert lower.solve.num_products == num_steps


def test_truncation_keeps_the_last_steps(problem):
    """M = N is the whole unroll, M = 0 the direct term, and between them M steps from φ_{N-M}."""
    phi, sgd = jnp.ones(DIM_PHI), optax.sgd(RATE)
    whole, _ = problem.gradient(Unroll(6, sgd), phi)
    all_kept, _ = problem.gradient(Unroll(6, sgd, truncate=6), phi)
    oracles.assert_close(all_kept, whole, rtol=1e-14)
    none_kept, _ = problem.gradient(Unroll(6, sgd, truncate=0), phi)
    first_order, _ = problem.gradient(FirstOrder(6, sgd), phi)
    oracles.assert_close(none_kept, first_order, rtol=1e-14)
    start = FirstOrder(4, sgd)(problem.upper_loss, problem.lower_loss, problem.theta, phi, KEY)
    some_kept, _ = problem.gradient(Unroll(6, sgd, truncate=2), phi)
    shorter, _ = problem.gradient(Unroll(2, sgd), start[1].phi)
    oracles.assert_close(some_kept, shorter, rtol=1e-12)
    assert np.abs(some_kept - whole).max() > 1e-3


def test_truncation_carries_the_optimizer_state(problem):
    """With momentum, the steps that are kept go on with the state of those that are not."""
    optimizer, phi = optax.sgd(RATE, momentum=0.9), jnp.ones(DIM_PHI)
    lowers = [problem.gradient(Unroll(5, optimizer, truncate=m), phi)[1] for m in (None, 2, 0)]
    oracles.assert_trees_close(lowers[1], lowers[0], rtol=1e-13)
    oracles.assert_trees_close(lowers[2], lowers[0], rtol=1e-13)


def test_the_bias_of_cg_falls_with_the_virtual_steps(problem):
    """It stems from φ_N alone: the solve is exact, but not at the optimum."""
    true = jax.grad(problem.true_value)(problem.theta)
    errors = []
    for num_steps in (0, 20, 80):
        strategy = ImplicitCG(50, 0.0, 1e-14, virtual_steps=num_steps, optimizer=optax.sgd(RATE))
        found, _ = problem.gradient(strategy, jnp.zeros(DIM_PHI))
        errors.append(float(jnp.linalg.norm(found - true)))
    assert errors[0] > 10 * errors[1] > 100 * errors[2]


def test_theorem_2(problem):
    """log-bias of the unroll is linear in N, with the slope of the contraction factor."""
    reference = ImplicitCG(50, 0.0, 1e-14)
    slowest = float(jnp.linalg.eigvalsh(problem.hessian).min())
    contraction = np.log(1.0 - RATE * slowest)
    numbers = np.arange(40, 121, 10)
    for start in ("optimum", "elsewhere"):
        optimum = problem.optimum(problem.theta)
        phi = optimum if start == "optimum" else optimum + 1.0
        compare = oracles.jit(
            lambda n, phi=phi, optimum=optimum: bias(
                Unroll(int(n), optax.sgd(RATE)),
                reference,
                problem.upper_loss,
                problem.lower_loss,
                problem.theta,
                phi,
                KEY,
                reference_phi=optimum,
            ),
            static_argnums=0,
        )
        found = [compare(n) for n in numbers]
        slope, intercept = np.polyfit(numbers, np.log([b.error for b in found]), 1)
        assert slope == pytest.approx(contraction, rel=0.1)
        residual = np.log([b.error for b in found]) - (slope * numbers + intercept)
        assert np.abs(residual).max() < 0.2
        assert found[-1].cosine > found[0].cosine > 0.9
        oracles.assert_close(
            found[0].relative_error, found[0].error / found[0].reference_norm, rtol=1e-12
        )


def test_the_ridge_is_added_to_the_hessian(problem):
    phi = problem.optimum(problem.theta)
    found, _ = problem.gradient(ImplicitCG(50, 0.7, 1e-14), phi)
    direct, to_phi = jax.grad(lambda *x: problem.upper_loss(*x)[0], (0, 1))(problem.theta, phi)
    x = jnp.linalg.solve(problem.hessian + 0.7 * jnp.eye(DIM_PHI), to_phi)
    oracles.assert_close(found, direct + problem.mixed.T @ x, rtol=1e-10)


def test_tolerance_and_steps_end_the_solve(problem):
    phi = jnp.ones(DIM_PHI)
    _, loose = problem.gradient(ImplicitCG(50, 0.0, 0.3), phi)
    _, tight = problem.gradient(ImplicitCG(50, 0.0, 1e-3), phi)
    _, two = problem.gradient(ImplicitCG(2, 0.0, 1e-14), phi)
    assert 1e-3 < loose.solve.residual <= 0.3
    assert tight.solve.residual <= 1e-3
    assert loose.solve.num_products < tight.solve.num_products
    assert two.solve.num_products == 2


def test_the_lower_loss_is_averaged_over_samples_in_the_solve(x64):
    """G = ½ (1 + z²) φ² - φθ with z of the key: the solve sees the mean of 1 + z²."""

    def lower_loss(theta, phi, key):
        return 0.5 * (1.0 + jax.random.normal(key) ** 2) * phi**2 - phi * theta

    def slope(num_samples, key):
        strategy = ImplicitCG(5, 0.0, 1e-12, num_samples=num_samples)
        return jax.grad(
            lambda theta: strategy(
                lambda theta, phi, key: (phi, None), lower_loss, theta, 0.0, key
            )[0][0]
        )(1.0)

    keys = jax.random.split(KEY, 200)
    one, many = (jax.vmap(functools.partial(slope, n))(keys) for n in (1, 400))
    oracles.assert_close(many, jnp.full(200, 0.5), rtol=0.3)
    assert one.std() > 10 * many.std()


def gradient_at_one(strategy, upper_loss, lower_loss, phi=1.0, theta=1.0):
    """The θ-gradient of a problem in one dimension, and its `Solve`."""

    def loss(theta):
        (value, _), lower = strategy(upper_loss, lower_loss, theta, phi, KEY)
        return value, lower.solve

    return jax.grad(loss, has_aux=True)(theta)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_the_two_sides_of_the_equation_share_their_noise(x64, num_samples):
    """F = c(key) φ and G = ½ c(key) φ² - φθ: with the one key x = 1, whatever it is."""

    def curvature(key):
        return 1.0 + jax.random.normal(key) ** 2

    def upper_loss(theta, phi, key):
        return curvature(key) * phi, None

    def lower_loss(theta, phi, key):
        return 0.5 * curvature(key) * phi**2 - phi * theta

    strategy = ImplicitCG(5, 0.0, 1e-12, num_samples=num_samples)
    found, _ = gradient_at_one(strategy, upper_loss, lower_loss)
    if num_samples == 1:
        assert found == pytest.approx(1.0, rel=1e-12)
    else:
        # Of three curvatures one is F's: found = 3 c / (c + c' + c''), below 3.
        assert 0.0 < found < 3.0
        assert abs(found - 1.0) > 1e-3


def test_samples_are_averaged_not_summed(x64):
    """Only beside a ridge does the scale of G matter: x = 1 / (1 + ridge)."""
    strategy = ImplicitCG(5, 0.5, 1e-12, num_samples=3)
    lower_loss = lambda theta, phi, key: 0.5 * phi**2 - phi * theta  # noqa: E731
    found, _ = gradient_at_one(strategy, lambda theta, phi, key: (phi, None), lower_loss)
    assert found == pytest.approx(1.0 / 1.5, rel=1e-12)


@pytest.mark.parametrize("strategy", [ImplicitCG(4, 0.0), Neumann(4, 0.5)])
def test_nothing_to_solve_and_nothing_to_solve_with(x64, strategy):
    """∂F/∂φ = 0 is solved by x = 0; a G that is flat in φ by nothing."""
    with jax.debug_nans(True):
        flat = lambda theta, phi, key: phi * theta  # noqa: E731
        curved = lambda theta, phi, key: 0.5 * phi**2 - phi * theta  # noqa: E731
        direct = lambda theta, phi, key: (3.0 * theta, None)  # noqa: E731
        found, solve = gradient_at_one(strategy, direct, curved)
        assert (found, solve.residual, solve.failed) == (3.0, 0.0, False)
        _, solve = gradient_at_one(strategy, lambda theta, phi, key: (phi, None), flat)
        assert solve.negative_curvature
        assert solve.failed


def test_the_series_reports_its_residual_and_that_it_diverges(problem):
    phi = problem.optimum(problem.theta)
    b = jax.grad(problem.upper_loss, argnums=1, has_aux=True)(problem.theta, phi)[0]
    x = sum(
        RATE * jnp.linalg.matrix_power(jnp.eye(DIM_PHI) - RATE * problem.hessian, n) @ b
        for n in range(6)
    )
    _, lower = problem.gradient(Neumann(6, RATE), phi)
    true = jnp.linalg.norm(b - problem.hessian @ x) / jnp.linalg.norm(b)
    oracles.assert_close(lower.solve.residual, true, rtol=1e-10)
    assert not lower.solve.failed
    too_long = 2.5 / jnp.linalg.eigvalsh(problem.hessian)[-1]
    _, lower = problem.gradient(Neumann(20, float(too_long)), phi)
    assert lower.solve.failed
    assert lower.solve.residual > 1.0


def test_a_converged_solve_in_single_precision_has_not_failed():
    """Past its rounding the residual is noise, along which no curvature is to be seen."""
    curvatures = 1e-3 * jnp.linspace(1.0, 3.0, 5)

    def lower_loss(theta, phi, key):
        return 0.5 * jnp.sum(curvatures * phi**2) - phi @ theta

    upper_loss = lambda theta, phi, key: (jnp.sum(phi), None)  # noqa: E731
    strategy, one = ImplicitCG(200, 0.0, 0.0), jnp.ones(5)
    found, solve = gradient_at_one(strategy, upper_loss, lower_loss, one, one)
    assert not solve.failed
    oracles.assert_close(found, 1.0 / curvatures, rtol=1e-5)


def test_an_indirect_term_that_is_not_finite_has_failed(x64):
    lower_loss = lambda theta, phi, key: 0.5 * phi**2 - phi * jnp.sqrt(theta)  # noqa: E731
    upper_loss = lambda theta, phi, key: (phi + 2.0 * theta, None)  # noqa: E731
    found, solve = gradient_at_one(ImplicitCG(4), upper_loss, lower_loss, theta=0.0)
    assert solve.failed
    assert np.isnan(found)
    strategy = ImplicitCG(4, on_failure="first_order")
    assert gradient_at_one(strategy, upper_loss, lower_loss, theta=0.0)[0] == 2.0


def test_second_derivatives_raise_and_forward_mode_agrees(problem):
    phi = problem.optimum(problem.theta)

    def value(theta):
        strategy = ImplicitCG(20, 0.0, 1e-12)
        return strategy(problem.upper_loss, problem.lower_loss, theta, phi, KEY)[0][0]

    direction = jnp.arange(1.0, 1.0 + DIM_THETA)
    _, tangent = jax.jvp(value, (problem.theta,), (direction,))
    oracles.assert_close(tangent, jax.grad(value)(problem.theta) @ direction, rtol=1e-12)
    for second in (jax.hessian(value), jax.jacrev(jax.grad(value))):
        with pytest.raises(NotImplementedError, match="no second derivatives; use Unroll"):
            second(problem.theta)


def test_precisions_may_differ_and_integers_are_refused():
    lower_loss = lambda theta, phi, key: 0.5 * jnp.sum((phi - theta) ** 2)  # noqa: E731
    upper_loss = lambda theta, phi, key: (jnp.sum(phi).astype(jnp.bfloat16), None)  # noqa: E731
    found, _ = gradient_at_one(ImplicitCG(4, 0.0), upper_loss, lower_loss, jnp.ones(2), jnp.ones(2))
    oracles.assert_close(found, jnp.ones(2), rtol=1e-2)
    with pytest.raises(TypeError, match="theta must have a floating dtype"):
        ImplicitCG(4)(upper_loss, lower_loss, jnp.arange(2), jnp.ones(2), KEY)


def saddle(theta, phi, key):
    return 0.5 * phi[0] ** 2 - 0.5 * phi[1] ** 2 - phi @ theta


def overflowing(theta, phi, key):
    return jnp.exp(1e4 * jnp.sum(phi**2)) - phi @ theta


@pytest.mark.parametrize("strategy", [ImplicitCG(10, 0.0), Neumann(10, 0.5)])
@pytest.mark.parametrize("lower_loss", [saddle, overflowing])
def test_failures_are_reported_and_fall_back_only_on_request(x64, strategy, lower_loss):
    theta, phi = jnp.array([1.0, 2.0]), jnp.array([0.5, 3.0])

    def run(strategy):
        def loss(theta):
            upper_loss = lambda theta, phi, key: (phi @ jnp.array([1.0, 0.3]) + theta[0], None)  # noqa: E731
            (value, _), lower = strategy(upper_loss, lower_loss, theta, phi, KEY)
            return value, lower.solve

        return jax.grad(loss, has_aux=True)(theta)

    gradient, solve = run(strategy)
    assert solve.failed
    if lower_loss is saddle:
        assert solve.negative_curvature
        assert np.all(np.isfinite(gradient))
    else:
        assert not np.any(np.isfinite(gradient))
    options = {name: getattr(strategy, name) for name in strategy.__dataclass_fields__}
    fallen, report = run(type(strategy)(**options | {"on_failure": "first_order"}))
    assert report.failed
    oracles.assert_close(fallen, jnp.array([1.0, 0.0]), rtol=1e-14)
    assert not np.allclose(gradient, fallen, equal_nan=False)


def test_phi_has_no_derivative(problem):

    def loss(theta, phi):
        strategy = ImplicitCG(5, virtual_steps=2, optimizer=optax.sgd(RATE))
        (value, _), _ = strategy(problem.upper_loss, problem.lower_loss, theta, phi, KEY)
        return value

    grad = jax.grad(loss, argnums=1)(problem.theta, jnp.ones(DIM_PHI))
    assert not np.any(grad)


def test_memory_does_not_grow_with_the_virtual_steps():
    data = jnp.ones((64, 64))

    def lower_loss(theta, phi, key):
        noise = jax.random.normal(key, data.shape)
        return jnp.mean((jnp.tanh(jnp.tanh(data + noise) @ phi) @ phi - theta * data) ** 2)

    def temporary_bytes(strategy):
        def loss(theta):
            upper_loss = lambda theta, phi, key: (jnp.sum(phi**2), None)  # noqa: E731
            return strategy(upper_loss, lower_loss, theta, jnp.zeros((64, 64)), KEY)[0][0]

        compiled = jax.jit(jax.grad(loss)).lower(1.0).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    sgd = optax.sgd(1e-2)
    few, many = (temporary_bytes(ImplicitCG(5, virtual_steps=n, optimizer=sgd)) for n in (2, 40))
    assert many < 1.05 * few + 1_000
    unrolled = temporary_bytes(Unroll(5, sgd, unroll=1))
    assert temporary_bytes(Unroll(50, sgd, remat=True)) < 2 * unrolled
    assert temporary_bytes(Unroll(50, sgd)) > 4 * unrolled


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: ImplicitCG(0), ValueError, "num_steps must be"),
        (lambda: ImplicitCG(ridge=-1.0), ValueError, "ridge must be"),
        (lambda: ImplicitCG(tolerance=-1.0), ValueError, "tolerance must be"),
        (lambda: ImplicitCG(num_samples=0), ValueError, "num_samples must be"),
        (lambda: ImplicitCG(on_failure="ignore"), ValueError, "on_failure must be one of"),
        (lambda: ImplicitCG(virtual_steps=2), ValueError, "optimizer must be given"),
        (lambda: Neumann(0, 0.1), ValueError, "num_terms must be"),
        (lambda: Neumann(3, 0.0), ValueError, "step_size must be"),
        (lambda: Neumann(3, 0.1, on_failure="nan"), ValueError, "on_failure must be one of"),
        (lambda: Neumann(3, 0.1, optimizer=0.1), TypeError, "optimizer must be"),
    ],
)
def test_bad_input_names_the_argument(call, error, match):
    with pytest.raises(error, match=match):
        call()
