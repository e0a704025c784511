"""The comparison of methods: seeds in one program against seeds alone, and as a process."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest

from experiments import compare_model, compare_report, evaluation, seeds
from experiments.builders import build
from experiments.compare_methods import METHODS, method_config, select
from experiments.hyperparameters import config_at, parse_grid, split_static, step_of
from experiments.validation import ConfigError
from jbism.training import fit, train_steps
from tests import oracles
from tests.configs import DEEP, TINY, TINY_DEEP, make_config
from tests.processes import run_binary

CONFIG = "experiments/configs/checkerboard_rbm.py"
SPLITS = ("train", "validation", "test")


def tiny(**overrides):
    return make_config("checkerboard_rbm", TINY | overrides)


def train_alone(config, seed, num_steps):
    """Returns the experiment of a seed and its state after some steps, as training has it."""
    config.seed = seed
    experiment = build(config)
    state = fit(
        experiment.initial_state,
        train_steps(experiment.step, experiment.dataset.train),
        experiment.order,
        num_steps=num_steps,
        steps_per_call=num_steps,
        log_every=num_steps,
        progress=False,
    )
    return experiment, state


def labelled(dataset):
    labels = {f"{s}_labels": np.zeros(len(getattr(dataset, s)), int) for s in SPLITS}
    return dataclasses.replace(dataset, **labels)


def run(workdir, switches=(), **changes):
    flags = {"config": CONFIG, "workdir": workdir, "seeds": 2, "num_steps": 20}
    flags |= {"num_validations": 2} | {f"config.{key}": value for key, value in TINY.items()}
    return run_binary("compare", flags | changes, switches=["--noprogress", *switches])


def test_run_resume_and_errors(tmp_path):
    workdir = tmp_path / "run"
    first = run(workdir, methods="bidsm-first-order")
    assert first.returncode == 0, first.stderr
    cell = workdir / "cells" / "bidsm-first-order.json"
    before = cell.stat().st_mtime_ns
    second = run(workdir, methods="pcd1")
    assert second.returncode == 0, second.stderr
    assert cell.stat().st_mtime_ns == before
    files = {path.name for path in workdir.iterdir()}
    pictures = {"curves.png", "densities.png"}
    assert files == {"config.json", "cells", "table.json", "table.md"} | pictures
    text = (workdir / "table.md").read_text()
    assert text in second.stdout
    rows = json.loads((workdir / "table.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["bidsm-first-order", "pcd1"]
    rows.reverse()
    for row in rows:
        assert row["mean"] == pytest.approx(np.mean(row["log_likelihood"]))
        half = abs(np.subtract(*row["log_likelihood"])) / 2
        assert row["standard_error"] == pytest.approx(half)
        assert f"| {row['method']} | {row['mean']:.3f} ± {half:.3f} |" in text
        assert (row["seeds"], row["num_diverged"]) == ([0, 1], 0)
        assert row["validation_steps"] == [10, 20]
        best = np.argmax(row["validation_log_likelihood"], axis=0)
        assert row["best_steps"] == [row["validation_steps"][i] for i in best]
    # The second seed, trained and judged by itself.
    experiment, state = train_alone(method_config(tiny(), "bidsm-first-order"), 1, 20)
    alone = evaluation.evaluate(experiment, state.theta, state.phi, jax.random.key(0))
    assert alone["log_likelihood_method"].startswith(rows[1]["log_likelihood_method"])
    assert rows[1]["log_likelihood"][1] == pytest.approx(alone["log_likelihood"], rel=1e-5)

    settings = json.loads((workdir / "config.json").read_text())
    assert (settings["seeds"], settings["num_validations"]) == (2, 2)
    assert settings["model"]["train"]["num_steps"] == 20
    wrong = run(tmp_path / "other", methods="pcd1,foo")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: --methods must be of all, dsm, ssm,"), wrong.stderr
    assert wrong.stderr.endswith("; got 'foo'\n")
    assert not (tmp_path / "other").exists()
    changed = run(workdir, methods="pcd1", seeds=3)
    assert changed.returncode == 1
    assert "seeds" in changed.stderr
    cell.write_text("{")
    damaged = run(workdir, methods="pcd1")
    assert damaged.returncode == 1
    assert damaged.stderr.startswith(f"error: {cell} cannot be read"), damaged.stderr
    assert "--overwrite" in damaged.stderr


def test_seeds_in_one_program_are_the_seeds_alone():
    """Calls end at stops too, and each seed has its own data."""
    config = method_config(tiny(**{"train.num_steps": 25, "seed": 3}), "pcd1")
    seen = []

    def at_stop(step, experiments, states):
        seen.append((step, states.step.tolist()))

    done = []
    trained = seeds.train_seeds(config, 2, stops=[5, 20], at_stop=at_stop, advanced=done.append)
    assert seen == [(5, [5, 5]), (20, [20, 20])]
    assert done == [5, 10, 5, 5]
    assert not trained.diverged.any()
    assert [experiment.config.seed for experiment in trained.experiments] == [3, 4]
    _, state = train_alone(config, 4, 25)
    found = seeds.run_state(trained.states, 1)
    for name in ("theta", "ema", "chains", "theta_opt_state"):
        distance = oracles.tree_distance(getattr(found, name), getattr(state, name))
        assert distance < 1e-5, name
    first, second = trained.experiments
    assert not np.array_equal(first.dataset.train, second.dataset.train)


POINTS = [
    {"theta_optimizer.learning_rate": 1e-3, "objective.dsm.sigma": 0.05},
    {"theta_optimizer.learning_rate": 1e-2, "objective.dsm.sigma": 0.2},
]


@pytest.mark.parametrize("name", ["dsm", "bidsm-first-order", "vages-dsm"])
def test_points_of_a_grid_in_one_program_are_the_points_alone(name):
    config = method_config(tiny(**{"train.num_steps": 10}), name)
    trained = seeds.train_seeds(config, 2, points=POINTS)
    for i, run in ((1, (0, 1)), (2, (1, 0))):
        point, seed = run
        experiment, state = train_alone(config_at(config, POINTS[point]), seed, 10)
        found = seeds.run_state(trained.states, i)
        assert trained.experiments[i].config.to_json() == experiment.config.to_json()
        assert oracles.tree_distance(found.theta, state.theta) < 1e-5
        # That is nearer than the points are to one another.
        other = seeds.run_state(trained.states, (i + 2) % 4)
        assert oracles.tree_distance(found.theta, other.theta) > 1e-3


def test_every_number_of_a_method_can_be_mapped_over():
    """Its steps are traced at unknown values; a wrong use of one raises."""
    of_method = {
        "bissm-unroll": ["phi_optimizer.learning_rate", "phi_optimizer.adam.eps_root"],
        "bidsm-implicit": ["hypergradient.implicit_cg.ridge", "phi_optimizer.adam.b2"],
        "vnce": ["method.vnce.noise_scale", "method.vnce.noise_mean", "train.ema_decay"],
        "ksd": ["objective.ksd.kernel.rbf.bandwidth", "theta_optimizer.adam.b1"],
    }
    for name, keys in of_method.items():
        config = method_config(tiny(), name)
        experiment = build(config)
        batch = experiment.dataset.train[:16]
        values = {key: jax.ShapeDtypeStruct((), np.float32) for key in keys}
        step = jax.eval_shape(
            lambda x, e=experiment, v=batch: step_of(e, x)(e.initial_state, v)[1], values
        )
        assert "loss" in step


def test_grid_of_several_programs(tmp_path):
    """An integer takes a program of its own; the best point is chosen by validation."""
    workdir = tmp_path / "run"
    grid = {"methods": "dsm", "seeds": 1, "grid": "theta_optimizer.learning_rate=1e-4,1e-2"}
    done = run(workdir, switches=["--grid=train.batch_size=8,16"], **grid)
    assert done.returncode == 0, done.stderr
    rows = json.loads((workdir / "table.json").read_text())["rows"]
    assert [row["method"] for row in rows] == [
        "dsm, batch_size=8, learning_rate=0.0001",
        "dsm, batch_size=8, learning_rate=0.01",
        "dsm, batch_size=16, learning_rate=0.0001",
        "dsm, batch_size=16, learning_rate=0.01",
    ]
    last = [row["validation_log_likelihood"][-1][0] for row in rows]
    assert len(set(last)) == 4
    assert [row["chosen"] for row in rows] == [x == max(last) for x in last]
    config = method_config(tiny(), "dsm")
    _, state = train_alone(config_at(config, rows[2]["point"]), 0, 20)
    alone = evaluation.evaluate(build(config), state.theta, {}, jax.random.key(0))
    assert rows[2]["log_likelihood"][0] == pytest.approx(alone["log_likelihood"], rel=1e-5)


@pytest.mark.parametrize(
    ("texts", "match"),
    [
        (["train.batch_size"], "--grid must be KEY=VALUE,VALUE,..., got 'train.batch_size'"),
        (["train.batch_size="], "--grid must be KEY=VALUE"),
        (["batch_size=3"], "--grid: batch_size is no number, string or switch of the config"),
        (["train=3"], "--grid: train is no number"),
        (["train.batch_size=3.5"], "--grid: train.batch_size must be of type int, got '3.5'"),
        (["method.contrastive.persistent=1"], "must be of type bool, got '1'"),
        (["train.batch_size=1,2", "train.batch_size=3"], "each key once, got train.batch_size tw"),
        (["seed=1,2"], "--grid must not have seed: use --seeds"),
        (["config.train.batch_size=3"], "--grid must have keys without 'config.', got 'config.tr"),
        (["train.ema_decay=0.9,0.90"], "--grid must have each value once"),
    ],
)
def test_grid_errors(texts, match):
    with pytest.raises(ValueError, match=re.escape(match)):
        parse_grid(texts, tiny())


def test_what_a_grid_cannot_hold_is_named():
    with pytest.raises(ConfigError, match=r"dsm: --grid has objective.name, which this method set"):
        select(tiny(), ["dsm"], [{"objective.name": "ssm"}])
    with pytest.raises(ConfigError, match=r"learning_rate must be a number > 0, got 0.0"):
        select(tiny(), ["dsm"], [{"theta_optimizer.learning_rate": 0.0}])
    # What is logged goes by whole calls, whatever the config says.
    assert select(tiny(), ["dsm"], [{"train.steps_per_call": 7}]) == (["dsm"], {})
    config = method_config(tiny(), "vnce")
    points = [{"method.vnce.noise_ratio": 1.0}, {"method.vnce.noise_ratio": 2.0}]
    with pytest.raises(ConfigError, match=r"one of method.vnce.noise_ratio decides what is compil"):
        seeds.train_seeds(config, 1, points=points)


def test_a_diverged_seed_is_named_and_left_out():
    overrides = {"train.num_steps": 20, "theta_optimizer.name": "sgd"}
    overrides |= {"theta_optimizer.learning_rate": 1e30}
    config = method_config(tiny(**overrides), "dsm")
    [(figures, arrays)] = compare_model.measure(config, num_seeds=2, num_validations=1)
    # The first update goes astray, the second step sees it.
    assert figures["diverged_at"] == [2, 2]
    assert arrays == {}
    for name in ("log_likelihood", "best_log_likelihood", "best_steps"):
        assert figures[name] == [None, None]
    stored = json.loads(json.dumps(figures, allow_nan=False))
    [row] = compare_report.rows("dsm", [{}], [stored])
    assert (row["mean"], row["standard_error"], row["num_diverged"]) == (None, None, 2)
    assert "| dsm | diverged at step 2 |  |  |  | 2 of 2 |" in compare_report.markdown([row])
    compare_report.draw_curves([row], title="")
    assert compare_report.draw_samples({"dsm": {}}, title="") == {}


def test_a_seed_lost_at_the_last_update_has_diverged():
    overrides = {"train.num_steps": 7, "train.steps_per_call": 2}
    points = [{"theta_optimizer.learning_rate": rate} for rate in (1e-3, 1e30)]
    overrides |= {"theta_optimizer.name": "sgd"}
    config = method_config(tiny(**overrides), "dsm")
    sound, lost = compare_model.measure(config, points, num_seeds=2, num_validations=1)
    assert sound.figures["diverged_at"] == [None, None]
    assert lost.figures["diverged_at"] == [2, 2]
    assert (bool(sound.arrays), lost.arrays) == (True, {})
    config.train.num_steps = 1
    _, lost = compare_model.measure(config, points, num_seeds=2, num_validations=1)
    assert lost.figures["diverged_at"] == [1, 1]
    assert lost.figures["log_likelihood"] == [None, None]


def test_points_of_different_models_have_programs_of_their_own():
    overrides = {"train.num_steps": 5, "energy.gaussian_rbm.learn_sigma": False}
    config = method_config(tiny(**overrides), "dsm")
    key = "energy.gaussian_rbm.sigma_init"
    points = [{key: 0.2}, {key: 5.0}]
    assert [own for _, own in split_static(points)] == [[{}], [{}]]
    measured = compare_model.measure(config, points, num_seeds=1, num_validations=1)
    for point, found in zip(points, measured, strict=True):
        [alone] = compare_model.measure(config_at(config, point), num_seeds=1, num_validations=1)
        assert found.figures["log_likelihood"] == alone.figures["log_likelihood"]
    assert measured[0].figures["log_likelihood"] != measured[1].figures["log_likelihood"]


def test_of_equal_points_none_is_chosen():
    cell = {"log_likelihood": [1.0], "best_log_likelihood": [1.0], "diverged_at": [None]}

    def chosen(*values):
        cells = [cell | {"validation_log_likelihood": [[x]]} for x in values]
        points = [{"seed": i} for i in range(len(values))]
        return [row["chosen"] for row in compare_report.rows("dsm", points, cells)]

    assert chosen(1.0, 2.0) == [False, True]
    assert chosen(2.0, 2.0) == chosen(None, None) == [False, False]
    assert chosen(None, 1.0) == [False, True]


def test_the_best_state_is_that_of_each_seeds_best_validation(monkeypatch):
    values = iter([[np.nan, 3.0, 1.0], [1.0, 2.0, np.nan], [0.0, np.inf, 4.0]])
    monkeypatch.setattr(compare_model, "log_likelihoods", lambda *_: (np.array(next(values)), {}))
    selection = compare_model._Selection()
    key = jax.random.split(jax.random.key(0), 3)
    for step in (10, 20, 30):
        state = {"w": np.full((3, 2), float(step)), "key": key}
        selection.update(step, [], jax.tree.map(jax.numpy.asarray, state))
    assert selection.states["w"][:, 0].tolist() == [20.0, 10.0, 30.0]
    assert selection.best.tolist() == [1.0, 3.0, 4.0]


def test_log_likelihoods_of_all_seeds_are_those_of_each():
    """Enumerated at once, or estimated seed by seed, which weights near 0 make next to exact."""
    sizes = {"evaluation.ais_chains": 50, "evaluation.ais_temperatures": 10}
    sizes |= {"evaluation.num_examples": 8}
    experiments = seeds.build_runs(method_config(tiny(**sizes), "dsm"), 2)
    states = jax.tree.map(lambda *x: jax.numpy.stack(x), *(x.initial_state for x in experiments))
    (test, _), (validation, quality) = (
        compare_model.log_likelihoods(experiments, states, split)
        for split in ("test", "validation")
    )
    assert quality == {}
    state = seeds.run_state(states, 1)
    alone = evaluation.evaluate(experiments[1], state.theta, state.phi, jax.random.key(0))
    assert test[1] == pytest.approx(alone["log_likelihood"], rel=1e-5)
    for i, experiment in enumerate(experiments):
        experiment.config.evaluation.exact_max_latents = 0
        experiments[i] = dataclasses.replace(experiment, dataset=labelled(experiment.dataset))
    estimated, quality = compare_model.log_likelihoods(experiments, states, "validation")
    assert (quality["ais_half_width"] < 1e-3).all()
    assert (quality["ais_effective_sample_size"] > 49).all()
    distances = np.abs([validation[0] - validation[1], *(validation - test)])
    assert 0 < np.abs(estimated - validation).max() < 1e-3 < 1e-2 < distances.min()


def test_stops():
    assert compare_model.stops(20_000, 4) == [5_000, 10_000, 15_000, 20_000]
    assert compare_model.stops(3, 10) == [1, 2, 3]
    config = tiny()
    for wrong in ([0, 5], [5, 5], [7, 3], [61]):
        with pytest.raises(ValueError, match="stops must increase within 1 to 60"):
            seeds.train_seeds(config, 2, stops=wrong)
    with pytest.raises(ValueError, match="num_seeds must be an integer >= 1, got 0"):
        seeds.train_seeds(config, 0)


def test_methods():
    assert select(tiny(), ["all"]) == (list(METHODS), {})
    assert select(tiny(), ["ml", "dsm", "ml"]) == (["ml", "dsm"], {})
    with pytest.raises(ValueError, match=r"--methods must be of all, dsm, .*vnce; got 'foo'$"):
        select(tiny(), ["dsm", "foo"])
    with pytest.raises(ValueError, match="got none"):
        select(tiny(), [])


def test_methods_that_do_not_fit_a_config_are_named():
    config = make_config("checkerboard_rbm", TINY | TINY_DEEP | DEEP)
    with pytest.raises(ConfigError) as error:
        select(config, ["ml", "vages-dsm", "bidsm-implicit"])
    message = str(error.value)
    assert message.startswith("--methods: the config does not fit ml: config.method.name = ")
    assert "; bidsm-implicit: config.divergence.mean_field_kl" in message
    assert message.endswith(". Fitting: vages-dsm")
    fitting, refused = select(config, ["all"])
    assert "vages-dsm" in fitting
    assert refused.keys() == METHODS.keys() - set(fitting)
    assert refused["ml"].startswith("config.method.name = 'maximum_likelihood' needs")


def test_mean_and_error():
    assert compare_report.mean_and_error([1.0, None, 3.0]) == (2.0, 1.0)
    assert compare_report.mean_and_error([4.0, None]) == (4.0, None)
    assert compare_report.mean_and_error([None]) == (None, None)
