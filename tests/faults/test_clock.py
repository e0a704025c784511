"""Clocks that jump."""

import itertools
import json
import pathlib
import signal
from functools import partial

from tensorboardX.proto.event_pb2 import Event

from tests.faults.children import Child, at_step, send, set_clock, train
from tests.faults.runs import flags_of

DAY = 86_400.0


def scalars_that_tensorboard_shows(workdir, name):
    """Returns (step, value) of what is left of the events when former ones are purged."""
    shown = []
    for file in sorted(pathlib.Path(workdir, "tensorboard").iterdir()):
        content, at = file.read_bytes(), 0
        while at < len(content):
            length = int.from_bytes(content[at : at + 8], "little")
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += length + 16
            if event.session_log.status:
                shown = [(step, value) for step, value in shown if step < event.step]
            shown += [(event.step, x.simple_value) for x in event.summary.value if x.tag == name]
    return shown


def test_a_clock_that_goes_back_within_and_between_runs(whole, tmp_path):
    """By a day each time; what was written stays in order, in TensorBoard too."""
    workdir = tmp_path / "run"
    flags = flags_of(workdir, **{"train.num_steps": 160})
    jumps = [partial(set_clock, DAY), partial(at_step, 35, partial(set_clock, 0.0))]
    child = Child(tmp_path, train, flags, [*jumps, partial(at_step, 75, partial(send, 9))])
    assert child.wait() == -signal.SIGKILL, child.stderr
    child = Child(tmp_path, train, flags, [partial(set_clock, -DAY)])
    assert child.wait() == 0, child.stderr
    assert child.stdout.startswith("resuming from step")
    whole.assert_equals(workdir, 160)
    lines = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    times = [record["wall_time"] for record in lines]
    assert sum(a - b > DAY / 2 for a, b in itertools.pairwise(times)) == 2  # the clock did jump
    shown = scalars_that_tensorboard_shows(workdir, "loss")
    assert [step for step, _ in shown] == [record["step"] for record in lines]
    for (_, value), record in zip(shown, lines, strict=True):
        assert abs(value - record["loss"]) <= 1e-6 * abs(record["loss"])
