"""The binaries as processes: kills, resumption, bad input, what they write and print."""

import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from experiments._main import STOPPED
from experiments.restore import restore
from jbism.training import checkpoint_steps
from tests.configs import TINY, TINY_DEEP, VAE

ROOT = pathlib.Path(__file__).parents[1]
RBM = "experiments/configs/checkerboard_rbm.py"
DEEP = "experiments/configs/digits_deep.py"
BIDVL = "experiments/configs/digits_bidvl.py"
BASE = "experiments/configs/base.py"
STEPS, LONGER = 400, 500


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Processes share what they compile; nothing else is handed down to them."""
    compiled = os.environ.get("JAX_COMPILATION_CACHE_DIR", tmp_path_factory.mktemp("compiled"))
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def command(binary, *flags, config=None, **overrides):
    """Returns the command line of a binary; ``overrides`` are dotted keys of the config."""
    line = [sys.executable, "-m", f"experiments.{binary}", *map(str, flags)]
    if config is not None:
        line.append(f"--config={config}")
    return line + [f"--config.{key}={value}" for key, value in overrides.items()]


def train(workdir, *flags, config=RBM, **overrides):
    tiny = TINY if config == RBM else TINY_DEEP
    flags = (f"--workdir={workdir}", "--noprogress", *flags)
    return command("train", *flags, config=config, **(tiny | overrides))


def run(line, environment):
    return subprocess.run(
        line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )


def start(line, environment):
    return subprocess.Popen(
        line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition, process):
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def snapshot(folder):
    """Returns the content of every file below a folder, and None for the folders."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in pathlib.Path(folder).rglob("*")
    }


def read_metrics(workdir):
    lines = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        del record["wall_time"]
    return records


def num_lines(workdir):
    path = pathlib.Path(workdir) / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def assert_same_training(left, right):
    """The same to the bit: every leaf of the last state, and every metric of every line."""
    assert read_metrics(left) == read_metrics(right)
    states = [restore(str(workdir))[1] for workdir in (left, right)]
    plain = [
        jax.tree.map(np.asarray, {**vars(s), "key": jax.random.key_data(s.key)}) for s in states
    ]
    jax.tree.map(np.testing.assert_array_equal, *plain)
    assert jax.tree.structure(plain[0]) == jax.tree.structure(plain[1])


@pytest.fixture(scope="session")
def finished(tmp_path_factory, environment):
    """A run that nothing interrupted, and what it printed."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    done = run(train(workdir, **{"train.num_steps": LONGER}), environment)
    assert done.returncode == 0, done.stderr
    return workdir, done


@pytest.fixture(scope="session")
def finished_deep(tmp_path_factory, environment):
    workdir = tmp_path_factory.mktemp("finished_deep") / "run"
    done = run(train(workdir, config=DEEP), environment)
    assert done.returncode == 0, done.stderr
    return workdir, done


# Kills, interrupts, resumption


def test_kills_interrupts_and_extension_leave_no_trace(finished, tmp_path, environment):
    workdir = tmp_path / "run"
    checkpoints = workdir / "checkpoints"
    line = train(workdir, **{"train.num_steps": STEPS})

    def saving():
        return checkpoints.is_dir() and any("tmp" in name for name in os.listdir(checkpoints))

    # A kill in mid-training: some lines were written after the last checkpoint.
    process = start(line, environment)
    wait_for(lambda: num_lines(workdir) >= 9, process)
    process.kill()
    process.communicate()
    lines = num_lines(workdir)
    assert 9 <= lines < STEPS // 10

    # A kill while a checkpoint is being written.
    process = start(line, environment)
    wait_for(lambda: num_lines(workdir) >= lines + 5 and saving(), process)
    process.kill()
    stdout, _ = process.communicate()
    assert f"of {STEPS}" in stdout
    assert "resuming from step" in stdout
    lines = num_lines(workdir)
    assert lines < STEPS // 10

    # An interrupt from the keyboard.
    process = start(line, environment)
    wait_for(lambda: num_lines(workdir) >= lines + 4, process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == STOPPED
    # Orbax may first say that it removes the half-written checkpoint.
    said = re.fullmatch(
        r"stopped after step (\d+), which is saved; the same command goes on from there",
        stderr.splitlines()[-1],
    )
    assert "Traceback" not in stderr
    stopped = int(said[1])
    assert num_lines(workdir) == stopped // 10 < STEPS // 10
    assert checkpoint_steps(checkpoints)[-1] == stopped

    # A scheduler's notice.
    process = start(line, environment)
    wait_for(lambda: num_lines(workdir) >= stopped // 10 + 2, process)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate()
    assert process.returncode == STOPPED
    assert f"resuming from step {stopped}" in stdout
    assert "which is saved" in stderr

    # To the end; then the same command has nothing to do but the report, which comes out the same.
    done = run(line, environment)
    assert done.returncode == 0, done.stderr
    assert [r["step"] for r in read_metrics(workdir)] == list(range(10, STEPS + 1, 10))
    before = snapshot(workdir)
    again = run(line, environment)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith(f"resuming from step {STEPS} of {STEPS}\n")
    after = snapshot(workdir)
    for name in before:
        assert after[name] == before[name], name
    assert all(name.startswith("tensorboard/") for name in set(after) - set(before))

    # A longer run of it equals one that was never stopped.
    done = run(train(workdir, **{"train.num_steps": LONGER}), environment)
    assert done.returncode == 0, done.stderr
    assert_same_training(workdir, finished[0])
    evaluations = [json.loads((w / "evaluation.json").read_text()) for w in (workdir, finished[0])]
    assert evaluations[0] == evaluations[1]

    # Another seed is another run.
    changes = {"seed": 1, "train.num_steps": 20, "evaluation.num_examples": 7}
    (workdir / "notes.txt").write_text("mine")
    done = run(train(workdir, "--overwrite", **changes), environment)
    assert done.returncode == 0, done.stderr
    assert "resuming" not in done.stdout
    assert [r["step"] for r in read_metrics(workdir)] == [10, 20]
    assert read_metrics(workdir)[0] != read_metrics(finished[0])[0]
    assert json.loads((workdir / "config.json").read_text())["seed"] == 1
    assert json.loads((workdir / "evaluation.json").read_text())["num_test_examples"] == 7
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["20"]
    assert (workdir / "notes.txt").read_text() == "mine"


# What a run leaves


def test_files_of_a_run(finished):
    workdir, done = finished
    assert {path.name for path in workdir.iterdir()} == {
        "checkpoints",
        "config.json",
        "curves.png",
        "evaluation.json",
        "metrics.jsonl",
        "samples.npz",
        "samples.png",
        "tensorboard",
    }
    assert {p.name for p in (workdir / "checkpoints").iterdir()} == {"460", "480", "500"}
    config = json.loads((workdir / "config.json").read_text())
    assert config["train"] == {
        "num_steps": LONGER,
        "batch_size": 16,
        "num_lower_steps": 5,
        "ema_decay": 0.999,
        "flip": False,
        "steps_per_call": 10,
        "unroll_lower": 1,
    }
    assert config["objective"]["dsm"] == {"sigma": 0.05}
    assert config["name"] == "checkerboard_rbm"
    records = read_metrics(workdir)
    assert [r["step"] for r in records] == list(range(10, LONGER + 1, 10))
    assert set(records[0]) == {
        "step",
        "loss",
        "grad_norm",
        "lower_loss",
        "lower_grad_norm",
        "score_norm",
    }
    (events,) = (workdir / "tensorboard").iterdir()
    assert events.name.startswith("events.out.tfevents")
    for name in records[0].keys() - {"step"}:
        assert events.read_bytes().count(name.encode()) >= len(records)
    figures = json.loads((workdir / "evaluation.json").read_text())
    assert set(figures) == {
        "num_test_examples",
        "log_likelihood",
        "log_likelihood_method",
        "log_partition",
        "posterior_kl",
        "ssm",
        "reconstruction_root_mean_squared_error",
        "reconstruction_summed_squared_error",
        "vaes_bias",
        "vaes_bias_bound",
    }
    assert "checkerboard_rbm after 500 steps, on the test set:\n" in done.stdout
    for name in figures:
        assert name in done.stdout
    assert done.stdout.endswith(f"are in {workdir}\n")
    assert done.stderr == ""


def test_files_of_a_deep_run(finished_deep):
    workdir, done = finished_deep
    for name in ("samples.png", "reconstructions.png", "curves.png"):
        assert (workdir / name).read_bytes().startswith(b"\x89PNG")
    figures = json.loads((workdir / "evaluation.json").read_text())
    assert {
        "log_likelihood",
        "log_partition",
        "ais_acceptance",
        "posterior_fisher_divergence",
        "ssm",
        "reconstruction_root_mean_squared_error",
    } <= set(figures)
    assert figures["num_test_examples"] == 10
    assert done.stderr == ""


def test_evaluate_and_sample(finished, finished_deep, tmp_path, environment):
    rbm, deep = tmp_path / "rbm", tmp_path / "deep"
    shutil.copytree(finished[0], rbm)
    shutil.copytree(finished_deep[0], deep)
    before = snapshot(rbm)
    out = tmp_path / "new" / "figures.json"
    done = run(
        command("evaluate", f"--workdir={rbm}", f"--out={out}", "--step=460", "--noprogress"),
        environment,
    )
    assert done.returncode == 0, done.stderr
    assert "checkerboard_rbm after 460 steps, on the test set:\n" in done.stdout
    earlier, last = (json.loads(p.read_text()) for p in (out, rbm / "evaluation.json"))
    assert set(earlier) == set(last)
    assert earlier["log_likelihood"] != last["log_likelihood"]
    assert snapshot(rbm) == before

    done = run(
        command("sample", f"--workdir={deep}", "--num_samples=3", "--seed=5", "--noprogress"),
        environment,
    )
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (deep / "samples").iterdir()} == {
        "samples.png",
        "samples.npz",
        "reconstructions.png",
        "frames.png",
        "interpolations.png",
        "inpaintings.png",
    }
    with np.load(deep / "samples" / "samples.npz") as stored:
        assert stored["panel_0"].shape == (3, 8, 8, 1)
    unchanged = {n: x for n, x in snapshot(deep).items() if not n.startswith("samples/")}
    unchanged.pop("samples")
    assert unchanged == snapshot(finished_deep[0])


GENERATOR_FILES = {"samples.png", "samples.npz", "reconstructions.png", "interpolations.png"}
GENERATOR_FILES |= {"traversals.png"}


def test_a_run_of_bidvl(tmp_path, environment):
    """Trained, and resumed from an earlier checkpoint as if there had been no later one."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    done = run(train(whole, config=BIDVL), environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert {path.name for path in whole.iterdir()} > GENERATOR_FILES
    figures = json.loads((whole / "evaluation.json").read_text())
    assert set(figures) == {
        "num_test_examples",
        "data_energy",
        "generated_energy",
        "elbo",
        "ssm",
        "reconstruction_root_mean_squared_error",
        "reconstruction_summed_squared_error",
    }
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "checkpoints" / "20")
    done = run(train(resumed, config=BIDVL), environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("resuming from step 10 of 20\n")
    assert_same_training(resumed, whole)
    assert (resumed / "evaluation.json").read_text() == (whole / "evaluation.json").read_text()

    out = tmp_path / "figures.json"
    for line in (
        command("sample", f"--workdir={whole}", "--num_samples=3", "--noprogress"),
        command("evaluate", f"--workdir={whole}", f"--out={out}", "--noprogress"),
    ):
        done = run(line, environment)
        assert done.returncode == 0, done.stderr
    assert {p.name for p in (whole / "samples").iterdir()} == GENERATOR_FILES
    with np.load(whole / "samples" / "samples.npz") as stored:
        assert stored["panel_0"].shape == (3, 8, 8, 1)
        assert stored["traversals"].shape == (3, 3, 8, 8, 1)
    assert set(json.loads(out.read_text())) == set(figures)


def test_an_autoencoder_by_flags(tmp_path, environment):
    workdir = tmp_path / "run"
    done = run(train(workdir, config=BASE, **(VAE | {"data.name": "digits"})), environment)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in workdir.iterdir()} > GENERATOR_FILES
    figures = json.loads((workdir / "evaluation.json").read_text())
    assert figures["log_likelihood_method"] == "by 3 samples of q, log Z = 0"
    assert read_metrics(workdir)[-1]["step"] == 20


# Bad input


def test_a_diverging_run_keeps_its_last_good_checkpoint(tmp_path, environment):
    every = {"train.steps_per_call": 1, "log.log_every": 1, "log.checkpoint_every": 1}
    line = train(tmp_path / "run", **every, **{"theta_optimizer.learning_rate": 20.0})
    done = run(line, environment)
    assert done.returncode == 1
    found = re.fullmatch(
        r"error: (\w+) is (?:inf|-inf|nan) at step (\d+); last checkpoint: step (\d+)\n",
        done.stderr,
    )
    assert found, done.stderr
    quantity, step, last = found[1], int(found[2]), int(found[3])
    assert quantity in {"loss", "grad_norm", "lower_loss", "lower_grad_norm", "score_norm"}
    assert 0 < last == step - 1
    _, state = restore(str(tmp_path / "run"))
    assert int(state.step) == last
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state.theta, state.phi)))
    assert read_metrics(tmp_path / "run")[-1]["step"] == last
    assert not (tmp_path / "run" / "evaluation.json").exists()


def write_config(folder, name, body):
    path = folder / f"{name}.py"
    path.write_text(
        "from experiments.configs import base\n\n\ndef get_config():\n"
        f"    config = base.get_config()\n    {body}\n    return config\n"
    )
    return path


def bad_inputs(folder, finished):
    """Returns by name: the command, what stderr must say, and the folder to be left alone."""
    absent = folder / "absent"
    cases = {}

    def case(name, line, *says, untouched=absent):
        cases[name] = line, says, untouched

    def copy(name):
        shutil.copytree(finished, folder / name)
        return folder / name

    unknown = write_config(folder, "unknown", "config.train.num_stps = 3")
    mistyped = write_config(folder, "mistyped", "config.train.num_steps = 'many'")
    broken = write_config(folder, "broken", "return (")
    case("unknown key in a file", train(absent, config=unknown), "num_stps")
    case("wrong type in a file", train(absent, config=mistyped), "num_steps", "many")
    case("syntax error in a file", train(absent, config=broken), "SyntaxError", "broken.py")
    case("missing file", train(absent, config=folder / "no.py"), "no.py", "No such file")
    case("no port", train(absent, "--coordinator_address=host"), "must be HOST:PORT, got 'host'")
    case("lone flag", train(absent, "--process_id=0"), "--coordinator_address, --num_processes is")
    case("unknown key", train(absent, **{"train.num_stps": 3}), "num_stps")
    case("wrong type", train(absent, **{"train.num_steps": "many"}), "config.train.num_steps")
    case("unknown flag", train(absent, "--work=3"), "Unknown command line flag 'work'")
    case("stray argument", train(absent, "extra"), "unexpected argument 'extra'")
    case("no config", command("train", f"--workdir={absent}"), "--config")
    case("no workdir", command("train", config=RBM), "--workdir")
    case("value", train(absent, **{"objective.dsm.sigma": 0.0}), "config.objective.dsm: sigma")
    frey = {"data.name": "freyface", "data.dir": folder}
    case("missing data", train(absent, **frey), "frey_rawface.mat", str(folder))

    other = copy("other")
    case(
        "another config",
        train(other, **{"train.num_steps": LONGER, "objective.dsm.sigma": 0.3}),
        "objective.dsm.sigma is 0.05 there, 0.3 here",
        untouched=other,
    )
    shorter = copy("shorter")
    case(
        "fewer steps than done",
        train(shorter, **{"train.num_steps": 100}),
        f"config.train.num_steps is 100, but the run in {shorter} has done {LONGER} steps",
        untouched=shorter,
    )
    overwritten = copy("overwritten")
    case(
        "a bad value and --overwrite",
        train(overwritten, "--overwrite", **{"train.batch_size": 500}),
        "config.train: batch_size must be at most num_examples, 400, got 500",
        untouched=overwritten,
    )
    foreign = folder / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    for flags in ((), ("--overwrite",)):
        says = f"{foreign}: neither empty nor a run's"
        case(f"not a run's {flags}", train(foreign, *flags), says, untouched=foreign)
    damaged = copy("damaged")
    for checkpoint in (damaged / "checkpoints").iterdir():
        largest = max(
            (p for p in checkpoint.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
        )
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 255
        largest.write_bytes(content)
    says = (str(damaged / "checkpoints" / "500"), "missing or damaged part")
    line = train(damaged, **{"train.num_steps": LONGER})
    case("all checkpoints damaged, train", line, *says, untouched=damaged)
    line = command("evaluate", f"--workdir={damaged}")
    case("all checkpoints damaged, evaluate", line, *says, untouched=damaged)

    case(
        "evaluate without a run",
        command("evaluate", f"--workdir={foreign}"),
        "not the work directory of a run",
        untouched=foreign,
    )
    fresh = copy("fresh")
    shutil.rmtree(fresh / "checkpoints")
    case(
        "sample without a checkpoint",
        command("sample", f"--workdir={fresh}"),
        "no checkpoint yet",
        untouched=fresh,
    )
    older = copy("older")
    case(
        "sample of a step that is not kept",
        command("sample", f"--workdir={older}", "--step=40"),
        "no checkpoint of step 40",
        untouched=older,
    )
    return cases


def test_bad_input_is_one_line_and_touches_nothing(finished, tmp_path, environment):
    cases = bad_inputs(tmp_path, finished[0])
    before = {name: snapshot(untouched) for name, (_, _, untouched) in cases.items()}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = dict(
            zip(cases, pool.map(lambda c: run(c[0], environment), cases.values()), strict=True)
        )
    problems = []
    for name, (_, says, untouched) in cases.items():
        done = outcomes[name]
        one_line = re.fullmatch(r"error: .{1,600}\n", done.stderr)
        if done.returncode != 1 or not one_line or not all(s in done.stderr for s in says):
            problems.append((name, done.returncode, done.stderr[-1000:]))
        if snapshot(untouched) != before[name]:
            problems.append((name, "touched", untouched))
    assert not problems, "\n".join(map(str, problems))
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    ("binary", "flags"),
    [
        ("train", {"config", "workdir", "overwrite", "progress"}),
        ("evaluate", {"workdir", "out", "seed", "step", "data_dir", "progress"}),
        ("sample", {"workdir", "out", "num_samples", "seed", "step", "data_dir", "progress"}),
    ],
)
def test_help_names_every_flag(binary, flags, environment):
    done = run(command(binary, "--help"), environment)
    for flag in flags | {"traceback"}:
        assert re.search(rf"^ +--(\[no\])?{flag}:", done.stdout, re.MULTILINE), flag
    summary = (ROOT / "experiments" / f"{binary}.py").read_text().split('"""')[1].splitlines()[0]
    assert summary in done.stdout
    assert "Traceback" not in done.stderr


SIGNALLED_IN_A_COLLECTION = """
import gc, os, signal, sys, time
from experiments import _main

number = signal.Signals[sys.argv.pop()]
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored

def collecting(phase, info):
    if phase == "start":
        os.kill(os.getpid(), number)

def main():
    gc.callbacks.append(collecting)
    gc.collect()
    gc.callbacks.clear()
    time.sleep(60)
    print("went on")

_main.run(main)
"""


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [("SIGTERM", STOPPED, "stopped by SIGTERM"), ("SIGINT", 1, "error: interrupted")],
)
def test_a_signal_in_a_garbage_collection_stops_a_run(number, code, said, environment):
    """Python drops what is raised there."""
    command = [sys.executable, "-c", SIGNALLED_IN_A_COLLECTION, number]
    done = run(command, environment)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith(said)
