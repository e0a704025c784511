"""Figures of merit of trained models, on arrays or on one example's callables."""

from jbism.metrics._auroc import auroc, auroc_interval
from jbism.metrics._frechet import frechet_distance, frechet_distance_of_features
from jbism.metrics._kernel_distance import KernelDistance, kernel_distance
from jbism.metrics._linear_probe import LinearProbe, linear_probe
from jbism.metrics._neighbors import Neighbors, nearest_neighbors
from jbism.metrics._posterior import bernoulli_kl
from jbism.metrics._reconstruction import ReconstructionError, reconstruction_error

__all__ = [
    "KernelDistance",
    "LinearProbe",
    "Neighbors",
    "ReconstructionError",
    "auroc",
    "auroc_interval",
    "bernoulli_kl",
    "frechet_distance",
    "frechet_distance_of_features",
    "kernel_distance",
    "linear_probe",
    "nearest_neighbors",
    "reconstruction_error",
]
