"""3x3 convolutions and all their derivatives as one JAX primitive that CPUs do by products.

The convolution y of x by the kernel k, and its transposes, are the derivatives of one trilinear
form

    T(x, k, y) = Σ_{p,t,c,o} x[s p + t, c] k[t, c, o] y[p, o]

by one of its arguments, given the other two, so a derivative of any order is one of the three
again. On GPUs and TPUs they are XLA's convolutions, on CPUs `jbism.networks._conv_products`.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jbism.networks._conv_products import convolve_by_xla, input_of, kernel_of, results_of
from jbism.typing import Array

# The two arguments of the form that are given where the derivative by the third is wanted.
_GIVEN = {"x": ("k", "y"), "k": ("x", "y"), "y": ("x", "k")}

_trilinear = Primitive("conv3x3")


def conv3x3(x: Array, kernel: Array, *, stride: int = 1) -> Array:
    """Returns the 3x3 convolution of one example.

    Args:
      x: [height, width, channels]; padded with zeros by one pixel at each side if the stride is 1.
        Else it is not padded, and its sides have to be 3 + stride·n.
      kernel: [3, 3, channels, features], of the same dtype.
      stride: s; every s-th row and column of the result is kept, the first included.

    Returns:
      [height', width', features]; height' is height if the stride is 1, else n + 1.

    Raises:
      ValueError: if an array is divided along an axis of a mesh whose type is Explicit.
    """
    axes = _varying(x) | _varying(kernel)
    x, kernel = _vary(x, axes), _vary(kernel, axes)
    # As every product does, it takes the precision that is set where it is traced.
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    options = {"stride": stride, "precision": precision}
    return _derivative("y", options, x=x[None, None], k=kernel[None])[0, 0]


def _derivative(wanted, options, **given):
    """By `wanted`: x or y as [groups, batch, height, width, ·], k as [groups, 3, 3, ·, ·]."""
    first, second = (given[name] for name in _GIVEN[wanted])
    return _trilinear.bind(first, second, wanted=wanted, **options)


def _varying(x):
    """Axes of a `jax.shard_map` along which x varies."""
    return jax.typeof(x).manual_axis_type.varying


def _vary(x, axes):
    return jax.lax.pcast(x, tuple(axes - _varying(x)), to="varying")


@_trilinear.def_abstract_eval
def _abstract(first, second, *, wanted, stride, **_):
    if any(axes is not None for aval in (first, second) for axes in aval.sharding.spec):
        raise ValueError(
            "3x3 convolutions cannot be divided along a mesh's axes of type Explicit, "
            f"make them Auto: got {first} and {second}"
        )
    return _shape(first, second, wanted, stride)


def _shape(first, second, wanted, stride):
    groups = first.shape[:1]
    if wanted == "k":
        return first.update(shape=(*groups, 3, 3, first.shape[-1], second.shape[-1]))
    if wanted == "x":
        sides = [n if stride == 1 else stride * (n - 1) + 3 for n in second.shape[2:4]]
        return second.update(shape=(*second.shape[:2], *sides, first.shape[3]))
    sides = [n if stride == 1 else (n - 3) // stride + 1 for n in first.shape[2:4]]
    return first.update(shape=(*first.shape[:2], *sides, second.shape[4]))


@partial(jax.jit, static_argnames=("wanted", "stride", "precision"))
def _run(first, second, **parameters):
    return _trilinear.bind(first, second, **parameters)


_trilinear.def_impl(_run)


def _transpose(position, cotangent, *given, wanted, **options):
    name, other = _GIVEN[wanted][position], _GIVEN[wanted][1 - position]
    return _derivative(name, options, **{other: given[1 - position], wanted: cotangent})


ad.defbilinear(_trilinear, partial(_transpose, 0), partial(_transpose, 1))


def _batch(given, axes, *, wanted, **options):
    bind = partial(_trilinear.bind, wanted=wanted, **options)
    size = next(x.shape[axis] for x, axis in zip(given, axes, strict=True) if axis is not None)
    names = _GIVEN[wanted]
    if wanted != "k" and axes[names.index("k")] is None:
        # Images under one kernel are one batch.
        image = 1 - names.index("k")
        x = jnp.moveaxis(given[image], axes[image], 1)
        groups, _, batch, *rest = x.shape
        given = list(given)
        given[image] = x.reshape(groups, size * batch, *rest)
        out = bind(*given)
        return out.reshape(groups, size, batch, *out.shape[2:]), 1
    fronts = [batching.bdim_at_front(x, axis, size) for x, axis in zip(given, axes, strict=True)]
    groups = fronts[0].shape[1]
    out = bind(*[x.reshape(size * groups, *x.shape[2:]) for x in fronts])
    return out.reshape(size, groups, *out.shape[1:]), 0


batching.primitive_batchers[_trilinear] = _batch


def _by_lax(first, second, *, wanted, stride):
    convolve = partial(convolve_by_xla, stride=stride)

    def one_group(first, second):
        if wanted == "y":
            return convolve(first, second)
        _, *shape = _shape(jax.typeof(first[None]), jax.typeof(second[None]), wanted, stride).shape
        linear = partial(convolve, first) if wanted == "k" else lambda x: convolve(x, first)
        (out,) = jax.linear_transpose(linear, jax.ShapeDtypeStruct(shape, first.dtype))(second)
        return out

    if first.shape[0] == 1:
        return one_group(first[0], second[0])[None]
    return jax.vmap(one_group)(first, second)


def _by_products(first, second, *, wanted, stride, turns):
    def one_group(first, second):
        if wanted == "k":
            return kernel_of(first, second, stride, turns)
        if wanted == "x":
            return input_of(second, first, stride, turns)
        return results_of(first, second, stride, turns)

    if first.shape[0] == 1:
        return one_group(first[0], second[0])[None]
    return jax.lax.map(lambda given: one_group(*given), (first, second))


def _lower(function, context, *given, precision, **parameters):
    # As if alone on its device: what `jax.shard_map` knows of the arrays says nothing new here.
    avals = [jax.core.ShapedArray(aval.shape, aval.dtype) for aval in context.avals_in]
    context = context.replace(avals_in=avals)
    with jax.default_matmul_precision(precision):
        return mlir.lower_fun(function, multiple_results=False)(context, *given, **parameters)


def _lower_for_cpu(context, *given, **parameters):
    sizes = [size for aval in context.avals_in for size in aval.shape]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        return _lower(_by_lax, context, *given, **parameters)
    # Turns over a batch that is divided over devices would gather it.
    devices = getattr(context.module_context.axis_context, "num_devices", None)
    return _lower(partial(_by_products, turns=devices == 1), context, *given, **parameters)


mlir.register_lowering(_trilinear, partial(_lower, _by_lax))
mlir.register_lowering(_trilinear, _lower_for_cpu, platform="cpu")
