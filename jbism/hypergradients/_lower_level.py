"""What the lower level did, as every strategy reports it."""

from typing import NamedTuple

from jbism.hypergradients._descend import Descent
from jbism.typing import Array, Params


class Solve(NamedTuple):
    """How well an implicit strategy solved (∂²G/∂φ² + ridge) x = ∂F/∂φ.

    It tells of the equation at φ_N alone, not of how far φ_N is from the optimum: for that see the
    gradient norms of the `Descent`, and of the lower steps before.
    """

    residual: Array  # scalar, norm of the equation's residual over that of its right-hand side
    num_products: Array  # integer scalar, products with ∂²G/∂φ²
    negative_curvature: Array  # boolean scalar, whether a direction p with pᵀ(∂²G/∂φ²+ridge)p <= 0
    # was met, where the equation is not that of a minimum
    failed: Array  # boolean scalar: not finite, negative curvature, or a series that diverges


class LowerLevel(NamedTuple):
    """What the virtual steps, and an implicit strategy's solve, did."""

    phi: Params  # φ_N
    descent: Descent  # losses and gradient norms of the N virtual steps
    solve: Solve | None  # None for a strategy that solves nothing
