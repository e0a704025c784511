"""The table and the pictures of the comparison of methods."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments._table import markdown_table
from experiments.hyperparameters import Point, describe
from jbism import plotting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 6  # panels a row, at most
_NUM_IMAGES = 25  # a panel


def mean_and_error(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Returns the mean of the values that are not None and its standard error, None if unknown."""
    known = [x for x in values if x is not None]
    if not known:
        return None, None
    if len(known) == 1:
        return known[0], None
    return float(np.mean(known)), float(np.std(known, ddof=1) / math.sqrt(len(known)))


def rows(
    name: str, points: Sequence[Point], cells: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Returns a method's lines of the table, JSON values; one a point of the grid.

    Where there are several points, the one with the best mean of validation log-likelihoods at the
    last step, no seed diverged, is ``chosen``.
    """
    lines = [_row(name, point, cell) for point, cell in zip(points, cells, strict=True)]
    if len(lines) > 1:
        values = [_validation(line) for line in lines]
        best = max(values)
        # Of equals none: the grid does not matter to the method.
        decided = math.isfinite(best) and values.count(best) == 1
        for value, line in zip(values, lines, strict=True):
            line["chosen"] = decided and value == best
    return lines


def _validation(line):
    last = line["validation_log_likelihood"][-1]
    return -math.inf if None in last else float(np.mean(last))


def _row(name, point, cell):
    mean, error = mean_and_error(cell["log_likelihood"])
    best_mean, best_error = mean_and_error(cell["best_log_likelihood"])
    return {
        "method": f"{name}, {describe(point)}" if point else name,
        "point": point,
        "mean": mean,
        "standard_error": error,
        "best_mean": best_mean,
        "best_standard_error": best_error,
        "num_diverged": sum(step is not None for step in cell["diverged_at"]),
        **cell,
    }


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats the table, a line a method."""
    head = ["method", "last", "best by validation", "least", "most", "diverged"]
    head += ["ms a step a seed", "s", "CPU s"]
    is_estimated = any("ais_half_width" in line for line in rows)
    if is_estimated:
        head += ["± of AIS", "least effective sample"]
    has_choice = any("chosen" in line for line in rows)
    if has_choice:
        head.append("chosen")
    lines = []
    for line in rows:
        known = [x for x in line["log_likelihood"] if x is not None]
        lines.append(
            [
                line["method"],
                _with_error(line["mean"], line["standard_error"]) or _end(line),
                _with_error(line["best_mean"], line["best_standard_error"]),
                f"{min(known):.3f}" if known else "",
                f"{max(known):.3f}" if known else "",
                f"{line['num_diverged']} of {len(line['seeds'])}",
                f"{line['milliseconds']:.3g}",
                f"{line['seconds']:.0f}",
                f"{line['cpu_seconds']:.0f}",
                *(_ais_quality(line) if is_estimated else []),
                *(["yes" if line.get("chosen") else ""] if has_choice else []),
            ]
        )
    return markdown_table(head, lines)


def _with_error(mean, error):
    if mean is None:
        return ""
    return f"{mean:.3f}" if error is None else f"{mean:.3f} ± {error:.3f}"


def _ais_quality(line):
    """Half the widest interval of log Z, and the least effective sample size, of the seeds."""
    widths, sizes = (
        [x for x in line.get(name, []) if x is not None]
        for name in ("ais_half_width", "ais_effective_sample_size")
    )
    return [f"{max(widths):.2g}" if widths else "", f"{min(sizes):.3g}" if sizes else ""]


def _end(line):
    """What a method without figures came to."""
    steps = [step for step in line["diverged_at"] if step is not None]
    return f"diverged at step {min(steps):,}" if steps else ""


def draw_curves(rows: Sequence[Mapping[str, Any]], *, title: str) -> Figure:
    """Draws a panel a method: each seed's curve, their mean and range, and all means behind."""
    figure, panels = _panels(len(rows), height=2.5)
    legend = "line and band: mean and range of the seeds; grey: means of all; number: test, last"
    _title(figure, title, legend)
    curves = [_curve(line) for line in rows]
    low, high = _limits(curves)
    for axes, line, (steps, values) in zip(panels, rows, curves, strict=True):
        for other_steps, other in curves:
            axes.plot(other_steps, _nan_mean(other), color="0.8", linewidth=0.8)
        known = np.isfinite(values).any(axis=1)
        bottom, top = (f(values[known], axis=1) for f in (np.nanmin, np.nanmax))
        axes.fill_between(steps[known], bottom, top, color="tab:blue", alpha=0.25, linewidth=0)
        axes.plot(steps, _nan_mean(values), "o-", color="tab:blue", markersize=2.5, linewidth=1.2)
        axes.set(ylim=(low, high), xlim=(0, steps[-1] * 1.03))
        axes.set_xticks([0, steps[-1] / 2, steps[-1]])
        axes.xaxis.set_major_formatter("{x:,.0f}")
        figures = _with_error(line["mean"], None) or _end(line)
        axes.set_title(_wrapped(f"{line['method']}: {figures}"), fontsize="medium")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.label_outer()
    figure.supxlabel("step", fontsize="medium")
    figure.supylabel("validation log-likelihood, nats", fontsize="medium")
    return figure


def draw_samples(
    pictures: Mapping[str, Mapping[str, np.ndarray]], *, title: str
) -> dict[str, Figure]:
    """Draws what each method's first seed has learned.

    Args:
      pictures: by method, empty where there is no model: of images ``data``, ``samples`` and
        ``kind``, what they are; of points ``bounds``, ``data``, ``samples`` and, where it is known,
        ``log_density``.
      title: text above.

    Returns:
      Figures by file name; none if no method has a picture.
    """
    shown = {name: arrays for name, arrays in pictures.items() if arrays}
    if not shown:
        return {}
    if "bounds" in next(iter(shown.values())):
        return {"densities.png": _draw_densities(shown, f"{title}: the first seed")}
    data = next(iter(shown.values()))["data"]
    panels = {f"{title}: data": data} | {
        f"{name}, the first seed: {arrays['kind']}": arrays["samples"]
        for name, arrays in shown.items()
    }
    finite = {name: np.nan_to_num(x[:_NUM_IMAGES]) for name, x in panels.items()}
    return {"samples.png": plotting.image_panels(finite, columns=5, per_row=_COLUMNS)}


def _draw_densities(shown, title):
    """Each model's density above its samples; first, points of the data."""
    first = next(iter(shown.values()))
    bounds = tuple(first["bounds"].tolist())
    figure, panels = _panels(len(shown) + 1, height=4.0, of_each=2)
    _scatter(panels[0][0], first["data"], bounds)
    panels[0][0].set_title("data", fontsize="medium")
    panels[0][1].set_axis_off()
    peaks = [np.exp(x["log_density"]).max() for x in shown.values() if "log_density" in x]
    # Models of narrow peaks leave the others their colours.
    brightest = min(max(peaks), 1.5 * float(np.median(peaks))) if peaks else None
    scale = "" if brightest is None else f" (colours from 0 to {brightest:.2g}, more is as bright)"
    _title(figure, title, f"above: density of the model{scale}; below: its samples")
    for (above, below), (name, arrays) in zip(panels[1:], shown.items(), strict=True):
        if "log_density" in arrays and not np.isnan(arrays["log_density"]).any():
            above.imshow(
                np.exp(arrays["log_density"]), extent=bounds, origin="lower", vmin=0, vmax=brightest
            )
            above.set(xticks=[], yticks=[])
        else:
            above.set_axis_off()
        above.set_title(_wrapped(name), fontsize="medium")
        _scatter(below, arrays["samples"], bounds)
    return figure


def _scatter(axes, points, bounds):
    """Draws the finite points without labels: panels are many and share one plane."""
    finite = points[np.isfinite(points).all(axis=1)]
    if len(finite):
        plotting.scatter(finite, bounds=bounds, axes=axes)
    axes.set(xlabel=None, ylabel=None, xticks=[], yticks=[])


def _panels(number, *, height, of_each=1):
    """Returns a figure and the axes of each panel, or tuples of them one above the other."""
    from matplotlib.figure import Figure

    num_rows = -(-number // _COLUMNS)
    columns = -(-number // num_rows)
    size = 2.4 * columns + 0.6, height * num_rows + 0.6
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(num_rows * of_each, columns, squeeze=False)
    groups = grid.reshape(num_rows, of_each, columns).swapaxes(1, 2).reshape(-1, of_each)
    for axes in groups[number:].flat:
        axes.remove()
    used = groups[:number]
    return figure, used[:, 0] if of_each == 1 else used


def _title(figure, *lines):
    """Puts lines of text above all, wrapped to the figure's width."""
    characters = int(12 * figure.get_figwidth())
    wrapped = [part for line in lines for part in textwrap.wrap(line, characters)]
    figure.suptitle("\n".join(wrapped), fontsize="medium")


def _wrapped(text):
    """Returns a panel's title in lines as long as the panel is wide."""
    return "\n".join(textwrap.wrap(text, 26))


def _curve(line):
    """Returns steps [n] and values [n, seeds], NaN where unknown."""
    return np.array(line["validation_steps"]), np.array(
        line["validation_log_likelihood"], np.float64
    )


def _nan_mean(values):
    """Returns the mean over seeds of what is known."""
    known = np.isfinite(values)
    count = known.sum(axis=1)
    total = np.where(known, values, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _limits(curves):
    """Returns limits of the vertical axis that hold all ends, but not every bad beginning."""
    means = [_nan_mean(values) for _, values in curves]
    every = np.concatenate([x[np.isfinite(x)] for x in means] or [np.zeros(0)])
    if not every.size:
        return -1.0, 1.0
    high = every.max()
    ends = [x[np.isfinite(x)][-1] for x in means if np.isfinite(x).any()]
    # The worst end, unless it is far out: it would flatten all others. And most of every curve.
    span = 3 * (high - np.median(ends)) or 1.0
    begins = [x[np.isfinite(x)][len(x) // 5] for x in means if np.isfinite(x).sum() > len(x) // 5]
    low = min(max(min(ends), high - 2 * span), float(np.median(begins)) if begins else high)
    margin = 0.08 * (high - low) or 0.1
    return low - margin, high + margin
