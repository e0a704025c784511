"""The fit, the table and the picture of the contraction experiment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments._table import markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STARTS = ("optimum", "elsewhere")
_ROUNDING = 1e-11  # relative errors below are not fitted
_FACES: dict[str, dict[str, str]] = {"optimum": {}, "elsewhere": {"markerfacecolor": "white"}}


def fit_slope(steps: np.ndarray, errors: np.ndarray) -> tuple[float, list[int]]:
    """Fits log-error = intercept + slope · N by least squares over the tail above rounding.

    Args:
      steps: [points], N, increasing.
      errors: [points], the relative error at each.

    Returns:
      The slope, and the first and the last N of the fit: the second half of the range up to where
      rounding begins, since other eigenvalues than the slowest take part in the first.

    Raises:
      ValueError: if that leaves fewer than three points.
    """
    above = np.cumprod(errors >= _ROUNDING, dtype=bool)
    tail = above & (steps >= steps[above].max(initial=0) / 2)
    if tail.sum() < 3:
        raise ValueError(f"a slope needs 3 errors above rounding, there are {tail.sum()}")
    slope = np.polyfit(steps[tail], np.log(errors[tail]), 1)[0]
    return float(slope), [int(steps[tail][0]), int(steps[tail][-1])]


def summarize(
    settings: Mapping[str, float], steps: np.ndarray, errors: np.ndarray
) -> list[dict[str, Any]]:
    """Returns the rows of a step size, one a start, JSON values.

    Args:
      settings: its ``share``, ``step_size`` and ``contraction``, κ.
      steps: [points], N, increasing.
      errors: [points, starts], the relative errors.
    """
    log_factor = math.log(settings["contraction"])
    rows = []
    for start, found in zip(STARTS, errors.T, strict=True):
        slope, fitted = fit_slope(steps, found)
        rows.append(
            {
                "start": start,
                **settings,
                "log_contraction": log_factor,
                "slope": slope,
                "ratio": slope / log_factor,
                "fitted_steps": fitted,
                "steps": steps.tolist(),
                "relative_errors": found.tolist(),
            }
        )
    return rows


def markdown(table: Mapping[str, Any]) -> str:
    """Formats the slopes, a line a step size and start."""
    columns = {
        "start": ("start", "s"),
        "share": ("share", "g"),
        "α": ("step_size", ".4g"),
        "κ": ("contraction", ".4f"),
        "log κ": ("log_contraction", ".4f"),
        "slope": ("slope", ".4f"),
        "slope / log κ": ("ratio", ".3f"),
    }
    lines = ([format(row[key], form) for key, form in columns.values()] for row in table["rows"])
    return markdown_table(list(columns), lines)


def draw(table: Mapping[str, Any]) -> Figure:
    """Draws the bias against N beside lines of slope log κ, and the factor of κ^N in it."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
    shares = sorted({row["share"] for row in table["rows"]})
    colors = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.8, len(shares)))
    for share, color in zip(shares, colors, strict=True):
        _draw_rows(left, right, [row for row in table["rows"] if row["share"] == share], color)
    left.plot([], [], "--", color="0.4", linewidth=0.8, label="slope log κ")
    implicit = table["implicit_cg"]
    for start, face in _FACES.items():
        left.plot(
            implicit["products"],
            implicit[start],
            "s-",
            color="tab:red",
            markersize=3.5,
            linewidth=0.8,
            label="ImplicitCG" if start == "optimum" else None,
            **face,
        )
    left.axhline(table["first_order"]["optimum"], color="0.4", linestyle=":", label="FirstOrder")
    left.set(
        title="θ-gradient, filled: from φ⁰ = φ*, open: from elsewhere",
        xlabel="N, unrolled steps, or Hessian products of ImplicitCG",
        ylabel="relative bias",
        yscale="log",
        ylim=(_ROUNDING / 100, 3.0),
    )
    right.set(
        title="C from φ*, A + BN from elsewhere",
        xlabel="N log(1/κ)",
        ylabel="relative bias / κ$^N$",
    )
    right.set_ylim(bottom=0.0)
    left.legend(frameon=False, fontsize="small", loc="upper right", bbox_to_anchor=(1.0, 0.93))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_rows(left, right, rows, color):
    """Draws one step size."""
    ratios = " and ".join(f"{row['ratio']:.3f}" for row in rows)
    first = rows[0]
    label = f"α = {first['step_size']:.3f}, κ = {first['contraction']:.3f}: slopes {ratios} log κ"
    for row in rows:
        steps, errors = np.array(row["steps"]), np.array(row["relative_errors"])
        log_factor, (start, end) = row["log_contraction"], row["fitted_steps"]
        style = {"color": color, "markersize": 3.5, **_FACES[row["start"]]}
        left.plot(steps, errors, "o", label=label if row is first else None, **style)
        known = steps <= end
        steps, factors = steps[known], errors[known] * np.exp(-log_factor * steps[known])
        right.plot(-log_factor * steps, factors, "o-", linewidth=0.8, **style)
        # The predicted slope, at the height of the fit.
        height = np.mean(np.log(factors[steps >= start]))
        ends = np.array([0, row["steps"][-1]])
        left.plot(ends, np.exp(height + log_factor * ends), "--", color=color, linewidth=0.8)
