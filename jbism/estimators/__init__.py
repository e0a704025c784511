"""Estimates of the marginal score ∇_v log p(v; θ) that need no posterior and no normaliser."""

from jbism.estimators._bias_bound import vaes_bias_bound, vages_bias_bound
from jbism.estimators._importance import importance_free_energy
from jbism.estimators._vaes import vaes
from jbism.estimators._vages import ParticleStatistics, vages
from jbism.estimators._variational_score import variational_score

__all__ = [
    "ParticleStatistics",
    "importance_free_energy",
    "vaes",
    "vaes_bias_bound",
    "vages",
    "vages_bias_bound",
    "variational_score",
]
