"""Radial kernels k(v, w) = κ(‖v - w‖²), given by their profile κ."""

import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jbism import _checks
from jbism.typing import Array

_MEDIAN_POINTS = 1000  # more than their half a million distances would hardly move the median

# The GPU's and TPU's default precision loses the digits that small distances are made of.
gram_precision = jax.lax.Precision.HIGHEST


@runtime_checkable
class Kernel(Protocol):
    """A radial kernel k(v, w) = κ(‖v - w‖²), such as `RBF` and `IMQ`."""

    def profile(self, points: Array, /) -> Callable[[Array], Array]:
        """Returns κ, which maps squared distances elementwise, for points [n, D].

        κ must be twice differentiable at every r² >= 0, zero included.
        """
        ...


@dataclass(frozen=True)
class RBF:
    """The Gaussian kernel: κ(r²) = exp(-r² / (2 bandwidth²)).

    Args:
      bandwidth: in the units of v, above 0; or ``"median"``, the median of the distances between
        the points (of 1,000 evenly spaced ones, if there are more), a constant to derivatives.

    Raises:
      ValueError: if the bandwidth is not positive or another string than ``"median"``; on use, if
        the median distance is zero.
      TypeError: if the bandwidth is neither a number nor a string.

    Example:
      >>> import jax.numpy as jnp
      >>> kappa = RBF(bandwidth=2.0).profile(jnp.zeros((3, 1)))
      >>> [round(float(x), 4) for x in kappa(jnp.array([0.0, 8.0]))]
      [1.0, 0.3679]
    """

    bandwidth: float | str = 1.0

    def __post_init__(self):
        object.__setattr__(self, "bandwidth", _length("bandwidth", self.bandwidth))

    def profile(self, points: Array, /) -> Callable[[Array], Array]:
        """Returns κ for points [n, D]."""
        bandwidth = _resolve("bandwidth", self.bandwidth, points)
        return lambda squared: jnp.exp(-0.5 * squared / bandwidth**2)


@dataclass(frozen=True)
class IMQ:
    """The inverse multiquadric kernel: κ(r²) = (scale² + r²)^exponent.

    Its heavy tails let the kernelized Stein discrepancy see mass that escapes to infinity, which
    the Gaussian kernel's does not from three dimensions on (Gorham and Mackey, 2017).

    Args:
      scale: in the units of v, above 0; or ``"median"`` as in `RBF`.
      exponent: between -1 and 0, both excluded.

    Raises:
      ValueError: if the scale is not positive or another string than ``"median"``, or the exponent
        is out of range; on use, if the median distance is zero.
      TypeError: if the scale is neither a number nor a string, or the exponent is no number.

    Example:
      >>> import jax.numpy as jnp
      >>> IMQ().profile(jnp.zeros((3, 1)))(jnp.array([0.0, 3.0])).tolist()
      [1.0, 0.5]
    """

    scale: float | str = 1.0
    exponent: float = -0.5

    def __post_init__(self):
        object.__setattr__(self, "scale", _length("scale", self.scale))
        _checks.instance("exponent", self.exponent, numbers.Real)
        if not -1 < self.exponent < 0:
            raise ValueError(f"exponent must be between -1 and 0, got {self.exponent!r}")

    def profile(self, points: Array, /) -> Callable[[Array], Array]:
        """Returns κ for points [n, D]."""
        scale = _resolve("scale", self.scale, points)
        # exp and log are shared by the derivatives; of a power each would be another power.
        return lambda squared: jnp.exp(self.exponent * jnp.log(scale**2 + squared))


def check_kernel(kernel: Any) -> Kernel:
    """Returns ``kernel`` if it is an instance of a class with a method ``profile``."""
    if isinstance(kernel, type) or not isinstance(kernel, Kernel):
        raise TypeError(f"kernel must be an instance such as RBF(), got {kernel!r}")
    return kernel


def squared_distances(left: Array, right: Array) -> Array:
    """‖left_i - right_j‖² of left [m, D] and right [n, D], both about their common origin: [m, n].

    Points far from the origin lose digits.
    """
    products = jnp.matmul(left, right.T, precision=gram_precision)
    norms = jnp.sum(left**2, axis=1)[:, None] + jnp.sum(right**2, axis=1)[None, :]
    return jnp.maximum(norms - 2.0 * products, 0.0)


def _length(name, value):
    if isinstance(value, str):
        if value != "median":
            raise ValueError(f"{name} must be a number > 0 or 'median', got {value!r}")
        return value
    return _checks.positive(name, value)


def _resolve(name, value, points):
    if not isinstance(value, str):
        return value
    points = jax.lax.stop_gradient(points)
    n = points.shape[0]
    if n > _MEDIAN_POINTS:
        points = points[np.linspace(0, n - 1, _MEDIAN_POINTS).astype(int)]
    points = points - jnp.mean(points, axis=0, keepdims=True)
    median = jnp.sqrt(_lower_median(squared_distances(points, points)))
    if not isinstance(median, jax.core.Tracer) and not median > 0:
        raise ValueError(
            f"{name} 'median' needs points that differ, but their median distance is 0"
        )
    return median


def _lower_median(squared):
    """The lower median of the entries above the diagonal of a symmetric matrix [n, n], all >= 0.

    Bisects the bit pattern, which orders floats >= 0 as integers: sorting takes ten times as long.
    """
    n = squared.shape[0]
    num_bits = jnp.finfo(squared.dtype).bits
    unsigned = jnp.dtype(f"uint{num_bits}")
    bits = jax.lax.bitcast_convert_type(jnp.where(np.eye(n, dtype=bool), 0.0, squared), unsigned)
    rank = n + 2 * ((n * (n - 1) // 2 + 1) // 2)  # the diagonal first, then each pair twice

    def step(i, found):
        candidate = found | (jnp.ones((), unsigned) << (num_bits - 2 - i).astype(unsigned))
        return jnp.where(jnp.sum(bits < candidate) < rank, candidate, found)

    found = jax.lax.fori_loop(0, num_bits - 1, step, jnp.zeros((), unsigned))
    return jax.lax.bitcast_convert_type(found, squared.dtype)
