"""Lower-level divergences G(θ, φ; v) between q(h | v; φ) and p(h | v; θ), for one v.

Each is a frozen dataclass called as ``divergence(theta, phi, key, v, energy=..., posterior=...)``
and needs p(h | v) only up to its normaliser, so its value is the divergence plus log p̃(v).
"""

from jbism.divergences._fisher import Fisher
from jbism.divergences._iwae import IWAE
from jbism.divergences._kl import KL
from jbism.divergences._mean_field import MeanFieldKL

__all__ = ["IWAE", "KL", "Fisher", "MeanFieldKL"]
