"""What the posteriors share: from one v to the features of their heads."""

import flax.linen as nn

from jbism import _checks
from jbism.typing import Array


def features(module: nn.Module, trunk: nn.Module | None, v: Array, head: str) -> Array:
    """Returns trunk(v), or v itself flattened, checked against the parameters there are.

    Args:
      module: a bound module with a dense layer called ``head``.
      trunk: maps one v to a feature vector, or None.
      v: one visible.
      head: the layer that takes the features.

    Raises:
      ValueError: if the trunk's output is no vector, or its size is not that of the parameters.
    """
    if trunk is not None:
        x = _checks.rank("trunk(v)", trunk(v), 1)
    else:
        x = v.reshape(-1)
    parameters: dict | None = module.get_variable("params", head)
    if parameters is not None and parameters["kernel"].shape[0] != x.size:
        name = "v" if trunk is None else "trunk(v)"
        raise ValueError(
            f"{name} must have {parameters['kernel'].shape[0]} entries as the parameters of "
            f"{type(module).__name__} do, got shape {(v if trunk is None else x).shape}"
        )
    return x
