"""Measures what the library costs over grids of sizes, and how that grows.

    python -m benchmarks.sweep --suite=steps --out=DIR [--cases=PATTERNS] [--grid=N=0,2,5 ...]

Suites: training steps, estimators, hypergradients, samplers, annealed importance sampling (ais),
and training steps on several devices (scaling). Each cell is a process of its own, which compiles
its program, counts FLOPs, memory traffic and memory, and times it alternating with a matrix product
and a copy, so that ratios come from one run. On a CPU it keeps to one core. A cell that fails, of
memory or otherwise, is a result too.

--grid sweeps a parameter in every selected case that has it, while the others keep their base
values; a lone value sets the base. Writes SUITE.jsonl, a line a cell as it ends, SUITE.md and
SUITE.png to DIR, and config.json, which says what DIR belongs to. Run again, the same command does
the cells that are missing.
"""

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

from absl import flags

from benchmarks import scaling_report, sweep_report
from benchmarks.rows import append_row, find, read_rows
from benchmarks.suites import SUITES, cells_of, parse_grid
from experiments import _main
from jbism.training import WorkdirError, lock_workdir, open_workdir

_FORMAT = 2  # of the rows, one in a directory

_SUITE = flags.DEFINE_enum("suite", None, list(SUITES), "What to measure.", required=True)
_OUT = flags.DEFINE_string("out", None, "Directory of the results; made if absent.", required=True)
_CASES = flags.DEFINE_string("cases", None, "Comma-separated shell patterns, such as 'toy_*'.")
_GRID = flags.DEFINE_multi_string("grid", [], "NAME=VALUES, for several parameters several times.")
_REPEATS = flags.DEFINE_integer("repeats", 10, "Timed samples of a cell.", lower_bound=1)
_COMPILE_ONLY = flags.DEFINE_bool("compile_only", False, "Count, but run nothing.")
_PIN = flags.DEFINE_bool("pin", True, "Keep a cell to one core of a CPU; scaling never does.")
_CORE = flags.DEFINE_integer("core", None, "Which core; the last allowed by default.")
_MEMORY = flags.DEFINE_float("memory_gib", None, "Address space of a cell, on a CPU.", 0.0)
_SECONDS = flags.DEFINE_float("cell_seconds", 900.0, "A cell that takes longer has failed.", 0.0)
_RETRY = flags.DEFINE_bool("retry_failed", False, "Measure cells again that failed.")

_COMMAND = ["-m", "benchmarks.cell"]


def main() -> None:
    suite = SUITES[_SUITE.value]
    cells = cells_of(suite, _CASES.value, parse_grid(_GRID.value))
    pinned = _PIN.value and suite.pinned
    _check_core()
    try:
        with lock_workdir(_OUT.value):
            machine = _run_cell(["--unpinned"], timeout=120.0)
            if "error" in machine:
                raise ValueError(f"JAX does not start: {machine['error']}")
            out = open_workdir(_OUT.value, _config(machine), overwrite=False)
            path = out / f"{_SUITE.value}.jsonl"
            _measure_all(cells, path, pinned and machine["backend"] == "cpu")
            _report(read_rows(path), machine, out)
    except WorkdirError as error:
        raise ValueError(f"--out: {error}") from error


def _check_core():
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if _CORE.value is not None and _CORE.value not in allowed:
        raise ValueError(f"--core must be one of {allowed}, got {_CORE.value}")


def _config(machine):
    return {
        "format": _FORMAT,
        "machine": machine,
        "settings": {
            "repeats": 0 if _COMPILE_ONLY.value else _REPEATS.value,
            "pin": _PIN.value,
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
        },
    }


def _measure_all(cells, path, pinned):
    rows = read_rows(path)
    options = [f"--suite={_SUITE.value}"]
    options += [f"--repeats={0 if _COMPILE_ONLY.value else _REPEATS.value}"]
    options += [] if pinned else ["--unpinned"]
    options += [f"--core={_CORE.value}"] if pinned and _CORE.value is not None else []
    options += [] if _MEMORY.value is None else [f"--memory_gib={_MEMORY.value}"]
    start = time.monotonic()
    for i, cell in enumerate(cells):
        label = f"[{i + 1}/{len(cells)}] {_described(cell, cells)}"
        former = find(rows, cell)
        if former and not ("error" in former and _RETRY.value):
            print(f"{label}: was {_outcome(former)}", file=sys.stderr)
            continue
        row = _run_cell([*options, f"--cell={json.dumps(cell)}"], timeout=_SECONDS.value)
        append_row(path, {"cell": cell, **row})
        elapsed = time.monotonic() - start
        print(f"{label}: {_outcome(row)} ({elapsed:.0f} s so far)", file=sys.stderr, flush=True)


def _run_cell(options: list[str], *, timeout: float) -> dict[str, Any]:
    """Returns what the process of a cell printed; whatever ended it otherwise is an ``error``."""
    command = [sys.executable, *_COMMAND, *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"error": f"took longer than {timeout:g} s"}
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    # Not the frames of a stack trace, which are indented, nor its title.
    said = [line for line in done.stderr.splitlines() if line and line[0] not in " *"]
    reason = said[-1] if said else "nothing on stderr"
    if done.returncode < 0:
        return {"error": f"ended by {signal.Signals(-done.returncode).name}: {reason}"}
    return {"error": f"exit code {done.returncode}: {reason}"}


def _described(cell, cells):
    """The case, and the parameters in which the cells differ."""
    differing = [key for key in cell if any(other.get(key) != cell[key] for other in cells)]
    named = [f"{key}={cell[key]}" for key in differing if key != "case"]
    return " ".join([cell["case"], *named])


def _outcome(row):
    if "error" in row:
        return f"failed, {row['error']}"
    times = sweep_report.times(row)
    return f"{times[0]:.4g} ms" if times else "compiled"


def _report(rows, machine, out):
    """Writes the table and the picture of all rows, and prints the table."""
    name = _SUITE.value
    report = scaling_report if name == "scaling" else sweep_report
    table = report.markdown(name, rows, machine)
    (out / f"{name}.md").write_text(table, encoding="utf-8")
    if any(sweep_report.times(row) for row in rows):
        report.plot(name, rows, machine, out / f"{name}.png")
    print(table)
    failed = sum("error" in row for row in rows)
    print(f"{len(rows)} cells, {failed} failed; the results are in {out}", file=sys.stderr)


if __name__ == "__main__":
    _main.run(main)
