"""Trains a model by the method of its config, then samples from it and evaluates it.

Writes to the work directory: config.json, metrics.jsonl, tensorboard/, checkpoints/, curves.png,
samples.png, samples.npz, reconstructions.png (images only), frames.png, interpolations.png and
inpaintings.png (images under Langevin dynamics only) or interpolations.png and traversals.png
(images by a generator), and evaluation.json. Run again, the same command resumes; --overwrite
starts over. SIGTERM or Ctrl-C stops training after the current call of steps_per_call steps, with a
checkpoint and exit code 75; a second one stops at once. Several processes run the same command; the
first writes.
"""

import contextlib
import json
import pathlib
import types
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

from experiments import _main, _processes, evaluation, report
from experiments.builders import Experiment, build
from experiments.devices import build_layout
from experiments.restore import latest_step
from experiments.resumable import ChainStore
from experiments.validation import naming
from jbism import data
from jbism.training import (
    Checkpointer,
    DataParallel,
    DivergenceError,
    MetricsWriter,
    Rollbacks,
    StoppedError,
    TrainState,
    WorkdirError,
    any_process,
    check_workdir,
    config_differences,
    fit,
    is_primary,
    lock_workdir,
    on_primary,
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
flags.adopt_module_key_flags(_processes)

# What may change between a run and its resumption: the data's place, how long, how often, on how
# many devices, how patiently, and what happens after training.
_MAY_DIFFER = (
    "data.dir",
    "train.num_steps",
    "mesh",
    "guard.max_rollbacks",
    "guard.largest_metric",
    "log",
    "sampling",
    "evaluation",
)


def main() -> None:
    _processes.join()
    experiment, layout = _processes.together(_build)
    _check_same(experiment.config)
    workdir = pathlib.Path(_WORKDIR.value).absolute()
    with contextlib.ExitStack() as stack:
        on_primary(lambda: stack.enter_context(lock_workdir(workdir)))
        on_primary(lambda: _open(workdir, experiment.config))
        state = _train(experiment, layout, workdir)
        if is_primary():
            _report(experiment, state, workdir)


def _build() -> tuple[Experiment, DataParallel | None]:
    config = _CONFIG.value
    if is_primary() and not _OVERWRITE.value:  # before data are read and programs compiled
        check_workdir(_WORKDIR.value, json.loads(config.to_json()), may_differ=_MAY_DIFFER)
    experiment = build(config)
    return experiment, build_layout(experiment.config)


def _check_same(config) -> None:
    """Raises where a process has another config than the first one, but for its data's place."""
    own = json.loads(config.to_json())
    first = on_primary(lambda: own)

    def compare():
        differences = config_differences(first, own, ("data.dir",))
        if differences:
            raise ValueError(
                f"config of process 0 and of process {jax.process_index()}: {differences}"
            )

    _processes.together(compare)


def _open(workdir: pathlib.Path, config) -> None:
    done = None if _OVERWRITE.value else latest_step(workdir)
    if done is not None and done > config.train.num_steps:
        raise WorkdirError(
            f"config.train.num_steps is {config.train.num_steps}, but the run in "
            f"{workdir} has done {done} steps"
        )
    open_workdir(
        workdir,
        json.loads(config.to_json()),
        overwrite=_OVERWRITE.value,
        may_differ=_MAY_DIFFER,
        outputs=report.FILES,
    )


def _train(
    experiment: Experiment, layout: DataParallel | None, workdir: pathlib.Path
) -> TrainState:
    """Trains to the end, through the rollbacks that the config allows; the processes then part."""
    config = experiment.config
    guard = config.guard
    rollbacks = Rollbacks(workdir, guard.max_rollbacks, guard.rate_factor)
    start = experiment.initial_state if layout is None else layout.place(experiment.initial_state)
    with (
        Checkpointer(
            workdir / "checkpoints", max_to_keep=config.log.max_checkpoints, clean=True
        ) as saved,
        _batches(experiment, layout) as (run, order),
        _main.stoppable() as should_stop,
    ):
        state = saved.restore_intact(start, set_aside=True)
        if state is not None:
            state = rollbacks.applied(state, saved)
            _say(f"resuming from step {int(state.step):,} of {config.train.num_steps:,}")
        elif guard.max_rollbacks > 0:
            saved.save(start, notes=rollbacks.notes())
        resumed = None if state is None else int(state.step)
        state = start if state is None else state
        while True:
            notes = rollbacks.notes()
            try:
                state = _fit(
                    experiment, state, run, order, saved, workdir, resumed, should_stop, notes
                )
                break
            except DivergenceError as error:
                # The start was donated to training; what is read of it here is no array's content.
                state = rollbacks.recover(error, saved, template=start)
                resumed = int(state.step)
                number = len(rollbacks.records())
                _say(f"{error}; rollback {number} of {guard.max_rollbacks}, to step {resumed:,}")
        if layout is not None:
            state = layout.gather(state)
        if any_process(should_stop()):  # too late for training, and none may leave alone
            raise StoppedError(int(state.step), saved=True)
        _processes.part()
    return state


def _fit(experiment, state, run, order, saved, workdir, resumed, should_stop, notes):
    config = experiment.config
    writing = MetricsWriter(workdir, resume_step=resumed) if is_primary() else None
    with writing or contextlib.nullcontext() as writer:
        return fit(
            state,
            run,
            order,
            num_steps=config.train.num_steps,
            steps_per_call=config.train.steps_per_call,
            log_every=config.log.log_every,
            checkpointer=saved,
            checkpoint_every=config.log.checkpoint_every,
            writer=writer,
            progress=_PROGRESS.value and is_primary(),
            largest_metric=config.guard.largest_metric or None,
            should_stop=should_stop,
            notes=notes,
        )


def _report(experiment: Experiment, state: TrainState, workdir: pathlib.Path) -> None:
    """Writes the curves, the samples and the figures of a trained model."""
    report.write_curves(workdir)
    key_samples, key_evaluation = jax.random.split(experiment.report_key)
    theta = experiment.evaluated_theta(state)
    kept: dict[str, Any] = {"progress": _PROGRESS.value}
    with ChainStore(workdir, "train") as kept["store"]:
        figures = report.write_samples(experiment, state, workdir, key=key_samples, **kept)
        figures = (
            evaluation.evaluate(experiment, theta, state.phi, key_evaluation, **kept) | figures
        )
        report.write_json(workdir / "evaluation.json", figures)
    print(f"\n{experiment.config.name} after {int(state.step):,} steps, on the test set:")
    print(report.table(figures))
    print(f"\nPictures, curves, metrics, config and checkpoints are in {workdir}")


def _say(message):
    if is_primary():
        print(message, flush=True)


@contextlib.contextmanager
def _batches(experiment, layout):
    """Yields the compiled steps, and what they are given: rows of data, or decoded batches.

    Of several processes each decodes its part.
    """
    if not isinstance(experiment.dataset.train, data.LazyImages):
        run = train_steps(experiment.step, experiment.dataset.train, layout=layout)
        yield run, experiment.order
        return
    with naming("config.train.batch_size"):
        order = experiment.order.part(jax.process_index(), jax.process_count())
    with data.BatchLoader(experiment.dataset.train, order) as loader:
        yield (
            train_steps(experiment.step, layout=layout),
            types.SimpleNamespace(indices=loader.take),
        )


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    _main.run(main)
