"""Data sets as validated float32 arrays, and the order in which training visits them."""

from jbism.data._batches import BatchOrder
from jbism.data._checkerboard import checkerboard, checkerboard_log_density
from jbism.data._dataset import Dataset
from jbism.data._digits import digits
from jbism.data._freyface import freyface
from jbism.data._load import load
from jbism.data._toy import toy
from jbism.data._toys import (
    eight_gaussians,
    pinwheel,
    rings,
    swiss_roll,
    two_moons,
    two_spirals,
)

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
    "BatchOrder",
]
