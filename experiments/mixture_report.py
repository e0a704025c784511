"""The table and the pictures of the mixture experiment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments._table import markdown_table
from jbism import plotting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = (
    ("near", ".0%"),
    ("least_mode", ".2f"),
    ("reconstruction_error", ".3f"),
    ("effective_sample_size", ".2f"),
)


def summarize(cells: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns a line a method, JSON values; ``seconds`` are those of all seeds together."""
    rows = []
    for name, cell in cells.items():
        last = np.array(cell["divergence"][-1])
        row = {
            "method": name,
            "divergence": last.tolist(),
            "mean": float(last.mean()),
            "error": float(last.std(ddof=1) / math.sqrt(len(last))) if len(last) > 1 else None,
            "seconds": cell["seconds"],
        }
        if "mode_shares" in cell:
            shares = np.array(cell["mode_shares"])
            row |= {
                # 1 where all modes are alike.
                "least_mode": float((shares.min(axis=1) * shares.shape[1]).min()),
                "near": float(shares.sum(axis=1).mean()),
                "reconstruction_error": float(np.mean(cell["reconstruction_error"])),
                "effective_sample_size": float(np.mean(cell["effective_sample_size"])),
            }
        rows.append(row)
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """Formats the lines as a table."""
    head = (
        "method",
        "KL(data ‖ model), nats",
        "samples near a mode",
        "least mode, of an even share",
        "squared error",
        "ESS of the weights, of a batch",
        "seconds",
    )
    lines = []
    for row in rows:
        error = "" if row["error"] is None else f" ± {row['error']:.3f}"
        found = [format(row[key], form) if key in row else "" for key, form in _COLUMNS]
        lines.append([row["method"], f"{row['mean']:.3f}{error}", *found, f"{row['seconds']:.0f}"])
    return markdown_table(head, lines)


def draw_densities(
    arrays: Mapping[str, Mapping[str, np.ndarray]],
    *,
    data: Mapping[str, np.ndarray],
    bounds: tuple[float, float, float, float],
) -> Figure:
    """Draws the density of each method's first seed, and below it the generator's points."""
    from matplotlib.figure import Figure

    shown = {"data": data, **arrays}
    figure = Figure(figsize=(3.1 * len(shown), 6.2), layout="constrained")
    panels = figure.subplots(2, len(shown), squeeze=False)
    highest = np.exp(data["log_density"].max())
    for i, ((name, found), (top, bottom)) in enumerate(zip(shown.items(), panels.T, strict=True)):
        density = np.exp(found["log_density"].astype(float))
        # One colour scale: that of the data.
        image = top.imshow(density, extent=bounds, origin="lower", vmin=0.0, vmax=highest)
        top.set_title(name if i else "data", fontsize="medium")
        if "samples" in found:
            plotting.scatter(found["samples"][:2000], bounds=bounds, axes=bottom)
        else:
            bottom.set_axis_off()
        for axes in (top, bottom):
            axes.set(xlabel="", ylabel="", xticks=[], yticks=[])
    figure.colorbar(image, ax=panels[0], label="density", fraction=0.02, pad=0.01)
    return figure


def draw_curves(cells: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draws the divergence of each method against the step, seeds lightly, means on top."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.add_subplot()
    colors = matplotlib.colormaps["tab10"](np.arange(len(cells)) % 10)
    for i, (name, cell) in enumerate(cells.items()):
        values = np.array(cell["divergence"])
        axes.plot(cell["steps"], values, color=colors[i], linewidth=0.6, alpha=0.35)
        axes.plot(cell["steps"], values.mean(axis=1), color=colors[i], label=name)
    axes.set(xlabel="step", ylabel="KL(data ‖ model), nats", yscale="log")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    return figure
