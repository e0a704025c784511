"""Energies E(v, h; θ) of one visible and one latent, or of one visible alone, as Flax modules.

log p = -E - log Z throughout.
"""

from jbism.energies._conditionals import conditionals
from jbism.energies._deep import DeepEBLVM
from jbism.energies._gaussian_decoder import GaussianDecoder
from jbism.energies._gaussian_rbm import GaussianRBM
from jbism.energies._linear_gaussian import LinearGaussian
from jbism.energies._marginal import MarginalEnergy

__all__ = [
    "DeepEBLVM",
    "GaussianDecoder",
    "GaussianRBM",
    "LinearGaussian",
    "MarginalEnergy",
    "conditionals",
]
