"""Level and power of tests: the table of rejection rates, and the picture of the power curves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scipy import stats

from experiments._table import markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLORS = ("tab:blue", "tab:cyan", "tab:red", "tab:orange")
_MARKERS = ("o", "s", "^", "D")


def summarize(results: Mapping[float, Mapping[str, Any]], *, alpha: float) -> dict[str, Any]:
    """Turns p-values into rejection rates.

    Args:
      results: by δ, 0 for the null model: ``{"p_values": {test: [p, ...]}, "seconds": s}``.
      alpha: the nominal level; a p-value of at most alpha rejects.

    Returns:
      A table of JSON values: for each test the rate, its 95 % Wilson interval and the number of
      repetitions at each δ, and the δ at which the power reaches 0.5 and 0.9, if it does;
      the 95 % band of the rate at δ = 0 if the level is alpha.
    """
    deltas = sorted(results)
    tests = {}
    for test in results[0.0]["p_values"]:
        rates = []
        for delta in deltas:
            p_values = results[delta]["p_values"][test]
            count = sum(p <= alpha for p in p_values)
            interval = stats.binomtest(count, len(p_values)).proportion_ci(method="wilson")
            rates.append(
                {
                    "delta": delta,
                    "rate": count / len(p_values),
                    "interval": [float(interval.low), float(interval.high)],
                    "repetitions": len(p_values),
                }
            )
        curve = [rate["rate"] for rate in rates[1:]]
        tests[test] = {
            "rates": rates,
            "delta_at_power_0.5": crossing(deltas[1:], curve, 0.5),
            "delta_at_power_0.9": crossing(deltas[1:], curve, 0.9),
        }
    repetitions = rates[0]["repetitions"]
    low, high = stats.binom.interval(0.95, repetitions, alpha)
    return {
        "alpha": alpha,
        "level_band": [float(low) / repetitions, float(high) / repetitions],
        "tests": tests,
        "seconds": {f"{delta:g}": results[delta]["seconds"] for delta in deltas},
    }


def crossing(deltas: Sequence[float], powers: Sequence[float], power: float) -> float | None:
    """The first δ at which a curve, linear in log δ between its points, rises to a power.

    Returns:
      None if the curve starts at or above the power, or never reaches it.
    """
    points = list(zip(deltas, powers, strict=True))
    for (left, low), (right, high) in itertools.pairwise(points):
        if low < power <= high:
            share = (power - low) / (high - low)
            return math.exp(math.log(left) + share * (math.log(right) - math.log(left)))
    return None


def markdown(table: Mapping[str, Any]) -> str:
    """Formats the table, one column a test."""
    tests = table["tests"]
    low, high = table["level_band"]
    rows = []
    for i, first in enumerate(next(iter(tests.values()))["rates"]):
        name = f"{first['delta']:g}" if i else f"0 (band {low:.3f} to {high:.3f})"
        rows.append([name, *(f"{test['rates'][i]['rate']:.3f}" for test in tests.values())])
    for power in ("0.5", "0.9"):
        rows.append([f"δ at power {power}", *(_crossing(t, power) for t in tests.values())])
    return markdown_table(["δ", *tests], rows)


def _crossing(test, power):
    value, rates = test[f"delta_at_power_{power}"], test["rates"][1:]
    if value is not None:
        return f"{value:.4f}"
    if rates[0]["rate"] >= float(power):
        return f"at most {rates[0]['delta']:g}"
    return "not reached"


def draw(table: Mapping[str, Any]) -> Figure:
    """Draws the rejection rates at δ = 0 with their band, and the power against δ."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 2.4))
    alpha, (low, high) = table["alpha"], table["level_band"]
    left.axhspan(low, high, color="0.9", label="95 % band of the nominal level")
    for axes in (left, right):
        axes.axhline(alpha, color="0.4", linewidth=1, linestyle="--")
        axes.spines[["top", "right"]].set_visible(False)
    for i, (name, test) in enumerate(table["tests"].items()):
        style = {"color": _COLORS[i], "marker": _MARKERS[i], "markersize": 5, "capsize": 3}
        _errorbar(left, [i], test["rates"][:1], style | {"linestyle": "none"})
        # A little apart, so that bars of equal height are seen.
        shift = 1.012 ** (i - (len(table["tests"]) - 1) / 2)
        places = [rate["delta"] * shift for rate in test["rates"][1:]]
        _errorbar(right, places, test["rates"][1:], style | {"label": name, "linewidth": 1.2})
    repetitions = {rates[0]["repetitions"] for rates in _rates(table)}
    left.set(
        title=f"null model, {repetitions.pop()} repetitions",
        ylabel="rejection rate",
        xticks=range(len(table["tests"])),
        xlim=(-0.6, len(table["tests"]) - 0.4),
        ylim=(0, max(3 * alpha, 1.1 * max(rates[0]["interval"][1] for rates in _rates(table)))),
    )
    left.set_xticklabels(list(table["tests"]), rotation=30, ha="right")
    left.legend(frameon=False, loc="upper left", fontsize="small")
    deltas = [rate["delta"] for rate in next(_rates(table))[1:]]
    right.set(
        title="perturbed couplings (bars: 95 % Wilson intervals)",
        xlabel="δ, standard deviation of the perturbation",
        ylabel="power",
        xscale="log",
        ylim=(-0.02, 1.04),
    )
    right.set_xticks(deltas, labels=[f"{delta:g}" for delta in deltas], rotation=30)
    right.minorticks_off()
    right.grid(alpha=0.3)
    right.legend(frameon=False, title="score, kernel", loc="best")
    return figure


def _rates(table):
    return (test["rates"] for test in table["tests"].values())


def _errorbar(axes, places, rates, style):
    values = [rate["rate"] for rate in rates]
    below = [rate["rate"] - rate["interval"][0] for rate in rates]
    above = [rate["interval"][1] - rate["rate"] for rate in rates]
    axes.errorbar(places, values, [[max(x, 0) for x in below], [max(x, 0) for x in above]], **style)
