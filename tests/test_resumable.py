"""Chains that were killed and go on, against chains that nothing stopped, to the bit."""

import json
import os
import re
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import evaluation, image_evaluation, report, resumable, sampling
from experiments.builders import build
from experiments.resumable import ChainStore
from jbism.training import Checkpointer, WorkdirError, open_workdir
from tests.configs import TINY, TINY_DEEP, make_config
from tests.processes import ROOT

KEY = jax.random.key(0)
DEEP = TINY_DEEP | {
    "sampling.langevin.hot_steps": 100,
    "sampling.langevin.annealed_steps": 100,
    "sampling.langevin.cool_steps": 50,
    "evaluation.ais_temperatures": 36,
}


class Killed(BaseException):
    """As if the process had been."""


class Pieces:
    """Counts the steps of pieces, and kills after so many of these."""

    def __init__(self, monkeypatch):
        self._plain, self.left, self.steps = resumable._pieces, None, []
        monkeypatch.setattr(resumable, "_pieces", self)
        monkeypatch.setattr(resumable, "SAVE_EVERY", 0.0)

    def __call__(self, *args):
        for step, length in self._plain(*args):
            yield step, length
            self.steps.append(length)
            if len(self.steps) == self.left:
                raise Killed

    def killed(self, call, after):
        """Calls what is killed after so many pieces."""
        self.left, self.steps = after, []
        with pytest.raises(Killed):
            call()
        self.left, self.steps = None, []


@pytest.fixture
def pieces(monkeypatch):
    return Pieces(monkeypatch)


# The store


def grow(x, start, length):
    """A chain of which every step shows."""
    return {"a": x["a"] * 3 + start + length, "key": x["key"]}


START = {"a": jnp.ones(2, jnp.int32), "key": KEY}


def run(store, title="a chain", x=START, of=(KEY, 1.0, "settings"), **options):
    return store.run(grow, x, 25, title, of=of, **({"num_pieces": 3} | options))["a"].tolist()


def test_a_killed_chain_goes_on_and_a_finished_one_stays(tmp_path, pieces, capsys):
    whole = run(ChainStore())
    assert pieces.steps == [8, 8, 9]
    store = ChainStore(tmp_path, "report")
    pieces.killed(lambda: run(store), after=2)
    assert run(ChainStore(tmp_path, "report")) == whole
    assert pieces.steps == [9]
    assert run(ChainStore(tmp_path, "report")) == whole
    assert pieces.steps == [9]
    assert capsys.readouterr().out.splitlines() == [
        "a chain: resuming from step 16 of 25",
        "a chain: resuming from step 25 of 25",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"x": START | {"a": jnp.array([1, 2], jnp.int32)}},
        {"x": START | {"key": jax.random.key(1)}},
        {"of": (jax.random.key(1), 1.0, "settings")},
        {"of": (KEY, 2.0, "settings")},
        {"of": (KEY, 1.0, "other settings")},
        {"num_pieces": 5},
    ],
)
def test_other_chains_of_the_name_are_removed(tmp_path, pieces, change):
    store = ChainStore(tmp_path, "report")
    run(store, title="another chain")
    pieces.killed(lambda: run(store), after=2)
    assert run(store, **change) == run(ChainStore(), **change)
    pieces.steps = []
    run(store)
    assert pieces.steps == [8, 8, 9]
    run(store, title="another chain")
    assert pieces.steps == [8, 8, 9]
    assert len(list((tmp_path / "chains" / "report" / "a-chain").iterdir())) == 1


def test_a_damaged_state_is_begun_anew_and_says_so(tmp_path, pieces, capsys):
    store = ChainStore(tmp_path, "report")
    pieces.killed(lambda: run(store), after=2)
    (leaves,) = tmp_path.rglob("leaves")
    for path in leaves.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1])
    assert run(store) == run(ChainStore())
    assert pieces.steps[:3] == [8, 8, 9]
    assert capsys.readouterr().out.startswith("a chain: starting anew, for what was kept is damage")
    pieces.steps = []
    run(store)
    assert pieces.steps == []


def test_the_folder_goes_with_the_report_and_stays_with_an_error(tmp_path, pieces):
    folder = tmp_path / "chains"
    with ChainStore(tmp_path, "one") as one:
        run(one)
        with pytest.raises(KeyError), ChainStore(tmp_path, "other") as other:
            {}[run(other)[0]]
    assert [path.name for path in folder.iterdir()] == ["other"]
    with ChainStore(tmp_path, "other"):
        pass
    assert not folder.exists()
    with ChainStore(tmp_path, "none"):
        pass
    assert not folder.exists()
    with ChainStore():
        pass


def test_one_process_at_a_time_makes_a_report(tmp_path):
    with ChainStore(tmp_path, "one"), ChainStore(tmp_path, "other"):
        with pytest.raises(WorkdirError, match="chains/one: in use by another run"):
            ChainStore(tmp_path, "one").__enter__()
        assert {path.name for path in (tmp_path / "chains").iterdir()} == {"one", "other"}


def test_states_are_kept_by_the_clock_and_at_the_end(tmp_path, monkeypatch):
    now, saved = [0.0], []
    monkeypatch.setattr(resumable.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Checkpointer, "save", lambda self, state: saved.append(int(state.step)))

    def slow(x, start, length):
        now[0] += 25.0
        return x

    ChainStore(tmp_path).run(slow, jnp.zeros(1), 8, "slow", of=(), num_pieces=8)
    assert saved == [3, 6, 8]


# What uses it


@pytest.fixture(scope="module")
def deep():
    return build(make_config("digits_deep", DEEP))


def same_arrays(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


def test_gibbs_chains_resume(tmp_path, pieces):
    experiment = build(make_config("digits_rbm", TINY | {"sampling.gibbs.num_steps": 250}))
    theta, phi = experiment.initial_state.theta, experiment.initial_state.phi

    def draw(store=None):
        options = {"num_samples": 3, "store": store, "progress": False}
        return sampling.draw(experiment, theta, phi, KEY, **options).panels

    whole = draw()
    pieces.killed(lambda: draw(ChainStore(tmp_path)), after=2)
    same_arrays(draw(ChainStore(tmp_path)), whole)
    assert pieces.steps == [84]


@pytest.mark.parametrize("name", ["digits_deep", "digits_rbm"])
def test_annealed_importance_sampling_resumes(name, deep, tmp_path, pieces):
    rbm = TINY | {"evaluation.ais_temperatures": 36, "evaluation.exact_max_latents": 1}
    experiment = deep if name == "digits_deep" else build(make_config(name, rbm))
    theta, phi = experiment.initial_state.theta, experiment.initial_state.phi

    def evaluate(store=None):
        return evaluation.evaluate(experiment, theta, phi, KEY, store=store)

    whole = evaluate()
    assert pieces.steps == [8, 9, 9, 9]
    pieces.killed(lambda: evaluate(ChainStore(tmp_path)), after=3)
    assert evaluate(ChainStore(tmp_path)) == whole
    assert pieces.steps == [9]


def test_samples_to_be_judged_resume_within_their_batch(deep, tmp_path, pieces):
    model = image_evaluation.Model(deep, deep.initial_state.theta, deep.initial_state.phi)

    def draw(folder, store):
        folder.mkdir(exist_ok=True)
        return image_evaluation.draw_samples(
            model, KEY, num_samples=4, batch_size=2, folder=folder, store=store, progress=False
        )

    whole, of_two = draw(tmp_path / "whole", None), len(pieces.steps)
    cells, store = tmp_path / "cells", ChainStore(tmp_path, "judge")
    pieces.killed(lambda: draw(cells, store), after=of_two // 2 + 2)
    same_arrays(draw(cells, store), whole)
    assert sum(pieces.steps) < of_two // 2 * 100
    assert len(pieces.steps) == of_two // 2 - 2


DRIVER = """
import os, signal, sys
from experiments import _main, resumable, sample
resumable.SAVE_EVERY = 0.0
log, left, plain = sys.argv.pop(1), int(sys.argv.pop(1)), resumable._pieces

def pieces(*args):
    global left
    for step, length in plain(*args):
        yield step, length
        with open(log, "a") as file:
            print(length, file=file)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

resumable._pieces = pieces
_main.run(sample.main)
"""


def test_a_killed_process_samples_what_it_would_have(deep, tmp_path):
    """The joint chains done and those of the inpaintings begun, with frames on the way."""
    workdir, log = tmp_path / "run", tmp_path / "log"
    open_workdir(workdir, json.loads(deep.config.to_json()), overwrite=False)
    with Checkpointer(workdir / "checkpoints") as saved:
        saved.save(deep.initial_state)

    def process(kill_after):
        log.write_text("")
        flags = [f"--workdir={workdir}", "--noprogress", "--num_samples=4"]
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, str(log), str(kill_after), *flags],
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        return done, [int(line) for line in log.read_text().split()]

    killed, steps = process(6)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert steps == [62, 63, 62, 63, 83, 83]
    out = workdir / "samples"
    assert not (out / "samples.npz").exists()
    assert len(list((out / "chains" / "sample").iterdir())) == 2
    done, steps = process(-1)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"(.*): resuming from step (\d+) of 250\n", done.stdout) == [
        ("Langevin (v, h)", "250"),
        ("inpainting", "166"),
    ]
    assert steps[0] == 84
    assert len(steps) == 8  # of 14
    assert not (out / "chains").exists()
    whole = tmp_path / "whole"
    whole.mkdir()
    report.write_samples(deep, deep.initial_state, whole, key=KEY, num_samples=4, progress=False)
    with np.load(out / "samples.npz") as left, np.load(whole / "samples.npz") as right:
        assert {"frames", "inpaintings", "interpolations"} <= set(left)
        same_arrays(dict(left), dict(right))
    assert "chains" in report.FILES
