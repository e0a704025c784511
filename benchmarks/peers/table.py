"""The table and the picture of `benchmarks.peers`."""

import math
import pathlib
from typing import Any

from benchmarks.peers.problems import met

_COLUMNS = (
    "case",
    "peer",
    "ours, ms",
    "peer, ms",
    "ratio",
    "of fastest",
    "target",
    "met",
    "difference",
    "first call, s",
)


def markdown(rows: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """Formats rows of `benchmarks.peers` as a table with its caption."""
    timed = [row for row in rows if "ratio" in row]
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|" + " --- |" * len(_COLUMNS)]
    for row in timed:
        target = row["target"]
        cells = [
            row["case"],
            row["peer"],
            _milliseconds(row["ours_ms"]),
            _milliseconds(row["peer_ms"]),
            f"**{row['ratio']:.3g}**",
            f"{row['ratio_of_fastest']:.3g}",
            "" if target is None else f"{target:g}",
            "" if target is None else ("yes" if met(row["ratio"], target) else "no"),
            f"{row['difference']:.0e}",
            f"{row['first_call_seconds']:.3g}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    skipped = [
        f"- {row['case']}, {row['peer']}: {row['skipped']}" for row in rows if "skipped" in row
    ]
    if skipped:
        lines += ["", "Skipped:", "", *skipped]
    return "\n".join([*lines, "", caption(timed, machine), ""])


def caption(rows: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """Says what the table was measured on, and how to read it."""
    versions = sorted({v for row in rows for v in row["versions"].split(", ")})
    dates = sorted({row["date"] for row in rows})
    pinned = "one pinned core" if machine["core"] is not None else "not pinned"
    return (
        f"*{machine['processor']}, {pinned}, Python {machine['python']}, "
        f"jax {machine['jax']}, {', '.join(versions)}; {', '.join(dates)}. "
        "Milliseconds of CPU time a step, median (fastest). Ratio: the peer's median over ours, "
        "from calls in turn in one process. Difference: the largest relative difference of any "
        "array that was compared before timing. First call: of the peer, compilation included.*"
    )


def _milliseconds(summary):
    cpu = summary["cpu"]
    return f"{cpu['median']:.3g} ({cpu['min']:.3g})"


def plot(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws each peer's time over ours, one bar a peer, its target as a line."""
    import matplotlib.pyplot as plt

    timed = [row for row in rows if "ratio" in row]
    cases = list(dict.fromkeys(row["case"] for row in timed))
    colors = {peer: f"C{i}" for i, peer in enumerate(dict.fromkeys(row["peer"] for row in timed))}
    figure, axis = plt.subplots(figsize=(9, 1 + 0.28 * len(timed)), layout="constrained")
    top = 0.0
    ticks = []
    for case in cases:
        start = top
        for row in (row for row in timed if row["case"] == case):
            axis.barh(top, row["ratio"], height=0.8, color=colors[row["peer"]])
            axis.text(row["ratio"] * 1.03, top, f"{row['ratio']:.3g}", va="center", fontsize=8)
            if row["target"] is not None:
                axis.plot([row["target"]] * 2, [top - 0.45, top + 0.45], "k-", linewidth=2)
            top += 1
        ticks.append((start + top - 1) / 2)
        top += 0.7
    axis.set(xscale="log", xlabel="time of the peer over ours, a step (line: target)")
    axis.set_yticks(ticks, cases)
    axis.invert_yaxis()
    axis.axvline(1.0, color="0.6", linestyle=":")
    low, high = (f(row["ratio"] for row in timed) for f in (min, max))
    axis.set_xlim(min(0.5, low / 1.3), 10 ** (math.log10(high) + 0.2))
    handles = [plt.Rectangle((0, 0), 1, 1, color=color) for color in colors.values()]
    axis.legend(handles, list(colors), loc="best", fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
