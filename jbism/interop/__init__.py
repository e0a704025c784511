"""Parameters of other implementations: reads what the papers' PyTorch code saved.

Only reading a file needs PyTorch: ``pip install ".[torch]"`` where this package was cloned.
"""

from jbism.interop._deep_eblvm import from_published_deep_eblvm
from jbism.interop._gaussian_rbm import from_published_gaussian_rbm
from jbism.interop._posteriors import (
    from_published_bernoulli_posterior,
    from_published_gaussian_posterior,
)
from jbism.interop._state_dict import read_state_dict

__all__ = [
    "read_state_dict",
    "from_published_bernoulli_posterior",
    "from_published_deep_eblvm",
    "from_published_gaussian_posterior",
    "from_published_gaussian_rbm",
]
