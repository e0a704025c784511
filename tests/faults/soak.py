"""Trains for a long time in one process, and fails if memory grows or anything is compiled anew.

    python -m tests.faults.soak --minutes=30

It prints, each minute, the steps done, the resident memory of the process and the number of
compilations. Checkpoints, metrics and events are written, far more often than a training does, to a
directory that is removed at the end.
"""

import argparse
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from experiments.builders import build
from jbism.training import Checkpointer, MetricsWriter, StoppedError, fit, train_steps
from tests.configs import TINY, make_config

MEBIBYTE = 2**20
_COMPILATION = "/jax/core/compile/backend_compile_duration"


def resident() -> float:
    """Returns the resident memory of this process in MiB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MEBIBYTE


def soak(
    config: ConfigDict,
    workdir: pathlib.Path,
    *,
    seconds: float,
    warm_up: float,
    report_every: float,
    largest_growth: float,
    disturb: Callable[[int], None] | None = None,
) -> list[str]:
    """Trains for so many seconds after those of the warm-up.

    Args:
      config: what is trained; as many steps as there is time for.
      workdir: an empty directory.
      seconds: how long, after the warm-up.
      warm_up: seconds from the first call on until all is compiled and allocated, at the least:
        a checkpoint has to be made, too.
      report_every: seconds between lines on stdout.
      largest_growth: MiB that resident memory may be above that at the end of the warm-up.
      disturb: called with the step after each call, to see that this notices.

    Returns:
      What is wrong; empty if nothing is.
    """
    compilations = 0

    def count(event: str, _: float, **__):
        nonlocal compilations
        compilations += event == _COMPILATION

    jax.monitoring.register_event_duration_secs_listener(count)
    experiment = build(config)
    begin = reported = 0.0
    warm: tuple[float, float, int] | None = None  # then: the time, memory and compilations

    def observe(_, step):
        nonlocal begin, reported, warm
        if disturb is not None:
            disturb(step)
        now = time.monotonic()
        if not begin:  # the compiler's memory is not the training's
            begin = reported = now
        if warm is None and now - begin >= warm_up and step > config.log.checkpoint_every:
            warm = now, resident(), compilations
            report("warm", step, now)
        elif now - reported >= report_every:
            report("", step, now)

    def report(name, step, now):
        nonlocal reported
        reported = now
        print(
            f"{(now - begin) / 60:6.1f} min  {step:10,} steps  {resident():8.1f} MiB  "
            f"{compilations} compilations {name}",
            flush=True,
        )

    with (
        Checkpointer(workdir / "checkpoints", max_to_keep=config.log.max_checkpoints) as saved,
        MetricsWriter(workdir, resume_step=None) as writer,
    ):
        try:
            fit(
                experiment.initial_state,
                train_steps(experiment.step, experiment.dataset.train),
                experiment.order,
                num_steps=2**31 - 1,
                steps_per_call=config.train.steps_per_call,
                log_every=config.log.log_every,
                checkpointer=saved,
                checkpoint_every=config.log.checkpoint_every,
                writer=writer,
                progress=False,
                callbacks=[(config.train.steps_per_call, observe)],
                should_stop=lambda: warm is not None and time.monotonic() - warm[0] >= seconds,
            )
        except StoppedError as stopped:
            report("at the end", stopped.step, time.monotonic())
    assert warm is not None
    _, memory, compiled = warm
    wrong = []
    if resident() - memory > largest_growth:
        wrong.append(
            f"resident memory grew from {memory:.1f} to {resident():.1f} MiB, "
            f"by more than {largest_growth:g}"
        )
    if compilations > compiled:
        wrong.append(f"{compilations - compiled} programs were compiled after the warm-up")
    return wrong


def _main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="how long, with the warm-up")
    parser.add_argument("--warm_up", type=float, default=2.0, help="minutes of it")
    parser.add_argument("--config", default="checkerboard_rbm", help="of experiments/configs")
    parser.add_argument(
        "--largest_growth",
        type=float,
        default=24.0,
        help="MiB; orbax keeps about 1 KiB a checkpoint",
    )
    given = parser.parse_args()
    config = make_config(given.config, TINY)
    with tempfile.TemporaryDirectory() as workdir:
        wrong = soak(
            config,
            pathlib.Path(workdir),
            seconds=60 * (given.minutes - given.warm_up),
            warm_up=60 * given.warm_up,
            report_every=60.0,
            largest_growth=given.largest_growth,
        )
    sys.exit("; ".join(wrong) if wrong else 0)


if __name__ == "__main__":
    _main()
