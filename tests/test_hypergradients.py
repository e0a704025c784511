"""The lower level: steps against a Python loop, derivatives against finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jbism.hypergradients import FirstOrder, ImplicitCG, Neumann, Unroll, descend
from jbism.hypergradients._descend import run_steps
from tests import oracles

OPTIMIZERS = {
    "sgd": optax.sgd(0.3),
    "momentum": optax.sgd(0.2, momentum=0.8),
    "adam": optax.adam(0.1, eps_root=1e-8),
}
KEY = jax.random.key(11)


def lower_loss(theta, phi, key):
    """Not quadratic, coupled over θ and both leaves of φ, noise redrawn with the key."""
    noise = 0.3 * jax.random.normal(key, (3,), theta.dtype)
    x = jnp.concatenate([phi["a"], phi["b"]])
    misfit = jnp.sum(jnp.log(jnp.cosh(x - theta + noise)))
    return misfit + 0.1 * jnp.dot(phi["a"], phi["a"]) * jnp.sum(theta * x) + 0.05 * jnp.sum(x**4)


def start():
    theta = jnp.array([0.7, -0.4, 1.1])
    return theta, {"a": jnp.array([0.2, -0.5]), "b": jnp.array([0.9])}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("num_steps", [1, 4])
def test_unroll_derivative_against_finite_differences(x64, name, num_steps):
    theta, phi = start()
    strategy = Unroll(num_steps, OPTIMIZERS[name])
    cotangent = {"a": jnp.array([1.3, -0.2]), "b": jnp.array([0.6])}
    direction = jnp.array([0.5, 1.0, -0.8])

    @oracles.jit
    def derivatives(theta):
        def phi_n(theta):
            return strategy.lower(lower_loss, theta, phi, KEY)[0]

        value, tangent = jax.jvp(phi_n, (theta,), (direction,))
        return value, tangent, jax.vjp(phi_n, theta)[1](cotangent)[0]

    _, tangent, pulled = derivatives(theta)
    expected = oracles.directional_difference(lambda t: derivatives(t)[0], theta, direction)
    oracles.assert_trees_close(tangent, expected, rtol=1e-6, atol=1e-9)
    oracles.assert_close(
        jnp.dot(pulled, direction), oracles.tree_dot(cotangent, tangent), rtol=1e-9
    )
    # One step of Adam is nearly a sign: its derivative is small, but not absent.
    assert oracles.tree_dot(tangent, tangent) > 1e-12


def upper_loss(theta, phi, key):
    return jnp.sum(jnp.sin(phi["a"]) * theta[:2]) + jnp.sum(phi["b"] ** 2), phi


def total(strategy, theta, phi, lower_loss=lower_loss, **options):
    (value, _), _ = strategy(upper_loss, lower_loss, theta, phi, KEY, **options)
    return value


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("num_steps", [0, 3])
def test_strategies_share_their_primal_value(x64, name, num_steps):
    theta, phi = start()
    optimizer = OPTIMIZERS[name]
    virtual = {"virtual_steps": num_steps, "optimizer": optimizer}
    strategies = (
        Unroll(num_steps, optimizer),
        Unroll(num_steps, optimizer, remat=True),
        Unroll(num_steps, optimizer, unroll=True),
        Unroll(num_steps, optimizer, truncate=num_steps // 2),
        FirstOrder(num_steps, optimizer),
        ImplicitCG(2, **virtual),
        Neumann(2, 0.1, **virtual),
    )

    grads = jax.tree.map(jnp.cos, phi)
    _, opt_state = optimizer.update(grads, optimizer.init(phi), phi)

    @oracles.jit
    def reach(theta, phi):
        return [s(upper_loss, lower_loss, theta, phi, KEY, opt_state=opt_state) for s in strategies]

    for (value, aux), lower in (found := reach(theta, phi)):
        oracles.assert_trees_close(lower[:2], found[0][1][:2], rtol=1e-12)
        oracles.assert_trees_close((value, aux), upper_loss(theta, lower.phi, KEY), rtol=1e-12)
    assert found[0][1].descent.losses.shape == (num_steps,)


@pytest.mark.parametrize("num_steps", [0, 3])
def test_first_order_sees_only_the_direct_term(x64, num_steps):
    theta, phi = start()
    strategy = FirstOrder(num_steps, optax.sgd(0.3))
    phi_n = strategy(upper_loss, lower_loss, theta, phi, KEY)[1].phi
    direct = jnp.concatenate([jnp.sin(phi_n["a"]), jnp.zeros(1)])
    grads = jax.grad(functools.partial(total, strategy), argnums=(0, 1))(theta, phi)
    oracles.assert_close(grads[0], direct, rtol=1e-14)
    assert all(jnp.all(leaf == 0.0) for leaf in jax.tree.leaves(grads[1]))


def test_no_steps_is_first_order(x64):
    theta, phi = start()
    values = [
        jax.value_and_grad(functools.partial(total, strategy))(theta, phi)
        for strategy in (Unroll(0, optax.sgd(0.3)), FirstOrder())
    ]
    oracles.assert_trees_close(values[0], values[1], rtol=0.0)
    _, (found, descent, solve) = FirstOrder()(upper_loss, lower_loss, theta, phi, KEY)
    oracles.assert_trees_close(found, phi, rtol=0.0)
    assert solve is None
    assert descent.losses.shape == descent.grad_norms.shape == (0,)


def test_unroll_holds_its_start_constant(x64):
    """φ⁰ and the optimizer's state may depend on θ; the unroll does not see it."""
    theta, phi = start()
    optimizer = OPTIMIZERS["momentum"]
    strategy = Unroll(3, optimizer)
    state = optimizer.init(phi)

    def through_start(scale):
        scaled_phi, scaled_state = jax.tree.map(lambda x: scale * (x + 1.0), (phi, state))
        phi_n, _ = strategy.lower(lower_loss, theta, scaled_phi, KEY, opt_state=scaled_state)
        return oracles.tree_dot(phi_n, phi_n)

    assert jax.grad(through_start)(1.0) == 0.0


@pytest.mark.parametrize("num_steps", [7, 16])
def test_remat_does_not_change_values_or_derivatives(x64, num_steps):
    theta, phi = start()
    optimizer = OPTIMIZERS["adam"]
    plain, remat = (
        oracles.jit(jax.value_and_grad(functools.partial(total, strategy)))(theta, phi)
        for strategy in (Unroll(num_steps, optimizer), Unroll(num_steps, optimizer, remat=True))
    )
    oracles.assert_trees_close(remat, plain, rtol=1e-12)


def test_remat_saves_memory():
    phi = jnp.zeros((64, 64))
    data = jnp.ones((64, 64))

    def matrix_loss(theta, phi, key):
        noise = jax.random.normal(key, data.shape)
        return jnp.mean((jnp.tanh(jnp.tanh(data + noise) @ phi) @ phi - theta * data) ** 2)

    def temporary_bytes(remat):
        strategy = Unroll(16, optax.sgd(1e-2), remat=remat)

        def loss(theta):
            return jnp.sum(strategy.lower(matrix_loss, theta, phi, KEY)[0] ** 2)

        compiled = jax.jit(jax.grad(loss)).lower(1.0).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(remat=True) < 0.3 * temporary_bytes(remat=False)


def test_adam_needs_eps_root_where_a_gradient_is_exactly_zero(x64):
    def partly_flat(theta, phi, key):
        return 0.5 * (phi[0] - theta) ** 2 + theta * phi[1] ** 2

    def reached(eps_root, theta):
        strategy = Unroll(3, optax.adam(0.1, eps_root=eps_root))
        return jnp.sum(strategy.lower(partly_flat, theta, jnp.zeros(2), KEY)[0])

    assert jnp.isnan(jax.grad(reached, argnums=1)(0.0, 0.7))
    mended = functools.partial(reached, 1e-8)
    expected = oracles.directional_difference(mended, 0.7, 1.0)
    oracles.assert_close(jax.grad(mended)(0.7), expected, rtol=1e-6)


@pytest.mark.parametrize("num_steps", [1, 4, 9])
def test_unrolled_sgd_at_the_optimum_is_the_neumann_series(x64, num_steps):
    """G = ½φᵀHφ - φᵀMθ: dφ_N/dθ = Σ_{n<N} (I - αH)ⁿ αM."""
    keys = jax.random.split(jax.random.key(0), 3)
    root = jax.random.normal(keys[0], (4, 4))
    hessian = jnp.eye(4) + 0.2 * root @ root.T
    mixed, theta = jax.random.normal(keys[1], (4, 3)), jax.random.normal(keys[2], (3,))
    rate = 0.2

    def quadratic(theta, phi, key):
        return 0.5 * phi @ hessian @ phi - phi @ (mixed @ theta)

    optimum = jnp.linalg.solve(hessian, mixed @ theta)
    strategy = Unroll(num_steps, optax.sgd(rate))
    found = jax.jacrev(lambda theta: strategy.lower(quadratic, theta, optimum, KEY)[0])(theta)
    contraction = np.eye(4) - rate * np.asarray(hessian)
    series = sum(np.linalg.matrix_power(contraction, n) for n in range(num_steps))
    oracles.assert_close(found, series @ (rate * np.asarray(mixed)), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("remat", [False, True])
def test_descend_is_the_python_loop(x64, name, remat):
    theta, phi = start()
    optimizer = OPTIMIZERS[name]
    options = {"num_steps": 5, "optimizer": optimizer, "remat": remat, "unroll": 2}
    found = oracles.jit(lambda *args: descend(lower_loss, *args, **options))(theta, phi, KEY)
    value_and_grad = oracles.jit(jax.value_and_grad(lower_loss, argnums=1))
    state, values, norms = optimizer.init(phi), [], []
    for key in jax.random.split(KEY, 5):
        value, grads = value_and_grad(theta, phi, key)
        updates, state = optimizer.update(grads, state, phi)
        phi = optax.apply_updates(phi, updates)
        values.append(value)
        norms.append(jnp.sqrt(oracles.tree_dot(grads, grads)))
    oracles.assert_trees_close(found[:2], (phi, state), rtol=1e-12)
    oracles.assert_close(found[2].losses, values, rtol=1e-12)
    oracles.assert_close(found[2].grad_norms, norms, rtol=1e-12)


@pytest.mark.parametrize(("unroll", "remat"), [(1, False), (True, False), (True, True)])
def test_one_step_is_the_first_of_several(x64, unroll, remat):
    """Though it runs in no loop. Later steps, of a rate of zero, do not move φ."""
    theta, phi = start()
    keys = jax.random.split(KEY, 3)
    momentum = optax.trace(0.8)
    rate = optax.scale_by_schedule(optax.piecewise_constant_schedule(-0.3, {1: 0.0}))
    options = {"optimizer": optax.chain(momentum, rate), "opt_state": None}

    @oracles.jit
    def run(theta, keys):
        def reached(theta):
            return run_steps(lower_loss, theta, phi, keys, **options, unroll=unroll, remat=remat)

        phi_n, pull, descent = jax.vjp(lambda theta: reached(theta)[::2], theta, has_aux=True)
        return phi_n, pull(jax.tree.map(jnp.ones_like, phi_n)), descent

    phi_one, gradient, one = run(theta, keys[:1])
    phi_all, gradient_of_all, several = run(theta, keys)
    oracles.assert_trees_close((phi_one, gradient), (phi_all, gradient_of_all), rtol=1e-12)
    assert one.losses.shape == one.grad_norms.shape == (1,)
    oracles.assert_trees_close(one, jax.tree.map(lambda x: x[:1], several), rtol=1e-12)
    assert oracles.tree_distance(phi_one, phi) > 0.1


def test_one_step_runs_outside_of_loops():
    theta, phi = start()

    def loops(num_steps, **options):
        options |= {"num_steps": num_steps, "optimizer": OPTIMIZERS["adam"]}
        program = jax.make_jaxpr(lambda *args: descend(lower_loss, *args, **options))
        return str(program(theta, phi, KEY)).count("scan[")

    assert loops(1) == 0
    assert loops(1, remat=True) > 0
    assert loops(2) == 1


def without_noise(theta, phi, key):
    return lower_loss(theta, phi, KEY)


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_descend_continues_from_an_optimizer_state(x64, name):
    theta, phi = start()
    run = functools.partial(descend, without_noise, theta, optimizer=OPTIMIZERS[name])
    whole = run(phi, KEY, num_steps=5)
    first = run(phi, KEY, num_steps=2)
    second = run(first[0], KEY, num_steps=3, opt_state=first[1])
    oracles.assert_trees_close(second[:2], whole[:2], rtol=1e-12)
    fresh = run(first[0], KEY, num_steps=3)
    assert oracles.tree_distance(fresh[0], whole[0]) > 1e-3
    strategy = Unroll(3, OPTIMIZERS[name])
    virtual, _ = strategy.lower(without_noise, theta, first[0], KEY, opt_state=first[1])
    oracles.assert_trees_close(virtual, whole[0], rtol=1e-12)


def test_no_steps_return_the_start(x64):
    theta, phi = start()
    optimizer = OPTIMIZERS["adam"]
    found, state, descent = descend(lower_loss, theta, phi, KEY, num_steps=0, optimizer=optimizer)
    oracles.assert_trees_close((found, state), (phi, optimizer.init(phi)), rtol=0.0)
    assert descent.losses.shape == descent.grad_norms.shape == (0,)


def _descend(num_steps=2, optimizer=OPTIMIZERS["adam"], opt_state=None):
    theta, phi = start()
    descend(
        lower_loss, theta, phi, KEY, num_steps=num_steps, optimizer=optimizer, opt_state=opt_state
    )


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: _descend(-1), ValueError, "num_steps must be an integer >= 0"),
        (lambda: _descend(2.0), TypeError, "num_steps must be an integer"),
        (lambda: _descend(optimizer=0.1), TypeError, "optimizer must be"),
        (
            lambda: _descend(opt_state=optax.sgd(0.1).init(start()[1])),
            ValueError,
            "opt_state must be a state of the optimizer",
        ),
        (
            lambda: _descend(opt_state=OPTIMIZERS["adam"].init({"a": jnp.zeros(2)})),
            ValueError,
            "opt_state must be a state of the optimizer",
        ),
        (
            lambda: _descend(
                opt_state=OPTIMIZERS["adam"].init({"a": jnp.zeros(5), "b": jnp.zeros(1)})
            ),
            ValueError,
            "opt_state must be a state of the optimizer",
        ),
        (lambda: Unroll(-1, optax.sgd(0.1)), ValueError, "num_steps must be"),
        (lambda: Unroll(True, optax.sgd(0.1)), TypeError, "num_steps must be"),
        (lambda: Unroll(3, 0.1), TypeError, "optimizer must be"),
        (lambda: Unroll(3, optax.sgd(0.1), truncate=4), ValueError, "truncate must be at most"),
        (lambda: Unroll(3, optax.sgd(0.1), truncate=-1), ValueError, "truncate must be"),
        (lambda: FirstOrder(-1), ValueError, "num_steps must be"),
        (lambda: FirstOrder(3), ValueError, "optimizer must be given"),
        (lambda: FirstOrder(3, 0.1), TypeError, "optimizer must be"),
    ],
)
def test_bad_input_names_the_argument(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_forward_mode_is_finite_where_the_lower_gradient_is_zero():
    def lower_loss(theta, phi, key):
        return 0.5 * jnp.sum((phi - theta) ** 2)

    def solve(theta):
        return Unroll(3, optax.sgd(0.5)).lower(lower_loss, theta, jnp.ones(2), jax.random.key(0))

    _, (phi_dot, descent_dot) = jax.jvp(solve, (jnp.ones(2),), (jnp.ones(2),))
    assert phi_dot.tolist() == [0.875, 0.875]
    assert descent_dot.grad_norms.tolist() == [0.0, 0.0, 0.0]
