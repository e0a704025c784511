"""Learns a ring of Gaussians by every form of BiDVL, where the model's density can be integrated.

The energy is a small network over a square, whose log Z is a sum over a grid, so that KL(data ‖
model) is known; the generator and the encoder are small too (Kan et al., 2022). Beside the compact
form, as its published code has it, stand the full form with the first-order gradient and unrolled,
the former also with importance weights p_θ / p_d by each estimate of p_d, and exact maximum
likelihood of the same energy. All seeds of a method are learned by one program, from data that are
drawn afresh at each step.

Writes to the work directory: config.json, cells/ (one a method), table.md, table.json,
densities.png with the density and the generator's points of each method's first seed, and
curves.png. Run again, the same command does the methods that are missing, and the table holds those
of earlier commands too; --overwrite starts over.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import _grid, _main, mixture_report
from experiments.mixture_model import METHODS, RESOLUTION, Study, check_settings, measure, slug
from jbism import plotting

flags.adopt_module_key_flags(_main)
flags.adopt_module_key_flags(_grid)
_SETTINGS = (
    flags.DEFINE_list("methods", ["all"], f"Which: all, or of {', '.join(map(slug, METHODS))}."),
    flags.DEFINE_integer("seeds", 5, "Seeds a method.", lower_bound=1),
    flags.DEFINE_integer("num_steps", 2_000, "Upper steps.", lower_bound=1),
    flags.DEFINE_integer("num_lower_steps", 20, "Lower steps an upper one, K.", lower_bound=1),
    flags.DEFINE_integer("batch_size", 128, "Points of a batch.", lower_bound=2),
    flags.DEFINE_integer("num_modes", 8, "Gaussians.", lower_bound=1),
    flags.DEFINE_float("radius", 2.0, "Of the ring."),
    flags.DEFINE_float("noise", 0.35, "Standard deviation of each Gaussian."),
    flags.DEFINE_integer("num_latents", 8, "Latents.", lower_bound=1),
    flags.DEFINE_integer("width", 64, "Of the two hidden layers of each network.", lower_bound=1),
    flags.DEFINE_float("scale", 0.25, "Standard deviation of p_φ(v | h)."),
    flags.DEFINE_float(
        "compact_elbo", 0.05, "Coefficient of the compact form's ELBO.", lower_bound=0.0
    ),
    flags.DEFINE_float(
        "full_elbo", 0.1, "Coefficient of the full form's ELBO, λ.", lower_bound=0.0
    ),
    flags.DEFINE_integer(
        "num_particles", 4, "Particles of the ELBO where it is weighted.", lower_bound=1
    ),
    flags.DEFINE_float("theta_rate", 1e-3, "Adam's rate of the energy, at first."),
    flags.DEFINE_float("phi_rate", 3e-3, "Adam's rate of generator and encoder, at first."),
    flags.DEFINE_integer("unroll_steps", 2, "Virtual steps, N.", lower_bound=0),
    flags.DEFINE_float("unroll_rate", 1e-3, "SGD's rate of the virtual steps."),
    flags.DEFINE_integer("seed", 0, "Seed of everything.", lower_bound=0, upper_bound=2**32 - 2),
)


def main() -> None:
    config = check_settings({flag.name: flag.value for flag in _SETTINGS})
    with _grid.open_grid(
        config, outputs=("table.md", "densities.png", "curves.png"), may_differ=("methods",)
    ) as grid:
        # Methods of earlier commands stay in the table.
        names = [name for name in METHODS if name in config["methods"] or grid.has(slug(name))]
        study = Study(config)
        cells: dict[str, dict[str, Any]] = {}
        arrays: dict[str, dict[str, np.ndarray]] = {}
        with tqdm(
            total=len(names) * config["num_steps"], unit="step", disable=not _grid.PROGRESS.value
        ) as bar:
            for i, name in enumerate(names):
                bar.set_description(name)
                path = grid.workdir / "cells" / f"{slug(name)}.npz"
                cells[name] = grid.cell(
                    slug(name), partial(_run_cell, study, name, path, bar.update)
                )
                bar.update((i + 1) * config["num_steps"] - bar.n)
                arrays[name] = _grid.load_arrays(path)
        rows = mixture_report.summarize(cells)
        grid.write_table({"config": config, "rows": rows})
        text = mixture_report.markdown(rows)
        (grid.workdir / "table.md").write_text(text + "\n")
        figure = mixture_report.draw_densities(arrays, data=_data(study), bounds=study.ring.bounds)
        plotting.save(figure, grid.workdir / "densities.png")
        plotting.save(mixture_report.draw_curves(cells), grid.workdir / "curves.png")
        print(text)
        print(f"\nThe pictures, the table and all figures are in {grid.workdir}")


def _run_cell(study, name, path, advanced):
    figures, arrays = measure(study, name, advanced=advanced)
    # Before the cell that says they are there.
    stored: dict[str, Any] = dict(arrays)
    np.savez_compressed(path, **stored)
    return figures


def _data(study):
    ring = study.ring
    values = jax.vmap(ring.log_density)(ring.points)
    points = ring.sample(jax.random.key(study.config["seed"]), 2_000)
    return {
        "log_density": np.asarray(jnp.reshape(values, (RESOLUTION, RESOLUTION))),
        "samples": np.asarray(points),
    }


if __name__ == "__main__":
    _main.run(main)
