"""Metrics of a run: one JSON line a record, and the same scalars for TensorBoard."""

import json
import math
import os
import pathlib
import time
from collections.abc import Mapping

import numpy as np
import tensorboardX

from jbism import _checks
from jbism.training._workdir import replace_file


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
        path = pathlib.Path(workdir) / "metrics.jsonl"
        if path.exists():
            replace_file(path, "".join(_lines_before(path, first_step)))
        self._file = path.open("a", encoding="utf-8")
        self._events = tensorboardX.SummaryWriter(
            str(pathlib.Path(workdir) / "tensorboard"),
            purge_step=first_step,
            # The writer names files by the second and overwrites one of the same name.
            filename_suffix=f".{time.time_ns()}",
        )

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
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for name in metrics:
            self._events.add_scalar(name, record[name], step, walltime=record["wall_time"])
        for name, picture in pictures.items():
            self._events.add_image(
                name, picture, step, walltime=record["wall_time"], dataformats="HWC"
            )

    def close(self) -> None:
        """Flushes and closes all files."""
        self._file.close()
        self._events.close()


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
