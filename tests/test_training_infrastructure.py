"""Checkpoints, metrics, run directories and the loop: round trips, damage, kills, resumption."""

import dataclasses
import functools
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import textwrap
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jbism.training._checkpoint import Checkpointer, CheckpointError
from jbism.training._loop import DivergenceError, StoppedError, fit
from jbism.training._workdir import WorkdirError, check_workdir, open_workdir
from jbism.training._writer import MetricsWriter


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    step: Any
    key: Any
    params: Any
    opt_state: Any
    extra: Any = None


OPTIMIZER = optax.adam(1e-2)


def make_state(step=0, seed=0, size=3):
    params = {
        "w": jax.random.normal(jax.random.key(seed), (size, 4)),
        "b": jnp.full((4,), -0.0),
    }
    extra = (
        jnp.arange(3, dtype=jnp.bfloat16) / 3,
        None,
        {"key/with.odd 'name'": jnp.array([True, False]), "empty": jnp.zeros((0, 2), jnp.int8)},
        [jax.random.split(jax.random.key(5, impl="rbg"), 2), np.array([1.0, np.nan, np.inf])],
        optax.EmptyState(),
    )
    return State(jnp.int32(step), jax.random.key(seed), params, OPTIMIZER.init(params), extra)


def at_step(state, step):
    return dataclasses.replace(state, step=jnp.int32(step))


def assert_identical(actual, expected):
    """Same structure, types of leaves, dtypes, shapes and bits."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert isinstance(a, np.ndarray) == isinstance(b, np.ndarray)
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


# Checkpoints


@pytest.mark.parametrize("async_save", [True, False])
def test_round_trip_is_exact(tmp_path, async_save):
    states = [make_state(step, seed=step) for step in (0, 10, 20, 30)]
    with Checkpointer(tmp_path / "a" / "b", max_to_keep=2, async_save=async_save) as checkpointer:
        assert checkpointer.latest_step() is None
        for state in states:
            checkpointer.save(state)
        assert checkpointer.latest_step() == 30
        assert_identical(checkpointer.restore(states[0]), states[3])
    with Checkpointer(tmp_path / "a" / "b") as checkpointer:
        assert_identical(checkpointer.restore(states[0]), states[3])
        assert_identical(checkpointer.restore(states[0], step=20), states[2])
        with pytest.raises(CheckpointError, match="no checkpoint of step 10"):
            checkpointer.restore(states[0], step=10)


def test_restores_into_the_shapes_of_a_state(tmp_path):
    state = dataclasses.replace(make_state(1), extra=None)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(state)
        assert_identical(checkpointer.restore(jax.eval_shape(lambda: state)), state)


def test_restored_leaves_are_committed_as_the_template_is(tmp_path):
    state = make_state(1)
    pinned = jax.device_put(state.params, jax.devices()[0])
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(state)
        restored = checkpointer.restore(dataclasses.replace(state, params=pinned))
    assert restored.params["w"].committed
    assert not restored.step.committed


def test_buffers_may_be_donated_while_the_save_is_pending(tmp_path):
    state = make_state(0, size=100_000)
    expected = np.array(state.params["w"])
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(state)
        params = state.params
        for _ in range(20):
            params = overwrite(params)
        jax.block_until_ready(params)
        assert state.params["w"].is_deleted()
        restored = checkpointer.restore(make_state(0, size=100_000))
        np.testing.assert_array_equal(restored.params["w"], expected)
        overwrite(restored.params)
        again = checkpointer.restore(make_state(0, size=100_000))
        np.testing.assert_array_equal(again.params["w"], expected)


def test_no_save_at_or_before_the_latest_step(tmp_path):
    state = make_state(5)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(state)
        assert checkpointer.latest_step() == 5
        assert os.listdir(tmp_path) == ["5"]  # complete, though it was begun in the background
        for step in (5, 4):
            with pytest.raises(
                CheckpointError, match=f"cannot save step {step}.*step 5 is already"
            ):
                checkpointer.save(at_step(state, step))
        assert_identical(checkpointer.restore(state), state)


def test_what_cannot_be_saved_is_refused(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        with pytest.raises(TypeError, match=r"state\.params must be an array, got float"):
            checkpointer.save(dataclasses.replace(make_state(), params=1.0))
        assert checkpointer.latest_step() is None
        with pytest.raises(CheckpointError, match="no checkpoint"):
            checkpointer.restore(make_state())
    with pytest.raises(ValueError, match="max_to_keep"):
        Checkpointer(tmp_path, max_to_keep=0)


MISMATCHES = {
    "shape": (
        lambda s: {**s.params, "w": jnp.zeros((4, 3))},
        r"\['w'\] is float32\[3, 4\].*4, 3\]",
    ),
    "dtype": (lambda s: {**s.params, "b": jnp.zeros(4, jnp.int32)}, r"\['b'\] is float32.*int32"),
    "more": (lambda s: {**s.params, "c": jnp.zeros(2)}, r"\['c'\] is absent.*float32\[2\]"),
    "less": (lambda s: {"w": s.params["w"]}, r"\['b'\] is float32\[4\].*absent"),
    "key": (lambda s: {**s.params, "w": jax.random.key(0)}, r"\['w'\] is float32.*key<fry>\[\]"),
    "leaf": (lambda s: {**s.params, "w": 1.0}, r"\['w'\] is float32.*has float$"),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_a_template_that_differs_is_named(tmp_path, name):
    change, message = MISMATCHES[name]
    state = make_state(1)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(state)
        with pytest.raises(CheckpointError, match=r"1: state\.params" + message):
            checkpointer.restore(dataclasses.replace(state, params=change(state)))
        other_key = dataclasses.replace(state, key=jax.random.key(0, impl="rbg"))
        with pytest.raises(CheckpointError, match=r"state\.key is key<fry>\[\].*key<rbg>"):
            checkpointer.restore(other_key)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with checkpoints 1 and 2, and the latter's state."""
    directory = tmp_path_factory.mktemp("saved")
    with Checkpointer(directory) as checkpointer:
        checkpointer.save(make_state(1, seed=1))
        checkpointer.save(make_state(2, seed=2))
    return directory, make_state(2, seed=2)


def flip(file, position):
    content = bytearray(file.read_bytes())
    content[int(position * (len(content) - 1))] ^= 0x10
    file.write_bytes(content)


DAMAGE = {
    "flip first": lambda file: flip(file, 0.0),
    "flip third": lambda file: flip(file, 0.33),
    "flip middle": lambda file: flip(file, 0.6),
    "flip last": lambda file: flip(file, 1.0),
    "truncate": lambda file: os.truncate(file, file.stat().st_size // 2),
    "empty": lambda file: os.truncate(file, 0),
    "remove": lambda file: file.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_to_any_file_is_noticed(tmp_path, saved, damage):
    directory, state = saved
    files = [f.relative_to(directory) for f in (directory / "2").rglob("*") if f.is_file()]
    noticed, messages = set(), []
    for i, file in enumerate(files):
        copy = tmp_path / str(i)
        shutil.copytree(directory, copy)
        DAMAGE[damage](copy / file)
        before = {f: f.read_bytes() for f in copy.rglob("*") if f.is_file()}
        with Checkpointer(copy) as checkpointer:
            try:
                restored = checkpointer.restore(state)
            except CheckpointError as error:
                noticed.add(file)
                messages.append(str(error))
            else:  # a file that holds nothing of the state, such as a time of writing
                assert_identical(restored, state)
            assert int(checkpointer.restore(state, step=1).step) == 1
        assert {f: f.read_bytes() for f in copy.rglob("*") if f.is_file()} == before
    assert pathlib.Path("2/manifest/metadata") in noticed
    data = [f for f in files if f.parts[:3] == ("2", "leaves", "d")]
    assert data
    assert noticed.issuperset(data)
    assert all(re.match(rf"{tmp_path}/\d+/2: missing or damaged part: .*$", m) for m in messages)


def test_leaves_of_another_checkpoint_fail_the_digest(tmp_path, saved):
    directory, state = saved
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "2" / "leaves")
    shutil.copytree(tmp_path / "1" / "leaves", tmp_path / "2" / "leaves")
    with Checkpointer(tmp_path) as checkpointer, pytest.raises(CheckpointError, match="SHA-256"):
        checkpointer.restore(state)


def test_an_empty_step_directory_is_missing_its_parts(tmp_path, saved):
    directory, state = saved
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    (tmp_path / "3").mkdir()
    with Checkpointer(tmp_path) as checkpointer:
        with pytest.raises(CheckpointError, match=r"3: missing or damaged"):
            checkpointer.restore(state)
        assert_identical(checkpointer.restore(state, step=2), state)


SAVE_FOREVER = textwrap.dedent(
    """
    import sys
    import jax, jax.numpy as jnp
    from typing import Any, NamedTuple
    from jbism.training._checkpoint import Checkpointer

    class State(NamedTuple):
        step: Any
        values: Any

    def at(step):
        return State(jnp.int32(step), [jnp.full((200, 200), step + i) for i in range(8)])

    if __name__ == "__main__":
        checkpointer = Checkpointer(sys.argv[1], max_to_keep=1)
        step = checkpointer.latest_step() or 0
        if step:
            checkpointer.restore(at(0))
        while True:
            step += 1
            checkpointer.save(at(step))
    """
)


def test_a_kill_in_mid_save_leaves_a_checkpoint_and_does_not_hinder_the_next_start(tmp_path):
    script, directory = tmp_path / "save_forever.py", tmp_path / "checkpoints"
    script.write_text(SAVE_FOREVER)
    root = pathlib.Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    moments = random.Random(0)
    namespace: dict[str, Any] = {"__name__": "save_forever"}
    exec(SAVE_FOREVER, namespace)
    at, former = namespace["at"], 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, script, directory], cwd=root, env=environment)
        try:
            deadline = time.monotonic() + 60

            def saving(step):
                return (directory / f"{step}.orbax-checkpoint-tmp").exists()

            # Some saves on, while one is under way.
            while not any(saving(former + 3 + i) for i in range(50)):
                assert process.poll() is None, "the saving process died by itself"
                assert time.monotonic() < deadline
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.03))
        finally:
            process.kill()
            process.wait()
        with Checkpointer(directory) as checkpointer:
            step = checkpointer.latest_step()
            assert step is not None
            assert step >= former + 2
            assert_identical(checkpointer.restore(at(0)), at(step))
        former = step


# Metrics


def read_lines(workdir, times=False):
    text = pathlib.Path(workdir, "metrics.jsonl").read_text()
    assert text == "" or text.endswith("\n")
    records = [json.loads(line) for line in text.splitlines()]
    for record in records:
        wall_time = record["wall_time"] if times else record.pop("wall_time")
        assert abs(wall_time - time.time()) < 3600
    return records


def test_lines_are_flushed_and_in_order(tmp_path):
    with MetricsWriter(tmp_path, resume_step=None) as writer:
        writer.write(10, {"loss": np.float32(0.5), "accuracy": jnp.float32(1)})
        assert read_lines(tmp_path) == [{"step": 10, "loss": 0.5, "accuracy": 1.0}]
        writer.write(20, {"loss": 0.25})
        assert [list(r) for r in read_lines(tmp_path, times=True)] == [
            ["step", "wall_time", "loss", "accuracy"],
            ["step", "wall_time", "loss"],
        ]


@pytest.mark.parametrize("tail", ["", '{"step": 40, "wall_ti', '{"step": 40'])
@pytest.mark.parametrize(
    ("resume_step", "kept"), [(20, [10, 20]), (25, [10, 20]), (30, [10, 20, 30]), (None, [])]
)
def test_resumption_drops_what_came_later(tmp_path, tail, resume_step, kept):
    with MetricsWriter(tmp_path, resume_step=None) as writer:
        for step in (10, 20, 30):
            writer.write(step, {"loss": step / 10})
    file = tmp_path / "metrics.jsonl"
    file.write_text(file.read_text() + tail)
    with MetricsWriter(tmp_path, resume_step=resume_step) as writer:
        writer.write(99, {"loss": 9.9})
    assert [r["step"] for r in read_lines(tmp_path)] == [*kept, 99]
    assert [r["loss"] for r in read_lines(tmp_path)] == [*[s / 10 for s in kept], 9.9]
    assert os.listdir(tmp_path).count("metrics.jsonl.tmp") == 0


def test_a_complete_last_line_without_newline_is_kept(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 10, "wall_time": {time.time()}}}')
    with MetricsWriter(tmp_path, resume_step=10) as writer:
        writer.write(20, {})
    assert [r["step"] for r in read_lines(tmp_path)] == [10, 20]


def test_a_broken_line_in_the_middle_is_an_error_and_stays(tmp_path):
    content = '{"step": 10}\nnonsense\n{"step": 30}\n'
    (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(ValueError, match="line 2 is not a record: 'nonsense'"):
        MetricsWriter(tmp_path, resume_step=10)
    assert (tmp_path / "metrics.jsonl").read_text() == content


def test_bad_metrics_are_refused_and_leave_no_line(tmp_path):
    with MetricsWriter(tmp_path, resume_step=None) as writer:
        with pytest.raises(ValueError, match=r"metrics\['loss'\] must be finite, got nan"):
            writer.write(1, {"loss": float("nan")})
        with pytest.raises(ValueError, match="reserved name 'step'"):
            writer.write(1, {"step": 1.0})
        with pytest.raises(ValueError, match=r"images\['x'\] must be .*\(2, 2, 2\)"):
            writer.write(1, {}, images={"x": np.zeros((2, 2, 2))})
        with pytest.raises(ValueError, match=r"images\['x'\] must be floating or uint8"):
            writer.write(1, {}, images={"x": np.zeros((2, 2), np.int32)})
        with pytest.raises(ValueError, match="step must be"):
            writer.write(-1, {})
    with pytest.raises(ValueError, match="resume_step"):
        MetricsWriter(tmp_path, resume_step=-1)
    assert read_lines(tmp_path) == []


def read_events(workdir):
    """The events in the order TensorBoard reads them, by an independent reading of the format."""
    from tensorboardX.proto.event_pb2 import Event

    for file in sorted(pathlib.Path(workdir, "tensorboard").iterdir()):
        content, at = file.read_bytes(), 0
        while at < len(content):
            length = int.from_bytes(content[at : at + 8], "little")
            yield Event.FromString(content[at + 12 : at + 12 + length])
            at += length + 16


def test_tensorboard_events_hold_scalars_images_and_the_purge_step(tmp_path):
    picture = np.linspace(0, 1, 60, dtype=np.float32).reshape(5, 4, 3)
    with MetricsWriter(tmp_path, resume_step=None) as writer:
        writer.write(10, {"loss": 0.5}, images={"rgb": picture, "grey": picture[:, :, 0]})
        writer.write(20, {"loss": 0.25}, images={"rgba": np.zeros((2, 2, 4), np.uint8)})
    with MetricsWriter(tmp_path, resume_step=10) as writer:
        writer.write(20, {"loss": 0.125})
    events = list(read_events(tmp_path))
    scalars, images, purges = [], {}, []
    for event in events:
        if event.session_log.status:
            purges.append(event.step)
        for value in event.summary.value:
            if value.HasField("image"):
                images[value.tag] = value.image
            else:
                scalars.append((event.step, value.tag, value.simple_value))
    assert scalars == [(10, "loss", 0.5), (20, "loss", 0.25), (20, "loss", 0.125)]
    assert purges == [0, 11]
    assert {tag: (i.height, i.width, i.colorspace) for tag, i in images.items()} == {
        "rgb": (5, 4, 3),
        "grey": (5, 4, 3),
        "rgba": (2, 2, 4),
    }
    image = pytest.importorskip("PIL.Image")
    import io

    decoded = np.asarray(image.open(io.BytesIO(images["rgb"].encoded_image_string)))
    np.testing.assert_allclose(decoded / 255, picture, atol=1 / 255)


# Run directories

CONFIG = {"model": {"name": "rbm", "sizes": (2, 4)}, "train": {"steps": 100, "lr": 1e-3}, "seed": 1}


def changed(**changes):
    config = json.loads(json.dumps(CONFIG))
    for dotted, value in changes.items():
        *parents, last = dotted.split("__")
        inner = config
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    return config


def test_a_new_directory_and_its_resumption(tmp_path):
    path = open_workdir(tmp_path / "a" / "b", CONFIG, overwrite=False)
    assert path == tmp_path / "a" / "b"
    assert json.loads((path / "config.json").read_text()) == changed()
    (path / "metrics.jsonl").write_text("kept\n")
    open_workdir(path, changed(), overwrite=False)
    assert (path / "metrics.jsonl").read_text() == "kept\n"
    assert sorted(os.listdir(path)) == ["config.json", "metrics.jsonl"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__lr": 0.01}, r"train\.lr is 0\.001 there, 0\.01 here$"),
        ({"seed": True}, "seed is 1 there, true here$"),
        ({"model__sizes": [2, 5]}, r"model\.sizes is \[2, 4\] there, \[2, 5\] here$"),
        ({"model": {}}, r"model is absent there, \{\} here; model\.name is \"rbm\" there, absent"),
        (
            {"a": 1, "b": 2, "c": 3, "d": 4},
            "a is .*b is .*c is absent there, 3 here; and 1 more$",
        ),
    ],
)
def test_another_configuration_is_refused(tmp_path, changes, message):
    open_workdir(tmp_path, CONFIG, overwrite=False)
    with pytest.raises(WorkdirError, match=message) as caught:
        open_workdir(tmp_path, changed(**changes), overwrite=False)
    assert "\n" not in str(caught.value)
    assert json.loads((tmp_path / "config.json").read_text()) == changed()


def test_a_configuration_is_checked_before_anything_is_made(tmp_path):
    check_workdir(tmp_path / "absent", CONFIG)
    assert not (tmp_path / "absent").exists()
    open_workdir(tmp_path, CONFIG, overwrite=False)
    longer = changed(train__steps=200)
    with pytest.raises(WorkdirError, match=r"train\.steps is 100 there, 200 here"):
        check_workdir(tmp_path, longer)
    check_workdir(tmp_path, longer, may_differ=("train.steps",))
    assert json.loads((tmp_path / "config.json").read_text()) == changed()


def test_keys_that_may_differ(tmp_path):
    open_workdir(tmp_path, CONFIG, overwrite=False)
    longer = changed(train__steps=200)
    for may_differ in ((), ("train.step",), ("steps",), ("train.lr", "seed")):
        with pytest.raises(WorkdirError, match=r"train\.steps is 100 there, 200 here"):
            open_workdir(tmp_path, longer, overwrite=False, may_differ=may_differ)
    open_workdir(tmp_path, longer, overwrite=False, may_differ=("train.steps",))
    assert json.loads((tmp_path / "config.json").read_text()) == longer
    open_workdir(tmp_path, CONFIG, overwrite=False, may_differ=("train",))
    assert json.loads((tmp_path / "config.json").read_text()) == changed()


def test_overwrite_removes_the_outputs_of_a_run_only(tmp_path):
    for output in ("checkpoints/1", "tensorboard"):
        (tmp_path / output).mkdir(parents=True)
        (tmp_path / output / "file").write_text("old")
    (tmp_path / "metrics.jsonl").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for overwrite in (False, True):
        with pytest.raises(WorkdirError, match="neither empty nor a run's"):
            open_workdir(tmp_path, CONFIG, overwrite=overwrite)
        assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "config.json").write_text("{}")
    open_workdir(tmp_path, CONFIG, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "notes.txt"]
    assert json.loads((tmp_path / "config.json").read_text()) == changed()


def test_overwrite_does_not_follow_links(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("mine")
    run = open_workdir(tmp_path / "run", CONFIG, overwrite=True)
    (run / "checkpoints").symlink_to(elsewhere, target_is_directory=True)
    open_workdir(run, CONFIG, overwrite=True)
    assert os.listdir(run) == ["config.json"]
    assert (elsewhere / "file").exists()


def test_a_start_that_was_killed_in_mid_write_can_be_repeated(tmp_path):
    (tmp_path / "config.json.tmp").write_text('{"mod')
    open_workdir(tmp_path, CONFIG, overwrite=False)
    assert os.listdir(tmp_path) == ["config.json"]


def test_directories_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(WorkdirError, match="cannot be used as a directory to write in"):
            open_workdir(path, CONFIG, overwrite=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{broken")
    with pytest.raises(WorkdirError, match=r"config\.json is not valid JSON"):
        open_workdir(tmp_path / "run", CONFIG, overwrite=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_directory_without_the_right_to_write(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(WorkdirError, match="cannot be used as a directory to write in"):
        open_workdir(tmp_path, CONFIG, overwrite=False)


def test_configurations_that_are_not_json(tmp_path):
    with pytest.raises(TypeError, match="config must hold JSON values only"):
        open_workdir(tmp_path, {"x": object()}, overwrite=False)
    with pytest.raises(ValueError, match="config must hold JSON values only"):
        open_workdir(tmp_path, {"x": float("nan")}, overwrite=False)
    with pytest.raises(TypeError, match="config must be dict"):
        open_workdir(tmp_path, [1], overwrite=False)
    assert os.listdir(tmp_path) == []


# The loop

NUM_EXAMPLES = 20
DATA = np.random.default_rng(0).normal(size=(NUM_EXAMPLES, 3)).astype(np.float32)


class Order:
    """A permutation each epoch of five batches of four."""

    def indices(self, step, num_steps):
        steps = np.arange(step, step + num_steps)
        permutations = {
            epoch: np.random.default_rng((7, epoch)).permutation(NUM_EXAMPLES).reshape(5, 4)
            for epoch in np.unique(steps // 5)
        }
        return np.stack([permutations[s // 5][s % 5] for s in steps]).astype(np.int32)


NEVER = 1_000_000


def start(**fail_at):
    """A fresh state; metrics are infinite from the steps ``fail_at``, counted from 1, on."""
    return dataclasses.replace(
        make_state(), extra={name: jnp.int32(fail_at.get(name, NEVER)) for name in METRICS}
    )


METRICS = ("grad_norm", "loss")


@functools.partial(jax.jit, donate_argnums=0)
def train_steps(state, indices):
    """A regression on noise."""

    def one_step(state, indices):
        key = jax.random.fold_in(state.key, state.step)

        def loss_fn(params):
            x = jnp.asarray(DATA)[indices]
            noise = jax.random.normal(key, (x.shape[0], 4))
            return ((x @ params["w"] + params["b"][None, :] - noise) ** 2).mean()

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        updates, opt_state = OPTIMIZER.update(grads, state.opt_state)
        metrics = {"grad_norm": optax.tree.norm(grads), "loss": loss}
        step = state.step + 1
        metrics = {n: jnp.where(step >= state.extra[n], jnp.inf, metrics[n]) for n in METRICS}
        params = optax.apply_updates(state.params, updates)
        return dataclasses.replace(state, step=step, params=params, opt_state=opt_state), metrics

    return jax.lax.scan(one_step, state, indices)


EVERY = {"steps_per_call": 5, "log_every": 10, "progress": False}


def test_the_rate_shown_leaves_out_the_compilation(capsys):
    fit(start(), train_steps, Order(), num_steps=50, **EVERY)  # compiles them in truth
    calls = []

    def slow_at_first(state, indices):
        time.sleep(0.05 if calls else 3.0)
        calls.append(len(indices))
        return train_steps(state, indices)

    fit(start(), slow_at_first, Order(), num_steps=50, **{**EVERY, "progress": True})
    shown = capsys.readouterr().err
    assert "compiling" in shown.split("5/50")[0]
    assert "compiling" not in shown.split("5/50")[-1]
    rate = float(re.findall(r"([\d.]+)step/s", shown)[-1])
    assert rate > 50 / 3  # all of them in the time of the first call


def stop_at(step, error):
    def stop(state, at):
        if at == step:
            raise error

    return (5, stop)


@pytest.mark.parametrize("stops", [[35], [20], [10, 55, 60], [5]])
def test_interrupted_runs_equal_an_uninterrupted_one(tmp_path, stops):
    def run(workdir, stop=None):
        """As an experiment does it: resumes if there is a checkpoint."""
        with Checkpointer(workdir / "checkpoints") as checkpointer:
            saved = checkpointer.latest_step()
            state = start() if saved is None else checkpointer.restore(start())
            with MetricsWriter(workdir, resume_step=saved) as writer:

                def evaluate(state, step):
                    writer.write(step, {"norm": jnp.sum(state.params["w"] ** 2)})

                callbacks = [(15, evaluate)]
                if stop is not None:
                    callbacks.append(stop_at(stop, RuntimeError("stopped")))
                return fit(
                    state,
                    train_steps,
                    Order(),
                    num_steps=72,
                    checkpointer=checkpointer,
                    checkpoint_every=20,
                    writer=writer,
                    callbacks=callbacks,
                    **EVERY,
                )

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    expected = run(whole)
    assert int(expected.step) == 72
    for stop in stops:
        with pytest.raises(RuntimeError, match="stopped"):
            run(broken, stop)
    assert_identical(run(broken), expected)
    assert read_lines(broken) == read_lines(whole)
    logged = [r["step"] for r in read_lines(whole) if "loss" in r]
    assert logged == [10, 20, 30, 40, 50, 60, 70, 72]
    assert_identical(run(broken), expected)  # nothing left to do
    assert read_lines(broken) == read_lines(whole)
    with Checkpointer(broken / "checkpoints") as checkpointer:
        assert_identical(checkpointer.restore(start()), expected)


def test_a_run_that_stopped_between_logs_may_end_there(tmp_path):
    def run(num_steps, stop=NEVER):
        with Checkpointer(tmp_path / "checkpoints") as checkpointer:
            saved = checkpointer.latest_step()
            state = start() if saved is None else checkpointer.restore(start())
            done = [0]

            def counted(state, indices):
                done[0] += len(indices)
                return train_steps(state, indices)

            with MetricsWriter(tmp_path, resume_step=saved) as writer:
                fit(
                    state,
                    counted,
                    Order(),
                    num_steps=num_steps,
                    checkpointer=checkpointer,
                    writer=writer,
                    should_stop=lambda: done[0] >= stop,
                    **EVERY,
                )

    with pytest.raises(StoppedError, match="stopped after step 25, which is saved"):
        run(72, stop=25)
    for _ in range(2):  # the second has nothing left to do
        run(25)
        assert [r["step"] for r in read_lines(tmp_path)] == [10, 20, 25]
    losses = np.asarray(train_steps(start(), Order().indices(0, 25))[1]["loss"], np.float64)
    assert read_lines(tmp_path)[-1]["loss"] == pytest.approx(losses[20:].mean(), rel=1e-6)
    run(30)
    assert [r["step"] for r in read_lines(tmp_path)] == [10, 20, 25, 30]


def test_logged_metrics_are_means_over_the_steps_since_the_last_log(tmp_path):
    losses = []
    state = start()
    for step, size in ((0, 5), (5, 5), (10, 5), (15, 5), (20, 3)):
        state, metrics = train_steps(state, Order().indices(step, size))
        losses.extend(np.asarray(metrics["loss"]).tolist())
    with MetricsWriter(tmp_path, resume_step=None) as writer:
        fit(start(), train_steps, Order(), num_steps=23, writer=writer, **EVERY)
    logged = {r["step"]: r["loss"] for r in read_lines(tmp_path)}
    expected = {10: losses[:10], 20: losses[10:20], 23: losses[20:]}
    assert logged == {s: pytest.approx(np.mean(x), rel=1e-12) for s, x in expected.items()}


def test_calls_end_at_multiples_and_only_the_ends_are_shorter():
    sizes, called = [], []

    def recorded(state, indices):
        sizes.append(len(indices))
        return train_steps(state, indices)

    state = fit(start(), recorded, Order(), num_steps=7, **EVERY)
    callbacks = [
        (10, lambda state, step: called.append((10, step, int(state.step)))),
        (5, lambda state, step: called.append((5, step, int(state.step)))),
    ]
    state = fit(state, recorded, Order(), num_steps=23, callbacks=callbacks, **EVERY)
    assert sizes == [5, 2, 3, 5, 5, 3]
    assert called == [(10, 10, 10), (5, 10, 10), (5, 15, 15), (10, 20, 20), (5, 20, 20)]
    assert_identical(state, fit(start(), train_steps, Order(), num_steps=23, **EVERY))


@pytest.mark.parametrize("quantity", ["loss", "grad_norm"])
@pytest.mark.parametrize(
    ("fail_at", "last", "logged"),
    [(3, None, []), (30, 20, [10, 20]), (38, 20, [10, 20, 30]), (41, 40, [10, 20, 30, 40])],
)
def test_the_guard_stops_before_anything_is_saved(tmp_path, fail_at, last, logged, quantity):
    with (
        Checkpointer(tmp_path / "checkpoints") as checkpointer,
        MetricsWriter(tmp_path, resume_step=None) as writer,
        pytest.raises(DivergenceError) as caught,
    ):
        fit(
            start(**{quantity: fail_at}),
            train_steps,
            Order(),
            num_steps=100,
            checkpointer=checkpointer,
            checkpoint_every=20,
            writer=writer,
            **EVERY,
        )
    error = caught.value
    assert (error.step, error.quantity, error.last_checkpoint_step) == (fail_at, quantity, last)
    checkpoint = "none" if last is None else f"step {last}"
    assert str(error) == f"{quantity} is inf at step {fail_at}; last checkpoint: {checkpoint}"
    assert [r["step"] for r in read_lines(tmp_path)] == logged
    with Checkpointer(tmp_path / "checkpoints") as checkpointer:
        assert checkpointer.latest_step() == last


def test_an_interrupt_waits_for_the_pending_save(tmp_path):
    calls = []

    class Recording(Checkpointer):
        def save(self, state, **options):
            calls.append("save")
            super().save(state, **options)

        def wait(self):
            super().wait()
            calls.append("wait")

    with Recording(tmp_path) as checkpointer:
        with pytest.raises(KeyboardInterrupt):
            fit(
                start(),
                train_steps,
                Order(),
                num_steps=100,
                checkpointer=checkpointer,
                checkpoint_every=10,
                callbacks=[stop_at(15, KeyboardInterrupt)],
                **EVERY,
            )
        assert calls[-2:] == ["save", "wait"]
        assert os.listdir(tmp_path) == ["10"]


def test_the_progress_bar_shows_the_rate_and_the_losses(capfd):
    fit(start(), train_steps, Order(), num_steps=20, **{**EVERY, "progress": True})
    out, err = capfd.readouterr()
    assert out == ""
    for part in ("20/20", "step/s", "loss="):
        assert part in err
    assert "grad_norm=" not in err  # so that the losses fit into 80 columns
    fit(start(), train_steps, Order(), num_steps=20, **EVERY)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"log_every": 7}, "log_every must be a multiple of steps_per_call 5, got 7"),
        ({"steps_per_call": 0}, "steps_per_call"),
        ({"checkpoint_every": 15}, "checkpoint_every must be a multiple of log_every 10, got 15"),
        ({"checkpoint_every": 20}, "checkpoint_every needs a checkpointer"),
        ({"callbacks": [(7, print)]}, r"callbacks\[0\]\[0\] must be a multiple of steps_per_call"),
        ({"num_steps": -1}, "num_steps"),
    ],
)
def test_bad_intervals_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        fit(start(), train_steps, Order(), **{"num_steps": 20, **EVERY, **changes})


def test_states_that_do_not_fit_the_run_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"state\.step must be at most num_steps 20, got 30"):
        fit(at_step(start(), 30), train_steps, Order(), num_steps=20, **EVERY)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(at_step(start(), 10))
        with pytest.raises(ValueError, match="must not be behind the latest checkpoint 10, got 5"):
            fit(
                at_step(start(), 5),
                train_steps,
                Order(),
                num_steps=20,
                checkpointer=checkpointer,
                **EVERY,
            )


def test_train_steps_that_break_their_contract_are_refused():
    def idle(state, indices):
        return state, {"loss": jnp.zeros(len(indices))}

    def total(state, indices):
        return at_step(state, len(indices)), {"loss": jnp.zeros(())}

    with pytest.raises(ValueError, match=r"train_steps must take state\.step to 5, got 0"):
        fit(start(), idle, Order(), num_steps=20, **EVERY)
    with pytest.raises(ValueError, match=r"metric loss must have shape \(5,\), got \(\)"):
        fit(start(), total, Order(), num_steps=20, **EVERY)
