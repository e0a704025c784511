"""Figures of merit of trained models, on arrays or on one example's callables."""

from jbism.metrics._posterior import bernoulli_kl
from jbism.metrics._reconstruction import ReconstructionError, reconstruction_error

__all__ = ["ReconstructionError", "bernoulli_kl", "reconstruction_error"]
