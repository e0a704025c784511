"""A trained model, read back from its work directory."""

import json
import pathlib

from experiments.builders import Experiment, build, load_config
from jbism.training import Checkpointer, TrainState, WorkdirError


def restore(workdir: str, step: int | None = None, data_dir: str = "") -> tuple[Experiment, TrainState]:
    """Builds the experiment of a work directory and restores its state.

    Args:
      workdir: a directory written by ``experiments.train``.
      step: the checkpoint; None for the latest.
      data_dir: overrides the config's folder of local data files.

    Raises:
      WorkdirError: if the directory holds no run, or the run no checkpoint.
      CheckpointError: if the checkpoint is damaged.
    """
    path = pathlib.Path(workdir)
    if not (path / "config.json").is_file():
        raise WorkdirError(f"{path}: not the work directory of a run: it has no config.json")
    try:
        values = json.loads((path / "config.json").read_text())
    except json.JSONDecodeError as error:
        raise WorkdirError(f"{path}/config.json: not valid JSON: {error}") from error
    config = load_config(values)
    if data_dir:
        config.data.dir = data_dir
    experiment = build(config)
    if not (path / "checkpoints").is_dir():
        raise WorkdirError(f"{path}: no checkpoint yet; run experiments.train first")
    with Checkpointer(path / "checkpoints") as saved:
        if saved.latest_step() is None:
            raise WorkdirError(f"{path}: no checkpoint yet; run experiments.train first")
        return experiment, saved.restore(experiment.initial_state, step)
