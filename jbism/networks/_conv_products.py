"""The trilinear form of a 3x3 convolution by matrix products, for CPUs.

XLA's CPU backend is quick at the convolution alone, and in loops far slower at its derivatives by
input and kernel. Instead

- with stride 1 all three are Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray, 2016,
  Section 4.1) where that pays: 16 products for a tile of 2x2 results where the sum has 36. A value
  that is infinite makes results NaN that would be infinite;
- else the convolution is XLA's, the derivative by the input with stride 1 is that of the turned
  kernel, and the others are products of patches.

Products go through the batch in turns (if allowed: a batch that is divided over devices would be
gathered) small enough that the tiles of a turn stay in the caches.
"""

from functools import partial

import jax
import jax.numpy as jnp

from jbism.typing import Array

_TILES_A_TURN = 512
# Fewer tiles or channels take longer to transform than the products saved would.
_FEWEST_TILES, _FEWEST_CHANNELS = 128, 32


def convolve_by_xla(x: Array, kernel: Array, *, stride: int) -> Array:
    """The same as `results_of`, by XLA's own convolution on every platform."""
    padding = (1, 1) if stride == 1 else (0, 0)
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), (padding, padding), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def results_of(x: Array, k: Array, stride: int, turns: bool) -> Array:
    """The form's derivative by y, the convolution of x [batch, height, width, channels] by k."""
    if stride > 1 or not _winograd_pays(x, k.shape[-1]):
        return convolve_by_xla(x, k, stride=stride)
    return _winograd(x, _kernel_tiles(_unshared(k, x)), "ijtc,ijco->ijto", turns)


def input_of(y: Array, k: Array, stride: int, turns: bool) -> Array:
    """The form's derivative by x, given y [batch, height', width', features] and k."""
    if stride > 1:
        return _in_turns(lambda y: _transposed_by_patches(y, k, stride), y, turns=turns)
    if not _winograd_pays(y, k.shape[2]):
        return convolve_by_xla(y, k[::-1, ::-1].swapaxes(2, 3), stride=1)
    k = _unshared(k[::-1, ::-1], y)
    return _winograd(y, _kernel_tiles(k), "ijto,ijco->ijtc", turns)


def kernel_of(x: Array, y: Array, stride: int, turns: bool) -> Array:
    """The form's derivative by k [3, 3, channels, features], a sum over the batch."""
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
