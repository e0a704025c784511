"""Upsampling by two and the 3x3 convolution after it, as one layer."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jbism import _checks
from jbism.networks._conv import Conv3x3
from jbism.typing import Array

_IMPLEMENTATIONS = ("auto", "lax")


class UpConv3x3(nn.Module):
    """Nearest-neighbour upsampling by two, then `Conv3x3`, of one example.

    Each pixel of the result sees four distinct pixels of the input alone. Where JAX's default
    backend is a CPU, ``"auto"`` folds the kernel into one of 2x2 for each of the four parities of
    row and column and never makes the large image; elsewhere, and by ``"lax"``, it upsamples and
    convolves. Both compute the same function of the same parameters.

    Attributes:
      features: output channels.
      implementation: ``"auto"`` or ``"lax"``.
      dtype: of the arithmetic and the result, such as ``jnp.bfloat16``; that of x by default.

    Parameters: ``kernel`` [3, 3, in, features] and ``bias`` [features], as in `flax.linen.Conv`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> layer = UpConv3x3(features=5)
      >>> theta = layer.init(jax.random.key(0), jnp.zeros((4, 4, 2)))
      >>> layer.apply(theta, jnp.ones((4, 4, 2))).shape
      (8, 8, 5)
    """

    features: int
    implementation: str = "auto"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [height, width, channels] to [2 height, 2 width, features]."""
        _checks.integer("features", self.features, minimum=1)
        _checks.one_of("implementation", self.implementation, _IMPLEMENTATIONS)
        _checks.rank("x", x, 3)
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if self.dtype is not None:
            x, kernel, bias = (leaf.astype(self.dtype) for leaf in (x, kernel, bias))
        lax = self.implementation == "lax" or (
            self.implementation == "auto" and jax.default_backend() != "cpu"
        )
        if lax:
            convolution = Conv3x3(self.features, "lax", use_bias=False, parent=None)
            y = jnp.asarray(convolution.apply({"params": {"kernel": kernel}}, _upsample(x)))
        else:
            y = _by_parity(x, kernel)
        return y + bias[None, None, :]


def _upsample(x):
    height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, None, :, None], (height, 2, width, 2, channels))
    return x.reshape(2 * height, 2 * width, channels)


def _by_parity(x, kernel):
    height, width, channels = x.shape
    padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
    rows = []
    for i in range(2):
        columns = []
        for j in range(2):
            folded = _fold(_fold(kernel, i, axis=0), j, axis=1)
            shifts = [
                padded[i + k : i + k + height, j + n : j + n + width]
                for k in range(2)
                for n in range(2)
            ]
            patches = jnp.concatenate(shifts, axis=-1)
            columns.append(patches @ folded.reshape(4 * channels, -1))
        rows.append(jnp.stack(columns, axis=2))
    return jnp.stack(rows, axis=1).reshape(2 * height, 2 * width, kernel.shape[-1])


def _fold(kernel, parity, *, axis):
    """Adds up the taps that fall on one pixel: the last two of even results, the first of odd."""
    first, middle, last = (jax.lax.index_in_dim(kernel, k, axis) for k in range(3))
    taps = [first + middle, last] if parity else [first, middle + last]
    return jnp.concatenate(taps, axis=axis)
