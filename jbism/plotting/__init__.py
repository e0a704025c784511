"""Figures: arrays in, a matplotlib ``Figure`` out; matplotlib is imported when one is made."""

from jbism.plotting._curves import curves
from jbism.plotting._embedding import embedding
from jbism.plotting._figure import save
from jbism.plotting._images import image_grid, image_panels, reconstructions
from jbism.plotting._neighbors import neighbors
from jbism.plotting._planes import density, scatter

__all__ = [
    "density",
    "scatter",
    "image_grid",
    "image_panels",
    "reconstructions",
    "neighbors",
    "embedding",
    "curves",
    "save",
]
