"""jbism: energy-based latent-variable models, learned by bi-level score matching in JAX.

Every objective is a pure function; energies and posteriors are Flax modules or plain functions of
one example. `jbism.training` needs the extra ``jbism[experiments]``, `jbism.sklearn` needs
``jbism[sklearn]``; both are imported on first use.
"""

import importlib

from jbism import (
    data,
    distributions,
    divergences,
    energies,
    estimators,
    hypergradients,
    interop,
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
    "interop",
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


# Rooms that need an extra, and which.
_ON_FIRST_USE = {"training": "experiments", "sklearn": "sklearn"}


def __getattr__(name):
    if name in _ON_FIRST_USE:
        try:
            return importlib.import_module(f"jbism.{name}")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"jbism.{name} needs {error.name}: pip install 'jbism[{_ON_FIRST_USE[name]}]'"
            ) from error
    raise AttributeError(f"module 'jbism' has no attribute {name!r}")
