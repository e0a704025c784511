"""Trains a model by the method of its config, then samples from it and evaluates it.

Writes to the work directory: config.json, metrics.jsonl, tensorboard/, checkpoints/, curves.png,
samples.png, samples.npz, reconstructions.png (images only), frames.png, interpolations.png and
inpaintings.png (images under Langevin dynamics only) or interpolations.png and traversals.png
(images by a generator), and evaluation.json. Run again, the same command resumes; --overwrite
starts over. Ctrl-C stops training after the current call of steps_per_call steps, twice at once.
"""

import contextlib
import json
import types

import jax
from absl import flags
from ml_collections import config_flags

from experiments import _main, evaluation, report
from experiments.builders import build
from experiments.restore import latest_step
from jbism import data
from jbism.training import (
    Checkpointer,
    MetricsWriter,
    WorkdirError,
    fit,
    open_workdir,
    train_steps,
)

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, such as experiments/configs/digits_deep.py."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of this run; made if absent.", required=True
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Start over, removing the run's outputs.")
_PROGRESS = flags.DEFINE_bool("progress", True, "Show progress bars.")
flags.adopt_module_key_flags(_main)

# What may change between a run and its resumption: the data's place, how long, how often, and
# what happens after training.
_MAY_DIFFER = ("data.dir", "train.num_steps", "log", "sampling", "evaluation")


def main() -> None:
    config = _CONFIG.value
    experiment = build(config)
    done = None if _OVERWRITE.value else latest_step(_WORKDIR.value)
    if done is not None and done > config.train.num_steps:
        raise WorkdirError(
            f"config.train.num_steps is {config.train.num_steps}, but the run in "
            f"{_WORKDIR.value} has done {done} steps"
        )
    workdir = open_workdir(
        _WORKDIR.value,
        json.loads(config.to_json()),
        overwrite=_OVERWRITE.value,
        may_differ=_MAY_DIFFER,
        outputs=report.FILES,
    )
    with Checkpointer(workdir / "checkpoints", max_to_keep=config.log.max_checkpoints) as saved:
        state, resumed = experiment.initial_state, saved.latest_step()
        if resumed is not None:
            state = saved.restore(state)
            print(f"resuming from step {resumed:,} of {config.train.num_steps:,}", flush=True)
        with (
            MetricsWriter(workdir, resume_step=resumed) as writer,
            _main.interruptible() as check_interrupt,
            _batches(experiment) as (run, order),
        ):
            state = fit(
                state,
                run,
                order,
                num_steps=config.train.num_steps,
                steps_per_call=config.train.steps_per_call,
                log_every=config.log.log_every,
                checkpointer=saved,
                checkpoint_every=config.log.checkpoint_every,
                writer=writer,
                progress=_PROGRESS.value,
                callbacks=[(config.train.steps_per_call, check_interrupt)],
            )
    report.write_curves(workdir)
    key_samples, key_evaluation = jax.random.split(experiment.report_key)
    figures = report.write_samples(
        experiment, state, workdir, key=key_samples, progress=_PROGRESS.value
    )
    theta = experiment.evaluated_theta(state)
    figures = evaluation.evaluate(experiment, theta, state.phi, key_evaluation) | figures
    report.write_json(workdir / "evaluation.json", figures)
    print(f"\n{config.name} after {int(state.step):,} steps, on the test set:")
    print(report.table(figures))
    print(f"\nPictures, curves, metrics, config and checkpoints are in {workdir}")


@contextlib.contextmanager
def _batches(experiment):
    """Yields the compiled steps, and what they are given: rows of data, or decoded batches."""
    if not isinstance(experiment.dataset.train, data.LazyImages):
        yield train_steps(experiment.step, experiment.dataset.train), experiment.order
        return
    with data.BatchLoader(experiment.dataset.train, experiment.order) as loader:
        yield train_steps(experiment.step), types.SimpleNamespace(indices=loader.take)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    _main.run(main)
