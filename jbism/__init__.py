"""jbism: energy-based latent-variable models, learned by bi-level score matching in JAX.

Every objective is a pure function; energies and posteriors are Flax modules or plain functions of
one example. `jbism.training` needs the extra ``jbism[experiments]`` and is imported on first use.
"""

import importlib

from jbism import (
    data,
    distributions,
    divergences,
    energies,
    estimators,
    hypergradients,
    likelihood,
    losses,
    metrics,
    networks,
    plotting,
    posteriors,
    samplers,
    stein,
    typing,
)

__version__ = "0.1.0"

__all__ = [
    "data",
    "distributions",
    "divergences",
    "energies",
    "estimators",
    "hypergradients",
    "likelihood",
    "losses",
    "metrics",
    "networks",
    "plotting",
    "posteriors",
    "samplers",
    "stein",
    "typing",
]


def __getattr__(name):
    if name == "training":
        try:
            return importlib.import_module("jbism.training")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"jbism.training needs {error.name}: pip install 'jbism[experiments]'"
            ) from error
    raise AttributeError(f"module 'jbism' has no attribute {name!r}")
