"""Embeddings in the plane, coloured by class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jbism import _checks
from jbism.plotting._figure import finite, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_CLASSES = 20  # colours that can be told apart


def embedding(points: Any, labels: Any | None = None, *, title: str | None = None) -> Figure:
    """Draws points of an embedding such as t-SNE's, a colour and a line of the legend a class.

    The axes have no ticks: an embedding's coordinates mean nothing. Points are drawn in random
    order, so that no class lies on top of the others.

    Args:
      points: ``[n, 2]`` finite points.
      labels: ``[n]`` integers of at most 20 classes; None draws all points alike.
      title: text above.

    Returns:
      The figure.

    Raises:
      TypeError: ``points`` are not floating, or ``labels`` not integer.
      ValueError: ``points`` are none, have the wrong shape or are not finite; ``labels`` do not fit
        them or have more than 20 classes.

    Example:
      >>> import jax, jax.numpy as jnp, jbism.plotting
      >>> points = jax.random.normal(jax.random.key(0), (50, 2))
      >>> figure = jbism.plotting.embedding(points, jnp.arange(50) % 3, title="t-SNE")
    """
    points = np.asarray(_checks.shape("points", _checks.batched("points", points), (None, 2)))
    finite("points", points)
    classes, codes = _classes(labels, len(points))
    figure = new_figure(560 + 80 * (len(classes) > 1), 540, constrained=True)
    axes = figure.add_subplot()
    axes.set(xticks=[], yticks=[], title=title)
    axes.set_aspect("equal", adjustable="datalim")
    order = np.random.default_rng(0).permutation(len(points))
    size = float(np.clip(12_000 / len(points), 4, 24))
    colors = _colors(len(classes))
    x, y = points[order].T
    axes.scatter(x, y, s=size, alpha=0.8, linewidths=0, c=colors[codes[order]])
    if len(classes) > 1:
        handles = [
            axes.scatter([], [], s=30, linewidths=0, color=color, label=str(name))
            for name, color in zip(classes, colors, strict=True)
        ]
        axes.legend(
            handles=handles,
            frameon=False,
            loc="center left",
            bbox_to_anchor=(1, 0.5),
            title="class",
        )
    return figure


def _classes(labels, num_points):
    """Returns the classes and each point's number among them."""
    if labels is None:
        return np.zeros(1, np.int64), np.zeros(num_points, np.int64)
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"labels must have an integer dtype, got {labels.dtype}")
    if labels.shape != (num_points,):
        raise ValueError(f"labels must have shape ({num_points},), got {labels.shape}")
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) > _MAX_CLASSES:
        raise ValueError(f"labels must be of at most {_MAX_CLASSES} classes, got {len(classes)}")
    return classes, codes


def _colors(num):
    from matplotlib import colormaps

    return colormaps["tab10" if num <= 10 else "tab20"](np.arange(num))
