"""Evaluates a trained model on the test set and writes evaluation.json.

Its random key is not that of the report that training ends with, so that on the same checkpoint
estimates differ slightly from those in the evaluation.json of training, which is overwritten
unless --out names another file.

Killed and run again, the same command goes on with the chains that it had begun.
"""

import pathlib
from typing import Any

import jax
from absl import flags

from experiments import _main, evaluation, report, sampling
from experiments.restore import restore
from experiments.resumable import ChainStore

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Work directory written by experiments.train.", required=True
)
_OUT = flags.DEFINE_string("out", None, "File to write; by default WORKDIR/evaluation.json.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the estimates.")
_STEP = flags.DEFINE_integer("step", None, "Checkpoint to use; by default the latest.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder of local data files, if it has moved.")
_PROGRESS = flags.DEFINE_bool("progress", True, "Show progress bars.")
flags.adopt_module_key_flags(_main)


def main() -> None:
    experiment, state = restore(_WORKDIR.value, _STEP.value, _DATA_DIR.value)
    out = pathlib.Path(_OUT.value or pathlib.Path(_WORKDIR.value) / "evaluation.json").absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    theta = experiment.evaluated_theta(state)
    key_evaluation, key_samples = jax.random.split(jax.random.key(_SEED.value))
    with ChainStore(out.parent, f"evaluate-{out.stem}") as store:
        kept: dict[str, Any] = {"store": store, "progress": _PROGRESS.value}
        figures = evaluation.evaluate(experiment, theta, state.phi, key_evaluation, **kept)
        originals, reconstructions = sampling.reconstruct(
            experiment,
            theta,
            state.phi,
            key_samples,
            num_samples=experiment.config.sampling.num_samples,
            **kept,
        )
        figures |= evaluation.reconstruction(originals, reconstructions)
        report.write_json(out, figures)
    print(f"{experiment.config.name} after {int(state.step):,} steps, on the test set:")
    print(report.table(figures))
    print(f"\nWritten to {out}")


if __name__ == "__main__":
    _main.run(main)
