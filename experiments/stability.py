"""Asks what keeps BiDVL stable: energies, norms and bounds of gradients, left out one by one.

Each variant sets its own keys in a config of BiDVL on images that fit in memory, and is trained at
each multiple of the config's two rates; all seeds of a variant are trained by one program. A seed
whose metrics cease to be finite has diverged. The rest are judged by the Fréchet distance of
generated images to the test set, between features of a small classifier, and by how well the energy
tells test images from the same with their pixels shuffled.

Writes to the work directory: config.json, cells/ (one a variant and rate), classifier.npz,
table.md, table.json and samples.png. Run again, the same command does the cells that are missing,
and the table holds those of earlier commands too; --overwrite starts over.
"""

import json
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
from experiments.image_evaluation import Model
from experiments.seeds import run_state, train_seeds
from experiments.validation import ConfigError
from jbism import _checks, metrics, plotting

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
    unknown = [name for name in settings["variants"] if name not in ("all", *VARIANTS)]
    if unknown or not settings["variants"]:
        raise ValueError(f"variants must be of all, {', '.join(VARIANTS)}, got {unknown or 'none'}")
    rates = [_rate(text) for text in settings["rates"]]
    grid = _grid.open_grid(
        settings | {"run": json.loads(config.to_json())},
        outputs=("table.md", "samples.png", "classifier.npz"),
        may_differ=("variants", "rates", "run.data.dir"),
    )
    chosen: Collection[str] = VARIANTS if "all" in settings["variants"] else settings["variants"]
    cells = [
        (name, rate)
        for name in VARIANTS
        for rate in rates
        if name in chosen or grid.has(_slug(name, rate))
    ]
    rows: list[dict[str, Any]] = []
    panels: dict[str, np.ndarray] = {}
    with tqdm(
        total=len(cells) * settings["num_steps"], unit="step", disable=not _grid.PROGRESS.value
    ) as bar:
        for i, (name, rate) in enumerate(cells):
            bar.set_description(_slug(name, rate))
            path = grid.workdir / "cells" / f"{_slug(name, rate)}.npz"
            compute = partial(_run_cell, name, rate, settings, grid.workdir, path, bar.update)
            rows.append(grid.cell(_slug(name, rate), compute))
            bar.update((i + 1) * settings["num_steps"] - bar.n)
            images = _grid.load_arrays(path)["images"]
            if len(images):
                panels[_slug(name, rate)] = images
    grid.write_table({"config": settings, "rows": rows})
    text = _markdown(rows)
    (grid.workdir / "table.md").write_text(text + "\n")
    if panels:
        figure = plotting.image_panels(panels, columns=8, per_row=len(rates))
        plotting.save(figure, grid.workdir / "samples.png")
    print(text)
    print(f"\nThe table, the samples and all figures are in {grid.workdir}")


def _rate(text):
    try:
        return _checks.positive("rates", float(text))
    except ValueError as error:
        raise ValueError(f"rates must be positive numbers, got {text!r}") from error


def _slug(name, rate):
    return f"{name} at {rate:g}"


def _variant(name: str, rate: float, settings: dict[str, Any]) -> ConfigDict:
    config = _CONFIG.value.copy_and_resolve_references()
    config.update_from_flattened_dict(VARIANTS[name])
    for optimizer in (config.theta_optimizer, config.phi_optimizer):
        optimizer.learning_rate *= rate
    config.train.num_steps = settings["num_steps"]
    return config


def _run_cell(name, rate, settings, workdir, path, advanced) -> dict[str, Any]:
    trained = train_seeds(_variant(name, rate, settings), settings["seeds"], advanced=advanced)
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
        figures, shown = _judge(experiment, state, settings["num_samples"], workdir)
        images.append(shown)
        for key, x in figures.items():
            found[key].append(float(x))
    first = images[0] if images else np.zeros(0)
    np.savez_compressed(path, images=first)  # before the cell that says it is there
    return {
        "variant": name,
        "rate": rate,
        "diverged": trained.diverged.tolist(),
        "train_seconds": trained.train_seconds,
        **found,
    }


def _judge(experiment, state, num_samples, workdir):
    """Returns the figures of one seed, and a few of its images."""
    dataset, test = experiment.dataset, experiment.dataset.examples("test")
    model = Model(experiment, state.theta, state.phi)
    key_draw, key_corrupt = jax.random.split(experiment.report_key)
    (v,) = sampling.draw(
        experiment, *model[1:], key_draw, num_samples=num_samples, progress=False
    ).panels.values()
    extract = features.classifier_extractor(
        dataset, workdir / "classifier.npz", seed=0, progress=False
    )
    energy = partial(experiment.energy.apply, model.theta)
    energies = model.map(energy, test)
    shuffled = image_outliers.corrupted_images(key_corrupt, dataset, test)[_SHUFFLED]
    figures = {
        "data_energy": energies.mean(),
        "energy_gap": model.map(energy, v).mean() - energies.mean(),
        "frechet": metrics.frechet_distance_of_features(
            extract(dataset.images(v)), extract(dataset.images(test))
        ),
        "auroc": metrics.auroc(-model.map(energy, shuffled), -energies),
    }
    return figures, dataset.images(v[:_SHOWN])


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
