"""The Fisher divergence experiment: its model, its table, and the binary as a process."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import fisher_model as model
from experiments import fisher_report as report
from tests import oracles
from tests.processes import run_binary

SETTINGS = {
    "dim": 3,
    "deltas": ["0", "0.5"],
    "scores": ["exact", "VaES"],
    "num_points": 100,
    "batch_size": 80,
    "critic": "shallow",
    "critic_width": None,
    "learning_rate": None,
}


# The model


def test_perturbed_model_starts_at_the_standard_normal_and_scales_one_noise():
    rbm, theta = model.perturbed_model(jax.random.key(0), 3, 0.0)
    v = jax.random.normal(jax.random.key(1), (4, 3))
    oracles.assert_close(model.exact_score(rbm, theta, v), -v, rtol=1e-6)
    _, once = model.perturbed_model(jax.random.key(0), 3, 0.5)
    _, twice = model.perturbed_model(jax.random.key(0), 3, 1.0)
    oracles.assert_trees_close(twice, jax.tree.map(lambda x: 2.0 * x, once), rtol=1e-6)
    p = twice["params"]
    hidden = jax.nn.sigmoid(p["hidden_bias"][None] + v @ p["weights"])
    score = p["visible_bias"][None] - v + hidden @ p["weights"].T
    oracles.assert_close(model.exact_score(rbm, twice, v), score, rtol=1e-5, atol=1e-5)


def test_truth_against_quadrature():
    rbm, theta = model.perturbed_model(jax.random.key(1), 1, 1.5)
    nodes, weights = oracles.gauss_hermite(1, num=60)
    difference = model.exact_score(rbm, theta, nodes.astype(jnp.float32)) + nodes
    expected = 0.5 * weights @ difference[:, 0] ** 2
    run = functools.partial(model.true_divergence, rbm=rbm, theta=theta, dim=1, num_points=20_000)
    value, error = oracles.jit(run)(jax.random.key(2))
    assert abs(float(value - expected)) < 4.5 * float(error) < 0.1 * float(expected)


def test_vaes_score_with_the_fitted_posterior_has_the_exact_score_as_its_mean():
    rbm, theta = model.perturbed_model(jax.random.key(2), 3, 0.8)
    v = jax.random.normal(jax.random.key(3), (500, 3))
    posterior, phi, kl = model.fit_posterior(
        jax.random.key(4), v, rbm, theta, num_steps=1500, batch_size=50
    )
    assert 0.0 <= float(kl) < 1e-4
    score = model.vaes_score(rbm, theta, posterior, phi, 2)
    points = jnp.repeat(v[:2], 3000, axis=0)
    scores = oracles.jit(score)(jax.random.key(5), points).reshape(2, 3000, 3)
    oracles.assert_mean(scores[0], model.exact_score(rbm, theta, v[:2])[0])
    oracles.assert_mean(scores[1], model.exact_score(rbm, theta, v[:2])[1])


def test_shortfall_of_a_critic():
    """E[f·s + tr ∇f - ½‖f‖²] + ½ E‖f - f*‖² is the truth, whatever f."""
    rbm, theta = model.perturbed_model(jax.random.key(1), 1, 1.5)
    critic = model.Critic((4,), jnp.tanh, linear=True)
    params = critic.init(jax.random.key(6), jnp.zeros(1))
    params = oracles.perturbed(jax.random.key(7), params, 0.5)
    nodes, weights = (jnp.asarray(x, jnp.float32) for x in oracles.gauss_hermite(1, num=60))

    def value(v):
        f = critic.apply(params, v)
        trace = jnp.trace(jax.jacfwd(lambda v: critic.apply(params, v))(v))
        score = model.exact_score(rbm, theta, v[None])[0]
        return f @ score + trace - 0.5 * f @ f, 0.5 * jnp.sum((score + v) ** 2)

    values, truths = (weights @ x for x in jax.vmap(value)(nodes))
    run = functools.partial(
        model.critic_error, rbm=rbm, theta=theta, critic=critic, dim=1, num_points=200_000
    )
    error = oracles.jit(lambda key: run(key, critic_params=params))(jax.random.key(2))
    assert error > 0.1 * truths
    oracles.assert_close(values + error, truths, atol=0.01 * float(error))


def test_settings_follow_the_critic():
    shallow = model.check_settings(SETTINGS)
    assert (shallow["critic_width"], shallow["learning_rate"]) == (6, 5e-3)
    assert shallow["deltas"] == [0.0, 0.5]
    published = model.check_settings(SETTINGS | {"critic": "published"})
    assert (published["critic_width"], published["learning_rate"]) == (3, 2e-4)
    given = model.check_settings(SETTINGS | {"critic_width": 5, "learning_rate": 0.1})
    assert (given["critic_width"], given["learning_rate"]) == (5, 0.1)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"deltas": ["a"]}, "--deltas must be numbers, got a"),
        ({"deltas": []}, "--deltas must be different values"),
        ({"deltas": ["1", "1.0"]}, "--deltas must be different values"),
        ({"deltas": ["-0.1"]}, "--deltas must be numbers >= 0, got -0.1"),
        ({"deltas": ["nan"]}, "--deltas must be numbers >= 0, got nan"),
        ({"scores": ["true"]}, "--scores must be of exact, VaES, got 'true'"),
        ({"scores": ["VaES", "VaES"]}, "--scores must be different values"),
        ({"batch_size": 81}, "--batch_size must be at most the 80 training points"),
        ({"learning_rate": 0.0}, "--learning_rate must be a number > 0"),
        ({"learning_rate": float("inf")}, "--learning_rate must be a number > 0"),
    ],
)
def test_settings_errors(change, match):
    with pytest.raises(ValueError, match=match):
        model.check_settings(SETTINGS | change)


# The report


def cell(score="exact", delta=1.0, truth=200.0, **changes):
    return {
        "score": score,
        "delta": delta,
        "truth": truth,
        "truth_error": 0.5,
        "value": 190.0,
        "interval": [186.0, 194.0],
        "critic_error": 8.0,
        "train_value": 194.0,
        "validation_value": 191.0,
        "num_steps": 55,
        "stopped_early": False,
        "posterior_kl": None,
        "seconds": 3.0,
        "validate_every": 10,
        "validation_curve": [150.0, 180.0, 185.0, 188.0, 189.0, 191.0],
        **changes,
    }


def test_row_says_what_the_shortfall_is_made_of():
    row = report.row(cell())
    assert row["ratio"] == 0.95
    assert row["ratio_interval"] == [0.93, 0.97]
    assert row["overfitting"] == pytest.approx(0.02)
    assert row["last_rise"] == pytest.approx(0.01)
    assert row["shortfall"] == pytest.approx(0.04)
    assert row["accounted"]
    assert not report.row(cell(critic_error=1.0))["accounted"]
    assert not row["covered"]
    assert report.row(cell(truth=194.0))["covered"]
    none = report.row(cell(truth=0.0, delta=0.0))
    assert none["ratio"] is none["last_rise"] is none["overfitting"] is None
    text = report.markdown([row, none, report.row(cell("VaES", posterior_kl=2e-6))])
    assert (
        "| exact | 1 | 200 ± 0.5 | 190 | 186 to 194 | 0.9500 | 0.0400 | 0.0200 | 0.0100 | 55 |"
        in text
    )
    assert "| 2e-06 |" in text
    assert json.loads(json.dumps(row)) == row


def test_picture_shows_every_estimate():
    cells = [cell(), cell(delta=0.0, truth=0.0), cell("VaES", value=180.0, interval=[178.0, 182.0])]
    left, middle, right = report.draw(cells, title="GRBM").axes
    texts = [text.get_text() for text in left.get_legend().get_texts()]
    assert texts == ["truth", "exact score", "VaES score"]
    assert list(left.containers[0].lines[0].get_ydata()) == [190.0, 190.0]
    assert [c.lines[0].get_ydata()[0] for c in middle.containers] == [0.95, 0.9]
    curves = [line for line in right.lines if len(line.get_xdata()) == 6]
    assert len(curves) == 2
    assert list(curves[0].get_xdata()) == [10, 20, 30, 40, 50, 55]
    assert curves[0].get_ydata()[-1] == pytest.approx(191 / 200)
    assert np.all(np.diff(middle.get_ylim()) > 0)


# The binary


def run(workdir, **changes):
    flags = {"dim": 3, "num_points": 60, "batch_size": 10, "num_steps": 6, "validate_every": 4}
    flags |= {"posterior_steps": 3, "truth_points": 50, "workdir": workdir} | changes
    return run_binary("fisher", flags, switches=["--noprogress"])


def test_run_resume_and_errors(tmp_path):
    workdir = tmp_path / "run"
    first = run(workdir, deltas="0.5,0", scores="exact")
    assert first.returncode == 0, first.stderr
    files = {path.name for path in workdir.iterdir()}
    assert files == {"config.json", "cells", "table.json", "fisher.png"}
    config = json.loads((workdir / "config.json").read_text())
    assert (config["deltas"], config["dim"], config["critic_width"]) == ([0.5, 0.0], 3, 6)
    assert "| exact | 0.5 |" in first.stdout

    # A lost cell comes out the same, another score is added, and what is there stays.
    lost, kept = (workdir / "cells" / f"exact_{delta}.json" for delta in ("0.5", "0.0"))
    before, time = json.loads(lost.read_text()), kept.stat().st_mtime_ns
    lost.unlink()
    again = run(workdir, deltas="0.5")
    assert again.returncode == 0, again.stderr
    after = json.loads(lost.read_text())
    assert {**after, "seconds": before["seconds"]} == before
    assert kept.stat().st_mtime_ns == time
    rows = json.loads((workdir / "table.json").read_text())["rows"]
    assert [(row["score"], row["delta"]) for row in rows] == [("exact", 0.5), ("VaES", 0.5)]
    assert rows[0]["truth"] == rows[1]["truth"]
    assert rows[0]["value"] != rows[1]["value"]
    assert rows[0]["posterior_kl"] is None
    assert rows[1]["posterior_kl"] > 0
    assert [row["num_steps"] for row in rows] == [6, 6]

    other = run(workdir, deltas="0.5", num_steps=7)
    assert other.returncode == 1
    assert other.stderr == f"error: {workdir}: num_steps is 6 there, 7 here\n"
