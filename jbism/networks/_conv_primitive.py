"""3x3 convolutions and all their derivatives as one JAX primitive that CPUs do by products.

The convolution y of x by the kernel k, and its transposes, are the derivatives of one trilinear
form

    T(x, k, y) = Σ_{p,t,c,o} x[s p + t, c] k[t, c, o] y[p, o]

by one of its arguments, given the other two, so a derivative of any order is one of the three
again. On GPUs and TPUs they are XLA's convolutions. XLA's CPU backend is quick at y alone, and in
loops far slower at the others. There

- with stride 1 all three are Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray, 2016,
  Section 4.1) where that pays: 16 products for a tile of 2x2 results where the sum above has 36.
  A value that is infinite makes results NaN that would be infinite;
- else y is XLA's convolution, x with stride 1 is that of the turned kernel, and the others are
  products of patches.

Products go through the batch in turns small enough that the tiles of a turn stay in the caches.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jbism.typing import Array

# The two arguments of the form that are given where the derivative by the third is wanted.
_GIVEN = {"x": ("k", "y"), "k": ("x", "y"), "y": ("x", "k")}
_TILES_A_TURN = 512
# Fewer tiles or channels take longer to transform than the products saved would.
_FEWEST_TILES, _FEWEST_CHANNELS = 128, 32

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


def convolve_by_xla(x: Array, kernel: Array, *, stride: int) -> Array:
    """As `conv3x3`, of a batch, by XLA's own convolution."""
    padding = (1, 1) if stride == 1 else (0, 0)
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), (padding, padding), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


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
            return _kernel(first, second, stride, turns)
        if wanted == "x":
            return _transposed(second, first, stride, turns)
        return _results(first, second, stride, turns)

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


def _results(x, k, stride, turns):
    if stride > 1 or not _winograd_pays(x, k.shape[-1]):
        return convolve_by_xla(x, k, stride=stride)
    return _winograd(x, _kernel_tiles(_unshared(k, x)), "ijtc,ijco->ijto", turns)


def _transposed(y, k, stride, turns):
    if stride > 1:
        return _in_turns(lambda y: _transposed_by_patches(y, k, stride), y, turns=turns)
    if not _winograd_pays(y, k.shape[2]):
        return convolve_by_xla(y, k[::-1, ::-1].swapaxes(2, 3), stride=1)
    k = _unshared(k[::-1, ::-1], y)
    return _winograd(y, _kernel_tiles(k), "ijto,ijco->ijtc", turns)


def _kernel(x, y, stride, turns):
    # Several devices would add up sixteen matrices among them for the nine that are wanted.
    if turns and stride == 1 and _winograd_pays(x, y.shape[-1]):

        def products(x, y):
            return jnp.einsum("ijtc,ijto->ijco", _tiles(x), _result_tiles(y))

        sums = _in_turns(products, x, y, turns=turns, add=True)
        return _along_both(_filter_transposed, sums)

    def products_of_patches(x, y):
        return _rows(_patches(_padded(x, stride), stride)).T @ _rows(y)

    sums = _in_turns(products_of_patches, x, y, turns=turns, add=True)
    return sums.reshape(3, 3, x.shape[-1], y.shape[-1])


def _in_turns(function, *images, turns, add=False):
    """The function of images [batch, ...], some at a time; add: the sum of its results."""
    batch, height, width = images[-1].shape[:3]
    fewest = min(batch, -(-4 * _TILES_A_TURN // (height * width))) if turns else batch
    sizes = [n for n in range(fewest, min(2 * fewest, batch) + 1) if batch % n == 0]
    if not sizes:
        whole = batch - batch % fewest
        parts = [[x[:whole] for x in images], [x[whole:] for x in images]]
        first, last = (_in_turns(function, *part, turns=turns, add=add) for part in parts)
        return first + last if add else jnp.concatenate([first, last])
    size = sizes[0]
    if size == batch:
        return function(_unshared(images[0], images[-1]), *images[1:])
    images = tuple(x.reshape(-1, size, *x.shape[1:]) for x in images)
    out = jax.eval_shape(function, *(x[0] for x in images))
    if add:
        zeros = jnp.zeros(out.shape, jnp.promote_types(out.dtype, jnp.float32))
        sums, _ = jax.lax.scan(
            lambda sums, x: (sums + function(*x).astype(sums.dtype), None), zeros, images
        )
        return sums.astype(out.dtype)

    def turn(i, y):
        return y.at[i].set(function(*(x[i] for x in images)))

    # Not zeros: XLA would fill the buffers of all loops of a program at its start.
    anything = images[0][(0,) * images[0].ndim]
    y = jax.lax.fori_loop(0, batch // size, turn, jnp.full((batch // size, *out.shape), anything))
    return y.reshape(batch, *out.shape[1:])


def _unshared(x, other):
    """Returns x, but so that XLA computes what follows from it anew.

    Else it would keep patches and transforms, which are larger than x, from the forward pass to the
    backward pass.
    """
    value = other[(0,) * other.ndim]
    never = value < -jnp.abs(value)
    return x + never.astype(x.dtype)


def _winograd_pays(x, features):
    batch, height, width, channels = x.shape
    return (
        height % 2 == width % 2 == 0
        and batch * height * width // 4 >= _FEWEST_TILES
        and min(channels, features) >= _FEWEST_CHANNELS
        and x.dtype in (jnp.float32, jnp.float64)
    )


def _winograd(x, kernel_tiles, multiply, turns):
    def results(x):
        batch, height, width, _ = x.shape
        y = jnp.einsum(multiply, _tiles(x), kernel_tiles)
        rows = _collect(*y.reshape(4, 4, batch, height // 2, width // 2, -1))
        y = jnp.stack([jnp.stack(_collect(*row), axis=3) for row in rows], axis=2)
        return y.reshape(batch, height, width, -1)

    return _in_turns(results, x, turns=turns)


def _tiles(x):
    """Tiles of 4x4 pixels, two apart, transformed: [4, 4, tiles, channels]."""
    return _transformed(_spread, _padded(x, 1), 4)


def _result_tiles(y):
    """Tiles of 2x2 results, transformed: [4, 4, tiles, features]."""
    return _transformed(_collect_transposed, y, 2)


def _transformed(transform, x, size):
    rows = jnp.stack(transform(*_neighbours(x, size, 2, axis=1)))
    tiles = jnp.stack(transform(*_neighbours(rows, size, 2, axis=3)), axis=1)
    return tiles.reshape(4, 4, -1, x.shape[-1])


def _kernel_tiles(k):
    return _along_both(_filter, k)


def _along_both(transform, k):
    """A linear map of lists along each of the first two axes."""
    rows = jnp.stack(transform(*k))
    return jnp.stack(transform(*jnp.moveaxis(rows, 1, 0)), axis=1)


# Lavin and Gray's Bᵀ, G, Gᵀ, Aᵀ and A.
def _spread(d_0, d_1, d_2, d_3):
    return [d_0 - d_2, d_1 + d_2, d_2 - d_1, d_1 - d_3]


def _filter(g_0, g_1, g_2):
    return [g_0, (g_0 + g_1 + g_2) / 2, (g_0 - g_1 + g_2) / 2, g_2]


def _filter_transposed(m_0, m_1, m_2, m_3):
    return [m_0 + (m_1 + m_2) / 2, (m_1 - m_2) / 2, (m_1 + m_2) / 2 + m_3]


def _collect(m_0, m_1, m_2, m_3):
    return [m_0 + m_1 + m_2, m_1 - m_2 - m_3]


def _collect_transposed(y_0, y_1):
    return [y_0, y_0 + y_1, y_0 - y_1, -y_1]


def _transposed_by_patches(y, k, stride):
    patches = y @ k.reshape(-1, k.shape[-1]).T
    sides = [stride * (n - 1) + 3 for n in y.shape[1:3]]
    shape = jax.ShapeDtypeStruct((y.shape[0], *sides, k.shape[2]), y.dtype)
    (x,) = jax.linear_transpose(partial(_patches, stride=stride), shape)(patches)
    return x


def _padded(x, stride):
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))) if stride == 1 else x


def _patches(x, stride):
    """The 3x3 pixels that each result sees: [batch, height', width', 9 channels]."""
    rows = _neighbours(x, 3, stride, axis=1)
    return jnp.concatenate([y for row in rows for y in _neighbours(row, 3, stride, axis=2)], -1)


def _neighbours(x, size, stride, *, axis):
    """[x[stride·p + i] of all p for i < size], along an axis."""
    side = x.shape[axis]
    count = (side - size) // stride + 1
    blocks = count + (size - 1) // stride
    edges = [(0, 0)] * x.ndim
    edges[axis] = (0, stride * blocks - side)
    x = jnp.pad(x, edges)
    x = x.reshape(*x.shape[:axis], blocks, stride, *x.shape[axis + 1 :])

    def neighbour(i):
        start, place = divmod(i, stride)
        rows = jax.lax.slice_in_dim(x, start, start + count, axis=axis)
        return jax.lax.index_in_dim(rows, place, axis + 1, keepdims=False)

    return [neighbour(i) for i in range(size)]


def _rows(x):
    return x.reshape(-1, x.shape[-1])
