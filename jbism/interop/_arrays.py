"""The arrays of a state dict, taken one by one, and layers in Flax's layout made of them."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jbism import _checks

_LISTED = 6


class Arrays:
    """The arrays of one module, each to be taken exactly once.

    Args:
      state: maps names to arrays or tensors. A component ``module`` of a name, which is how PyTorch
        marks a data-parallel part, is left out.

    Raises:
      TypeError: if state is no mapping of strings.
      ValueError: if two names are the same without ``module``.
    """

    def __init__(self, state: Mapping[str, Any]):
        _checks.instance("state", state, Mapping)
        self._left: dict[str, Any] = {}
        for name, value in state.items():
            parts = _checks.instance("a name in state", name, str).split(".")
            short = ".".join(part for part in parts if part != "module")
            if short in self._left:
                raise ValueError(f"state has {short!r} twice, with and without 'module'")
            self._left[short] = value

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str, shape: tuple) -> np.ndarray:
        """Removes and returns the array ``name`` if it has ``shape``, where None matches any."""
        if name not in self._left:
            raise ValueError(f"state lacks {name!r}; what is left of it is {self.listing()}")
        label = f"state[{name!r}]"
        array = as_numpy(label, self._left.pop(name))
        _checks.shape(label, _checks.floating(label, array), shape)
        return array

    def spelled(self, module: str, spellings: Mapping[str, Any]) -> Any:
        """Returns the value of the first key that is the name of an array, for a ``module``."""
        for name, spelling in spellings.items():
            if name in self._left:
                return spelling
        raise ValueError(f"state must be that of a published {module}, got {self.listing()}")

    def finish(self, module: str, params: dict[str, Any]) -> dict[str, Any]:
        """Returns the variables of ``module`` if no array is left that it has no place for."""
        if self._left:
            raise ValueError(f"state has arrays that no {module} has: {self.listing()}")
        # Copies: a tensor of a live model changes under its optimizer.
        return {"params": jax.tree.map(jnp.array, params)}

    def listing(self) -> str:
        """Returns the first names that are left, for messages."""
        names = [repr(name) for name in self._left]
        more = len(names) - _LISTED
        return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "") or "nothing"


def as_numpy(name: str, value: Any) -> np.ndarray:
    """Returns an array or a tensor, wherever it lies, as a NumPy array."""
    if not hasattr(value, "shape"):
        raise TypeError(f"{name} must be an array, got {type(value).__name__}")
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def convolution(
    arrays: Arrays, name: str, in_features: int | None, size: int, *, features: int | None = None
) -> dict[str, np.ndarray]:
    """Returns the kernel [size, size, in, out] of a weight [out, in, size, size], without bias."""
    weight = arrays.take(f"{name}.weight", (features, in_features, size, size))
    return {"kernel": np.transpose(weight, (2, 3, 1, 0))}


def biased_convolution(
    arrays: Arrays, name: str, in_features: int | None, size: int, *, features: int | None = None
) -> dict[str, np.ndarray]:
    """Returns kernel and bias of a convolution."""
    layer = convolution(arrays, name, in_features, size, features=features)
    return {**layer, "bias": arrays.take(f"{name}.bias", (layer["kernel"].shape[-1],))}


def dense(arrays: Arrays, name: str, in_features: int | None) -> dict[str, np.ndarray]:
    """Returns the kernel [in, out] of a weight [out, in], and the bias."""
    weight = arrays.take(f"{name}.weight", (None, in_features))
    return {"kernel": weight.T, "bias": arrays.take(f"{name}.bias", (weight.shape[0],))}


def dense_of_image(arrays: Arrays, name: str, channels: int) -> dict[str, np.ndarray]:
    """Returns a dense layer of a flattened square image whose weight counts channels first."""
    layer = dense(arrays, name, None)
    size, features = layer["kernel"].shape
    side = math.isqrt(size // channels)
    if size != channels * side**2:
        raise ValueError(
            f"state['{name}.weight'] must have {channels} s² columns, for a square image of "
            f"{channels} channels and s rows, got shape {(features, size)}"
        )
    # [channel, row, column, feature] to [row, column, channel, feature]
    kernel = layer["kernel"].reshape(channels, side, side, features).transpose(1, 2, 0, 3)
    return {**layer, "kernel": kernel.reshape(size, features)}
