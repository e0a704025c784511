"""The goodness-of-fit experiment: its model, its table, and the binary as a process."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import goodness_of_fit_model as model
from experiments import goodness_of_fit_report as report
from tests import oracles
from tests.processes import run_binary

SMALL = {
    "dim_v": 3,
    "num_hidden": 2,
    "coupling": 0.7,
    "gibbs_steps": 4,
    "num_points": 40,
    "num_particles": 2,
    "num_bootstrap": 39,
}


# The model


def test_null_model_is_the_published_one_in_units_of_h():
    rbm, theta = model.null_model(jax.random.key(0), SMALL)
    p = theta["params"]
    assert set(np.abs(p["weights"]).ravel().tolist()) == {np.float32(0.7)}
    visible_bias = p["visible_bias"] + 0.5 * p["weights"].sum(1)
    change = jax.random.normal(jax.random.key(1), (3, 2))
    signs = oracles.sign_vectors(2)
    v = jax.random.normal(jax.random.key(2), (5, 3))
    for moved in (jnp.zeros_like(change), change):
        couplings = p["weights"] + moved
        exponents = (0.5 * v @ couplings + 0.5 * p["hidden_bias"][None]) @ signs.T
        log_p = jax.nn.logsumexp(exponents, axis=1) + v @ visible_bias - 0.5 * (v**2).sum(1)
        shifted = model.add_couplings(theta, moved)
        free_energy = jax.vmap(lambda v, t=shifted: rbm.apply(t, v, method="free_energy"))(v)
        constant = log_p + free_energy
        oracles.assert_close(constant, jnp.full(5, constant[0]), rtol=1e-5, atol=1e-5)


def test_fitted_posterior_approaches_the_true_one():
    rbm, theta = model.null_model(jax.random.key(0), SMALL)
    _, kl = model.fit_posterior(jax.random.key(1), rbm, theta, SMALL | {"posterior_steps": 500})
    assert 0 < kl < 0.05  # 0.35 before


def test_p_values_with_and_without_a_perturbation():
    rbm, theta = model.null_model(jax.random.key(0), SMALL)
    phi, keys = oracles.exact_phi_rbm(theta), jax.random.split(jax.random.key(3), 60)
    run = oracles.jit(lambda delta: model.run_tests(rbm, theta, phi, SMALL, delta, keys))
    null, perturbed = run(0.0), run(2.0)
    assert null.shape == (60, len(model.TESTS))
    assert not np.array_equal(null[:, 0], null[:, 2])  # other scores
    assert not np.array_equal(null[:, 0], null[:, 1])  # another kernel
    assert np.abs(null.mean(0) - 0.5).max() < 0.15
    assert (perturbed <= 0.05).mean(0).min() > 0.8


SETTINGS = {"deltas": ["0.1"], "alpha": 0.05, "num_bootstrap": 19, "coupling": 0.2}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"deltas": ["a"]}, "--deltas must be numbers"),
        ({"deltas": []}, "--deltas must be finite numbers > 0"),
        ({"deltas": ["0.1", "0"]}, "--deltas must be finite numbers > 0"),
        ({"deltas": ["inf"]}, "--deltas must be finite numbers > 0"),
        ({"deltas": ["0.1", "0.10"]}, "--deltas must differ"),
        ({"coupling": float("nan")}, "--coupling must be a number >= 0, got nan"),
        ({"alpha": 1.0}, "--alpha must be below 1"),
        ({"alpha": 0.04, "num_bootstrap": 19}, "--alpha must be below 1"),
    ],
)
def test_settings_errors(change, match):
    with pytest.raises(ValueError, match=match):
        model.check_settings(SETTINGS | change)


# The report


def results(*rates):
    """Results at δ = 0, 0.01, 0.02, ... of one test with given shares of 20 rejections."""
    return {
        0.01 * i: {"p_values": {"exact, RBF": [0.05] * n + [0.06] * (20 - n)}, "seconds": 1.0}
        for i, n in enumerate(rates)
    }


def test_summary():
    table = report.summarize(results(1, 4, 16, 20), alpha=0.05)
    test = table["tests"]["exact, RBF"]
    assert [rate["rate"] for rate in test["rates"]] == [0.05, 0.2, 0.8, 1.0]
    # P(0..3 of 20 at 0.05) = 0.984, P(0..2) = 0.925; P(0) = 0.358
    assert table["level_band"] == [0.0, 0.15]
    p, n, z = 0.2, 20, 1.959964
    centre, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    wilson = np.array([centre - half, centre + half]) / (1 + z**2 / n)
    oracles.assert_close(test["rates"][1]["interval"], wilson, rtol=1e-5)
    assert test["delta_at_power_0.5"] == pytest.approx(np.sqrt(0.01 * 0.02))
    assert test["delta_at_power_0.9"] == pytest.approx(np.sqrt(0.02 * 0.03))
    assert json.loads(json.dumps(table)) == table
    assert "| 0.02 | 0.800 |" in report.markdown(table)


def test_crossing_of_curves_that_do_not_rise_through_the_power():
    assert report.crossing([1.0, 2.0], [0.1, 0.4], 0.5) is None
    assert report.crossing([1.0, 2.0], [0.6, 0.9], 0.5) is None
    assert report.crossing([1.0, 2.0, 4.0], [0.1, 0.5, 0.9], 0.5) == pytest.approx(2.0)
    assert report.crossing([1.0, 2.0, 4.0], [0.1, 0.1, 0.9], 0.5) == pytest.approx(np.sqrt(8.0))


def test_picture_shows_levels_and_power():
    left, right = report.draw(report.summarize(results(1, 4, 20), alpha=0.05)).axes
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["exact, RBF"]
    places, powers = right.containers[0].lines[0].get_data()
    oracles.assert_close(places, [0.01, 0.02], rtol=1e-6)
    assert list(powers) == [0.2, 1.0]
    assert list(left.containers[0].lines[0].get_ydata()) == [0.05]
    assert left.get_ylim()[1] > 0.2


# The binary


def run(workdir, *changes):
    flags = {name: str(value) for name, value in SMALL.items()}
    flags |= {"repetitions": "12", "power_repetitions": "5", "posterior_steps": "3"}
    flags |= {"workdir": str(workdir)} | dict(changes)
    return run_binary("goodness_of_fit", flags, switches=["--noprogress"])


def test_run_resume_and_errors(tmp_path):
    workdir = tmp_path / "run"
    first = run(workdir, ("deltas", "1.0,0.5"))
    assert first.returncode == 0, first.stderr
    files = {path.name for path in workdir.iterdir()}
    assert files == {"config.json", "cells", "table.json", "power.png"}
    config = json.loads((workdir / "config.json").read_text())
    assert config["deltas"] == [0.5, 1.0]
    assert {name: config[name] for name in SMALL} == SMALL
    rates = json.loads((workdir / "table.json").read_text())["tests"]["VaES, IMQ"]["rates"]
    assert [(rate["delta"], rate["repetitions"]) for rate in rates] == [(0, 12), (0.5, 5), (1, 5)]
    assert "| δ | exact, RBF | exact, IMQ | VaES, RBF | VaES, IMQ |" in first.stdout

    p_values = json.loads((workdir / "cells" / "delta_1.0.json").read_text())["p_values"]
    assert set(p_values) == set(model.TESTS)
    assert all(40 * p == round(40 * p) for test in p_values.values() for p in test)  # exactly

    # A lost cell comes out the same, another δ is added, and what is there stays.
    cell, kept = (workdir / "cells" / f"delta_{delta}.json" for delta in ("1.0", "0.0"))
    lost, before = json.loads(cell.read_text())["p_values"], kept.stat().st_mtime_ns
    cell.unlink()
    again = run(workdir, ("deltas", "0.5,1.0,2.0"))
    assert again.returncode == 0, again.stderr
    assert json.loads(cell.read_text())["p_values"] == lost
    assert kept.stat().st_mtime_ns == before
    assert len(list((workdir / "cells").iterdir())) == 4

    other = run(workdir, ("repetitions", "13"))
    assert other.returncode == 1
    assert other.stderr == f"error: {workdir}: repetitions is 12 there, 13 here\n"
