"""The gradient-bias experiment as a process."""

import json

import pytest

from tests.processes import run_binary

SMALL = {
    "config": "experiments/configs/checkerboard_rbm.py",
    "config.data.toy.num_train": 400,
    "config.divergence.name": "mean_field_kl",
    "config.train.steps_per_call": 10,
    "config.log.log_every": 10,
    "config.log.checkpoint_every": 10,
    "warmup_steps": 20,
    "num_examples": 300,
    "virtual_steps": "2,30",
    "config.phi_optimizer.learning_rate": 0.1,
    "start": "initial",
    "ridge": 0.0,
}


def run(workdir, **changes):
    flags = SMALL | {"workdir": workdir} | {k.replace("__", "."): v for k, v in changes.items()}
    return run_binary("gradient_bias", flags, switches=["--noprogress"])


def test_run_resume_and_errors(tmp_path):
    workdir = tmp_path / "run"
    first = run(workdir, lower_steps="300")
    assert first.returncode == 0, first.stderr
    files = {path.name for path in workdir.iterdir()}
    assert files == {"config.json", "cells", "table.json", "bias.png"}
    cell = workdir / "cells" / "k300_implicitcg_n30.json"
    time = cell.stat().st_mtime_ns
    again = run(workdir, lower_steps="0,300")
    assert again.returncode == 0, again.stderr
    assert cell.stat().st_mtime_ns == time

    table = json.loads((workdir / "table.json").read_text())
    rows = {(r["lower_steps"], r["strategy"], r["virtual_steps"]): r for r in table["rows"]}
    assert len(rows) == 2 * (1 + 4 * 2)
    near = rows[300, "ImplicitCG", 30]
    assert near["relative_error"] < 0.1 < rows[300, "FirstOrder", 2]["relative_error"]
    assert near["relative_error"] < 0.5 * rows[0, "ImplicitCG", 30]["relative_error"]
    assert near["cosine"] == pytest.approx(1.0, abs=0.01)
    assert near["residual"] < 1e-2
    assert rows[300, "FirstOrder", 2]["residual"] is None
    assert near["distance"] < 0.1 * rows[0, "ImplicitCG", 30]["distance"]
    neumann, unrolled = (rows[300, name, 2] for name in ("Neumann", "Unroll, SGD"))
    assert neumann["relative_error"] == pytest.approx(unrolled["relative_error"], rel=0.05)

    for changes, message in (
        ({"lower_steps": "a"}, "--lower_steps must be integers, got ['a']"),
        ({"virtual_steps": "0"}, "--virtual_steps must be integers >= 1"),
        ({"sgd_rate": 0}, "--sgd_rate must be a number > 0"),
        ({"config__method__name": "vages"}, "config.method.name must be 'bism', got 'vages'"),
    ):
        wrong = run(tmp_path / "other", **changes)
        assert wrong.returncode == 1
        assert wrong.stderr.splitlines()[-1].startswith(f"error: {message}"), wrong.stderr
    assert not (tmp_path / "other").exists()
