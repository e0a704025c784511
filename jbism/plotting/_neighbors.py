"""Samples beside the data that they are nearest to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jbism.plotting._tiles import MARGIN, checked, page, tile

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def neighbors(panels: Mapping[str, tuple[Any, Any]], *, pixels: int = 48) -> Figure:
    """Draws rows of one image and, set off to its right, its neighbours, nearest first.

    Args:
      panels: by name, ``(images, neighbors)``: images ``[n, height, width]`` or ``[n, height,
        width, channels]`` as in :func:`image_grid`, and ``[n, k, ...]`` of such, such as the k
        training images nearest to each sample.
      pixels: the longer side of an image on the page, about.

    Returns:
      The figure.

    Raises:
      TypeError: images are not floating.
      ValueError: there is no panel, the neighbours do not fit the images, or images as in
        :func:`image_grid`.

    Example:
      >>> import jax, jbism.plotting
      >>> data = jax.random.uniform(jax.random.key(0), (6, 8, 8))
      >>> nearest = data[:3, None].repeat(2, axis=1)
      >>> figure = jbism.plotting.neighbors({"samples": (data[:3], nearest)})
    """
    if not panels:
        raise ValueError("panels must hold at least one set of images, got none")
    canvases = []
    for name, (images, nearest) in panels.items():
        shape, nearest_shape = np.shape(images), np.shape(nearest)
        fits = len(nearest_shape) > 1 and (nearest_shape[0], *nearest_shape[2:]) == shape
        if not fits or not nearest_shape[1]:
            raise ValueError(
                f"panels[{name!r}] must be images [n, ...] and neighbours [n, k, ...], got shapes "
                f"{shape} and {nearest_shape}"
            )
        left = tile(checked(f"panels[{name!r}]", images), 1, pixels)
        others = np.asarray(nearest).reshape(-1, *nearest_shape[2:])
        right = tile(checked(f"panels[{name!r}] neighbours", others), nearest_shape[1], pixels)
        gap = np.ones((len(left), MARGIN, 3), left.dtype)
        canvases.append((name, np.concatenate([left, gap, right], axis=1)))
    return page(canvases)
