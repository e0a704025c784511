"""Metrics of a run: one JSON line a record, and the same scalars for TensorBoard."""

import contextlib
import json
import math
import os
import pathlib
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from jbism import _checks
from jbism.training._workdir import naming, replace_file


class MetricsWriter:
    """Appends metrics to ``metrics.jsonl`` and to TensorBoard event files.

    A line is ``{"step": 100, "wall_time": 1.7e9, "loss": 0.5}``, seconds since the epoch. On
    resumption what was written after ``resume_step`` is dropped (hidden, in TensorBoard), so that
    an interrupted run leaves the lines of an uninterrupted one, but for their wall times.

    Args:
      workdir: the run's directory; events go to its subdirectory ``tensorboard``.
      resume_step: the step of the checkpoint that the run continues from; None for a run from
        its beginning, which drops everything written before.

    Raises:
      ValueError: if ``metrics.jsonl`` holds a line, other than a half-written last one, that is
        not a record.
      OSError: if a file cannot be written; the message names it.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as run:
      ...     with MetricsWriter(run, resume_step=None) as writer:
      ...         writer.write(100, {"loss": 0.5})
      ...     print(pathlib.Path(run, "metrics.jsonl").read_text())
      {"step": 100, "wall_time": ..., "loss": 0.5}
    """

    def __init__(self, workdir: str | os.PathLike, *, resume_step: int | None):
        first_step = 0
        if resume_step is not None:
            first_step = _checks.integer("resume_step", resume_step, minimum=0) + 1
        self._path = pathlib.Path(workdir) / "metrics.jsonl"
        if self._path.exists():
            replace_file(self._path, "".join(_lines_before(self._path, first_step)))
        with naming(self._path):
            self._file = self._path.open("a", encoding="utf-8")
        try:
            self._events = _EventFile(pathlib.Path(workdir) / "tensorboard", first_step)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def write(
        self,
        step: int,
        metrics: Mapping[str, float],
        images: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Appends one record, flushed to the operating system.

        Args:
          step: how many training steps were done.
          metrics: finite numbers by name.
          images: by name, arrays [height, width] or [height, width, channels] with 1, 3 or 4
            channels, floats in [0, 1] or uint8; for TensorBoard only.

        Raises:
          ValueError: if a number is not finite, a name is ``step`` or ``wall_time``, or an image
            has another shape or dtype.
        """
        step = _checks.integer("step", step, minimum=0)
        record: dict[str, float] = {"step": step, "wall_time": time.time()}
        for name, value in metrics.items():
            if name in ("step", "wall_time"):
                raise ValueError(f"metrics must not use the reserved name {name!r}")
            if not math.isfinite(value):
                raise ValueError(f"metrics[{name!r}] must be finite, got {float(value)}")
            record[name] = float(value)
        pictures = {name: _image(name, value) for name, value in (images or {}).items()}
        with naming(self._path):
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        shown = [summary.scalar(name, record[name]) for name in metrics]
        shown += [summary.image(name, x, dataformats="HWC") for name, x in pictures.items()]
        for one in shown:
            self._events.add(record["wall_time"], step, summary=one)
        self._events.flush()

    def has(self, step: int, name: str) -> bool:
        """Returns whether a metric of a step is written."""
        with self._path.open(encoding="utf-8") as file:
            return any((r := json.loads(line))["step"] == step and name in r for line in file)

    def sync(self) -> None:
        """Returns when all records are on the disk, where a power cut leaves them."""
        with naming(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes all files."""
        # What is left of a record that could not be written is no loss: the run goes on before it.
        for close in (self._file.close, self._events.close):
            with contextlib.suppress(OSError):
                close()


class _EventFile:
    """Writes TensorBoard events at once.

    The writers of tensorboardX do so in a thread: a disk that is full ends the thread and blocks
    the training, and a process that is killed loses the events of two minutes.
    """

    def __init__(self, folder: pathlib.Path, purge_step: int):
        with naming(folder):
            folder.mkdir(exist_ok=True)
            # TensorBoard reads the files in the order of these numbers, and the step from which
            # it hides former events is to come last, also after the clock was set back.
            former = [file.name.split(".")[3] for file in folder.glob("events.out.tfevents.*.*")]
            number = max([int(time.time()), *(int(x) + 1 for x in former if x.isdecimal())])
        self._path = folder / f"events.out.tfevents.{number:010}.{socket.gethostname()}"
        with naming(self._path):
            self._file = self._path.open("xb")
        now = time.time()
        self.add(now, 0, file_version="brain.Event:2")
        self.add(now, purge_step, session_log=SessionLog(status=SessionLog.START))
        self.flush()

    def add(self, wall_time: float, step: int, **content: Any) -> None:
        event = Event(wall_time=wall_time, step=step, **content).SerializeToString()
        length = struct.pack("<Q", len(event))
        with naming(self._path):
            for part in (length, event):
                self._file.write(part + struct.pack("<I", masked_crc32c(part)))

    def flush(self) -> None:
        with naming(self._path):
            self._file.flush()

    def close(self) -> None:
        self._file.close()


def _lines_before(path: pathlib.Path, first_step: int) -> list[str]:
    """Returns the complete lines of steps below ``first_step``."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = []
    for number, line in enumerate(lines, start=1):
        try:
            earlier = json.loads(line)["step"] < first_step
        except (ValueError, TypeError, KeyError):
            if number == len(lines):
                break
            raise ValueError(f"{path}: line {number} is not a record: {line[:80]!r}") from None
        if earlier:
            kept.append(line + "\n")
    return kept


def _image(name: str, value: np.ndarray) -> np.ndarray:
    image = np.asarray(value)
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"images[{name!r}] must be [height, width] or [height, width, 1, 3 or 4], "
            f"got shape {np.shape(value)}"
        )
    if image.dtype != np.uint8 and not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"images[{name!r}] must be floating or uint8, got {image.dtype}")
    return image
