"""Images laid out pixel by pixel: tiled into one picture, and pictures placed on a page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jbism import _checks
from jbism.plotting._figure import finite, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARGIN, LINE, CHARACTER = 12, 18, 8  # pixels: edge of the page, line of text, width of a letter
_FRAME = 0.6  # grey level around each image


def checked(name: str, images: Any) -> np.ndarray:
    """Returns images as ``[n, height, width, 3]`` in [0, 1]."""
    images = np.asarray(_checks.floating(name, images), np.float32)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
        raise ValueError(
            f"{name} must have shape [n, height, width] or [n, height, width, 1 or 3] and not be "
            f"empty, got {images.shape}"
        )
    finite(name, images)
    return np.broadcast_to(images.clip(0, 1), (*images.shape[:-1], 3))


def tile(
    images: np.ndarray,
    columns: int,
    pixels: int,
    *,
    least_height: int = 0,
    least_width: int = 0,
    headroom: int = 0,
) -> np.ndarray:
    """Returns one ``[height, width, 3]`` picture of all images in rows, each with a grey frame."""
    columns = min(_checks.integer("columns", columns, minimum=1), len(images))
    pixels = _checks.integer("pixels", pixels, minimum=1)
    factor = max(1, round(pixels / max(images.shape[1:3])))
    cells = images.repeat(factor, axis=1).repeat(factor, axis=2)
    cells = _pad(cells, ((1, 1), (1, 1)), _FRAME)
    above, below = _halves(least_height - cells.shape[1])
    left, right = _halves(least_width - cells.shape[2])
    # A text belongs to the image below it, so what separates it from the image above is wider.
    sides = (1 + above + headroom, 2 + below + headroom // 3), (1 + left, 2 + right)
    cells = _pad(cells, sides, 1)
    num_rows = -(-len(cells) // columns)
    blanks = np.ones((num_rows * columns - len(cells), *cells.shape[1:]), cells.dtype)
    _, height, width, _ = cells.shape
    grid = np.concatenate([cells, blanks]).reshape(num_rows, columns, height, width, 3)
    return grid.swapaxes(1, 2).reshape(num_rows * height, columns * width, 3)


def page(panels: Sequence[tuple[str | None, np.ndarray]], *, left: int = MARGIN) -> Figure:
    """Returns a figure that shows each (title, canvas) pixel by pixel, side by side."""
    titles = [
        textwrap.wrap(title or "", max(12, canvas.shape[1] // CHARACTER))
        for title, canvas in panels
    ]
    widths = [
        max(canvas.shape[1], *(CHARACTER * len(line) for line in lines), 0)
        for lines, (_, canvas) in zip(titles, panels, strict=True)
    ]
    top = MARGIN + LINE * max(map(len, titles))
    width = left + sum(widths) + 2 * MARGIN * (len(panels) - 1) + MARGIN
    height = top + max(canvas.shape[0] for _, canvas in panels) + MARGIN
    figure = new_figure(width, height)
    for lines, panel_width, (_, canvas) in zip(titles, widths, panels, strict=True):
        rows, columns = canvas.shape[:2]
        place = left / width, 1 - (top + rows) / height, columns / width, rows / height
        axes = figure.add_axes(place)
        axes.imshow(canvas, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        if lines:
            corner = left / width, 1 - (top - 4) / height
            figure.text(*corner, "\n".join(lines), fontsize=10, va="bottom", linespacing=1.2)
        left += panel_width + 2 * MARGIN
    return figure


def _halves(spare):
    return max(0, spare) // 2, (max(0, spare) + 1) // 2


def _pad(cells, sides, value):
    return np.pad(cells, ((0, 0), *sides, (0, 0)), constant_values=value)
