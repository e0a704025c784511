"""Stein's method: kernels, the kernelized Stein discrepancy, and a test of goodness of fit."""

from jbism.stein._goodness_of_fit import GoodnessOfFit, goodness_of_fit
from jbism.stein._kernels import IMQ, RBF, Kernel
from jbism.stein._ksd import ksd, stein_matrix, stein_row_sums

__all__ = [
    "IMQ",
    "RBF",
    "GoodnessOfFit",
    "Kernel",
    "goodness_of_fit",
    "ksd",
    "stein_matrix",
    "stein_row_sums",
]
