"""Experiment binaries as processes."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def run_binary(name, flags, *, switches=()):
    """Runs ``experiments.NAME`` on the CPU with flags by name; returns the completed process."""
    line = [sys.executable, "-m", f"experiments.{name}", *switches]
    return subprocess.run(
        line + [f"--{flag}={value}" for flag, value in flags.items()],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
