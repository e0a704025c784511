"""The table and the picture of the gradient-bias experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiments._table import markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLORS = {
    "FirstOrder": "0.4",
    "Unroll, live": "tab:orange",
    "Unroll, SGD": "tab:blue",
    "Neumann": "tab:green",
    "ImplicitCG": "tab:red",
}
_COLUMNS = {
    "K": ("lower_steps", "d"),
    "strategy": ("strategy", "s"),
    "N": ("virtual_steps", "d"),
    "‖g - r‖ / ‖r‖": ("relative_error", ".3g"),
    "cosine": ("cosine", ".4f"),
    "‖g‖ / ‖r‖": ("norm_ratio", ".3g"),
    "‖φ⁰ - φ*‖ / ‖φ*‖": ("distance", ".3g"),
    "residual": ("residual", ".2g"),
    "ms": ("milliseconds", ".3g"),
    "temp MiB": ("temp_mib", ".3g"),
}


def markdown(cells: Sequence[Mapping[str, Any]]) -> str:
    """Formats the table, a line a cell."""
    lines = []
    for cell in cells:
        values = [(cell[key], form) for key, form in _COLUMNS.values()]
        lines.append(["" if value is None else format(value, form) for value, form in values])
    return markdown_table(list(_COLUMNS), lines)


def draw(cells: Sequence[Mapping[str, Any]], *, title: str) -> Figure:
    """Draws the relative error against N, a panel for each K, and ‖φ⁰ - φ*‖ against K."""
    from matplotlib.figure import Figure

    ks = sorted({cell["lower_steps"] for cell in cells})
    figure = Figure(figsize=(3.4 * (len(ks) + 1), 3.8), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    panels = figure.subplots(1, len(ks) + 1, squeeze=False)[0]
    for axes, k in zip(panels, ks, strict=False):
        own = [cell for cell in cells if cell["lower_steps"] == k]
        for name, color in _COLORS.items():
            points = [
                (cell["virtual_steps"], cell["relative_error"])
                for cell in own
                if cell["strategy"] == name and cell["relative_error"] is not None
            ]
            if name == "FirstOrder" and points:
                axes.axhline(points[0][1], color=color, linestyle="--", label=name)
            elif points:
                # The two lie on one another near φ*.
                style = "o--" if name == "Neumann" else "o-"
                axes.plot(*zip(*points, strict=True), style, color=color, markersize=4, label=name)
        axes.set(title=f"K = {k}", xlabel="N", xscale="log", yscale="log")
    low = min(axes.get_ylim()[0] for axes in panels[:-1])
    high = max(axes.get_ylim()[1] for axes in panels[:-1])
    for axes in panels[:-1]:
        axes.set_ylim(low, high)
    panels[0].set_ylabel("bias of the θ-gradient, relative")
    panels[0].legend(frameon=False, fontsize="small")
    distances = {cell["lower_steps"]: cell["distance"] for cell in cells}
    panels[-1].plot(list(distances), list(distances.values()), "o-", color="0.3")
    panels[-1].set(title="lower level", xlabel="K", ylabel="‖φ⁰ - φ*‖ / ‖φ*‖", yscale="log")
    panels[-1].set_xscale("symlog", linthresh=1)
    panels[-1].set_xlim(left=-0.3)
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
