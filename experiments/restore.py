"""A trained model, read back from its work directory."""

import json
import os
import pathlib

from experiments.builders import Experiment, build, load_config
from experiments.validation import ConfigError
from jbism.training import Checkpointer, TrainState, WorkdirError, checkpoint_steps


def restore(
    workdir: str, step: int | None = None, data_dir: str = ""
) -> tuple[Experiment, TrainState]:
    """Builds the experiment of a work directory and restores its state.

    Args:
      workdir: a directory written by ``experiments.train``.
      step: the checkpoint; None for the latest that is intact.
      data_dir: overrides the config's folder of local data files.

    Returns:
      The experiment and its state; ``experiment.evaluated_theta(state)`` is the θ, or the moving
      average of θ, that samples and figures are made with.

    Raises:
      WorkdirError: if the directory holds no run, or the run no checkpoint.
      CheckpointError: if the checkpoint, or all of them, are damaged.
    """
    path = pathlib.Path(workdir)
    if not (path / "config.json").is_file():
        raise WorkdirError(f"{path}: not the work directory of a run: it has no config.json")
    try:
        values = json.loads((path / "config.json").read_text())
    except ValueError as error:
        raise WorkdirError(f"{path}/config.json: not valid JSON: {error}") from error
    try:
        config = load_config(values)
    except ConfigError as error:
        raise WorkdirError(f"{path}/config.json: {error}") from error
    if data_dir:
        config.data.dir = data_dir
    experiment = build(config)
    if (path / "checkpoints").is_dir():
        with Checkpointer(path / "checkpoints") as saved:
            if step is not None:
                return experiment, saved.restore(experiment.initial_state, step)
            state = saved.restore_intact(experiment.initial_state)
            if state is not None:
                return experiment, state
    raise WorkdirError(f"{path}: no checkpoint yet; run experiments.train first")


def latest_step(workdir: str | os.PathLike) -> int | None:
    """Returns the step of a work directory's latest checkpoint; None without any, or no run."""
    path = pathlib.Path(workdir)
    if not (path / "config.json").is_file():
        return None
    return max(checkpoint_steps(path / "checkpoints"), default=None)
