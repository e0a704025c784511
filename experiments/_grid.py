"""What binaries over a grid share: each cell is computed once, stored, and found on resumption."""

import contextlib
import json
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from absl import flags

from jbism.training import lock_workdir, open_workdir, replace_file

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the results; made if absent.", required=True
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Start over, removing the former results.")
PROGRESS = flags.DEFINE_bool("progress", True, "Show progress bars.")


@dataclass(frozen=True)
class Grid:
    """The results of a grid, in a work directory."""

    workdir: pathlib.Path

    def has(self, name: str) -> bool:
        """Whether a cell's result is stored."""
        return (self.workdir / "cells" / f"{name}.json").exists()

    def cell(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Returns a cell's stored result, computed if there is none."""
        path = self.workdir / "cells" / f"{name}.json"
        if not self.has(name):
            path.parent.mkdir(exist_ok=True)
            _write(path, compute())
        try:
            return json.loads(path.read_text())
        except ValueError as error:
            raise unreadable(path, error) from error

    def write_table(self, table: dict[str, Any]) -> None:
        """Writes ``table.json``."""
        _write(self.workdir / "table.json", table)


def _write(path, value):
    replace_file(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def load_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays of an ``.npz`` that belongs to a cell."""
    try:
        with np.load(path) as stored:
            return dict(stored)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise unreadable(path, error) from error


def unreadable(path: pathlib.Path, reason: object) -> ValueError:
    """Returns the error of a damaged result, with what to do."""
    return ValueError(
        f"{path} cannot be read ({reason}): remove the files {path.stem}.* beside it, which are "
        "then computed again, or start over by --overwrite"
    )


@contextlib.contextmanager
def open_grid(
    config: dict[str, Any], *, outputs: Sequence[str], may_differ: Sequence[str]
) -> Iterator[Grid]:
    """Opens the work directory that the flags name for a grid of these settings, and holds it.

    Args:
      config: the settings, JSON values.
      outputs: names of what will be written beside the cells and ``table.json``.
      may_differ: settings that select cells, and may change on resumption.
    """
    with lock_workdir(_WORKDIR.value):
        workdir = open_workdir(
            _WORKDIR.value,
            config,
            overwrite=_OVERWRITE.value,
            may_differ=may_differ,
            outputs=("cells", "table.json", *outputs),
        )
        yield Grid(workdir)
