"""The quick generator: `jax.random`'s numbers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbism import _random, samplers
from jbism._threefry import quick_key

DRAWS = {
    "normal": lambda key: jax.random.normal(key, (3, 5)),
    "uniform": lambda key: jax.random.uniform(key, (2, 0, 3)),
    "scalar": jax.random.exponential,
    "rademacher": lambda key: jax.random.rademacher(key, (9,)),
    "permutation": lambda key: jax.random.permutation(key, 17),
    "split": lambda key: jax.random.key_data(jax.random.split(key, (2, 3))),
    "fold_in": lambda key: jax.random.key_data(jax.random.fold_in(key, 2**32 - 1)),
    "mapped": lambda key: jax.vmap(jax.random.normal)(jax.random.split(key, 6)),
} | {
    f"bits{width}": lambda key, width=width: jax.random.bits(key, (7,), f"uint{width}")
    for width in (8, 16, 32, 64)
}


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")
def test_numbers_are_those_of_jax(draw, x64):
    with jax.enable_x64(x64):
        for key in (jax.random.key(3), jax.random.PRNGKey(2**31 + 5)):
            expected = draw(key)
            for result in (draw(quick_key(key)), jax.jit(lambda k: draw(quick_key(k)))(key)):
                assert result.dtype == expected.dtype
                np.testing.assert_array_equal(result, expected)


def test_a_draw_is_one_kernel_that_its_uses_do_not_repeat():
    """What it is for."""
    if jax.default_backend() != "cpu":
        pytest.skip("other devices keep JAX's own hash")

    def uses(draw):
        u = (draw >> 9).astype(jnp.float32)
        return u, (u < 5e5).astype(jnp.float32) @ jnp.ones((8, 2)), 2.0 * u.T, jnp.sum(u, axis=0)

    def program(key):
        return uses(jax.random.bits(quick_key(key), (64, 8)))

    text = jax.jit(program).lower(jax.random.key(0)).compile().as_text()
    assert len(re.findall(r" shift-left\(", text)) == 20  # one a round
    hashing = [body for body in text.split("\n\n") if " shift-left(" in body]
    assert [body.count(" fusion(") for body in hashing] == [0]  # within a kernel


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_devices_keep_what_jax_has_for_them(platform):
    program = jax.jit(lambda key: jax.random.bits(quick_key(key), (64,))).trace(jax.random.key(0))
    text = program.lower(lowering_platforms=(platform,)).as_text()
    assert "call @threefry2x32" in text
    assert "stablehlo.while" not in text


def test_keys_of_other_kinds_are_left_alone():
    other = jax.random.key(0, impl="rbg")
    assert quick_key(other) is other
    once = quick_key(jax.random.key(0))
    assert quick_key(once) is once
    key = jax.random.key(0)
    with jax.threefry_partitionable(False):
        assert quick_key(key) is key


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_keys_come_out_as_they_go_in(make):
    key = make(0)
    for ours, theirs in [
        (_random.split(key), jax.random.split(key)),
        (_random.split(key, (2, 3)), jax.random.split(key, (2, 3))),
        (_random.fold_in(key, 7), jax.random.fold_in(key, 7)),
        (_random.split(_random.split(key)[0])[1], jax.random.split(jax.random.split(key)[0])[1]),
    ]:
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(jax.random.key_data(ours), jax.random.key_data(theirs))
    np.testing.assert_array_equal(_random.normal(key, (3,)), jax.random.normal(key, (3,)))


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_callables_are_given_the_kind_of_key_that_the_user_has(make):
    """`jax.random.poisson` draws from JAX's own keys alone."""
    kinds = []

    class Poisson:
        def sample(self, key):
            kinds.append(key.dtype)
            return jax.random.poisson(key, 3.0, (2,)).astype(jnp.float32)

    samplers.block_gibbs(
        make(0),
        jnp.zeros((4, 2)),
        num_steps=2,
        hidden_given_visible=lambda v: Poisson(),
        visible_given_hidden=lambda h: Poisson(),
    )
    assert set(kinds) == {make(0).dtype}


def test_reuse_is_still_found():
    def twice(key):
        return jax.random.normal(quick_key(key)) + jax.random.normal(quick_key(key))

    with jax.debug_key_reuse(True), pytest.raises(jax.errors.KeyReuseError):
        jax.jit(twice)(jax.random.key(0))


def test_keys_that_vary_over_devices():
    """`jax.shard_map` types say so, and both branches of the hash have to agree on it."""
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))

    def draw(key):
        own = jax.random.fold_in(key, jax.lax.axis_index("x"))
        return jax.random.normal(own, (1, 3))

    def sharded(draw):
        spec = jax.sharding.PartitionSpec
        return jax.jit(jax.shard_map(draw, mesh=mesh, in_specs=spec(), out_specs=spec("x")))

    key = jax.random.key(0)
    expected = sharded(draw)(key)
    np.testing.assert_array_equal(sharded(lambda key: draw(quick_key(key)))(key), expected)


def test_a_shape_may_be_symbolic():
    def draw(key, x):
        return x + jax.random.normal(quick_key(key), x.shape)

    (size,) = jax.export.symbolic_shape("b")
    key = jax.random.key(0)
    exported = jax.export.export(jax.jit(draw))(key, jax.ShapeDtypeStruct((size, 3), jnp.float32))
    zeros = jnp.zeros((2, 3))
    np.testing.assert_array_equal(exported.call(key, zeros), draw(key, zeros))


def test_strict_promotion_and_no_transfers():
    key = quick_key(jax.random.key(0))
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        assert jax.random.normal(key, (2,), jnp.float64).dtype == jnp.float64
    jax.random.split(key)  # compiles
    with jax.transfer_guard("disallow"):
        jax.random.split(key)


def test_more_numbers_than_one_word_counts():
    """Beyond 2³² the counts have a second word; only shapes are asked for."""
    key = quick_key(jax.random.key(0))
    bits = jax.eval_shape(lambda key: jax.random.bits(key, (2**17, 2**16)), key)
    assert bits.shape == (2**17, 2**16)


@pytest.mark.parametrize("key", [3, None, jnp.zeros(3), np.zeros(3, np.uint32)])
def test_what_is_no_key_is_refused(key):
    with pytest.raises(TypeError, match="key"):
        quick_key(key)
