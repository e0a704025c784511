"""The binary that asks what keeps BiDVL stable."""

import importlib
import json
from dataclasses import replace
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import stability
from experiments.builders import build
from jbism.losses import BidvlParams
from tests.configs import TINY_DEEP, make_config
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
    stored = workdir / "cells" / "linear at 1.0.json"
    before = stored.stat().st_mtime_ns
    more = flags | {"variants": "softplus-clip", "rates": "1"}
    done = run_binary("stability", more, switches=["--noprogress"])
    assert done.returncode == 0, done.stderr
    assert stored.stat().st_mtime_ns == before
    rows = json.loads((workdir / "table.json").read_text())["rows"]
    assert [(row["variant"], row["rate"]) for row in rows] == [
        ("linear", 1.0),
        ("linear", 1e30),
        ("softplus-clip", 1.0),
    ]

    for wrong, message in (
        ({"variants": "cubic"}, "variants must be of all, linear,"),
        ({"rates": "0"}, "rates must be positive numbers, got '0'"),
        ({"config": "experiments/configs/digits_deep.py"}, "config.method.name must be 'bidvl'"),
        ({"config.method.bidvl.form": "full"}, "config.method.bidvl.form must be 'compact'"),
        (
            {"config.phi_optimizer.schedule": "cosine"},
            "config.phi_optimizer.schedule must be 'constant'",
        ),
    ):
        done = run_binary("stability", flags | wrong)
        assert done.returncode == 1
        assert message in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_variants_differ_by_what_they_are_called(name):
    """Whatever the config they are set in has."""
    module = importlib.import_module(f"experiments.configs.{name}_bidvl")
    config = module.get_config("small") if name == "mnist" else module.get_config()
    configs = {key: stability.variant(config, key, 10.0, 7) for key in stability.VARIANTS}
    assert len({own.to_json() for own in configs.values()}) == len(configs)
    for key, own in configs.items():
        energy = own.energy.marginal
        assert key.startswith(energy.head.replace("_", "-"))
        assert (energy.spectral_norm_steps > 0) == ("spectral-norm" in key)
        assert own.method.bidvl.compact.hinge == ("hinge" in key)
        for optimizer, before in (
            (own.theta_optimizer, config.theta_optimizer),
            (own.phi_optimizer, config.phi_optimizer),
        ):
            assert (optimizer.clip_norm > 0) == ("clip" in key)
            assert optimizer.learning_rate == pytest.approx(10.0 * before.learning_rate)
        assert own.train.num_steps == 7


def test_figures_of_a_seed_by_hand(monkeypatch, tmp_path):
    """E = ‖v - c‖² of a state with c, G(h) = 1, and features that are two pixels."""
    experiment = build(make_config("digits_bidvl", TINY_DEEP))

    def extractor(dataset, path, *, seed, progress):
        assert path == tmp_path / "classifier.npz"
        return lambda images: images.reshape(len(images), -1)[:, 26:28].astype(np.float64)

    monkeypatch.setattr(stability.features, "classifier_extractor", extractor)
    test = np.asarray(experiment.dataset.examples("test"), np.float64)
    mean = test.mean(0)
    experiment = replace(
        experiment,
        energy=SimpleNamespace(apply=lambda c, v: jnp.sum((v - c) ** 2)),
        generator=SimpleNamespace(apply=lambda g, h: jnp.full((8, 8, 1), g) + 1e-3 * h[0]),
    )
    phi = BidvlParams(jnp.float32(1.0), experiment.initial_state.phi.posterior)
    state = SimpleNamespace(theta=jnp.asarray(mean, jnp.float32), phi=phi)
    figures, shown = stability.judge(experiment, state, 30, tmp_path)
    energies = np.sum((test - mean) ** 2, axis=(1, 2, 3))
    assert figures["data_energy"] == pytest.approx(energies.mean(), rel=1e-4)
    gap = np.sum((1.0 - mean) ** 2) - energies.mean()
    assert figures["energy_gap"] == pytest.approx(gap, rel=1e-2)
    assert 0.9 < figures["auroc"] <= 1.0
    pixels = test.reshape(len(test), -1)[:, 26:28]
    least = np.sum((1.0 - pixels.mean(0)) ** 2) + np.trace(np.cov(pixels, rowvar=False))
    assert figures["frechet"] == pytest.approx(least, rel=2e-2)
    assert shown.shape == (24, 8, 8, 1)


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
