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


def full_columns(num: int) -> int:
    """Returns how many images a row make a full grid of ``num``, as square as can be.

    Where it would be more than four times as wide as high, as of primes, rows have eight.
    """
    return next((n for n in range(1, num + 1) if num <= n**2 <= 4 * num and num % n == 0), 8)


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


def page(
    panels: Sequence[tuple[str | None, np.ndarray]],
    *,
    title: str | None = None,
    left: int = MARGIN,
    per_row: int | None = None,
) -> Figure:
    """Returns a figure that shows each (title, canvas) pixel by pixel, side by side in rows.

    Above all stands ``title``. Titles break where they are too long, and at their newlines.
    """
    per_row = len(panels) if per_row is None else per_row
    rows = [_Row(panels[i : i + per_row]) for i in range(0, len(panels), per_row)]
    width = left + max(sum(row.widths) + 2 * MARGIN * (len(row.widths) - 1) for row in rows)
    head = _lines(title, width - left)
    width = max(width, *(left + CHARACTER * len(line) for line in head), 0) + MARGIN
    above = MARGIN + LINE * len(head) if head else 0
    height = above + sum(row.height for row in rows) + MARGIN
    figure = new_figure(width, height)
    if head:
        corner = left / width, 1 - MARGIN / height
        figure.text(*corner, "\n".join(head), fontsize=10, va="top", linespacing=1.2)
    for row in rows:
        x, top = left, above + row.top
        for lines, panel_width, canvas in zip(row.titles, row.widths, row.canvases, strict=True):
            num_rows, columns = canvas.shape[:2]
            place = x / width, 1 - (top + num_rows) / height, columns / width, num_rows / height
            axes = figure.add_axes(place)
            axes.imshow(canvas, interpolation="nearest", aspect="auto")
            axes.set_axis_off()
            if lines:
                corner = x / width, 1 - (top - 4) / height
                figure.text(*corner, "\n".join(lines), fontsize=10, va="bottom", linespacing=1.2)
            x += panel_width + 2 * MARGIN
        above += row.height
    return figure


class _Row:
    """Panels side by side, with their wrapped titles; sizes in pixels."""

    def __init__(self, panels):
        self.canvases = [canvas for _, canvas in panels]
        self.titles = [_lines(title, canvas.shape[1]) for title, canvas in panels]
        self.widths = [
            max(canvas.shape[1], *(CHARACTER * len(line) for line in lines), 0)
            for lines, canvas in zip(self.titles, self.canvases, strict=True)
        ]
        self.top = MARGIN + LINE * max(map(len, self.titles))
        self.height = self.top + max(len(canvas) for canvas in self.canvases)


def _lines(title, width):
    """Breaks a title at its newlines and after a dozen letters, or more as the width allows."""
    letters = max(12, width // CHARACTER)
    return [line for part in (title or "").split("\n") for line in textwrap.wrap(part, letters)]


def _halves(spare):
    return max(0, spare) // 2, (max(0, spare) + 1) // 2


def _pad(cells, sides, value):
    return np.pad(cells, ((0, 0), *sides, (0, 0)), constant_values=value)
