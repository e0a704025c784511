"""What the closed-form energies share: finding and checking the size of the visible."""

import flax.linen as nn

from jbism import _checks
from jbism.typing import Array


def visible_size(module: nn.Module, v: Array | None) -> int:
    """Returns D from the parameters if there are any, else from ``v``.

    Args:
      module: a bound module with a parameter ``visible_bias`` [D].
      v: one visible [D], or None in methods that take none.

    Raises:
      ValueError: if v is not [D], or if neither v nor parameters are there.
    """
    bias: Array | None = module.get_variable("params", "visible_bias")
    if v is not None:
        _checks.shape("v", v, (None,) if bias is None else bias.shape)
        return v.shape[0]
    if bias is None:
        raise ValueError(f"{type(module).__name__}.init must go through a method that takes v")
    return bias.shape[0]
