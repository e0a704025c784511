"""The file of results of a benchmark: a JSON object a line; of a sweep, one for each cell."""

import json
import os
import pathlib
from typing import Any


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the rows of a file, of each cell the latest; none if there is no file.

    A line that a crash cut short is removed.

    Raises:
      ValueError: if another line is no result.
    """
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            row = json.loads(line)
            rows[json.dumps(row["cell"], sort_keys=True)] = row
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}: line {number} is no result of a sweep") from error
    return list(rows.values())


def append_row(path: pathlib.Path, row: dict[str, Any]) -> None:
    """Appends a row so that it outlasts a crash."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def find(rows: list[dict[str, Any]], cell: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the row of a cell, if there is one."""
    return next((row for row in rows if row["cell"] == cell), None)
