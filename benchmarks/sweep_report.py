"""The table and the picture of `benchmarks.sweep`."""

import itertools
import pathlib
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.slopes import Growth, slope
from benchmarks.suites import MEANINGS, SUITES, Suite

Row = dict[str, Any]

_UNITS = {"time": "ms", "memory": "MiB of scratch"}


def times(row: Row) -> list[float]:
    """Returns the sorted milliseconds of a row by its clock; none if nothing was timed."""
    return sorted(row.get(f"{row.get('clock')}_ms", []))


def cost(row: Row, quantity: str) -> float | None:
    """Returns a row's least ``"time"`` in milliseconds or its ``"memory"``, None if unknown."""
    if quantity == "memory":
        return row.get("temp_mib")
    return next(iter(times(row)), None)


def roofline(row: Row) -> tuple[float, str] | None:
    """Returns which share of the machine's rate a row reaches, and what bounds it.

    The least time is that of the products at the rate of products or of the traffic at the rate of
    copies, whichever is longer; the share the median of the samples', each by the rates around it.

    Example:
      >>> row = {"clock": "cpu", "cpu_ms": [8.0, 10.0], "matmul_mflop": 400.0, "traffic_mb": 10.0}
      >>> roofline({**row, "product_gflops": [100.0, 80.0], "copy_gbytes": [10.0, 10.0]})
      (0.5, 'products')
    """
    if not times(row) or row["matmul_mflop"] is None:
        return None
    shares = {
        "products": row["matmul_mflop"] / _in_units(row, "product_gflops"),
        "memory": row["traffic_mb"] / _in_units(row, "copy_gbytes"),
    }
    kind = max(shares, key=lambda name: shares[name])
    return shares[kind], kind


def _in_units(row, rate):
    """A row's time as what the machine does in it: the median of the samples', by their rates."""
    samples = zip(row[f"{row['clock']}_ms"], row[rate], strict=True)
    return statistics.median(ms * rate for ms, rate in samples)


@dataclass(frozen=True)
class Fit:
    """How a cost grows along one parameter of a case, the others held."""

    case: str
    parameter: str
    held: dict[str, Any]
    values: list[Any]
    costs: list[float]
    quantity: str
    growth: Growth | None  # what is expected

    def has(self, row: Row) -> bool:
        """Whether a row is one of its points."""
        cell = row["cell"]
        return cell["case"] == self.case and _others(row, self.parameter) == self.held

    @property
    def slope(self) -> float | None:
        """The slope on logarithmic axes."""
        above = self.growth is not None and self.growth.above_first
        return slope(self.values, self.costs, above_first=above)

    @property
    def holds(self) -> bool | None:
        """Whether it is as expected, None if nothing is expected or there is no slope."""
        if self.growth is None or self.slope is None:
            return None
        return self.growth.least <= self.slope <= self.growth.most


def fits(suite: Suite, rows: list[Row]) -> list[Fit]:
    """Returns the fits along every parameter of which there are several values, all else equal."""
    found = []
    good = [row for row in rows if "error" not in row]
    for case in dict.fromkeys(row["cell"]["case"] for row in good):
        ours = [row for row in good if row["cell"]["case"] == case]
        for parameter, quantity in itertools.product(suite.cases[case].parameters, _UNITS):
            groups: dict[str, list[Row]] = {}
            for row in ours:
                groups.setdefault(repr(_others(row, parameter)), []).append(row)
            expected = (e.growth for e in suite.expected if e.of(case, parameter, quantity))
            growth = next(expected, None)
            for group in groups.values():
                points = sorted(
                    (row["cell"][parameter], y)
                    for row in group
                    if (y := _scaled_cost(row, group, quantity)) is not None
                )
                if len(points) > 1:
                    values, costs = map(list, zip(*points, strict=True))
                    held = _others(group[0], parameter)
                    found.append(Fit(case, parameter, held, values, costs, quantity, growth))
    return found


def _scaled_cost(row, group, quantity):
    """A cost, a time at the group's rate of products, for that of a shared machine varies."""
    if quantity == "memory" or not times(row):
        return cost(row, quantity)
    rates = [rate for other in group if times(other) for rate in other["product_gflops"]]
    return _in_units(row, "product_gflops") / statistics.median(rates)


def _others(row, parameter):
    return {k: v for k, v in row["cell"].items() if k not in ("case", parameter)}


def markdown(name: str, rows: list[Row], machine: dict[str, Any]) -> str:
    """Formats the rows of a suite as tables: the cells, how costs grow, and what it rests on."""
    suite = SUITES[name]
    parameters = [
        key for key in MEANINGS if len({row["cell"].get(key) for row in rows} - {None}) > 1
    ]
    columns = _columns(rows)
    lines = _table(
        ["case", *parameters, *columns],
        [
            [row["cell"]["case"], *(str(row["cell"].get(key, "")) for key in parameters)]
            + [form(row) for form in columns.values()]
            for row in rows
        ],
    )
    blocks = ["\n".join(lines)]
    if found := fits(suite, rows):
        blocks.append("\n".join(_table(list(_FIT_COLUMNS), [_fit_cells(fit) for fit in found])))
    return "\n\n".join([*blocks, *failures(rows), caption(name, rows, machine)]) + "\n"


_FIT_COLUMNS = ("case", "along", "cost", "from", "to", "slope", "expected", "holds")


def _fit_cells(fit):
    pairs = list(zip(fit.values, fit.costs, strict=True))
    return [
        fit.case,
        f"{fit.parameter} = {', '.join(map(str, fit.values))}",
        fit.quantity,
        *(f"{y:.3g} {_UNITS[fit.quantity].split()[0]}" for _, y in (pairs[0], pairs[-1])),
        _number(fit.slope, "{:.2f}"),
        "" if fit.growth is None else _expectation(fit.growth),
        {None: "", True: "yes", False: "**no**"}[fit.holds],
    ]


def _expectation(growth):
    if growth.above_first:
        return f"{growth.name}: {growth.least:g} to {growth.most:g}, of the growth"
    return f"{growth.name}: up to {growth.most:g}"


def _columns(rows) -> dict[str, Callable[[Row], str]]:
    """The columns that any of the rows has something for."""
    columns: dict[str, Callable[[Row], str]] = {
        "ms": lambda row: "failed" if "error" in row else _number(_median(row), "{:.3g}"),
        "least": lambda row: _number(cost(row, "time"), "{:.3g}"),
        "spread": lambda row: _number(_spread(row), "{:.0%}"),
        "target": lambda row: _number(_target(row), "{:.3g}"),
        "published": lambda row: _number(row.get("published_ms"), "{:g}"),
        "MFLOP": lambda row: _number(row.get("matmul_mflop"), "{:.3g}"),
        "MB moved": lambda row: _number(row.get("traffic_mb"), "{:.3g}"),
        "of roofline": lambda row: _roofline_text(row),
        "scratch MiB": lambda row: _number(row.get("temp_mib"), "{:.3g}"),
        "program MiB": lambda row: _number(row.get("peak_mib"), "{:.3g}"),
        "RSS + MiB": lambda row: _number(row.get("resident_growth_mib"), "{:.3g}"),
        "RSS MiB": lambda row: _number(row.get("resident_mib"), "{:.0f}"),
        "device MiB": lambda row: _number(row.get("device_peak_mib"), "{:.3g}"),
        "compile s": lambda row: _number(row.get("compile_seconds"), "{:.1f}"),
    }
    return {name: form for name, form in columns.items() if any(form(row) for row in rows)}


def _median(row):
    samples = times(row)
    return statistics.median(samples) if samples else None


def _spread(row):
    """The middle half of the samples, as a share of their median."""
    samples = times(row)
    if len(samples) < 2:
        return None
    first, _, third = statistics.quantiles(samples, n=4, method="inclusive")
    return (third - first) / statistics.median(samples)


def _target(row):
    """The target on a core that multiplies as fast as this one."""
    target, gflops = row.get("target_ms"), row.get("target_gflops")
    if target is None or gflops is None or "product_gflops" not in row:
        return target
    return target * gflops / statistics.median(row["product_gflops"])


def _roofline_text(row):
    found = None if "error" in row else roofline(row)
    return "" if found is None else f"{found[0]:.0%} {found[1]}"


def _number(value, form):
    return "" if value is None else form.format(value)


def _table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def failures(rows: list[Row]) -> list[str]:
    """Says of each cell that failed which it is, and why."""

    def named(cell):
        return ", ".join(str(v) if k == "case" else f"{k} = {v}" for k, v in cell.items())

    return [f"Failed: {named(row['cell'])}: {row['error']}" for row in rows if "error" in row]


def origin(name: str, rows: list[Row], machine: dict[str, Any]) -> str:
    """Names the suite, the machine, the versions and the days."""
    dates = sorted(row["date"] for row in rows if "date" in row)
    days = " to ".join(dict.fromkeys([*dates[:1], *dates[-1:]]))
    return f"Suite {name} on {described(machine)}, {days}"


def caption(name: str, rows: list[Row], machine: dict[str, Any]) -> str:
    """Says what the tables were measured on, and what their columns mean."""
    suite, timed = SUITES[name], [row for row in rows if times(row)]
    text = f"{origin(name, rows, machine)}."
    fixed = {
        key: values.pop()
        for key in MEANINGS
        if len(values := {row["cell"].get(key) for row in rows} - {None}) == 1
    }
    if fixed:
        text += f" Everywhere {', '.join(f'{k} = {v}' for k, v in fixed.items())}."
    if timed:
        cpu = any(row["clock"] == "cpu" for row in timed)
        clock = "CPU time of one pinned core" if cpu else "wall time"
        counts = sorted({len(times(row)) for row in timed})
        text += (
            f" Times are of one {suite.unit}, {clock}: median and least of "
            f"{' or '.join(map(str, counts))} samples; spread: their middle half. Before and "
            f"after each the machine multiplied at {_range(timed, 'product_gflops')} GFLOP/s and "
            f"copied at {_range(timed, 'copy_gbytes')} GB/s read and written, medians of cells; "
            "by these rates each sample has its share of the roofline, the longer of what products "
            "and traffic take, and slopes their times."
        )
    text += (
        " MFLOP: of products and convolutions. MB moved: operands and results of all compiled "
        "instructions; what caches hold costs less, so shares may exceed 100 %. Scratch, program: "
        "of the compiled program; RSS +: growth in the first call; RSS: of the whole process."
    )
    return f"*{text}*"


def described(machine: dict[str, Any]) -> str:
    """Names a machine and the versions."""
    return (
        f"{machine['device']} ({machine['processor']}), {machine['cores']} core(s) to run on, "
        f"Python {machine['python']}, jax {machine['jax']}, jaxlib {machine['jaxlib']}"
    )


def _range(rows, key):
    values = [statistics.median(row[key]) for row in rows]
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"


def plot(name: str, rows: list[Row], machine: dict[str, Any], path: pathlib.Path) -> None:
    """Draws time and memory against every parameter that was swept; bars where none was."""
    from matplotlib.figure import Figure

    from jbism import plotting

    found = fits(SUITES[name], rows)
    panels = [key for key in MEANINGS if any(fit.parameter == key for fit in found)]
    singles = [row for row in rows if times(row) and not any(fit.has(row) for fit in found)]
    width = len(panels) + bool(singles)
    figure = Figure((4.2 * width + 0.4, 7.0), layout="constrained")
    axes = figure.subplots(2, width, squeeze=False)
    colors = {case: f"C{i}" for i, case in enumerate(dict.fromkeys(f.case for f in found))}
    for i, quantity in enumerate(_UNITS):
        for j, parameter in enumerate(panels):
            ours = [f for f in found if (f.parameter, f.quantity) == (parameter, quantity)]
            _draw_fits(axes[i, j], ours, parameter, quantity, colors)
        if singles:
            _draw_bars(axes[i, -1], singles, quantity)
    handles = {
        label: line
        for axis in axes.flat
        for line, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    if handles:
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=max(2, width)
        )
    figure.suptitle(f"{name}: cost of one {SUITES[name].unit}\n{described(machine)}", fontsize=10)
    plotting.save(figure, path)


def _draw_fits(axis, found, parameter, quantity, colors):
    """Curves on logarithmic axes, and what growth in proportion would be, through the lowest."""
    for fit in found:
        label = fit.case if sum(f.case == fit.case for f in found) == 1 else _label(fit, found)
        style = {"color": colors[fit.case], "marker": "o", "markersize": 4}
        axis.plot(fit.values, fit.costs, label=label, **style)
    values = sorted({value for fit in found for value in fit.values})
    positive = [value for value in values if value > 0]
    costs = [y for fit in found for y in fit.costs if y > 0]
    axis.set_xscale("symlog" if values[0] == 0 else "log", **_LINEAR_NEAR_ZERO[values[0] == 0])
    axis.set_yscale("log")
    if len(positive) > 1 and costs:
        line = [min(costs) * value / positive[0] for value in positive]
        axis.plot(positive, line, "--", color="0.6", linewidth=1, label="in proportion")
        axis.set_ylim(min(costs) / 1.5, max(costs) * 1.5)
    axis.set_xticks(values, [str(value) for value in values])
    axis.minorticks_off()
    axis.set_xlabel(_axis_label(parameter))
    axis.set_ylabel(_UNITS[quantity])
    _plain_ticks(axis.yaxis)
    axis.grid(alpha=0.3)


_LINEAR_NEAR_ZERO: dict[bool, dict[str, float]] = {True: {"linthresh": 1.0}, False: {}}


def _label(fit, found):
    """The case, and what is held where its curves differ in that."""
    others = [f.held for f in found if f.case == fit.case]
    named = [f"{k} = {v}" for k, v in fit.held.items() if any(other[k] != v for other in others)]
    return ", ".join([fit.case, *named])


def _draw_bars(axis, rows, quantity):
    rows = [row for row in rows if cost(row, quantity) is not None][::-1]
    values = [cost(row, quantity) for row in rows]
    axis.barh(range(len(rows)), values, color="0.6")
    axis.set_yticks(range(len(rows)), [row["cell"]["case"] for row in rows], fontsize=7)
    axis.set_xscale("log")
    axis.set_xlabel(_UNITS[quantity])
    for i, (row, value) in enumerate(zip(rows, values, strict=True)):
        share = roofline(row) if quantity == "time" else None
        text = f" {value:.3g}" + (f" ({share[0]:.0%} of roofline)" if share else "")
        axis.text(value, i, text, va="center", fontsize=7)
    axis.margins(x=1.0)
    axis.grid(alpha=0.3, axis="x")


def _plain_ticks(axis):
    """Numbers instead of powers of ten, a few in each decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _axis_label(parameter):
    meaning = MEANINGS[parameter]
    return meaning if meaning == parameter else f"{parameter}: {meaning}"
