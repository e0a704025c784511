"""The published posteriors: a convolutional Gaussian and a linear Bernoulli."""

import functools
import itertools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from jbism import _checks
from jbism.interop._arrays import Arrays, biased_convolution, dense, dense_of_image
from jbism.networks import ConvEncoder
from jbism.posteriors import Bernoulli, Gaussian

# One object, so that modules read from several files are equal.
_leaky_relu = functools.partial(nn.leaky_relu, negative_slope=0.2)

_GAUSSIAN, _BERNOULLI = "convolutional Gaussian posterior", "linear Bernoulli posterior"

# Prefix of the convolutions, number of the first, step between numbers, prefix of the heads; and
# the layer of the logits: as the papers' codes call them, by an array that tells which.
_ENCODERS = {
    "conv1.weight": ("conv", 1, 1, ""),
    "feature_net.0.weight": ("feature_net.", 0, 2, ""),
    "param_net.main.net.0.weight": ("param_net.main.net.", 0, 2, "param_net."),
}
_LOGITS = {"main.weight": "main", "param_net.weight": "param_net"}


def from_published_gaussian_posterior(state: Mapping[str, Any]) -> tuple[Gaussian, dict]:
    """Returns the convolutional Gaussian posterior of a published state dict, and its variables.

    q(h | v) = N(μ(v), diag σ(v)²) with μ and log σ linear in a `jbism.networks.ConvEncoder` of
    leaky ReLUs, strides 2 in its first layer and wherever the channels change: the same
    distribution here and there, for square images v [height, width, channels] instead of
    [channels, height, width] (Bao et al., 2020, 2021).

    Args:
      state: of the posterior of either paper's code, from `jbism.interop.read_state_dict`.

    Raises:
      ValueError: if an array is missing, left over or of a wrong shape.

    Example:
      >>> import numpy as np
      >>> shapes = {
      ...     "conv1.weight": (8, 1, 3, 3), "conv1.bias": (8,),
      ...     "mean.weight": (3, 8 * 2 * 2), "mean.bias": (3,),
      ...     "log_std.weight": (3, 8 * 2 * 2), "log_std.bias": (3,),
      ... }
      >>> state = {name: np.zeros(shape) for name, shape in shapes.items()}
      >>> q, phi = from_published_gaussian_posterior(state)
      >>> q.apply(phi, np.ones((4, 4, 1))).mean.shape
      (3,)
    """
    arrays = Arrays(state)
    prefix, first, step, heads = arrays.spelled(_GAUSSIAN, _ENCODERS)
    widths: list[int] = []
    strides, trunk = [], {}
    for i in itertools.count():
        name = f"{prefix}{first + i * step}"
        if f"{name}.weight" not in arrays:
            break
        trunk[f"Conv3x3_{i}"] = layer = biased_convolution(
            arrays, name, widths[-1] if widths else None, 3
        )
        width = layer["bias"].size
        strides.append(1 if widths and width == widths[-1] else 2)
        widths.append(width)
    channels = widths[-1]
    mean = dense_of_image(arrays, f"{heads}mean", channels)
    log_scale = dense_of_image(arrays, f"{heads}log_std", channels)
    if log_scale["kernel"].shape != mean["kernel"].shape:
        raise ValueError(
            f"state['{heads}log_std.weight'] must have the shape of '{heads}mean.weight', "
            f"{mean['kernel'].shape[::-1]}, got {log_scale['kernel'].shape[::-1]}"
        )
    phi = arrays.finish(_GAUSSIAN, {"trunk": trunk, "mean": mean, "log_scale": log_scale})
    encoder = ConvEncoder(features=tuple(widths), activation=_leaky_relu, strides=tuple(strides))
    return Gaussian(mean["bias"].size, encoder), phi


def from_published_bernoulli_posterior(
    state: Mapping[str, Any], *, temperature: float = 0.1
) -> tuple[Bernoulli, dict]:
    """Returns the linear Bernoulli posterior of a published state dict, and its variables.

    q(h | v) = Π_j Bernoulli(h_j; sigmoid(logit_j(v))) with logits linear in v, the same here and
    there (Bao et al., 2020, 2021).

    Args:
      state: of the posterior of either paper's code, from `jbism.interop.read_state_dict`.
      temperature: τ of the relaxed samples, which a state dict does not hold; the papers' 0.1.

    Raises:
      ValueError: if an array is missing, left over or of a wrong shape; if τ is not positive.

    Example:
      >>> import numpy as np
      >>> state = {"main.weight": np.ones((4, 2)), "main.bias": np.zeros(4)}
      >>> q, phi = from_published_bernoulli_posterior(state)
      >>> float(q.apply(phi, np.ones(2)).logits[0])
      2.0
    """
    _checks.positive("temperature", temperature)
    arrays = Arrays(state)
    name = arrays.spelled(_BERNOULLI, _LOGITS)
    logits = dense(arrays, name, None)
    phi = arrays.finish(_BERNOULLI, {"logits": logits})
    return Bernoulli(logits["bias"].size, temperature=temperature), phi
