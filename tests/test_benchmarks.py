"""The benchmarks count and time what they say they do."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import budget, cases, flops, timing, traffic
from jbism import divergences, losses, networks
from jbism.hypergradients import Unroll
from jbism.training import train_steps
from tests.processes import ROOT


def _shape(*dims):
    return jax.ShapeDtypeStruct(dims, jnp.float32)


def _xla_flops(function, *args):
    return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]


def test_flops_of_products_match_their_sizes():
    x, w = _shape(7, 5), _shape(5, 3)
    assert flops.matmul_flops(jnp.matmul, x, w) == 2 * 7 * 5 * 3
    assert flops.matmul_flops(jax.vmap(lambda v, w: v @ w, (0, None)), x, w) == 2 * 7 * 5 * 3
    assert flops.matmul_flops(jax.vmap(jnp.matmul), _shape(4, 7, 5), _shape(4, 5, 3)) == 840
    assert flops.matmul_flops(jnp.matmul, x, w) == _xla_flops(jnp.matmul, x, w)


def test_flops_of_a_convolution_match_its_size():
    def conv(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    x, kernel = _shape(2, 9, 9, 3), _shape(3, 3, 3, 8)
    assert flops.matmul_flops(conv, x, kernel) == 2 * (2 * 4 * 4 * 8) * (3 * 3 * 3)
    assert flops.matmul_flops(conv, x, kernel) == _xla_flops(conv, x, kernel)


@pytest.mark.parametrize("stride", [1, 2])
def test_flops_of_a_trunk_are_those_of_the_sums(stride):
    """Also where the convolutions are done by fewer multiplications."""
    conv = networks.Conv3x3(8, stride=stride, use_bias=False)
    pooled = networks.Conv3x3(8, use_bias=False, pool=True)

    def value(theta, x):
        return jnp.sum(jnp.tanh(pooled.apply(theta, jnp.tanh(conv.apply(theta, x)))))

    def gradient(theta, x):
        return jax.grad(lambda theta: jnp.sum(jax.vmap(value, (None, 0))(theta, x)))(theta)

    theta, x = {"params": {"kernel": _shape(3, 3, 8, 8)}}, _shape(2, 12, 12, 8)
    first, second = (2 * 9 * 8 * 8 * (side // stride) ** 2 for side in (12, 6))
    # Two for the first, whose x needs no derivative, and three for the second, for two examples.
    assert flops.matmul_flops(gradient, theta, x) == 2 * (2 * first + 3 * second)


def test_flops_count_loops_by_iteration_and_leave_out_unused_products():
    x = _shape(5, 5)

    def loop(x, w):
        def body(carry, _):
            y, unused = carry
            return (y @ w, unused @ w @ w), jnp.sum(y @ y)

        (y, _), sums = jax.lax.scan(body, (x, x), None, length=4)
        return y, sums

    product = 2 * 5**3
    assert flops.matmul_flops(lambda x, w: loop(x, w)[0], x, x) == 4 * product
    assert flops.matmul_flops(loop, x, x) == 8 * product

    def branch(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x, lambda x: x @ x @ x, x)

    assert flops.matmul_flops(branch, x) == 2 * product
    assert flops.matmul_flops(jax.checkpoint(lambda x: x @ x), x) == product


def test_flops_refuse_products_in_a_loop_of_unknown_length():
    def power(x):
        return jax.lax.while_loop(lambda y: y[0, 0] > 0, lambda y: y @ x, x)

    with pytest.raises(ValueError, match="unknown length"):
        flops.matmul_flops(power, _shape(5, 5))
    assert flops.matmul_flops(power, _shape(5, 5), unknown_turns=3) == 3 * 2 * 5**3


def _traffic(function, *args, **options):
    return traffic.memory_traffic(jax.jit(function).lower(*args).compile().as_text(), **options)


def test_traffic_counts_operands_results_and_turns():
    x = _shape(100, 100)
    size = 4 * 100 * 100
    assert _traffic(lambda x: jnp.exp(x) + 1.0, x) == 2 * size
    one, ten = (
        _traffic(lambda x, n=n: jax.lax.fori_loop(0, n, lambda _, y: jnp.sin(y) @ x, x), x)
        for n in (10, 100)
    )
    assert (ten - one) / 90 == pytest.approx(5 * size, rel=0.01)  # sin and a product


def test_traffic_counts_what_is_taken_of_an_array():
    """A row of 1,000 is read and written in each of ten turns, not the whole array."""
    rows = _shape(1_000, 50)

    def run(rows):
        def body(i, rows):
            return rows.at[i].set(jnp.sin(rows[i]))

        return jax.lax.fori_loop(0, 10, body, rows)

    whole = 4 * 1_000 * 50
    assert _traffic(run, rows) < 2 * whole + 10 * 10 * 4 * 50


def test_traffic_of_a_loop_of_unknown_length():
    def until(x):
        return jax.lax.while_loop(lambda y: y[0, 0] < 9.0, lambda y: jnp.sin(y) + y, x)

    x = _shape(50, 50)
    with pytest.raises(flops.UnknownLengthError):
        _traffic(until, x)
    two, three = (_traffic(until, x, unknown_turns=n) for n in (2, 3))
    assert three - two == pytest.approx(2 * 4 * 50 * 50, rel=0.01)


@pytest.mark.parametrize("divergence", [divergences.KL(), divergences.MeanFieldKL()])
def test_flops_of_the_rbm_step_match_a_count_by_hand(divergence):
    """N = 0: each of K = 5 lower steps takes v W, v W_q and one weight gradient; the upper takes

    W_q twice for logits, W h, W_q (h - q) and one weight gradient. Each virtual step and its
    derivative take 3 products more. The rest, vector products, is below 2 / 100 of a product.
    """
    batch, dim, hidden = 100, 120, 80

    def products(n):
        return _products(
            batch, dim, hidden, divergence=divergence, hypergradient=Unroll(n, cases.ADAM)
        )

    zero, three, four = products(0), products(3), products(4)
    assert 20 <= zero < 20.5
    assert 6 <= four - three < 6.1


@pytest.mark.parametrize("divergence", [divergences.KL(), divergences.MeanFieldKL()])
def test_products_of_a_vages_step(divergence):
    """Each lower step 3 products as above; VaGES W_q for logits, W of the mean h for the scores, W
    for primal and for tangent, and a weight gradient of each: 6. Particles cost vector products.
    """
    two = _products(100, 120, 80, divergence=divergence, num_particles=2)
    ten = _products(100, 120, 80, divergence=divergence, num_particles=10)
    assert 21 <= two < 21.5
    assert ten - two < 1.0


def _products(batch, dim, hidden, **options):
    """The FLOPs of a step, as a multiple of those of one product W h."""
    step, state, _ = cases.build_rbm(
        dim=dim, num_hidden=hidden, objective=losses.DSM(sigma=0.3), **options
    )
    count = flops.matmul_flops(step, state, _shape(batch, dim))
    return count / (2 * batch * dim * hidden)


def test_product_program_multiplies():
    rows, depth, columns = shape = (6, 5, 4)
    program, x = timing.product_program(3, shape)
    rng = np.random.default_rng(0)
    expected = rng.normal(size=(rows, depth)).astype(np.float32)
    w = np.linalg.qr(rng.normal(size=(depth, columns)))[0]
    for _ in range(3):
        expected[0, :columns] = expected[0] @ w
    result, elapsed = timing.time_calls(program, x)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
    assert timing.product_flops(shape) == 2 * rows * depth * columns
    assert elapsed.wall > 0
    assert elapsed.cpu >= 0


def test_copy_program_reads_and_writes_the_whole_array():
    program, x = timing.copy_program(3, 400)
    assert traffic.memory_traffic(program.hlo) >= 3 * 2 * 400
    result, _ = timing.time_calls(program, x, 2)
    np.testing.assert_array_equal(result, np.full(100, 6.0))


@pytest.fixture(scope="module")
def tiny():
    """A case whose every part is small."""

    def build():
        return cases.build_rbm(
            dim=3,
            num_hidden=2,
            objective=losses.SSM(),
            divergence=divergences.KL(),
            num_examples=20,
        )

    return cases.Case("tiny", build, 8, 4)


def test_timed_program_is_the_training_step(tiny):
    step, state, data = tiny.build()
    indices = jax.random.randint(jax.random.key(0), (4, 8), 0, 20)
    run = train_steps(step, data)
    program = timing.compile_program(run, state, indices, num_steps=4)
    timed, _ = timing.time_calls(program, tiny.build()[1])
    trained, _ = train_steps(step, data)(tiny.build()[1], indices)
    assert int(timed.step) == 4
    jax.tree.map(np.testing.assert_array_equal, timed.theta, trained.theta)
    assert program.compile_seconds > 0
    assert program.temp_bytes > 0


def test_published_settings_are_among_the_cases():
    published = {name: case.published_ms for name, case in cases.all_cases().items()}
    assert published["toy_dsm_kl_n5"] == 7.5
    assert published["rbm560_dsm_kl_n0"] == 45.0
    assert published["rbm560_dsm_kl_n5"] == 108.0
    for case in cases.all_cases().values():
        if case.name.startswith("rbm560_dsm_kl_n5"):
            step, state, data = case.build()
            new_state, _ = jax.eval_shape(step, state, _shape(100, 560))
            assert jax.tree.structure(new_state) == jax.tree.structure(state)
            assert data.shape[1:] == (560,)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin")
def test_pinning_comes_before_jax_and_keeps_one_core():
    script = (
        "import os, sys\n"
        "from benchmarks import cores\n"
        "core = cores.pin_to_one_core(None)\n"
        "assert os.sched_getaffinity(0) == {core}, core\n"
        "assert 'xla_cpu_multi_thread_eigen=false' in os.environ['XLA_FLAGS']\n"
        "assert 'jax' not in sys.modules\n"
        "cores.pin_to_one_core(10**6)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1].startswith("ValueError: core must be one of [")


# The budget


def test_a_cost_above_the_budget_is_worse_and_below_it_better():
    stored = {"a": {"matmul_flops": 100.0, "temp_bytes": 1000.0, "compilations": 1.0}}
    same = {"a": {"matmul_flops": 100.0, "temp_bytes": 1019.0, "compilations": 1.0}}
    assert budget.compare(same, stored) == ([], [])
    more = {"a": {"matmul_flops": 101.0, "temp_bytes": 1021.0, "compilations": 2.0}}
    worse, better = budget.compare(more, stored)
    assert len(worse) == 3
    assert not better
    worse, better = budget.compare(stored, more)
    assert not worse
    assert len(better) == 3
    assert budget.compare({"b": {"matmul_flops": 1.0}}, stored)[0] == [
        "b: matmul_flops None -> 1.0"
    ]


def test_no_program_costs_more_than_its_budget():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.budget"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode == 2:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
