"""The table and the picture of `benchmarks.scaling`."""

import datetime
import pathlib
from typing import Any

_COLUMNS = (
    "case",
    "scaling",
    "parameters",
    "devices",
    "batch",
    "ms a step",
    "steps/s",
    "efficiency",
    "CPU time",
    "FLOPs",
    "collectives a step",
    "MB a step",
)
_SHORT = {
    "all-reduce": "reduce",
    "all-gather": "gather",
    "reduce-scatter": "scatter",
    "all-to-all": "all-to-all",
    "collective-permute": "permute",
}


def relative(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows with ``efficiency``, ``cpu`` and ``work``, against one device and that case.

    Efficiency is examples/s a device; cpu and work are CPU time and FLOPs of all devices for one
    example. The first two are None where nothing was timed.
    """
    single = {row["case"]: row for row in rows if row["devices"] == 1}
    compared = []
    for row in rows:
        one = single[row["case"]]
        efficiency = cpu = None
        grown = row["batch"] / one["batch"]
        work = row["xla_flops"] / one["xla_flops"] / grown
        if row["ms"] is not None:
            efficiency = grown * one["ms"] / row["ms"] / row["devices"]
            cpu = row["cpu_ms"] and row["cpu_ms"] / one["cpu_ms"] / grown
        compared.append({**row, "efficiency": efficiency, "cpu": cpu, "work": work})
    return compared


def markdown(rows: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """Formats rows of `benchmarks.scaling` as a table with its caption."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|" + " --- |" * len(_COLUMNS)]
    for row in relative(rows):
        sent = row["communication"]
        at_least = "≥ " if row["unknown_loops"] else ""
        counts = ", ".join(f"{n:.4g} {_SHORT[kind]}" for kind, (n, _) in sent.items()) or "none"
        megabytes = sum(size for _, size in sent.values()) / 1e6
        cells = [
            row["case"],
            row["scaling"],
            "divided" if row["shard_parameters_from"] else "copied",
            str(row["devices"]),
            str(row["batch"]),
            _formatted("{:.3g}", row["ms"]),
            _formatted("{:.3g}", row["ms"] and 1e3 / row["ms"]),
            _formatted("{:.0%}", row["efficiency"]),
            _formatted("{:.2f}", row["cpu"]),
            f"{row['work']:.2f}",
            at_least + counts,
            f"{at_least}{megabytes:.3g}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", caption(rows, machine), ""])


def caption(rows: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """Says what the table was measured on, and what it can show."""
    thresholds = {row["shard_parameters_from"] for row in rows} - {None}
    text = (
        f"*{machine['device']} ({machine['machine']}), {machine['cores']} core(s) to run on, "
        f"Python {machine['python']}, jax {machine['jax']}, jaxlib {machine['jaxlib']}, "
        f"{datetime.date.today().isoformat()}. Best of the timed calls. Efficiency: examples/s a "
        "device against one device. CPU time, FLOPs: of all devices for one example, against one "
        "device; FLOPs as XLA counts them, a loop's turns once. Megabytes: of the whole arrays "
        "reduced or gathered."
    )
    if thresholds:
        text += f" Divided: parameters of at least {min(thresholds)} entries."
    if any(row["unknown_loops"] for row in rows):
        text += " ≥: a loop of unknown length communicates and counts as one turn."
    if machine["backend"] == "cpu":
        text += (
            " The devices are host devices, threads that share these cores: more devices than "
            "cores cannot be faster, and efficiency falls as cores / devices however good the "
            "program is. What this can show is whether the total work grows, and what the program "
            "communicates."
        )
    return text + "*"


def plot(rows: list[dict[str, Any]], machine: dict[str, Any], path: pathlib.Path) -> None:
    """Draws steps/s against devices, of each scaling, relative to one device."""
    import matplotlib.pyplot as plt

    scalings = [s for s in ("weak", "strong") if any(row["scaling"] == s for row in rows)]
    size = (5 * len(scalings), 4.5)
    figure, grid = plt.subplots(1, len(scalings), figsize=size, layout="constrained", squeeze=False)
    axes = grid[0]
    counts = sorted({row["devices"] for row in rows})
    for axis, scaling in zip(axes, scalings, strict=True):
        ideal = counts if scaling == "strong" else [1.0] * len(counts)
        axis.plot(counts, ideal, "k--", label="ideal")
        for name in dict.fromkeys(row["case"] for row in rows):
            ours = [row for row in rows if row["case"] == name and row["scaling"] == scaling]
            one = next(row["ms"] for row in ours if row["devices"] == 1)
            for divided, style in ((False, "o-"), (True, "s:")):
                chosen = [
                    row
                    for row in ours
                    if row["devices"] == 1 or bool(row["shard_parameters_from"]) == divided
                ]
                if len(chosen) > 1:
                    label = f"{name}, {'divided' if divided else 'copied'}"
                    rates = [one / row["ms"] for row in chosen]
                    axis.plot([row["devices"] for row in chosen], rates, style, label=label)
        axis.set(
            title=f"{scaling} scaling, {machine['device']}, {machine['cores']} core(s)",
            xlabel="devices",
            ylabel="steps/s, relative to one device",
            ylim=(0, None),
        )
        axis.set_xticks(counts)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _formatted(form, value):
    return "-" if value is None else form.format(value)
