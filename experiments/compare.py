"""Compares methods on one config: all seeds of a method are trained by one program.

Each method of --methods sets its own keys (method, objective, hypergradient, divergence, number of
particles: experiments/compare_methods.py); the rest is the config's. Seed s of a method equals
``experiments.train`` with that method and ``config.seed = s``, counted from the config's, up to
rounding. The log-likelihood of the test set is that of the last step, and that of the step, of
--num_validations, at which the validation log-likelihood is best; it is exact where log Z can be
enumerated, else an estimate as ``experiments.train`` makes it, which takes its time. A seed whose
metrics cease to be finite counts as diverged and is left out of the means.

--grid=KEY=VALUE,VALUE,... trains each method at each value of a config key too; of several --grid,
at each combination. All floats of a grid are trained by one program with the seeds; every other
value takes a program of its own. The table says which point is chosen for each method: that of the
best mean validation log-likelihood at the last step.

Writes to the work directory: config.json, cells/ (one a method), table.md, table.json, curves.png
and densities.png of 2-D data, samples.png of images. Run again, the same command does the methods
that are missing, and the table holds those of earlier commands too; --overwrite starts over.
"""

import json
import os
import tempfile
import zipfile
from functools import partial
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags
from tqdm import tqdm

from experiments import _grid, _main, compare_model, compare_report
from experiments.compare_methods import METHODS, method_config, select
from experiments.hyperparameters import parse_grid, split_static
from jbism import plotting

flags.adopt_module_key_flags(_main)
flags.adopt_module_key_flags(_grid)
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, such as experiments/configs/checkerboard_rbm.py."
)
_METHODS = flags.DEFINE_list(
    "methods", ["all"], f"Which: all that fit the config, or of {', '.join(METHODS)}."
)
_SEEDS = flags.DEFINE_integer("seeds", 10, "Seeds a method.", lower_bound=1)
_GRID = flags.DEFINE_multi_string(
    "grid", [], "KEY=VALUE,VALUE,... of a config key; may be given several times."
)
_NUM_STEPS = flags.DEFINE_integer(
    "num_steps", None, "Steps of training; by default the config's.", lower_bound=1
)
_NUM_VALIDATIONS = flags.DEFINE_integer(
    "num_validations", 20, "Evenly spaced validations, the last at the end.", lower_bound=1
)


def main() -> None:
    # A device a core, among which the seeds are divided: each alone is too small for several.
    jax.config.update("jax_num_cpu_devices", min(os.cpu_count() or 1, _SEEDS.value))
    with tempfile.TemporaryDirectory() as compiled:
        # Seeds and methods compile many programs that are the same.
        if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
            jax.config.update("jax_compilation_cache_dir", compiled)
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        _compare()


def _compare():
    config = _CONFIG.value
    if _NUM_STEPS.value is not None:
        config.train.num_steps = _NUM_STEPS.value
    points = parse_grid(_GRID.value, config)
    names, refused = select(config, _METHODS.value, points)
    for name, reason in refused.items():
        print(f"left out, since the config does not fit: {name}: {reason}", flush=True)
    settings: dict[str, Any] = {
        "methods": names,
        "seeds": _SEEDS.value,
        "grid": points,
        "num_validations": _NUM_VALIDATIONS.value,
        "model": json.loads(config.to_json()),
    }
    with _grid.open_grid(
        settings,
        outputs=("table.md", "curves.png", "densities.png", "samples.png"),
        may_differ=("methods", "model.data.dir", "model.log"),
    ) as grid:
        # Methods of earlier commands stay in the table.
        names = [name for name in METHODS if name in names or grid.has(name)]
        rows: list[dict[str, Any]] = []
        pictures: dict[str, dict[str, np.ndarray]] = {}
        runs = f"{_SEEDS.value} seed" + "s" * (_SEEDS.value > 1)
        runs += f" at {len(points)} points" * bool(_GRID.value)
        programs = len(split_static(points))
        with tqdm(
            total=len(names) * programs * config.train.num_steps,
            unit="step",
            disable=not _grid.PROGRESS.value,
        ) as bar:
            for i, name in enumerate(names):
                bar.set_description(f"{name}, {runs}")
                arrays = grid.workdir / "cells" / f"{name}.npz"
                cell = grid.cell(name, partial(_run_cell, config, name, points, arrays, bar.update))
                bar.update((i + 1) * programs * config.train.num_steps - bar.n)
                if len(cell.get("points", [])) != len(points):
                    raise _grid.unreadable(arrays.with_suffix(".json"), "not a cell of this grid")
                rows += compare_report.rows(name, points, cell["points"])
                pictures |= _pictures(arrays, [row["method"] for row in rows[-len(points) :]])
        grid.write_table({"config": settings, "rows": rows})
        text = compare_report.markdown(rows)
        (grid.workdir / "table.md").write_text(text + "\n")
        title = f"{config.name}, {config.train.num_steps:,} steps, {runs}"
        plotting.save(compare_report.draw_curves(rows, title=title), grid.workdir / "curves.png")
        for name, figure in compare_report.draw_samples(pictures, title=title).items():
            plotting.save(figure, grid.workdir / name)
        print(f"{title}: test log-likelihood, nats ({rows[0]['log_likelihood_method']})\n\n{text}")
        print(f"\nThe pictures, the table and all figures are in {grid.workdir}")


def _run_cell(config, name, points, arrays_path, advanced):
    measured = compare_model.measure(
        method_config(config, name),
        points,
        num_seeds=_SEEDS.value,
        num_validations=_NUM_VALIDATIONS.value,
        advanced=advanced,
    )
    # Before the cell that says they are there.
    named: dict[str, Any] = {
        f"{i}/{key}": x for i, point in enumerate(measured) for key, x in point.arrays.items()
    }
    np.savez_compressed(arrays_path, **named)
    return {"points": [point.figures for point in measured]}


def _pictures(path, labels):
    """Returns by label the arrays that a cell has stored."""
    pictures: dict[str, dict[str, np.ndarray]] = {label: {} for label in labels}
    try:
        with np.load(path) as stored:
            for name, array in stored.items():
                i, _, key = name.partition("/")
                pictures[labels[int(i)]][key] = array
    except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
        raise _grid.unreadable(path, error) from error
    return pictures


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    _main.run(main)
