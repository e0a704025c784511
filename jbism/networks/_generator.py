"""Decoders: one latent in, the mean of one visible out."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jbism import _checks
from jbism.networks._conv import Conv3x3
from jbism.networks._generator_upsample import UpConv3x3
from jbism.typing import Array


class MLPDecoder(nn.Module):
    """A multi-layer perceptron from a latent to a visible of any shape.

    Attributes:
      shape: of one v.
      features: widths of the hidden layers, each followed by the activation.
      activation: smooth, where hypergradients differentiate the decoder twice.
      output_activation: what bounds the result, such as `flax.linen.sigmoid` for pixels in [0, 1];
        None for all numbers.
      dtype: of the arithmetic, such as ``jnp.bfloat16``; h and v share theirs, the default.

    Raises:
      ValueError: if shape has a size below 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> net = MLPDecoder(shape=(2,), features=(16,))
      >>> phi = net.init(jax.random.key(0), jnp.zeros(3))
      >>> net.apply(phi, jnp.zeros(3)).shape
      (2,)
    """

    shape: Sequence[int]
    features: Sequence[int] = (256, 256)
    activation: Callable[[Array], Array] = nn.elu
    output_activation: Callable[[Array], Array] | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """Maps one latent of any shape to [*shape]."""
        shape = tuple(_checks.integer("shape", size, minimum=1) for size in self.shape)
        h = _checks.floating("h", h)
        x = h.reshape(-1)
        for width in self.features:
            x = self.activation(nn.Dense(width, dtype=self.dtype)(x))
        x = nn.Dense(int(np.prod(shape)), dtype=self.dtype, name="output")(x)
        return _bounded(x.reshape(shape), self.output_activation, h.dtype)


class ConvDecoder(nn.Module):
    """A convolutional decoder from a latent to an image, the mirror of `ConvEncoder`.

    A dense layer to the lowest resolution, then per level nearest-neighbour upsampling by two and a
    3x3 convolution, at last a 3x3 convolution to the image's channels. The layout of the published
    32x32 generator, without its batch normalisation, which would tie examples to each other, is
    ``features=(8 * b, 8 * b, 4 * b, 2 * b)``, b = 48.

    Attributes:
      shape: [height, width, channels] of one v.
      features: channels at each resolution, the lowest first; len(features) - 1 levels.
      activation: after every layer but the last; smooth, where hypergradients differentiate the
        decoder twice.
      output_activation: what bounds the result, such as `flax.linen.sigmoid` for pixels in [0, 1];
        None for all numbers.
      implementation: see `Conv3x3`.
      dtype: of the arithmetic, such as ``jnp.bfloat16``; h and v share theirs, the default.

    Raises:
      ValueError: if shape is not three sizes, or height and width cannot be halved that often.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> net = ConvDecoder(shape=(8, 8, 1), features=(16, 8), output_activation=nn.sigmoid)
      >>> phi = net.init(jax.random.key(0), jnp.zeros(3))
      >>> net.apply(phi, jnp.zeros(3)).shape
      (8, 8, 1)
    """

    shape: Sequence[int]
    features: Sequence[int] = (128, 64, 32)
    activation: Callable[[Array], Array] = nn.elu
    output_activation: Callable[[Array], Array] | None = None
    implementation: str = "auto"
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """Maps one latent of any shape to an image [height, width, channels]."""
        shape = tuple(_checks.integer("shape", size, minimum=1) for size in self.shape)
        if not self.features:
            raise ValueError("features must hold a number of channels, got none")
        factor = 2 ** (len(self.features) - 1)
        if len(shape) != 3 or shape[0] % factor or shape[1] % factor:
            raise ValueError(
                f"shape must be (height, width, channels) with sides that {factor} divides, for "
                f"{len(self.features)} features, got {shape}"
            )
        height, width, channels = shape[0] // factor, shape[1] // factor, self.features[0]
        h = _checks.floating("h", h)
        x = nn.Dense(height * width * channels, dtype=self.dtype)(h.reshape(-1))
        x = self.activation(x).reshape(height, width, channels)
        options = {"implementation": self.implementation, "dtype": self.dtype}
        for features in self.features[1:]:
            x = self.activation(UpConv3x3(features, **options)(x))
        x = Conv3x3(shape[2], name="output", **options)(x)
        return _bounded(x, self.output_activation, h.dtype)


def _bounded(x, activation, dtype):
    # In the caller's precision: a short float has few values near a bound.
    x = jnp.asarray(x, dtype)
    return x if activation is None else activation(x)
