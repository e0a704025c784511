"""Two processes of one run, of which one is stopped, fails, diverges or finds damage."""

import signal
import socket
from contextlib import ExitStack
from functools import partial

import pytest

from jbism.training import checkpoint_steps
from tests.faults.children import Child, at_step, ended, fail, poison, send, send_in_pieces, train
from tests.faults.runs import flags_of, records
from tests.faults.test_damage import flip

END = 100


def by_two(folder, workdir, *preparations, **overrides):
    """Trains by two processes with a device each, prepared each in its way.

    Returns the exit codes, and what each wrote to stdout and stderr.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    overrides = {"train.num_steps": END, "mesh.data": -1, **overrides}
    with ExitStack() as stack:
        children = []
        for i, prepared in enumerate(preparations or ((), ())):
            joined = (f"--coordinator_address={address}", "--num_processes=2", f"--process_id={i}")
            flags = flags_of(workdir, *joined, **overrides)
            children.append(
                stack.enter_context(ended(Child(folder / f"{i}", train, flags, prepared)))
            )
        codes = [child.wait() for child in children]
    return codes, [child.stdout for child in children], [child.stderr for child in children]


def assert_close_metrics(workdir, expected):
    ours = records(workdir)
    assert [line["step"] for line in ours] == [line["step"] for line in expected]
    for line, other in zip(ours, expected, strict=True):
        assert line == pytest.approx(other, rel=1e-3)


def test_a_signal_to_one_stops_both_and_damage_is_seen_by_both(whole, tmp_path):
    workdir = tmp_path / "run"
    stop = [partial(at_step, 55, partial(send, signal.SIGTERM))]
    codes, _, said = by_two(tmp_path, workdir, (), stop)
    assert codes == [75, 75], said
    for text in said:
        assert text.endswith(
            "stopped after step 55, which is saved; the same command goes on from there\n"
        )
    flip(workdir / "checkpoints" / "55")
    # Parameters are divided from here on, and checkpoints read in several pieces.
    small = [partial(send_in_pieces, 100)]
    codes, out, said = by_two(tmp_path, workdir, small, small, **{"mesh.shard_parameters_from": 4})
    assert codes == [0, 0], said
    assert "digest does not match the contents; going on from step 40" in said[0]
    assert [f"resuming from step 40 of {END}\n" in text for text in out] == [True, False]
    assert_close_metrics(workdir, records(whole.workdir)[: END // 10])


def test_a_signal_to_one_after_the_last_step_stops_both(tmp_path):
    late = [partial(at_step, END, partial(send, signal.SIGTERM))]
    codes, _, said = by_two(tmp_path, tmp_path / "run", (), late)
    assert codes == [75, 75], said
    assert all(f"stopped after step {END}, which is saved" in text for text in said)
    codes, _, said = by_two(tmp_path, tmp_path / "run", [refuse], ())
    assert codes == [1, 1], said
    assert "no data today" in said[0]
    assert "another process failed" in said[1]


def test_processes_of_different_configs_are_refused(tmp_path):
    codes, _, said = by_two(tmp_path, tmp_path / "run", (), [slower])
    assert codes == [1, 1], said
    assert said[1].endswith(
        "config of process 0 and of process 1: "
        "theta_optimizer.learning_rate is 0.001 there, 0.0005 here\n"
    )
    assert "another process failed" in said[0]
    assert not (tmp_path / "run").exists()


def slower():
    """Has a process train at another rate."""
    from experiments import train as binary

    build = binary.build

    def build_slower(config):
        config.theta_optimizer.learning_rate = 5e-4
        return build(config)

    binary.build = build_slower


def refuse():
    """Has a process fail before it trains."""
    from experiments import train as binary

    def fail(_):
        raise ValueError("no data today")

    binary.build = fail


def test_both_roll_back(tmp_path):
    guard = {"guard.max_rollbacks": 1}
    alone, both = tmp_path / "alone", tmp_path / "both"
    nan = [partial(poison, 53)]
    flags = flags_of(alone, **{"train.num_steps": END}, **guard)
    child = Child(tmp_path, train, flags, nan)
    assert child.wait() == 0, child.stderr
    codes, out, said = by_two(tmp_path, both, nan, nan, **guard)
    assert codes == [0, 0], said
    assert "rollback 1 of 1, to step 40" in out[0]
    assert records(both, "rollbacks.jsonl") == records(alone, "rollbacks.jsonl")
    assert_close_metrics(both, records(alone))


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_of_one_ends_both(whole, tmp_path, failing):
    workdir = tmp_path / "run"
    prepared = [(), ()]
    prepared[failing] = [partial(at_step, 55, fail)]
    codes, _, said = by_two(tmp_path, workdir, *prepared)
    assert codes[failing] == 1
    assert "KeyError: 'lost'" in said[failing]
    assert codes[1 - failing] != 0
    assert checkpoint_steps(workdir / "checkpoints")[-1] == 40
    codes, out, said = by_two(tmp_path, workdir)
    assert codes == [0, 0], said
    assert f"resuming from step 40 of {END}\n" in out[0]
    assert_close_metrics(workdir, records(whole.workdir)[: END // 10])
