"""Flags that join several processes, on one machine or many, to one run."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from absl import flags

from jbism.training import ProcessError, any_process

Result = TypeVar("Result")

_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "Join the processes that Slurm, Open MPI, GKE or a TPU pod started, found by its environment.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT of process 0, where no such environment tells it."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many; with that address.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which this is, from 0; with that address.")


def join() -> None:
    """Joins the run's processes as the flags say; must come before anything asks for a device.

    Each process runs the same command but for its ``--process_id``.

    Raises:
      ValueError: if the flags do not fit together, or the processes cannot be joined.
    """
    given: dict[str, Any] = {
        "coordinator_address": _COORDINATOR.value,
        "num_processes": _NUM_PROCESSES.value,
        "process_id": _PROCESS_ID.value,
    }
    if _COORDINATOR.value is not None and not _COORDINATOR.value.rpartition(":")[2].isdecimal():
        raise ValueError(f"--coordinator_address must be HOST:PORT, got {_COORDINATOR.value!r}")
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given) and not _DISTRIBUTED.value:
        return
    if missing and len(missing) < len(given):
        raise ValueError(
            f"--{', --'.join(given)} go together, but --{', --'.join(missing)} is missing"
        )
    jax.config.update("jax_enable_preemption_service", False)  # SIGTERM is the training loop's
    try:
        jax.distributed.initialize(**given)
    except (RuntimeError, ValueError) as error:
        if missing and "coordinator_address" in str(error):
            raise ValueError(
                "--distributed: no environment of Slurm, Open MPI, GKE or a TPU pod was found; "
                f"give --{', --'.join(given)} instead"
            ) from error
        flag = "--distributed" if missing else "--coordinator_address"
        raise ValueError(f"{flag}: {error}") from error


def together(function: Callable[[], Result]) -> Result:
    """Calls a function in every process, and returns only if it returned in all.

    Raises:
      ProcessError: if it failed in another process.
      Exception: what it raised in this one.
    """
    try:
        result = function()
    except Exception:
        any_process(True)
        raise
    if any_process(False):
        raise ProcessError("another process failed")
    return result


def part() -> None:
    """Ends what the processes do together; each goes its own way."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()
