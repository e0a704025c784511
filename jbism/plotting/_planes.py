"""Distributions of two variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from jbism import _checks
from jbism.plotting._figure import finite, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def density(
    log_density: Callable[[np.ndarray], Any] | Any,
    *,
    bounds: tuple[float, float, float, float],
    resolution: int | None = None,
    normalize: bool = False,
    title: str | None = None,
    axes: Axes | None = None,
) -> Figure:
    """Draws exp(log p) of two variables as a heat map.

    Args:
      log_density: log p in nats, as a function of ``[n, 2]`` points (float32) that returns ``[n]``,
        or as values ``[rows, columns]`` at cell centres, first row at the smallest second
        coordinate.
      bounds: ``(left, right, bottom, top)`` of the plane.
      resolution: number of cells a side at which a function is evaluated, 200 by default; values
        have their own.
      normalize: scale the density so that it integrates to 1 over ``bounds``; for an energy, whose
        log p is known up to a constant.
      title: text above.
      axes: where to draw; a new figure by default.

    Returns:
      The figure.

    Raises:
      ValueError: ``bounds`` are empty, values have the wrong shape, are NaN or +inf, or too large
        to be exponentiated, or ``resolution`` is given for values.

    Example:
      >>> import jbism.data, jbism.plotting
      >>> figure = jbism.plotting.density(
      ...     jbism.data.checkerboard_log_density, bounds=(0, 1, 0, 1), resolution=20)
    """
    left, right, bottom, top = _bounds(bounds)
    if callable(log_density):
        resolution = _checks.integer(
            "resolution", 200 if resolution is None else resolution, minimum=1
        )
        centres = (np.arange(resolution) + 0.5) / resolution
        x, y = np.meshgrid(left + (right - left) * centres, bottom + (top - bottom) * centres)
        points = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
        values = _checks.shape("log_density(points)", log_density(points), (len(points),))
        grid = np.asarray(values, np.float64).reshape(resolution, resolution)
    else:
        if resolution is not None:
            raise ValueError(f"resolution must be None for values on a grid, got {resolution}")
        grid = np.asarray(_checks.rank("log_density", log_density, 2), np.float64)
    if np.isnan(grid).any() or grid.max() == np.inf:
        raise ValueError("log_density must be below infinity, but holds a NaN or +inf")
    if normalize:
        cell = (right - left) * (top - bottom) / grid.size
        log_mass = np.logaddexp.reduce(grid, axis=None) + np.log(cell)
        if log_mass == -np.inf:
            raise ValueError("log_density must be above -inf somewhere within bounds")
        grid = grid - log_mass
    elif grid.max() > 700:
        raise ValueError(f"log_density reaches {grid.max():.3g}: give normalize=True")
    plane = _plane(axes, bounds, title)
    image = plane.imshow(np.exp(grid), extent=bounds, origin="lower", cmap="viridis", vmin=0)
    plane.figure.colorbar(image, ax=plane, label="density", fraction=0.046, pad=0.04)
    return plane.get_figure(root=True)


def scatter(
    points: Any,
    *,
    bounds: tuple[float, float, float, float] | None = None,
    title: str | None = None,
    axes: Axes | None = None,
) -> Figure:
    """Draws points of two variables, and says how many lie outside the picture.

    Args:
      points: ``[n, 2]`` finite points.
      bounds: ``(left, right, bottom, top)`` of the plane; what the points span by default.
      title: text above.
      axes: where to draw; a new figure by default.

    Returns:
      The figure.

    Raises:
      TypeError: ``points`` are not floating.
      ValueError: ``points`` are none, have the wrong shape or are not finite, or ``bounds`` are
        empty.

    Example:
      >>> import jax, jbism.data, jbism.plotting
      >>> figure = jbism.plotting.scatter(jbism.data.rings(jax.random.key(0), 500), title="rings")
    """
    points = np.asarray(_checks.shape("points", _checks.batched("points", points), (None, 2)))
    finite("points", points)
    plane = _plane(axes, bounds, title)
    x, y = points.T
    size = float(np.clip(20_000 / len(points), 1, 12))
    plane.scatter(x, y, s=size, alpha=0.5, linewidths=0, color="tab:blue", rasterized=True)
    if bounds is not None:
        left, right, bottom, top = bounds
        outside = np.sum((x < left) | (x > right) | (y < bottom) | (y > top))
        if outside:
            plane.set_xlabel(f"$v_1$\n{outside} of {len(points)} points lie outside")
    return plane.get_figure(root=True)


def _plane(axes, bounds, title):
    """Prepares axes of two variables in equal units."""
    if axes is None:
        axes = new_figure(520, 460, constrained=True).add_subplot()
    axes.set(aspect="equal", xlabel="$v_1$", ylabel="$v_2$", title=title)
    if bounds is not None:
        left, right, bottom, top = _bounds(bounds)
        axes.set(xlim=(left, right), ylim=(bottom, top))
    return axes


def _bounds(bounds):
    left, right, bottom, top = bounds
    if not (np.isfinite(bounds).all() and left < right and bottom < top):
        raise ValueError(f"bounds must be left < right and bottom < top, finite, got {bounds}")
    return left, right, bottom, top
