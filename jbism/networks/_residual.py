"""The residual convolutional trunk of the deep EBLVM."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn

from jbism import _checks
from jbism.networks._conv import Conv3x3, average_pool
from jbism.typing import Array


class ResidualConvNet(nn.Module):
    """A residual network without normalisation, after Bao et al. (2020).

    A 3x3 stem, then ``levels`` levels of residual blocks. The first block of a level halves the
    resolution by average pooling and, from the second level on, doubles the channels; so three
    levels end at 1/8 of the resolution with four times the channels.

    ``variant="published"`` is the network of their experiments to the letter: the first level
    doubles the channels too, a block's first convolution keeps the channels it gets and has no
    bias, every shortcut goes through a dense map, and nothing follows the last block. It has more
    than three times the parameters.

    Attributes:
      channels: channels of the stem.
      blocks_per_level: residual blocks in a level, at least 1.
      levels: how often the resolution is halved.
      activation: between convolutions; smooth, since the score differentiates it.
      implementation: see `Conv3x3`.
      variant: ``"compact"`` or ``"published"``.
      dtype: of the arithmetic between v and the features, such as ``jnp.bfloat16``; both have the
        dtype of v, which is the default.

    Returns a flat feature vector. Raises ValueError if v is not [height, width, channels] or its
    sides cannot be halved ``levels`` times, TypeError if it is not floating.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> net = ResidualConvNet(channels=4, blocks_per_level=1, levels=2)
      >>> theta = net.init(jax.random.key(0), jnp.zeros((8, 8, 1)))
      >>> net.apply(theta, jnp.zeros((8, 8, 1))).shape
      (32,)
    """

    channels: int = 64
    blocks_per_level: int = 2
    levels: int = 3
    activation: Callable[[Array], Array] = nn.elu
    implementation: str = "auto"
    variant: str = "compact"
    dtype: Any = None

    @nn.compact
    def __call__(self, v: Array) -> Array:
        """Maps one image [height, width, channels] to a vector."""
        _checks.integer("channels", self.channels, minimum=1)
        _checks.integer("blocks_per_level", self.blocks_per_level, minimum=1)
        _checks.integer("levels", self.levels, minimum=1)
        _checks.one_of("variant", self.variant, ("compact", "published"))
        published = self.variant == "published"
        v = _checks.image("v", v, halvings=self.levels)
        x = Conv3x3(self.channels, self.implementation, dtype=self.dtype)(v)
        for level in range(self.levels):
            width = self.channels * 2 ** (level + published)
            for block in range(self.blocks_per_level):
                x = ResidualBlock(
                    width,
                    downsample=block == 0,
                    activation=self.activation,
                    implementation=self.implementation,
                    published=published,
                    dtype=self.dtype,
                )(x)
        return (x if published else self.activation(x)).reshape(-1).astype(v.dtype)


class ResidualBlock(nn.Module):
    """x + conv(act(conv(act(x)))), optionally pooled; a dense map aligns the channels."""

    features: int
    downsample: bool
    activation: Callable[[Array], Array]
    implementation: str
    published: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [height, width, channels] to [height', width', features]."""
        inner = x.shape[-1] if self.published else self.features
        convolution = partial(Conv3x3, implementation=self.implementation, dtype=self.dtype)
        y = convolution(inner, use_bias=not self.published)(self.activation(x))
        y = convolution(self.features, pool=self.downsample)(self.activation(y))
        if self.downsample:
            x = average_pool(x)
        if self.published or x.shape[-1] != self.features:
            x = nn.Dense(self.features, dtype=self.dtype)(x)
        return x + y
