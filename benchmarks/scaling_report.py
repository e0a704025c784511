"""The table and the picture of the suite ``scaling`` of `benchmarks.sweep`."""

import itertools
import pathlib
from typing import Any

from benchmarks.sweep_report import cost, described, failures, origin

Row = dict[str, Any]

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
    "scratch MiB",
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


def relative(rows: list[Row]) -> list[Row]:
    """Returns the rows with ``efficiency``, ``cpu`` and ``work``, against one device and that case.

    Efficiency is examples/s a device; cpu and work are CPU time and FLOPs of all devices for one
    example. The first two are None where nothing was timed. Rows of failed cells, and of cases
    without a row of one device, are left out.
    """
    good = [row for row in rows if "error" not in row]
    single = {_key(row): row for row in good if row["cell"]["devices"] == 1}
    compared = []
    for row in good:
        one = single.get(_key(row))
        if one is None:
            continue
        cell, efficiency, cpu = row["cell"], None, None
        grown = cell["batch"] / one["cell"]["batch"]
        work = cell["devices"] * row["xla_mflop"] / one["xla_mflop"] / grown
        ms, one_ms = cost(row, "time"), cost(one, "time")
        if ms is not None and one_ms is not None:
            efficiency = grown * one_ms / ms / cell["devices"]
            if "cpu_ms" in row:  # of all devices, which are threads of one process
                cpu = min(row["cpu_ms"]) / min(one["cpu_ms"]) / grown
        compared.append({**row, "efficiency": efficiency, "cpu": cpu, "work": work})
    return compared


def _key(row):
    """What a row shares with the one of one device that it is compared with."""
    cell = row["cell"]
    return cell["case"], cell["batch"] / (cell["devices"] if cell["scaling"] == "weak" else 1)


def markdown(name: str, rows: list[Row], machine: dict[str, Any]) -> str:
    """Formats rows as a table with its caption; ``name`` is the suite's."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|" + " --- |" * len(_COLUMNS)]
    for row in relative(rows):
        cell, sent, ms = row["cell"], row["communication"], cost(row, "time")
        at_least = "≥ " if row["unknown_loops"] else ""
        counts = ", ".join(f"{n:.4g} {_SHORT[kind]}" for kind, (n, _) in sent.items()) or "none"
        megabytes = sum(size for _, size in sent.values()) / 1e6
        cells = [
            cell["case"],
            cell["scaling"] or "",
            "divided" if cell["shard_parameters_from"] else "copied",
            str(cell["devices"]),
            str(cell["batch"]),
            _formatted("{:.3g}", ms),
            _formatted("{:.3g}", ms and 1e3 / ms),
            _formatted("{:.0%}", row["efficiency"]),
            _formatted("{:.2f}", row["cpu"]),
            f"{row['work']:.2f}",
            _formatted("{:.3g}", row["temp_mib"]),
            at_least + counts,
            f"{at_least}{megabytes:.3g}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n\n".join(["\n".join(lines), *failures(rows), caption(name, rows, machine)]) + "\n"


def caption(name: str, rows: list[Row], machine: dict[str, Any]) -> str:
    """Says what the table was measured on, and what it can show."""
    thresholds = {row["cell"]["shard_parameters_from"] for row in rows} - {0}
    text = (
        f"*{origin(name, rows, machine)}. Best of the timed samples. Efficiency: examples/s a "
        "device against one device. CPU time, FLOPs: of all devices for one example, against one "
        "device; FLOPs as XLA counts them, a loop's turns once. Scratch: of one device. Megabytes: "
        "of the whole arrays reduced or gathered."
    )
    if thresholds:
        text += f" Divided: parameters of at least {min(thresholds)} entries."
    if any(row.get("unknown_loops") for row in rows):
        text += " ≥: a loop of unknown length communicates and counts as one turn."
    if machine["backend"] == "cpu":
        text += (
            " The devices are host devices, threads that share these cores: more devices than "
            "cores cannot be faster, and efficiency falls as cores / devices however good the "
            "program is. What this can show is whether the total work grows, and what the program "
            "communicates."
        )
    return text + "*"


def plot(name: str, rows: list[Row], machine: dict[str, Any], path: pathlib.Path) -> None:
    """Draws steps/s against devices, of each scaling, relative to one device."""
    from matplotlib.figure import Figure

    from jbism import plotting

    timed = [row for row in relative(rows) if row["efficiency"] is not None]
    scalings = [s for s in ("weak", "strong") if any(r["cell"]["scaling"] == s for r in timed)]
    figure = Figure((5 * max(len(scalings), 1), 4.5), layout="constrained")
    axes = figure.subplots(1, max(len(scalings), 1), squeeze=False)[0]
    counts = sorted({row["cell"]["devices"] for row in timed})
    for axis, scaling in zip(axes, scalings, strict=False):
        ideal = counts if scaling == "strong" else [1.0] * len(counts)
        axis.plot(counts, ideal, "k--", label="ideal")
        chosen = [row for row in timed if row["cell"]["scaling"] in (None, scaling)]
        groups = itertools.product(
            dict.fromkeys(row["cell"]["case"] for row in chosen), (False, True)
        )
        for case, divided in groups:
            ours = [row for row in chosen if row["cell"]["case"] == case]
            points = {
                cell["devices"]: row["efficiency"] * (cell["devices"] if scaling == "strong" else 1)
                for row in ours
                if (cell := row["cell"])["devices"] == 1
                or bool(cell["shard_parameters_from"]) == divided
            }
            if len(points) > 1:
                label = f"{case}, {'divided' if divided else 'copied'}"
                axis.plot(points.keys(), points.values(), "s:" if divided else "o-", label=label)
        axis.set(
            title=f"{scaling} scaling",
            xlabel="devices",
            ylabel="steps/s, relative to one device",
            ylim=(0, None),
        )
        axis.set_xticks(counts)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center")
    figure.suptitle(f"{name}: {described(machine)}", fontsize=9)
    plotting.save(figure, path)


def _formatted(form, value):
    return "-" if value is None else form.format(value)
