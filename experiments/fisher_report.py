"""The table and the picture of the Fisher divergence experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments._table import markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLES = {"exact": ("tab:blue", "o", "-"), "VaES": ("tab:orange", "s", "--")}


def row(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Adds to a cell's figures what they say of the estimate, in shares of the truth.

    ``ratio``: value / truth. ``shortfall``: ½ E‖f - f*‖² of the kept critic f on fresh points, by
    which its expected value is below the truth; ``accounted`` says whether truth - shortfall lies
    in the interval. ``overfitting``: train - test value. ``last_rise``: how far the validation
    value rose in the last tenth of the validations. The shares are None where the truth is zero.
    """
    truth, curve = cell["truth"], cell["validation_curve"]
    low, high = cell["interval"]
    tenth = -(-len(curve) // 10)

    def share(x):
        return x / truth if truth > 0 else None

    return {
        **{name: x for name, x in cell.items() if name != "validation_curve"},
        "covered": low <= truth <= high,
        "accounted": low <= truth - cell["critic_error"] <= high,
        "ratio": share(cell["value"]),
        "ratio_interval": [share(low), share(high)],
        "shortfall": share(cell["critic_error"]),
        "overfitting": share(cell["train_value"] - cell["value"]),
        "last_rise": share(curve[-1] - curve[-1 - tenth]) if len(curve) > tenth else None,
    }


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats the table, a line an estimate."""
    head = ["score", "δ", "truth ± s.e.", "estimate", "95 % interval", "estimate / truth"]
    head += ["shortfall / truth", "overfitting / truth", "last rise / truth"]
    head += ["steps", "KL of q", "seconds"]
    lines = []
    for r in rows:
        low, high = r["interval"]
        lines.append(
            [
                r["score"],
                f"{r['delta']:g}",
                f"{r['truth']:.5g} ± {r['truth_error']:.2g}",
                f"{r['value']:.5g}",
                f"{low:.5g} to {high:.5g}",
                _number(r["ratio"], ".4f"),
                _number(r["shortfall"], ".4f"),
                _number(r["overfitting"], ".4f"),
                _number(r["last_rise"], ".4f"),
                f"{r['num_steps']}{' (early)' if r['stopped_early'] else ''}",
                _number(r["posterior_kl"], ".2g"),
                f"{r['seconds']:.0f}",
            ]
        )
    return markdown_table(head, lines)


def _number(x, form):
    return "" if x is None else format(x, form)


def draw(cells: Sequence[Mapping[str, Any]], *, title: str) -> Figure:
    """Draws truth and estimates against δ, their ratio, and the validation values of training."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    figure.suptitle(title, fontsize="medium")
    truth = {cell["delta"]: cell["truth"] for cell in cells}
    left.plot(truth.keys(), truth.values(), color="0.3", linewidth=1.2, label="truth", zorder=1)
    middle.axhline(1.0, color="0.3", linewidth=1.2, label="truth")
    right.axhline(1.0, color="0.3", linewidth=1.2)
    positive = [delta for delta, x in truth.items() if x > 0]
    colors = dict(
        zip(positive, colormaps["viridis"](np.linspace(0, 0.85, len(positive))), strict=True)
    )
    scores = [name for name in _STYLES if any(cell["score"] == name for cell in cells)]
    for i, name in enumerate(scores):
        color, marker, line = _STYLES[name]
        own = [cell for cell in cells if cell["score"] == name]
        style = {"color": color, "marker": marker, "markersize": 8 - 4 * i, "capsize": 3}
        values, errors = _values(own)
        places = [cell["delta"] for cell in own]
        left.errorbar(places, values, errors, linestyle="none", label=f"{name} score", **style)
        own = [cell for cell in own if cell["truth"] > 0]
        scale = np.array([cell["truth"] for cell in own])
        values, errors = _values(own)
        # A little apart, so that the intervals of both are seen.
        places = [cell["delta"] + 0.008 * max(positive, default=1) * (2 * i - 1) for cell in own]
        middle.errorbar(
            places, values / scale, errors / scale, linewidth=1, label=f"{name} score", **style
        )
        for cell in own:
            ratios = np.array(cell["validation_curve"]) / cell["truth"]
            steps = [
                min((k + 1) * cell["validate_every"], cell["num_steps"]) for k in range(len(ratios))
            ]
            label = f"δ = {cell['delta']:g}" if i == 0 else None
            right.plot(steps, ratios, line, color=colors[cell["delta"]], linewidth=1.2, label=label)
    left.set(xlabel="δ", ylabel="Fisher divergence", title="truth and estimates")
    middle.set(xlabel="δ", ylabel="estimate / truth", title="test points, with 95 % intervals")
    lines = ", ".join(
        f"{name} {'solid' if _STYLES[name][2] == '-' else 'dashed'}" for name in scores
    )
    right.set(xlabel="critic step", ylabel="validation value / truth", title=lines)
    lowest = min((c["interval"][0] / c["truth"] for c in cells if c["truth"] > 0), default=1.0)
    right.set_ylim(min(0.8, lowest - 0.1), 1.03)
    middle.set_ylim(min(0.9, lowest - 0.02), None)
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize="small")
    return figure


def _values(cells):
    """The estimates, and how far their intervals reach below and above, [2, n]."""
    values = np.array([cell["value"] for cell in cells])
    intervals = np.array([cell["interval"] for cell in cells]).reshape(-1, 2)
    return values, np.stack([values - intervals[:, 0], intervals[:, 1] - values])
