"""Training curves."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jbism import _checks
from jbism.plotting._figure import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curves(
    series: Mapping[str, tuple[Any, Any]],
    *,
    log_y: Collection[str] = (),
    smoothing: float = 0.05,
    columns: int = 3,
    x_label: str = "step",
) -> Figure:
    """Draws one small panel a metric: its values lightly, their moving mean on top.

    Args:
      series: ``(steps, values)`` by name of the metric, both ``[n]``; values that are not finite
        leave a gap.
      log_y: names of the metrics with a logarithmic axis.
      smoothing: span of the centred moving mean, as a share of the curve's points from 0 to 1;
        curves with too few points for a mean of three are drawn plainly.
      columns: number of panels a row.
      x_label: label of the horizontal axes.

    Returns:
      The figure.

    Raises:
      ValueError: there is no metric, ``log_y`` names none of them or one with values <= 0, steps
        and values do not fit, or ``smoothing`` is outside [0, 1].

    Example:
      >>> import jbism.plotting
      >>> figure = jbism.plotting.curves({"loss": ([0, 10, 20], [3.0, 2.0, 1.5])}, log_y=["loss"])
    """
    if not series:
        raise ValueError("series must hold at least one metric, got none")
    for name in log_y:
        _checks.one_of("log_y", name, tuple(series))
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing must be in [0, 1], got {smoothing}")
    columns = min(_checks.integer("columns", columns, minimum=1), len(series))
    num_rows = -(-len(series) // columns)
    figure = new_figure(360 * columns, 260 * num_rows, constrained=True)
    for i, (name, (steps, values)) in enumerate(series.items()):
        steps, values = np.asarray(steps), np.asarray(values, np.float64)
        if steps.ndim != 1 or values.shape != steps.shape or not len(steps):
            raise ValueError(
                f"series[{name!r}] must be steps and values of one shape [n], n >= 1, "
                f"got {steps.shape} and {values.shape}"
            )
        axes = figure.add_subplot(num_rows, columns, i + 1)
        if name in log_y:
            if (values <= 0).any():
                raise ValueError(
                    f"log_y: {name!r} holds values <= 0, the least {np.nanmin(values)}"
                )
            axes.set_yscale("log")
        window = max(1, (int(smoothing * len(values)) - 1) // 2 * 2 + 1)
        plain: dict[str, Any] = {"color": "tab:blue", "linewidth": 1.5}
        if window == 1:
            axes.plot(steps, values, marker="o" if len(steps) <= 60 else None, ms=3, **plain)
        else:
            axes.plot(steps, values, color="tab:blue", linewidth=0.8, alpha=0.3)
            axes.plot(steps, _moving_mean(values, window), **plain)
        axes.set(xlabel=x_label, ylabel=name)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _moving_mean(values, window):
    """Returns the mean of the finite values in a window about each point."""
    finite = np.isfinite(values)
    total = np.convolve(np.where(finite, values, 0), np.ones(window), mode="same")
    count = np.convolve(finite, np.ones(window), mode="same")
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
