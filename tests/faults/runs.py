"""The training that every fault happens to, and how one is held against one without faults."""

import dataclasses
import json
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jbism.training import Checkpointer, checkpoint_steps
from tests.configs import TINY

CONFIG = "checkerboard_rbm"
LONGEST = 1200
# Calls within the window of a log; a step that is traced in no time.
OVERRIDES = {
    "train.steps_per_call": 5,
    "train.num_lower_steps": 1,
    "hypergradient.name": "first_order",
}


def flags_of(workdir, *flags, config=CONFIG, tiny=TINY, **overrides):
    """Returns the flags of ``experiments.train``; ``overrides`` are dotted keys of the config."""
    values = tiny | OVERRIDES | overrides
    return [
        f"--workdir={workdir}",
        f"--config=experiments/configs/{config}.py",
        "--noprogress",
        *flags,
        *(f"--config.{key}={value}" for key, value in values.items()),
    ]


def records(workdir, file="metrics.jsonl"):
    """Returns what the lines of a file of records hold, but for their wall times."""
    path = pathlib.Path(workdir, file)
    lines = path.read_text().splitlines() if path.exists() else []
    return [{k: x for k, x in json.loads(s).items() if k != "wall_time"} for s in lines]


def num_lines(workdir):
    """Returns the number of complete lines of metrics that a run wrote so far."""
    path = pathlib.Path(workdir, "metrics.jsonl")
    return path.read_bytes().count(b"\n") if path.exists() else 0


def saving(workdir):
    """Whether a checkpoint is being written."""
    return any(pathlib.Path(workdir, "checkpoints").glob("*tmp*"))


def snapshot(folder):
    """Returns the content of every file below a folder, and None for the folders."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in pathlib.Path(folder).rglob("*")
    }


def assert_same_states(left, right):
    """Equal to the bit."""

    def plain(leaf):
        typed = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if typed else leaf)

    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(plain(a), plain(b)), left, right)


def assert_same_runs(left, right, template):
    """The same last state and the same metrics, to the bit."""
    states = []
    for workdir in (left, right):
        with Checkpointer(workdir / "checkpoints") as saved:
            states.append(saved.restore(template))
    assert_same_states(*states)
    assert records(left) == records(right)


@dataclasses.dataclass(frozen=True)
class Whole:
    """A run without faults."""

    workdir: pathlib.Path
    template: Any

    def assert_equals(self, workdir: pathlib.Path, num_steps: int) -> None:
        """Raises unless a run of so many steps has this one's metrics, and its state of then."""
        assert checkpoint_steps(workdir / "checkpoints")[-1] == num_steps
        with Checkpointer(workdir / "checkpoints") as saved:
            state = saved.restore(self.template)
        with Checkpointer(self.workdir / "checkpoints", max_to_keep=None) as saved:
            assert_same_states(state, saved.restore(self.template, num_steps))
        self.assert_metrics(workdir, num_steps)

    def assert_metrics(self, workdir: pathlib.Path, num_steps: int) -> None:
        """Raises unless the metrics are this one's up to that step."""
        assert records(workdir) == [r for r in records(self.workdir) if r["step"] <= num_steps]

    def copy_of(self, folder: pathlib.Path, *steps: int) -> pathlib.Path:
        """Returns a run that was killed some lines after the last of these checkpoints."""
        workdir = folder / "run"
        (workdir / "checkpoints").mkdir(parents=True)
        for step in steps:
            name = f"checkpoints/{step}"
            shutil.copytree(self.workdir / name, workdir / name)
        shutil.copy(self.workdir / "config.json", workdir)
        lines = (self.workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
        (workdir / "metrics.jsonl").write_text("".join(lines[: steps[-1] // 10 + 1]))
        return workdir
