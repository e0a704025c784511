"""The published deep EBLVM: residual trunk, additive coupling, squared head."""

import itertools
from collections.abc import Mapping
from typing import Any

from jbism.energies import DeepEBLVM
from jbism.interop._arrays import Arrays, biased_convolution, convolution, dense, dense_of_image
from jbism.networks import ResidualConvNet

_MODULE = "deep EBLVM"

# Trunk, coupling and head as the codes of the two papers call them, by an array that tells which.
_NAMES = {
    "v2f.feature.0.conv.weight": ("v2f.feature", "f2h", "cp2e.linear"),
    "feature_net.down.0.conv.weight": ("feature_net.down", "linear", "scalar_net.linear"),
}


def from_published_deep_eblvm(state: Mapping[str, Any]) -> tuple[DeepEBLVM, dict]:
    """Returns the deep EBLVM of a published state dict, and its variables.

    E(v, h) = ‖elu(A [W f(v) + b + h ; h] + a)‖² with the trunk
    `jbism.networks.ResidualConvNet` in its variant ``"published"``: the same energy here and there,
    for square images v [height, width, channels] instead of [channels, height, width]. Channels,
    levels, blocks a level, latents and features are those of the arrays (Bao et al., 2020, 2021).

    Args:
      state: of the energy of either paper's code, from `jbism.interop.read_state_dict`.

    Raises:
      ValueError: if an array is missing, left over or of a wrong shape; if the levels have not the
        same number of blocks each.

    Example:
      >>> import numpy as np
      >>> block = "v2f.feature.1."
      >>> shapes = {
      ...     "v2f.feature.0.conv.weight": (4, 1, 3, 3), "v2f.feature.0.conv.bias": (4,),
      ...     block + "conv1.conv.weight": (4, 4, 3, 3),
      ...     block + "conv2.conv.conv.weight": (8, 4, 3, 3), block + "conv2.conv.conv.bias": (8,),
      ...     block + "conv_shortcut.conv.conv.weight": (8, 4, 1, 1),
      ...     block + "conv_shortcut.conv.conv.bias": (8,),
      ...     "f2h.weight": (3, 8 * 2 * 2), "f2h.bias": (3,),
      ...     "cp2e.linear.weight": (5, 6), "cp2e.linear.bias": (5,),
      ... }
      >>> state = {name: np.zeros(shape) for name, shape in shapes.items()}
      >>> model, theta = from_published_deep_eblvm(state)
      >>> model.trunk.channels, model.trunk.levels, model.num_latents
      (4, 1, 3)
      >>> float(model.apply(theta, np.ones((4, 4, 1)), np.ones(3)))
      0.0
    """
    arrays = Arrays(state)
    trunk_name, coupling_name, head_name = arrays.spelled(_MODULE, _NAMES)
    trunk, trunk_params = _trunk(arrays, trunk_name)
    features = trunk.channels * 2**trunk.levels
    coupling = dense_of_image(arrays, coupling_name, features)
    num_latents = coupling["bias"].size
    head = dense(arrays, head_name, 2 * num_latents)
    params = {"trunk": trunk_params, "coupling": coupling, "head": head}
    theta = arrays.finish(_MODULE, params)
    model = DeepEBLVM(num_latents, trunk, num_features=head["bias"].size, coupling_bias=True)
    return model, theta


def _trunk(arrays, name):
    """The residual network and its parameters."""
    blocks = list(
        itertools.takewhile(lambda i: f"{name}.{i}.conv1.conv.weight" in arrays, itertools.count(1))
    )
    halving = [i for i in blocks if f"{name}.{i}.conv2.conv.conv.weight" in arrays]
    blocks_per_level = len(blocks) // max(len(halving), 1)
    if not halving or halving != list(range(1, len(blocks) + 1, blocks_per_level)):
        raise ValueError(
            f"state must have the same number of residual blocks in every level, the first of "
            f"which halves the resolution, got {len(blocks)}, of which {halving} do"
        )
    stem = biased_convolution(arrays, f"{name}.0.conv", None, 3)
    channels = stem["kernel"].shape[-1]
    params = {"Conv3x3_0": stem}
    for i in blocks:
        # A block that halves has each convolution within one that pools.
        suffix = ".conv.conv" if i in halving else ".conv"
        width = 2 * channels if i in halving else channels
        params[f"ResidualBlock_{i - 1}"] = _block(arrays, f"{name}.{i}", suffix, channels, width)
        channels = width
    trunk = ResidualConvNet(
        channels=stem["kernel"].shape[-1],
        blocks_per_level=blocks_per_level,
        levels=len(halving),
        variant="published",
    )
    return trunk, params


def _block(arrays, name, suffix, channels, width):
    shortcut = biased_convolution(
        arrays, f"{name}.conv_shortcut{suffix}", channels, 1, features=width
    )
    return {
        "Conv3x3_0": convolution(arrays, f"{name}.conv1.conv", channels, 3, features=channels),
        "Conv3x3_1": biased_convolution(
            arrays, f"{name}.conv2{suffix}", channels, 3, features=width
        ),
        "Dense_0": {**shortcut, "kernel": shortcut["kernel"][0, 0]},
    }
