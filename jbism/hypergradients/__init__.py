"""The lower level: descend to φ⁰, and strategies that make φ_N a function of θ."""

from jbism.hypergradients._descend import Descent, descend
from jbism.hypergradients._first_order import FirstOrder
from jbism.hypergradients._unroll import Unroll

__all__ = ["Descent", "FirstOrder", "Unroll", "descend"]
