"""Stein's method: kernels, the kernelized Stein discrepancy, a test of goodness of fit, and the
Fisher divergence by a critic.
"""

from jbism.stein._fisher_divergence import FisherDivergence, fisher_divergence
from jbism.stein._goodness_of_fit import GoodnessOfFit, goodness_of_fit
from jbism.stein._kernels import IMQ, RBF, Kernel
from jbism.stein._ksd import ksd, stein_matrix, stein_row_sums

__all__ = [
    "IMQ",
    "RBF",
    "FisherDivergence",
    "GoodnessOfFit",
    "Kernel",
    "fisher_divergence",
    "goodness_of_fit",
    "ksd",
    "stein_matrix",
    "stein_row_sums",
]
