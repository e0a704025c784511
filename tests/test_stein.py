"""Stein kernels against autodiff and closed forms, and the test's level and power."""

import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jbism import stein
from jbism.stein import IMQ, RBF
from jbism.stein._kernels import _lower_median, squared_distances
from tests import oracles

KEYS = jax.random.split(jax.random.key(0), 8)


@dataclass(frozen=True)
class Cosine:
    """A user's own kernel; not a positive definite one, but the formulas are of any profile."""

    def profile(self, points):
        return lambda squared: jnp.cos(0.3 * squared + 0.1)


KERNELS = [RBF(0.8), RBF("median"), IMQ(), IMQ(1.3, exponent=-0.3), IMQ("median"), Cosine()]


def example(n, *event, dtype=float):
    v = jax.random.normal(KEYS[0], (n, *event), dtype)
    return v, jnp.sin(2.0 * v) - v


def autodiff_matrix(v, scores, profile):
    """The definition, pair by pair, with the kernel's derivatives by autodiff."""

    def k(x, y):
        return profile(jnp.sum((x - y) ** 2))

    @oracles.jit
    def u(x, y, s_x, s_y):
        trace = jnp.trace(jax.jacfwd(jax.grad(k), 1)(x, y))
        return s_x @ s_y * k(x, y) + s_x @ jax.grad(k, 1)(x, y) + s_y @ jax.grad(k)(x, y) + trace

    flat, flat_scores = v.reshape(len(v), -1), scores.reshape(len(v), -1)
    pairs = itertools.product(zip(flat, flat_scores, strict=True), repeat=2)
    entries = [u(x, y, s_x, s_y) for (x, s_x), (y, s_y) in pairs]
    return np.array(entries).reshape(len(v), len(v))


def median_distance(v):
    """The lower median of the pairs' distances by sorting."""
    flat = np.asarray(v).reshape(len(v), -1)
    rows, columns = np.triu_indices(len(v), 1)
    distances = np.sort(np.linalg.norm(flat[rows] - flat[columns], axis=1))
    return distances[(len(distances) - 1) // 2]


# The Stein kernel


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_stein_matrix_row_sums_and_statistics_are_the_definition(x64, kernel):
    v, scores = example(5, 2, 2)
    if "median" in str(kernel):
        fixed = RBF(median_distance(v)) if isinstance(kernel, RBF) else IMQ(median_distance(v))
    else:
        fixed = kernel
    expected = autodiff_matrix(v, scores, fixed.profile(v.reshape(5, 4)))
    matrix = stein.stein_matrix(v, scores, kernel=kernel)
    oracles.assert_close(matrix, expected, rtol=1e-11, atol=1e-12)
    off_diagonal = expected - np.diag(np.diag(expected))
    for block_size in (1, 2, 3, 5, 1024):
        blocks = {"kernel": kernel, "block_size": block_size}
        sums, diagonal = stein.stein_row_sums(v, scores, **blocks)
        oracles.assert_close(sums, off_diagonal.sum(1), rtol=1e-11, atol=1e-12)
        oracles.assert_close(diagonal, np.diag(expected), rtol=1e-11)
    u, w = (stein.ksd(v, scores, kernel=kernel, statistic=s, block_size=2) for s in "uv")
    oracles.assert_close(u, off_diagonal.sum() / 20, rtol=1e-11)
    oracles.assert_close(w, expected.sum() / 25, rtol=1e-11)


@pytest.mark.parametrize("kernel", [RBF(0.8), IMQ(), Cosine()], ids=str)
@pytest.mark.parametrize("block_size", [3, 1024])
def test_gradient_in_points_and_scores(x64, kernel, block_size):
    def discrepancy(arguments):
        return stein.ksd(*arguments, kernel=kernel, block_size=block_size)

    arguments = example(7, 3)
    gradient = oracles.jit(jax.grad(discrepancy))(arguments)
    oracles.assert_gradient(oracles.jit(discrepancy), arguments, gradient, KEYS[1], rtol=1e-6)


def test_median_is_a_constant_of_derivatives(x64):
    v, scores = example(6, 2)

    def gradient(kernel):
        return jax.grad(lambda v: stein.ksd(v, scores, kernel=kernel))(v)

    expected = gradient(RBF(float(median_distance(v))))
    oracles.assert_close(gradient(RBF("median")), expected, rtol=1e-10)


@pytest.mark.parametrize("n", [2, 3, 4, 7, 100])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_median_of_distances(x64, n, dtype):
    v = jax.random.normal(KEYS[2], (n, 3), dtype)
    median = jnp.sqrt(_lower_median(squared_distances(v, v)))
    assert median.dtype == dtype
    oracles.assert_close(median, median_distance(v), rtol=1e-6 if dtype == "float32" else 1e-14)


def test_median_of_many_points_is_that_of_a_thousand():
    v = jnp.arange(3001.0)[:, None]  # of a thousand evenly spaced ones, every third or so
    median = 3000.0 * (1.0 - np.sqrt(0.5))
    assert float(RBF("median").profile(v)(median**2)) == pytest.approx(np.exp(-0.5), rel=2e-3)


def test_float32_keeps_its_digits_far_from_the_origin(x64):
    v = jnp.round(jax.random.normal(KEYS[3], (50, 4)) * 64) / 64 + 4096.0  # exact in float32
    scores = jax.random.normal(KEYS[4], (50, 4)).astype(jnp.float32)
    single = stein.stein_matrix(v.astype(jnp.float32), scores, kernel=RBF(2.0))
    double = stein.stein_matrix(v, scores.astype(jnp.float64), kernel=RBF(2.0))
    assert single.dtype == jnp.float32
    oracles.assert_close(single, double, rtol=0, atol=2e-5)


def test_coinciding_points():
    v = jnp.full((4, 3), 0.1)
    scores = jax.random.normal(KEYS[4], (4, 3))
    u = stein.stein_matrix(v, scores, kernel=RBF())
    oracles.assert_close(u, scores @ scores.T + 3.0, rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda v: stein.ksd(v, scores, kernel=RBF()))(v)
    assert np.isfinite(gradient).all()


def test_memory_of_value_and_gradient_grows_with_the_points_not_with_their_square():
    def temporaries(n):
        def discrepancy(v, scores):
            return stein.ksd(v, scores, kernel=IMQ(), block_size=500)

        x = jax.ShapeDtypeStruct((n, 10), jnp.float32)
        compiled = jax.jit(jax.grad(discrepancy, (0, 1))).lower(x, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    # Ten arrays [500, n]; one [n, n] alone would be 400 MB.
    assert temporaries(10_000) < 200e6
    assert temporaries(10_000) < 11 * temporaries(1_000)


# The discrepancy


def test_discrepancy_of_gaussians_is_the_closed_form(x64):
    # Data N(μ, I), model N(0, I): the scores differ by -μ everywhere, so the discrepancy is
    # ‖μ‖² E k, and v_i - v_j ~ N(0, 2I).
    mean, bandwidth, n = jnp.array([[[0.3, -0.5]]]), 1.2, 20
    v = mean + jax.random.normal(KEYS[5], (4000, n, 2))

    def estimates(statistic, noise=0.0):
        scores = -v + noise * jax.random.normal(KEYS[6], v.shape)

        def one(v, scores):
            return stein.ksd(v, scores, kernel=RBF(bandwidth), statistic=statistic)

        return oracles.jit(jax.vmap(one))(v, scores)

    expected = jnp.sum(mean**2) * bandwidth**2 / (bandwidth**2 + 2.0)
    oracles.assert_mean(estimates("u"), expected)
    diagonal = 2.0 + jnp.sum(mean**2) + 2.0 / bandwidth**2  # E[‖s‖²] - 2Dκ'(0)
    oracles.assert_mean(estimates("v"), (expected * (n - 1) + diagonal) / n)
    # Independent noise in the scores leaves U unbiased; V gains the noise's variance.
    oracles.assert_mean(estimates("u", noise=1.0), expected)
    oracles.assert_mean(estimates("v", noise=1.0), (expected * (n - 1) + diagonal + 2.0) / n)


def test_discrepancy_of_a_model_to_itself_is_zero(x64):
    # Two components, whose scores are not linear, and heavy-tailed kernels.
    v = jax.random.normal(KEYS[5], (2000, 20, 1))
    v = v + 2.0 * jax.random.rademacher(KEYS[6], v.shape)
    for kernel in (RBF(0.7), IMQ(0.5)):
        u = oracles.jit(
            jax.vmap(lambda v, k=kernel: stein.ksd(v, 2 * jnp.tanh(2 * v) - v, kernel=k))
        )
        oracles.assert_mean(u(v), 0.0)


# The test


def model_scores(v):
    return -v


def p_values(key, *, shift, num_tests, n=60):
    def one(key):
        key_v, key_test = jax.random.split(key)
        v = shift + jax.random.normal(key_v, (n, 2))
        result = stein.goodness_of_fit(
            key_test, v, model_scores(v), kernel=RBF("median"), num_bootstrap=199
        )
        return result.p_value

    return np.asarray(oracles.jit(jax.vmap(one))(jax.random.split(key, num_tests)))


def test_level_and_power():
    p = p_values(KEYS[1], shift=0.0, num_tests=600)
    for level in (0.05, 0.2, 0.5):
        low, high = stats.binom.interval(0.99, len(p), level)
        assert low <= np.sum(p <= level) <= high
    assert np.mean(p_values(KEYS[2], shift=0.5, num_tests=50) <= 0.05) > 0.9


def test_goodness_of_fit_is_the_definition_in_blocks_too(x64):
    v, scores = example(9, 2)
    u = np.asarray(stein.stein_matrix(v, scores, kernel=IMQ()))
    u = u - np.diag(np.diag(u))
    signs = np.asarray(jax.random.rademacher(KEYS[7], (30, 9), float))
    bootstrap = np.einsum("bi,ij,bj->b", signs, u, signs) / 8
    count = np.sum(bootstrap >= u.sum() / 8 - 1e-9)
    assert np.sum(bootstrap >= u.sum() / 8 + 1e-9) < count < 30  # a tie, from equal signs
    for block_size in (1, 4, 1024):
        result = stein.goodness_of_fit(
            KEYS[7], v, scores, kernel=IMQ(), num_bootstrap=30, block_size=block_size
        )
        oracles.assert_close(result.statistic, u.sum() / 8, rtol=1e-11)
        oracles.assert_close(result.bootstrap, bootstrap, rtol=1e-10, atol=1e-12)
        assert float(result.p_value) == pytest.approx((1 + count) / 31)


def test_jit_is_eager_and_vmap_a_loop(x64):
    v, scores = example(6, 2)
    batch = jnp.stack([v, 2.0 * v])

    def test(v):
        return stein.goodness_of_fit(KEYS[3], v, scores, kernel=RBF("median"), num_bootstrap=20)

    eager = [test(x) for x in batch]
    oracles.assert_trees_close(oracles.jit(test)(v), eager[0], rtol=1e-10)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *eager)
    oracles.assert_trees_close(oracles.jit(jax.vmap(test))(batch), stacked, rtol=1e-10)


def test_scores_that_are_not_finite():
    v, scores = example(5, 2, dtype=jnp.float32)
    for bad in (jnp.nan, jnp.inf):
        wrong = scores.at[1, 0].set(bad)
        for call in (stein.stein_matrix, stein.stein_row_sums, stein.ksd):
            with pytest.raises(ValueError, match="scores must be finite"):
                call(v, wrong, kernel=RBF())
        with pytest.raises(ValueError, match="scores must be finite"):
            stein.goodness_of_fit(KEYS[0], v, wrong, kernel=RBF())
        with pytest.raises(ValueError, match="v must be finite"):
            stein.ksd(wrong, scores, kernel=RBF())
        traced = jax.jit(lambda s: stein.goodness_of_fit(KEYS[0], v, s, kernel=RBF()))(wrong)
        assert np.isnan(traced.p_value)


def test_concrete_arrays_within_jit():
    v, scores = example(5, 2, dtype=jnp.float32)
    traced = jax.jit(lambda scale: scale * stein.ksd(v, scores, kernel=RBF("median")))(1.0)
    oracles.assert_close(traced, stein.ksd(v, scores, kernel=RBF("median")), rtol=1e-5)


# Bad input


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: RBF(0.0), ValueError, "bandwidth must be a number > 0"),
        (lambda: RBF(float("nan")), ValueError, "bandwidth must be a number > 0"),
        (lambda: RBF("mean"), ValueError, "bandwidth must be a number > 0 or 'median'"),
        (lambda: RBF(None), TypeError, "bandwidth"),
        (lambda: IMQ(-1.0), ValueError, "scale must be a number > 0"),
        (lambda: IMQ("mean"), ValueError, "scale must be a number > 0 or 'median'"),
        (lambda: IMQ(exponent=0.0), ValueError, "exponent must be between -1 and 0"),
        (lambda: IMQ(exponent=-1), ValueError, "exponent must be between -1 and 0"),
        (lambda: IMQ(exponent=float("nan")), ValueError, "exponent must be between"),
        (lambda: IMQ(exponent="-0.5"), TypeError, "exponent must be"),
    ],
)
def test_kernel_errors(make, error, match):
    with pytest.raises(error, match=match):
        make()


@dataclass(frozen=True)
class Summed:
    def profile(self, points):
        return jnp.sum


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"v": jnp.zeros((1, 2)), "scores": jnp.zeros((1, 2))}, ValueError, "v must hold at least"),
        ({"v": jnp.zeros(4), "scores": jnp.zeros(4)}, ValueError, r"v must have shape \[batch"),
        ({"v": jnp.zeros((4, 2), int)}, TypeError, "v must have a floating dtype"),
        ({"scores": jnp.zeros((4, 2), int)}, TypeError, "scores must have a floating dtype"),
        ({"scores": jnp.zeros((4, 3))}, ValueError, "scores must have the shape of v"),
        ({"kernel": RBF}, TypeError, "kernel must be an instance"),
        ({"kernel": jnp.exp}, TypeError, "kernel must be an instance"),
        ({"kernel": Summed()}, ValueError, "kernel.profile"),
        ({"kernel": RBF("median")}, ValueError, "bandwidth 'median' needs points that differ"),
        ({"kernel": IMQ("median")}, ValueError, "scale 'median' needs points that differ"),
        ({"block_size": 0}, ValueError, "block_size"),
        ({"block_size": 2.0}, TypeError, "block_size"),
        ({"statistic": "w"}, ValueError, "statistic must be one of"),
    ],
)
def test_ksd_errors(change, error, match):
    arguments = {"v": jnp.zeros((4, 2)), "scores": jnp.zeros((4, 2)), "kernel": RBF()} | change
    with pytest.raises(error, match=match):
        stein.ksd(arguments.pop("v"), arguments.pop("scores"), **arguments)


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (1.5, TypeError)])
def test_goodness_of_fit_errors(value, error):
    x = jnp.zeros((4, 2))
    with pytest.raises(error, match="num_bootstrap"):
        stein.goodness_of_fit(KEYS[0], x, x, kernel=RBF(), num_bootstrap=value)
