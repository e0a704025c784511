"""Partition functions and log-likelihoods: by enumeration, and by annealed importance sampling."""

from jbism.likelihood._ais import AISResult, annealed_importance_sampling
from jbism.likelihood._ais_gaussian_rbm import ais_gaussian_rbm, reverse_ais_gaussian_rbm
from jbism.likelihood._ais_hmc import ais_hmc
from jbism.likelihood._enumeration import (
    enumerate_binary,
    exact_log_likelihood,
    exact_log_partition,
)

__all__ = [
    "AISResult",
    "ais_gaussian_rbm",
    "ais_hmc",
    "annealed_importance_sampling",
    "enumerate_binary",
    "exact_log_likelihood",
    "exact_log_partition",
    "reverse_ais_gaussian_rbm",
]
