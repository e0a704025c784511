"""The bias experiment as a process: its table keeps what the bounds promise."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]


def run(workdir, *flags):
    return subprocess.run(
        [sys.executable, "-m", "experiments.estimator_bias", f"--workdir={workdir}", *flags],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_table_and_errors(tmp_path):
    small = ("--dim=3", "--num_latents=2", "--batch_size=4", "--num_directions=2")
    done = run(tmp_path / "run", *small)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "config.json",
        "table.json",
        "bias.png",
    }
    stored = json.loads((tmp_path / "run" / "table.json").read_text())
    table = {name: np.array(x) for name, x in stored.items()}
    for name in ("score", "gradient"):
        bias, bound = table[f"{name}_bias"], table[f"{name}_bound"]
        assert bias.shape == (15, 2)
        assert np.all(bias <= bound)
        # Near the posterior both are proportional to the distance of q, from 0.0018 to 0.001.
        for x in (bias, bound, np.sqrt(table["kl"])):
            np.testing.assert_allclose(x[-1] / x[-2], 3000 ** (-1 / 14), rtol=0.02)
    wrong = run(tmp_path / "other", "--scale=nan")
    assert wrong.returncode == 1
    assert wrong.stderr.splitlines()[-1].startswith("error: --scale must be a number > 0, got nan")
