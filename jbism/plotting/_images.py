"""Grids of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jbism import _checks
from jbism.plotting._tiles import CHARACTER, LINE, MARGIN, checked, full_columns, page, tile

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def image_grid(
    images: Any,
    *,
    columns: int,
    titles: Sequence[str] | None = None,
    title: str | None = None,
    pixels: int = 64,
) -> Figure:
    """Draws images in rows, each framed and enlarged by a whole factor without smoothing.

    Args:
      images: ``[n, height, width]`` or ``[n, height, width, channels]`` with one or three channels,
        floating, clipped to [0, 1].
      columns: number of images a row.
      titles: one text above each image.
      title: text above all.
      pixels: the longer side of an image on the page, about.

    Returns:
      The figure.

    Raises:
      TypeError: ``images`` are not floating.
      ValueError: ``images`` have the wrong shape or hold a NaN or an infinity, or there are not as
        many titles as images.

    Example:
      >>> import jax, jbism.plotting
      >>> images = jax.random.uniform(jax.random.key(0), (6, 8, 8))
      >>> figure = jbism.plotting.image_grid(images, columns=3, titles=list("abcdef"))
    """
    images = checked("images", images)
    if titles is None:
        return page([(title, tile(images, columns, pixels))])
    if len(titles) != len(images):
        raise ValueError(f"titles must be one for each of {len(images)} images, got {len(titles)}")
    width = CHARACTER * max(len(text) for text in titles)
    canvas = tile(images, columns, pixels, least_width=width, headroom=LINE)
    figure = page([(title, canvas)])
    shown = min(columns, len(images))
    row_height = canvas.shape[0] / -(-len(images) // shown)
    column_width = canvas.shape[1] / shown
    for i, text in enumerate(titles):
        row, column = divmod(i, shown)
        place = (column + 0.5) * column_width, row * row_height + 0.5 * LINE
        figure.axes[0].text(*place, text, ha="center", va="center", fontsize=9)
    return figure


def image_panels(
    panels: Mapping[str, Any],
    *,
    columns: int | None = None,
    title: str | None = None,
    pixels: int = 48,
    per_row: int | None = None,
) -> Figure:
    """Draws several grids of images side by side, each under its name.

    Args:
      panels: images by name, such as data and two kinds of samples; each as in
        :func:`image_grid`.
      columns: number of images a row of each grid; by default that of a full and about square grid,
        or eight where there is none.
      title: text above all.
      pixels: the longer side of an image on the page, about.
      per_row: number of grids side by side; all by default.

    Returns:
      The figure.

    Raises:
      TypeError: images are not floating.
      ValueError: there is no panel, or images as in :func:`image_grid`.

    Example:
      >>> import jax, jbism.plotting
      >>> images = jax.random.uniform(jax.random.key(0), (6, 8, 8))
      >>> figure = jbism.plotting.image_panels({"data": images, "samples": images}, columns=3)
    """
    if not panels:
        raise ValueError("panels must hold at least one set of images, got none")
    if per_row is not None:
        _checks.integer("per_row", per_row, minimum=1)
    canvases = []
    for name, given in panels.items():
        images = checked(f"panels[{name!r}]", given)
        shown = full_columns(len(images)) if columns is None else columns
        canvases.append((name, tile(images, shown, pixels)))
    return page(canvases, title=title, per_row=per_row)


def reconstructions(
    originals: Any, reconstructed: Any, *, columns: int = 10, pixels: int = 64
) -> Figure:
    """Draws originals in rows, each row above the row of their reconstructions.

    Args:
      originals: images as in :func:`image_grid`.
      reconstructed: images of the same shape.
      columns: number of images a row.
      pixels: the longer side of an image on the page, about.

    Returns:
      The figure.

    Raises:
      TypeError: images are not floating.
      ValueError: the shapes differ, or images as in :func:`image_grid`.

    Example:
      >>> import jax, jbism.plotting
      >>> images = jax.random.uniform(jax.random.key(0), (6, 8, 8))
      >>> figure = jbism.plotting.reconstructions(images, images.round(), columns=3)
    """
    originals = checked("originals", originals)
    reconstructed = checked("reconstructed", reconstructed)
    _checks.same_shape("reconstructed", reconstructed, "originals", originals)
    both = [
        tile(images, columns, pixels, least_height=LINE) for images in (originals, reconstructed)
    ]
    num_rows = -(-len(originals) // columns)
    rows = [np.split(canvas, num_rows) for canvas in both]
    gap = np.ones((MARGIN, *both[0].shape[1:]))
    canvas = np.concatenate([part for pair in zip(*rows, strict=True) for part in (*pair, gap)])
    figure = page([(None, canvas)], left=MARGIN + 15 * CHARACTER)
    height = len(rows[0][0])
    for row in range(num_rows):
        for i, text in enumerate(("original", "reconstruction")):
            y = row * (2 * height + MARGIN) + (i + 0.5) * height
            figure.axes[0].text(-0.5 * MARGIN, y, text, ha="right", va="center", fontsize=10)
    return figure
