"""From losses to runs: train state, step builders, the loop, checkpoints, metrics."""

from jbism.training._bidvl import bidvl_step
from jbism.training._checkpoint import (
    Checkpointer,
    CheckpointError,
    DamagedCheckpointError,
    checkpoint_steps,
)
from jbism.training._contrastive import contrastive_step
from jbism.training._data_parallel import DataParallel, make_mesh
from jbism.training._loop import DivergenceError, StoppedError, fit
from jbism.training._methods import bism_step, marginal_step, vages_step
from jbism.training._processes import ProcessError, any_process, is_primary, on_primary
from jbism.training._rollbacks import Rollbacks, with_adjustable_rate
from jbism.training._state import TrainState, create_state
from jbism.training._step import bilevel_step, train_steps
from jbism.training._workdir import (
    WorkdirError,
    check_workdir,
    config_differences,
    lock_workdir,
    open_workdir,
    replace_file,
)
from jbism.training._writer import MetricsWriter

__all__ = [
    "CheckpointError",
    "Checkpointer",
    "DamagedCheckpointError",
    "DataParallel",
    "DivergenceError",
    "MetricsWriter",
    "ProcessError",
    "Rollbacks",
    "StoppedError",
    "TrainState",
    "WorkdirError",
    "any_process",
    "bidvl_step",
    "bilevel_step",
    "bism_step",
    "checkpoint_steps",
    "check_workdir",
    "config_differences",
    "contrastive_step",
    "create_state",
    "fit",
    "is_primary",
    "lock_workdir",
    "make_mesh",
    "marginal_step",
    "on_primary",
    "open_workdir",
    "replace_file",
    "train_steps",
    "vages_step",
    "with_adjustable_rate",
]
