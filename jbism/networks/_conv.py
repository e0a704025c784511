"""The 3x3 convolution every trunk uses, and a small convolutional encoder."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jbism import _checks
from jbism.networks._conv_primitive import conv3x3
from jbism.networks._conv_products import convolve_by_xla
from jbism.typing import Array

_IMPLEMENTATIONS = ("auto", "lax")


class Conv3x3(nn.Module):
    """3x3 convolution with zero padding of one pixel, on one example [height, width, channels].

    XLA's CPU backend is fast at a convolution, not at its derivatives, which in the body of a
    `lax.scan` take some thirty times as long. ``"auto"`` writes these, of any order, as matrix
    products there, and from 32 channels on has fewer multiplications than the sums have in either
    (Winograd's F(2x2, 3x3), in float32 and float64). In float32 the results are within some 2e-6 of
    those of ``"lax"``, relative to the largest.

    Attributes:
      features: output channels.
      implementation: ``"auto"``: what suits the platform that runs it, products on a CPU and XLA's
        convolutions elsewhere; ``"lax"``: XLA's convolutions everywhere.
      stride: s; keeps the outputs at every s-th row and column, the first included.
      use_bias: False leaves the bias out, of the parameters too.
      dtype: of the arithmetic and the result, such as ``jnp.bfloat16``; by default what x and the
        parameters, which keep theirs, promote to.
      pool: averages the results over 2x2 pixels, with a quarter of the multiplications: means of
        2x2 pixels of x come first, which leaves a convolution of stride two.

    Parameters: ``kernel`` [3, 3, in, features] and ``bias`` [features], as in `flax.linen.Conv`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> conv = Conv3x3(features=5)
      >>> theta = conv.init(jax.random.key(0), jnp.zeros((8, 8, 1)))
      >>> conv.apply(theta, jnp.ones((8, 8, 1))).shape
      (8, 8, 5)
    """

    features: int
    implementation: str = "auto"
    stride: int = 1
    use_bias: bool = True
    dtype: Any = None
    pool: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [height, width, channels] to [⌈height/s⌉, ⌈width/s⌉, features], half that if pooled.

        Raises:
          ValueError: if x is of another rank or an option is out of range, if the results of an odd
            height or width are to be pooled, or those of a stride.
        """
        _checks.integer("features", self.features, minimum=1)
        _checks.integer("stride", self.stride, minimum=1)
        _checks.one_of("implementation", self.implementation, _IMPLEMENTATIONS)
        _checks.rank("x", x, 3)
        if self.pool and self.stride > 1:
            raise ValueError(f"pool=True needs stride 1, got {self.stride}")
        kernel = self.param(
            "kernel", nn.initializers.lecun_normal(), (3, 3, x.shape[-1], self.features)
        )
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        convolve = conv3x3 if self.implementation == "auto" else _conv_lax
        if self.pool:
            y = convolve(_means_around_corners(x), kernel, stride=2)
        elif self.stride > 1:
            y = convolve(_padded(x, self.stride), kernel, stride=self.stride)
        else:
            y = convolve(x, kernel, stride=1)
        return y if bias is None else y + bias[None, None, :]


def _conv_lax(x, kernel, *, stride):
    return convolve_by_xla(x[None], kernel, stride=stride)[0]


def _padded(x, stride):
    """Pads by one pixel before, and after as far as windows of three reach at this stride."""
    # "SAME" would pad an even side unevenly once the stride is 2.
    after = [stride * ((side - 1) // stride) + 2 - side for side in x.shape[:2]]
    edges = [(1, after[0], 0), (1, after[1], 0), (0, 0, 0)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), edges)


def _means_around_corners(x):
    """Means of 2x2 pixels at distance one, [height + 1, width + 1], with zeros around x."""
    _check_even(x)
    zero = np.zeros((), x.dtype)[()]
    edges = ((1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, zero, jax.lax.add, (2, 2, 1), (1, 1, 1), edges) / 4


def _check_even(x):
    if x.shape[0] % 2 or x.shape[1] % 2:
        raise ValueError(f"height and width must be even to be pooled, got shape {x.shape}")


def average_pool(x: Array) -> Array:
    """Halves the height and width of [height, width, channels] by 2x2 means."""
    _check_even(x)
    height, width, channels = x.shape
    return x.reshape(height // 2, 2, width // 2, 2, channels).mean(axis=(1, 3))


class ConvEncoder(nn.Module):
    """A small convolutional encoder: per level a 3x3 convolution, ELU and 2x2 average pooling.

    Attributes:
      features: output channels of each level.
      activation: applied after every convolution.
      implementation: see `Conv3x3`.
      strides: of each level's convolution, which then takes the place of the pooling; None pools.
        The published encoder has ``features=(64, 128, 256)`` and ``strides=(2, 2, 2)`` with a leaky
        ReLU (Bao et al., 2020).
      dtype: of the arithmetic between v and the features, both of which have the dtype of v.

    Returns a flat feature vector. Raises ValueError if v is not [height, width, channels], if its
    sides cannot be pooled that often, or if there is not one stride a level; TypeError if v is not
    floating.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> net = ConvEncoder(features=(8, 16))
      >>> theta = net.init(jax.random.key(0), jnp.zeros((8, 8, 1)))
      >>> net.apply(theta, jnp.zeros((8, 8, 1))).shape
      (64,)
    """

    features: Sequence[int] = (32, 64)
    activation: Callable[[Array], Array] = nn.elu
    implementation: str = "auto"
    strides: Sequence[int] | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, v: Array) -> Array:
        """Maps one image [height, width, channels] to a vector."""
        pools = self.strides is None
        x = v = _checks.image("v", v, halvings=len(self.features) if pools else 0)
        strides = [1] * len(self.features) if self.strides is None else self.strides
        if len(strides) != len(self.features):
            raise ValueError(
                f"strides must have one entry for each of features, {len(self.features)}, "
                f"got {len(strides)}"
            )
        for width, stride in zip(self.features, strides, strict=True):
            x = self.activation(Conv3x3(width, self.implementation, stride, dtype=self.dtype)(x))
            x = average_pool(x) if pools else x
        return x.reshape(-1).astype(v.dtype)
