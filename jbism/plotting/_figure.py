"""Making and writing figures, with no global state of pyplot."""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 100


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure whole or not at all, in the format of the path's suffix.

    The figure goes to a temporary name beside ``path`` and is then moved onto it. Missing folders
    are made.

    Args:
      figure: what to write.
      path: where to, such as ``samples.png``.

    Raises:
      ValueError: ``path`` has no suffix, or one that matplotlib cannot write.

    Example:
      >>> import os, tempfile, jbism.plotting
      >>> figure = jbism.plotting.curves({"loss": ([0, 1], [2.0, 1.0])})
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     jbism.plotting.save(figure, os.path.join(folder, "loss.png"))
      ...     os.listdir(folder)
      ['loss.png']
    """
    path = pathlib.Path(path)
    if not path.suffix:
        raise ValueError(f"path must end in a format's suffix such as .png, got {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        figure.savefig(temporary, format=path.suffix[1:], dpi="figure")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def new_figure(width: int, height: int, *, constrained: bool = False) -> Figure:
    """Returns a new white figure of a size in pixels, its axes placed by hand or constrained."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise ImportError("plotting needs matplotlib: pip install 'jbism[experiments]'") from error
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1) if constrained else None
    return Figure((width / _DPI, height / _DPI), dpi=_DPI, facecolor="white", layout=layout)


def finite(name: str, x: np.ndarray) -> None:
    """Raises unless every value is finite, naming the first index on axis 0 that is not."""
    good = np.isfinite(x).reshape(len(x), -1).all(axis=1)
    if not good.all():
        raise ValueError(f"{name} must be finite, but index {good.argmin()} is not")
