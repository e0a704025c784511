"""The 3x3 convolution and its derivatives of any order against XLA's own convolutions."""

import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import NamedSharding, PartitionSpec

from jbism.networks._conv_primitive import conv3x3
from tests import oracles
from tests.processes import ROOT

# batch, height, width, channels, features, stride: below and above where Winograd's form begins,
# with one turn over the batch and several, and with strides whose windows overlap and do not.
SHAPES = [
    (3, 5, 6, 3, 4, 1),
    (40, 8, 8, 33, 32, 1),
    (10, 16, 16, 32, 40, 1),
    (19, 16, 16, 32, 33, 1),
    (2, 16, 8, 32, 32, 1),
    (3, 5, 7, 3, 4, 2),
    (10, 33, 17, 32, 34, 2),
    (3, 6, 9, 3, 4, 3),
    (2, 7, 11, 3, 4, 4),
]
ON_DEVICES = [(8, 16, 16, 32, 32, 1), (8, 17, 17, 3, 4, 2)]


def xla(x, k, *, stride):
    padding = ((1, 1), (1, 1)) if stride == 1 else ((0, 0), (0, 0))
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x[None], k, (stride, stride), padding, dimension_numbers=layout
    )[0]


def arrays(shape, dtype=jnp.float64):
    batch, height, width, channels, features, _ = shape
    key_x, key_k = jax.random.split(jax.random.key(0))
    x = jax.random.normal(key_x, (batch, height, width, channels), dtype)
    return x, jax.random.normal(key_k, (3, 3, channels, features), dtype) / (9 * channels) ** 0.5


def value(conv, x, k):
    return jnp.sum(jnp.tanh(jax.vmap(conv, (0, None))(x, k)) ** 2)


def gradient(conv, x, k):
    return jax.grad(value, argnums=(1, 2))(conv, x, k)


def second_order(conv, x, k):
    def of_gradient(x, k):
        return sum(jnp.sum(jnp.sin(leaf) * leaf) for leaf in gradient(conv, x, k))

    return jax.grad(of_gradient, argnums=(0, 1))(x, k)


def third_order(conv, x, k):
    return jax.jvp(partial(second_order, conv), (x, k), (jnp.sin(x), jnp.cos(k)))


def of_each_example(conv, x, k):
    return jax.vmap(lambda x: gradient(conv, x[None], k))(x)


def of_several_kernels(conv, x, k):
    kernels = jnp.stack([k, jnp.sin(k)])
    outer = jax.vmap(jax.vmap(conv, (None, 0)), (0, None))(x, kernels)
    return outer, jax.vmap(partial(gradient, conv), (None, 0))(x, kernels)


FUNCTIONS = [value, gradient, second_order, third_order, of_each_example, of_several_kernels]


def assert_close(found, expected, tolerance):
    """Within a tolerance relative to the largest entry of each array."""
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.shape == other.shape
        scale = np.max(np.abs(other))
        oracles.assert_close(one / scale, other / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_derivatives_equal_those_of_xla(x64, function, shape):
    x, k = arrays(shape)
    if function in (third_order, of_several_kernels):
        x = x[: 128 // (shape[1] * shape[2] // 4) + 2]
    found, expected = (
        oracles.jit(partial(function, partial(conv, stride=shape[-1])))(x, k)
        for conv in (conv3x3, xla)
    )
    assert_close(found, expected, 1e-12)


def test_outside_of_jit(x64):
    x, k = arrays(SHAPES[2])
    convs = (partial(conv, stride=1) for conv in (conv3x3, xla))
    found, expected = (gradient(conv, x, k) for conv in convs)
    assert_close(found, expected, 1e-12)


@pytest.mark.parametrize("shape", [SHAPES[1], SHAPES[6]], ids=str)
def test_error_in_single_precision(x64, shape):
    x, k = arrays(shape, jnp.float32)
    expected = gradient(partial(xla, stride=shape[-1]), *map(oracles.to_float64, (x, k)))
    assert_close(
        oracles.jit(partial(gradient, partial(conv3x3, stride=shape[-1])))(x, k), expected, 3e-6
    )


def test_half_precision_is_not_transformed():
    x, k = arrays(SHAPES[1], jnp.bfloat16)
    run = oracles.jit(jax.vmap(partial(conv3x3, stride=1), (0, None)))
    exact = run(x.astype(jnp.float32), k.astype(jnp.float32))
    y = run(x, k)
    assert y.dtype == jnp.bfloat16
    assert_close(y.astype(jnp.float32), exact, 2**-8)


def test_no_example_reaches_another():
    x, k = arrays(SHAPES[1], jnp.float32)
    run = oracles.jit(jax.vmap(partial(conv3x3, stride=1), (0, None)))
    for bad in (jnp.nan, jnp.inf):
        y = run(x.at[0].set(bad), k)
        np.testing.assert_array_equal(y[1:], run(x, k)[1:])


@pytest.mark.parametrize("shape", [(0, 8, 8, 32, 32, 1), (2, 8, 8, 0, 3, 1), (2, 7, 7, 3, 0, 2)])
def test_empty_arrays(shape):
    x, k = (
        arrays(shape, jnp.float32) if shape[3] else (jnp.zeros(shape[:4]), jnp.zeros((3, 3, 0, 3)))
    )
    for function in (gradient, of_several_kernels):
        found, expected = (
            function(partial(conv, stride=shape[-1]), x, k) for conv in (conv3x3, xla)
        )
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    none = jax.vmap(partial(conv3x3, stride=shape[-1]), (None, 0))(x[:1].sum(0), k[None][:0])
    assert none.shape[0] == 0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sums_over_a_large_batch_in_half_precision(dtype):
    x, k = arrays((512, 16, 16, 4, 4, 1), jnp.float32)
    x = jnp.abs(x)

    def total(x, k):
        return jnp.mean(jax.vmap(partial(conv3x3, stride=1), (0, None))(x, k).astype(jnp.float32))

    exact = jax.grad(total, 1)(x, k)
    found = jax.grad(total, 1)(x.astype(dtype), k.astype(dtype))
    assert_close(found.astype(jnp.float32), exact, 5e-3)


@pytest.mark.parametrize("shape", ON_DEVICES, ids=str)
def test_in_a_shard_map(shape):
    """Where types say over which devices an array varies."""
    check_shard_map(shape, num_devices=1)


def test_on_two_devices():
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    line = [sys.executable, "-m", "tests.test_conv_primitive"]
    done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def check_shard_map(shape, num_devices):
    x, k = arrays(shape, jnp.float32)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:num_devices]), ("data",))
    data, copied = PartitionSpec("data"), PartitionSpec()
    function = partial(gradient, partial(conv3x3, stride=shape[-1]))

    def local(x, k):
        one, other = function(x, jax.lax.pcast(k, "data", to="varying"))
        return one, jax.lax.psum(other, "data")

    local = jax.shard_map(local, mesh=mesh, in_specs=(data, copied), out_specs=(data, copied))
    assert_close(jax.jit(local)(x, k), function(x, k), 1e-6)


def check_explicit_axes():
    x, k = arrays(ON_DEVICES[0], jnp.float32)
    with jax.set_mesh(jax.make_mesh((2,), ("data",))):
        x = jax.device_put(x, PartitionSpec("data"))
        with pytest.raises(ValueError, match="axes of type Explicit, make them Auto"):
            value(partial(conv3x3, stride=1), x, k)


def check_divided_batch(shape):
    """The compiler divides it without a copy of the whole on any device."""
    x, k = arrays(shape, jnp.float32)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    divided = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    copied = jax.device_put(k, NamedSharding(mesh, PartitionSpec()))
    function = partial(gradient, partial(conv3x3, stride=shape[-1]))
    compiled = jax.jit(function).lower(divided, copied).compile()
    assert_close(compiled(divided, copied), function(x, k), 1e-6)
    program = compiled.as_text()
    assert "all-reduce" in program
    assert not any(name in program for name in ("all-gather", "all-to-all", "permute"))


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("stride", [1, 2])
def test_other_platforms_get_their_own_convolutions(platform, stride):
    x, k = arrays((8, 17, 17, 32, 32, stride), jnp.float32)
    function = jax.jit(partial(gradient, partial(conv3x3, stride=stride)))
    program = function.trace(x, k).lower(lowering_platforms=(platform,)).as_text()
    convolutions = program.count("stablehlo.convolution")
    if platform == "cpu":
        # Odd sides take XLA's convolution, which is quick at everything but by the kernel.
        assert convolutions == {1: 2, 2: 1}[stride]
    else:
        assert convolutions == 3
        assert not any(name in program for name in ("stablehlo.dot", "stablehlo.while"))


def test_precision_is_that_where_it_is_traced():
    x, k = arrays(SHAPES[0], jnp.float32)

    def highest(conv, x, k):
        with jax.default_matmul_precision("highest"):
            return gradient(conv, x, k)

    for function, count in ((highest, 6), (gradient, 0)):  # of the two operands of three
        for conv in (conv3x3, xla):
            run = jax.jit(partial(function, partial(conv, stride=1)))
            program = run.trace(x, k).lower(lowering_platforms=("tpu",)).as_text()
            assert program.count("HIGHEST") == count


def test_of_a_batch_of_unknown_size():
    x, k = arrays(SHAPES[1], jnp.float32)
    (batch,) = export.symbolic_shape("batch")
    shape = jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)
    function = jax.jit(partial(gradient, partial(conv3x3, stride=1)))
    assert_close(export.export(function)(shape, k).call(x, k), function(x, k), 3e-6)


if __name__ == "__main__":
    assert len(jax.devices()) == 2
    for one_shape in ON_DEVICES:
        check_shard_map(one_shape, num_devices=2)
        check_divided_batch(one_shape)
    check_explicit_axes()
