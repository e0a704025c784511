"""Estimates of the marginal score ∇_v log p(v; θ) that need no posterior and no normaliser."""

from jbism.estimators._variational_score import variational_score

__all__ = ["variational_score"]
