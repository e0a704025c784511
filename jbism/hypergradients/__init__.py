"""The lower level: descend to φ⁰, and strategies for the derivative of F(θ, φ_N(θ))."""

from jbism.hypergradients._bias import GradientBias, bias, compare_gradients
from jbism.hypergradients._descend import Descent, descend
from jbism.hypergradients._first_order import FirstOrder
from jbism.hypergradients._implicit_cg import ImplicitCG
from jbism.hypergradients._lower_level import LowerLevel, Solve
from jbism.hypergradients._neumann import Neumann
from jbism.hypergradients._unroll import Unroll

__all__ = [
    "Descent",
    "FirstOrder",
    "GradientBias",
    "ImplicitCG",
    "LowerLevel",
    "Neumann",
    "Solve",
    "Unroll",
    "bias",
    "compare_gradients",
    "descend",
]
