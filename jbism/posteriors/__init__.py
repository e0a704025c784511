"""Variational posteriors q(h | v; φ) as Flax modules that return a distribution for one v."""

from jbism.posteriors._bernoulli import Bernoulli
from jbism.posteriors._gaussian import Gaussian
from jbism.posteriors._refinement import LangevinRefinement

__all__ = ["Bernoulli", "Gaussian", "LangevinRefinement"]
