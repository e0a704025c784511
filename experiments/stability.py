"""Asks what keeps BiDVL stable: energies, norms and bounds of gradients, left out one by one.

Each variant sets the energy's head, the norms of its kernels, the hinge and the bounds of gradients
in a config of BiDVL's compact form on images that fit in memory, and is trained at each multiple of
the config's two rates, which must be constant; all seeds of a variant are trained by one program.
A seed whose metrics cease to be finite has diverged. The rest are judged by the Fréchet distance of
generated images to the test set, between features of a small classifier, and by how well the energy
tells test images from the same with their pixels shuffled.

Writes to the work directory: config.json, cells/ (one a variant and rate), classifier.npz,
table.md, table.json and samples.png. Run again, the same command does the cells that are missing,
and the table holds those of earlier commands too; --overwrite starts over.
"""

import json
import pathlib
from collections.abc import Collection
from functools import partial
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags
from tqdm import tqdm

from experiments import _grid, _main, features, image_outliers, sampling
from experiments._table import markdown_table
from experiments.builders import Experiment
from experiments.image_evaluation import Model
from experiments.seeds import run_state, train_seeds
from experiments.validation import ConfigError
from jbism import _checks, metrics, plotting
from jbism.training import TrainState

# What every variant starts from, whatever the config has.
_PLAIN = {
    "energy.marginal.num_features": -1,
    "energy.marginal.spectral_norm_steps": 0,
    "method.bidvl.compact.hinge": False,
    "theta_optimizer.clip_norm": 0.0,
    "phi_optimizer.clip_norm": 0.0,
}
_SOFTPLUS, _LINEAR = ({"energy.marginal.head": name} for name in ("softplus", "linear"))
_NORM = {"energy.marginal.spectral_norm_steps": 10}
_CLIP = {"theta_optimizer.clip_norm": 1.0, "phi_optimizer.clip_norm": 1.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "linear": _LINEAR,
    "linear-clip": _LINEAR | _CLIP,
    "linear-spectral-norm": _LINEAR | _NORM,
    "linear-hinge": _LINEAR | {"method.bidvl.compact.hinge": True},
    "squared-norm": {"energy.marginal.head": "squared_norm"},
    "softplus": _SOFTPLUS,
    "softplus-clip": _SOFTPLUS | _CLIP,
    "softplus-spectral-norm": _SOFTPLUS | _NORM,
}
_SHUFFLED = "test images, pixels shuffled"
_SHOWN = 24

flags.adopt_module_key_flags(_main)
flags.adopt_module_key_flags(_grid)
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file of BiDVL, such as experiments/configs/digits_bidvl.py."
)
_SETTINGS = (
    flags.DEFINE_list("variants", ["all"], f"Which: all, or of {', '.join(VARIANTS)}."),
    flags.DEFINE_list("rates", ["1", "10"], "Multiples of the config's two learning rates."),
    flags.DEFINE_integer("seeds", 5, "Seeds a variant.", lower_bound=1),
    flags.DEFINE_integer("num_steps", 3_000, "Steps of training.", lower_bound=1),
    flags.DEFINE_integer("num_samples", 500, "Images generated a seed.", lower_bound=_SHOWN),
)


def main() -> None:
    config = _CONFIG.value
    settings: dict[str, Any] = {flag.name: flag.value for flag in _SETTINGS}
    if config.method.name != "bidvl":
        raise ConfigError(f"config.method.name must be 'bidvl', got {config.method.name!r}")
    if config.method.bidvl.form != "compact":
        raise ConfigError(
            f"config.method.bidvl.form must be 'compact', got {config.method.bidvl.form!r}"
        )
    for optimizer in ("theta_optimizer", "phi_optimizer"):
        if config[optimizer].schedule != "constant":
            raise ConfigError(
                f"config.{optimizer}.schedule must be 'constant', got "
                f"{config[optimizer].schedule!r}"
            )
    unknown = [name for name in settings["variants"] if name not in ("all", *VARIANTS)]
    if unknown or not settings["variants"]:
        raise ValueError(f"variants must be of all, {', '.join(VARIANTS)}, got {unknown or 'none'}")
    rates = [_rate(text) for text in settings["rates"]]
    with _grid.open_grid(
        settings | {"run": json.loads(config.to_json())},
        outputs=("table.md", "samples.png", "classifier.npz"),
        may_differ=("variants", "rates", "run.data.dir"),
    ) as grid:
        chosen: Collection[str] = (
            VARIANTS if "all" in settings["variants"] else settings["variants"]
        )
        stored = {path.stem for path in grid.workdir.glob("cells/*.json")}
        everywhere = sorted({*rates, *(float(name.split(" at ")[1]) for name in stored)})
        cells = [
            (name, rate)
            for name in VARIANTS
            for rate in everywhere
            if (name in chosen and rate in rates) or _slug(name, rate) in stored
        ]
        rows: list[dict[str, Any]] = []
        panels: dict[str, np.ndarray] = {}
        with tqdm(
            total=len(cells) * settings["num_steps"], unit="step", disable=not _grid.PROGRESS.value
        ) as bar:
            for i, (name, rate) in enumerate(cells):
                bar.set_description(_slug(name, rate))
                path = grid.workdir / "cells" / f"{_slug(name, rate)}.npz"
                own = variant(config, name, rate, settings["num_steps"])
                compute = partial(_run_cell, own, settings, grid.workdir, path, bar.update)
                row = {"variant": name, "rate": rate}
                rows.append(row | grid.cell(_slug(name, rate), compute))
                bar.update((i + 1) * settings["num_steps"] - bar.n)
                images = _grid.load_arrays(path)["images"]
                if len(images):
                    panels[_slug(name, rate)] = images
        grid.write_table({"config": settings, "rows": rows})
        text = _markdown(rows)
        (grid.workdir / "table.md").write_text(text + "\n")
        if panels:
            figure = plotting.image_panels(panels, columns=8, per_row=len(everywhere))
            plotting.save(figure, grid.workdir / "samples.png")
        print(text)
        print(f"\nThe table, the samples and all figures are in {grid.workdir}")


def _rate(text):
    try:
        return _checks.positive("rates", float(text))
    except ValueError as error:
        raise ValueError(f"rates must be positive numbers, got {text!r}") from error


def _slug(name, rate):
    return f"{name} at {rate!r}"


def variant(config: ConfigDict, name: str, rate: float, num_steps: int) -> ConfigDict:
    """Returns a copy of a config with a variant's keys, and both rates multiplied."""
    own = config.copy_and_resolve_references()
    own.update_from_flattened_dict(_PLAIN | VARIANTS[name])
    for optimizer in (own.theta_optimizer, own.phi_optimizer):
        optimizer.learning_rate *= rate
    own.train.num_steps = num_steps
    return own


def _run_cell(config, settings, workdir, path, advanced) -> dict[str, Any]:
    trained = train_seeds(config, settings["seeds"], advanced=advanced)
    found: dict[str, list[float]] = {
        "data_energy": [],
        "energy_gap": [],
        "frechet": [],
        "auroc": [],
    }
    images = []
    for i, experiment in enumerate(trained.experiments):
        if trained.diverged[i]:
            continue
        state = run_state(trained.states, i)
        figures, shown = judge(experiment, state, settings["num_samples"], workdir)
        images.append(shown)
        for key, x in figures.items():
            found[key].append(float(x))
    first = images[0] if images else np.zeros(0)
    np.savez_compressed(path, images=first)  # before the cell that says it is there
    return {
        "diverged": trained.diverged.tolist(),
        "train_seconds": trained.train_seconds,
        **found,
    }


def judge(
    experiment: Experiment, state: TrainState, num_samples: int, workdir: pathlib.Path
) -> tuple[dict[str, Any], np.ndarray]:
    """Returns the figures of one seed, and a few of its images."""
    dataset, test = experiment.dataset, experiment.dataset.examples("test")
    model = Model(experiment, state.theta, state.phi)
    key_draw, key_corrupt = jax.random.split(experiment.report_key)
    (v,) = sampling.draw(
        experiment, state.theta, state.phi, key_draw, num_samples=num_samples, progress=False
    ).panels.values()
    extract = features.classifier_extractor(
        dataset, workdir / "classifier.npz", seed=0, progress=False
    )
    energies = model.map(_energy, test)
    shuffled = image_outliers.corrupted_images(key_corrupt, dataset, test)[_SHUFFLED]
    figures = {
        "data_energy": energies.mean(),
        "energy_gap": model.map(_energy, v).mean() - energies.mean(),
        "frechet": metrics.frechet_distance_of_features(
            extract(dataset.images(v)), extract(dataset.images(test))
        ),
        "auroc": metrics.auroc(-model.map(_energy, shuffled), -energies),
    }
    return figures, dataset.images(v[:_SHOWN])


def _energy(model, v):
    return model.experiment.energy.apply(model.theta, v)


def _markdown(rows):
    def spread(values):
        if not values:
            return "-"
        return f"{np.mean(values):.3g} ± {np.std(values):.2g}"

    head = "variant", "rates ×", "diverged", "E of data", "E of G(h) more by", "Fréchet", "AUROC"
    return markdown_table(
        head,
        [
            (
                row["variant"],
                f"{row['rate']:g}",
                f"{np.count_nonzero(row['diverged'])} of {len(row['diverged'])}",
                *(spread(row[key]) for key in ("data_energy", "energy_gap", "frechet", "auroc")),
            )
            for row in rows
        ],
    )


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    _main.run(main)
