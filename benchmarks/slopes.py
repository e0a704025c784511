"""How a cost grows along a parameter: slopes of least squares, and what they should be."""

import fnmatch
import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Growth:
    """A range of slopes on logarithmic axes.

    Attributes:
      name: what it is called.
      least: the smallest slope.
      most: the largest.
      above_first: the slope is of the cost above that at the smallest value, against the distance
        from that value: 1 for a + b x whatever a is.
    """

    name: str
    least: float
    most: float
    above_first: bool = False


LINEAR = Growth("linear", 0.85, 1.15, above_first=True)
SUBLINEAR = Growth("sub-linear", -math.inf, 0.9)
FLAT = Growth("flat", -math.inf, 0.1)


def at_most(slope: float, name: str) -> Growth:
    """Returns the slopes up to one.

    Example:
      >>> at_most(1.0, "linear or less").most
      1.0
    """
    return Growth(name, -math.inf, slope)


@dataclass(frozen=True)
class Expected:
    """How a cost of some cases should grow."""

    cases: str  # a shell pattern
    parameter: str
    quantity: str  # "time" or "memory"
    growth: Growth

    def of(self, case: str, parameter: str, quantity: str) -> bool:
        """Whether it is about that cost."""
        about = fnmatch.fnmatch(case, self.cases)
        return about and (self.parameter, self.quantity) == (parameter, quantity)


def slope(x: Sequence[float], y: Sequence[float], *, above_first: bool = False) -> float | None:
    """Returns the slope of log y against log x by least squares, without points at zero or below.

    Args:
      x: values of a parameter, rising.
      y: the cost at each.
      above_first: fit y - y[0] against x - x[0] instead, each point by the square of its growth:
        what disturbs a cost disturbs the logarithm of a small growth most.

    Returns:
      The slope, None if fewer than two points are left.

    Example:
      >>> slope([1, 2, 4], [3, 6, 12]), slope([0, 1, 2], [5, 7, 9], above_first=True)
      (1.0, 1.0)
    """
    if above_first:
        x, y = [a - x[0] for a in x[1:]], [b - y[0] for b in y[1:]]
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if a > 0 and b > 0]
    if len(pairs) < 2:
        return None
    points = [(math.log(a), math.log(b), b**2 if above_first else 1.0) for a, b in pairs]
    total = sum(w for _, _, w in points)
    mean_x = sum(w * a for a, _, w in points) / total
    mean_y = sum(w * b for _, b, w in points) / total
    squares = sum(w * (a - mean_x) ** 2 for a, _, w in points)
    return sum(w * (a - mean_x) * (b - mean_y) for a, b, w in points) / squares
