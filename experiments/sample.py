"""Draws fresh samples from a trained model: the pictures and arrays that training ends with.

Killed and run again, the same command goes on with the chains that it had begun.
"""

import pathlib

import jax
from absl import flags

from experiments import _main, report
from experiments.restore import restore
from experiments.resumable import ChainStore

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Work directory written by experiments.train.", required=True
)
_OUT = flags.DEFINE_string("out", None, "Directory for the files; by default WORKDIR/samples.")
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", None, "How many; by default as trained.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the sampler.")
_STEP = flags.DEFINE_integer("step", None, "Checkpoint to use; by default the latest.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder of local data files, if it has moved.")
_PROGRESS = flags.DEFINE_bool("progress", True, "Show progress bars.")
flags.adopt_module_key_flags(_main)


def main() -> None:
    experiment, state = restore(_WORKDIR.value, _STEP.value, _DATA_DIR.value)
    out = pathlib.Path(_OUT.value or pathlib.Path(_WORKDIR.value) / "samples").absolute()
    out.mkdir(parents=True, exist_ok=True)
    with ChainStore(out, "sample") as store:
        figures = report.write_samples(
            experiment,
            state,
            out,
            key=jax.random.key(_SEED.value),
            num_samples=_NUM_SAMPLES.value,
            store=store,
            progress=_PROGRESS.value,
        )
    if figures:
        print(
            f"{experiment.config.name} after {int(state.step):,} steps:\n{report.table(figures)}\n"
        )
    print(f"Samples are in {out}")


if __name__ == "__main__":
    _main.run(main)
