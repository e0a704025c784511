"""Data sets as validated arrays, and the order in which training visits them."""

import importlib

from jbism.data._batches import BatchOrder
from jbism.data._celeba import celeba
from jbism.data._checkerboard import checkerboard, checkerboard_log_density
from jbism.data._dataset import Dataset
from jbism.data._digits import digits
from jbism.data._flip import random_flip
from jbism.data._freyface import freyface
from jbism.data._image_sets import cifar10, fashion_mnist, mnist
from jbism.data._lazy import LazyImages
from jbism.data._load import load
from jbism.data._loader import BatchLoader
from jbism.data._toy import toy
from jbism.data._toys import (
    eight_gaussians,
    pinwheel,
    rings,
    swiss_roll,
    two_moons,
    two_spirals,
)
from jbism.data._unit import to_unit

__all__ = [
    "Dataset",
    "load",
    "toy",
    "checkerboard",
    "checkerboard_log_density",
    "two_moons",
    "pinwheel",
    "rings",
    "eight_gaussians",
    "two_spirals",
    "swiss_roll",
    "digits",
    "freyface",
    "FreyFace",
    "mnist",
    "fashion_mnist",
    "cifar10",
    "celeba",
    "LazyImages",
    "random_flip",
    "to_unit",
    "BatchOrder",
    "BatchLoader",
]


def __getattr__(name):
    if name == "FreyFace":  # its base class is tensorflow-datasets'
        try:
            return importlib.import_module("jbism.data._freyface_builder").FreyFace
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"jbism.data.FreyFace needs {error.name}: pip install 'jbism[experiments]'"
            ) from error
    raise AttributeError(f"module 'jbism.data' has no attribute {name!r}")
