"""The binary that asks what keeps BiDVL stable."""

import json

import pytest

from experiments import stability
from tests.processes import run_binary

FLAGS = {
    "config": "experiments/configs/digits_bidvl.py",
    "seeds": 2,
    "num_steps": 4,
    "num_samples": 24,
    "config.train.steps_per_call": 2,
    "config.log.log_every": 2,
    "config.log.checkpoint_every": 2,
    "config.energy.marginal.trunk.mlp.features": "(8,)",
    "config.posterior.gaussian.trunk.mlp.features": "(8,)",
    "config.generator.decoder.mlp.features": "(8,)",
}


def test_run(tmp_path):
    workdir = tmp_path / "run"
    flags = FLAGS | {"workdir": workdir, "variants": "linear", "rates": "1,1e30"}
    done = run_binary("stability", flags, switches=["--noprogress"])
    assert done.returncode == 0, done.stderr
    files = {path.name for path in workdir.iterdir()}
    assert files == {
        "config.json",
        "cells",
        "classifier.npz",
        "table.md",
        "table.json",
        "samples.png",
    }
    rows = json.loads((workdir / "table.json").read_text())["rows"]
    assert [(row["variant"], row["rate"]) for row in rows] == [("linear", 1.0), ("linear", 1e30)]
    assert rows[0]["diverged"] == [0, 0]
    assert all(len(rows[0][name]) == 2 for name in ("data_energy", "energy_gap", "frechet"))
    assert all(0 <= x <= 1 for x in rows[0]["auroc"])
    assert min(rows[1]["diverged"]) > 0
    assert rows[1]["frechet"] == []

    # What there is stays, and another variant joins it.
    stored = workdir / "cells" / "linear at 1.json"
    before = stored.stat().st_mtime_ns
    more = flags | {"variants": "softplus-clip", "rates": "1"}
    done = run_binary("stability", more, switches=["--noprogress"])
    assert done.returncode == 0, done.stderr
    assert stored.stat().st_mtime_ns == before
    rows = json.loads((workdir / "table.json").read_text())["rows"]
    assert [row["variant"] for row in rows] == ["linear", "softplus-clip"]

    for wrong, message in (
        ({"variants": "cubic"}, "variants must be of all, linear,"),
        ({"rates": "0"}, "rates must be positive numbers, got '0'"),
        ({"config": "experiments/configs/digits_deep.py"}, "config.method.name must be 'bidvl'"),
    ):
        done = run_binary("stability", flags | wrong)
        assert done.returncode == 1
        assert message in done.stderr.splitlines()[-1]


def test_the_table_leaves_out_what_diverged():
    row = {
        "variant": "linear",
        "rate": 10.0,
        "diverged": [0, 7, 0],
        "data_energy": [1.0, 3.0],
        "energy_gap": [0.5, 0.5],
        "frechet": [2.0, 4.0],
        "auroc": [],
    }
    line = stability._markdown([row]).splitlines()[-1]
    assert line == "| linear | 10 | 1 of 3 | 2 ± 1 | 0.5 ± 0 | 3 ± 1 | - |"


@pytest.mark.parametrize("text", ["a", "-1", "inf"])
def test_rates_are_positive_numbers(text):
    with pytest.raises(ValueError, match="rates must be positive numbers"):
        stability._rate(text)
