"""Timing programs in turn, so that whatever slows the machine slows all alike."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_CALL_SECONDS = 1.0  # about how long a timed call lasts


@dataclass(frozen=True)
class Program:
    """Something that runs a number of steps."""

    run: Callable[[int], None]
    multiple: int = 1  # of which the number has to be one


@dataclass(frozen=True)
class Seconds:
    """What one step took in each timed call."""

    wall: list[float]
    cpu: list[float]  # of this process
    num_steps: int  # a call


def alternate(programs: dict[str, Program], repeats: int) -> dict[str, Seconds]:
    """Warms each program up, then times each ``repeats`` times, one after the other."""
    steps = {name: _steps_of_a_call(program) for name, program in programs.items()}
    times = {name: Seconds([], [], count) for name, count in steps.items()}
    for _ in range(repeats):
        for name, program in programs.items():
            wall, cpu = _time(program, steps[name])
            times[name].wall.append(wall)
            times[name].cpu.append(cpu)
    return times


def _steps_of_a_call(program):
    _time(program, program.multiple)  # compiles, and fills caches
    seconds, _ = _time(program, program.multiple)
    return program.multiple * max(1, math.ceil(_CALL_SECONDS / seconds / program.multiple))


def _time(program, num_steps):
    wall, cpu = time.perf_counter(), time.process_time()
    program.run(num_steps)
    return (
        (time.perf_counter() - wall) / num_steps,
        (time.process_time() - cpu) / num_steps,
    )


def compared(ours: Seconds, theirs: Seconds) -> dict[str, Any]:
    """Returns the milliseconds a step of both, and their ratio: of median CPU times.

    CPU time leaves out what other jobs took of a pinned core.

    Example:
      >>> row = compared(Seconds([0.1], [0.1], 1), Seconds([0.3], [0.25], 1))
      >>> row["ratio"], row["peer_ms"]["wall"]["median"]
      (2.5, 300.0)
    """
    return {
        "ours_ms": _summary(ours),
        "peer_ms": _summary(theirs),
        "ratio": statistics.median(theirs.cpu) / statistics.median(ours.cpu),
        "ratio_of_fastest": min(theirs.cpu) / min(ours.cpu),
        "ratio_of_wall": statistics.median(theirs.wall) / statistics.median(ours.wall),
    }


def _summary(seconds):
    def of(times):
        return {"median": 1e3 * statistics.median(times), "min": 1e3 * min(times)}

    summary = {"wall": of(seconds.wall), "cpu": of(seconds.cpu)}
    return summary | {"calls": len(seconds.wall), "steps_a_call": seconds.num_steps}
