"""Partition functions and log-likelihoods: by enumeration, and by annealed importance sampling."""

from jbism.likelihood._ais import AISResult, annealed_importance_sampling
from jbism.likelihood._ais_gaussian_rbm import (
    ais_gaussian_rbm,
    ais_gaussian_rbm_pieces,
    reverse_ais_gaussian_rbm,
    reverse_ais_gaussian_rbm_pieces,
)
from jbism.likelihood._ais_hmc import ais_hmc, ais_hmc_pieces
from jbism.likelihood._ais_pieces import AISPieces, AISState
from jbism.likelihood._enumeration import (
    enumerate_binary,
    exact_log_likelihood,
    exact_log_partition,
)

__all__ = [
    "AISPieces",
    "AISResult",
    "AISState",
    "ais_gaussian_rbm",
    "ais_gaussian_rbm_pieces",
    "ais_hmc",
    "ais_hmc_pieces",
    "annealed_importance_sampling",
    "enumerate_binary",
    "exact_log_likelihood",
    "exact_log_partition",
    "reverse_ais_gaussian_rbm",
    "reverse_ais_gaussian_rbm_pieces",
]
