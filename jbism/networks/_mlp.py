"""A multi-layer perceptron."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn

from jbism import _checks
from jbism.typing import Array


class MLP(nn.Module):
    """Dense layers, each followed by the activation; the input is flattened.

    Attributes:
      features: widths of the layers.
      activation: applied after every layer, the last included.
      residual: add a layer's input to its output where their widths agree.
      dtype: of the arithmetic between v and the features, such as ``jnp.bfloat16``; both have the
        dtype of v, which is the default.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> net = MLP(features=(16, 8))
      >>> theta = net.init(jax.random.key(0), jnp.zeros((8, 8, 1)))
      >>> net.apply(theta, jnp.zeros((8, 8, 1))).shape
      (8,)
    """

    features: Sequence[int] = (256, 256)
    activation: Callable[[Array], Array] = nn.elu
    residual: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, v: Array) -> Array:
        """Maps one floating v of any shape to a vector [features[-1]]."""
        v = _checks.floating("v", v)
        x = v.reshape(-1)
        for width in self.features:
            y = self.activation(nn.Dense(width, dtype=self.dtype)(x))
            x = x + y if self.residual and x.shape == y.shape else y
        return x.astype(v.dtype)
