"""The 3x3 convolution every trunk uses, and a small convolutional encoder."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jbism import _checks
from jbism.typing import Array

_IMPLEMENTATIONS = ("auto", "lax", "shifted")


class Conv3x3(nn.Module):
    """3x3 convolution with stride 1 and zero padding, on one example [height, width, channels].

    XLA's CPU backend takes its fast path for convolutions only outside of loops: the gradient
    convolutions of a `lax.scan` body run some thirty times slower there. ``"shifted"`` writes the
    convolution as nine shifted slices and one matrix product, which is fast inside loops too;
    GPU and TPU want ``"lax"``. Both compute the same function of the same parameters.

    Attributes:
      features: output channels.
      implementation: ``"lax"``, ``"shifted"``, or ``"auto"``: shifted where JAX's default backend
        is a CPU, lax elsewhere.

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

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [height, width, channels] to [height, width, features]."""
        _checks.integer("features", self.features, minimum=1)
        _checks.one_of("implementation", self.implementation, _IMPLEMENTATIONS)
        _checks.rank("x", x, 3)
        kernel = self.param(
            "kernel", nn.initializers.lecun_normal(), (3, 3, x.shape[-1], self.features)
        )
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        implementation = self.implementation
        if implementation == "auto":
            implementation = "shifted" if jax.default_backend() == "cpu" else "lax"
        y = _conv_shifted(x, kernel) if implementation == "shifted" else _conv_lax(x, kernel)
        return y + bias[None, None, :]


def _conv_lax(x, kernel):
    y = jax.lax.conv_general_dilated(
        x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y[0]


def _conv_shifted(x, kernel):
    height, width, channels = x.shape
    padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
    shifts = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    patches = jnp.concatenate(shifts, axis=-1)
    return patches @ kernel.reshape(9 * channels, kernel.shape[-1])


def average_pool(x: Array) -> Array:
    """Halves the height and width of [height, width, channels] by 2x2 means."""
    height, width, channels = x.shape
    if height % 2 or width % 2:
        raise ValueError(f"height and width must be even to be pooled, got shape {x.shape}")
    return x.reshape(height // 2, 2, width // 2, 2, channels).mean(axis=(1, 3))


class ConvEncoder(nn.Module):
    """A small convolutional encoder: per level a 3x3 convolution, ELU and 2x2 average pooling.

    Attributes:
      features: output channels of each level; each level halves the resolution.
      activation: applied after every convolution.
      implementation: see `Conv3x3`.

    Returns a flat feature vector. Raises ValueError if v is not [height, width, channels] or its
    sides cannot be halved that often.

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

    @nn.compact
    def __call__(self, v: Array) -> Array:
        """Maps one image [height, width, channels] to a vector."""
        x = _checks.rank("v", v, 3)
        for width in self.features:
            x = average_pool(self.activation(Conv3x3(width, self.implementation)(x)))
        return x.reshape(-1)
