"""Training that diverges: rollbacks, how they end, and what a kill between them changes."""

import re
import signal
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest

from experiments.builders import build
from jbism.training import (
    Checkpointer,
    DivergenceError,
    Rollbacks,
    checkpoint_steps,
    create_state,
)
from tests.configs import TINY, make_config
from tests.faults.children import Child, at_step, poison, send, train
from tests.faults.runs import CONFIG, OVERRIDES, assert_same_runs, flags_of, records
from tests.faults.test_directories import fails

GUARD = {"train.num_steps": 100, "guard.max_rollbacks": 2}
# At this rate the first steps throw the parameters far away.
ABSURD = {"theta_optimizer.learning_rate": 20.0, "phi_optimizer.learning_rate": 20.0}


def rolled_back(quantity, value, step, number, most, to):
    """Returns what a run says of a rollback."""
    return (
        f"{quantity} is {value} at step {step}; last checkpoint: step {to}; "
        f"rollback {number} of {most}, to step {to}\n"
    )


def template(**overrides):
    return build(make_config(CONFIG, TINY | OVERRIDES | overrides)).initial_state


def test_a_nan_is_cured_by_other_noise(whole, tmp_path):
    """Up to the checkpoint the run is the one without a fault, after it another, killed or not."""
    run, killed = (tmp_path / name for name in ("run", "killed"))
    flags = partial(flags_of, **GUARD)
    child = Child(tmp_path, train, flags(run), [partial(poison, 53)])
    assert (child.wait(), child.stderr) == (0, "")
    assert child.stdout == rolled_back("loss", "nan", 53, 1, 2, 40)
    assert records(run, "rollbacks.jsonl") == [
        {"number": 1, "step": 53, "quantity": "loss", "value": "nan", "to_step": 40}
    ]
    lines = records(run)
    assert [r["step"] for r in lines] == list(range(10, 101, 10))
    former = records(whole.workdir)[:10]
    assert lines[:4] == former[:4]
    assert all(a["loss"] != b["loss"] for a, b in zip(lines[4:], former[4:], strict=True))
    # Killed after the rollback and before its next checkpoint, and once more after that.
    kills = [partial(poison, 53), partial(at_step, 55, partial(send, signal.SIGKILL))]
    assert Child(tmp_path, train, flags(killed), kills).wait() == -signal.SIGKILL
    assert len(records(killed, "rollbacks.jsonl")) == 1
    kills[1] = partial(at_step, 85, partial(send, signal.SIGKILL))
    child = Child(tmp_path, train, flags(killed), kills)
    assert child.wait() == -signal.SIGKILL
    child = Child(tmp_path, train, flags(killed), [partial(poison, 53)])
    assert child.wait() == 0, child.stderr
    assert re.fullmatch(r"resuming from step [68]0 of 100\n", child.stdout)
    assert_same_runs(killed, run, whole.template)
    assert records(killed, "rollbacks.jsonl") == records(run, "rollbacks.jsonl")


def test_a_nan_that_stays_ends_the_run_after_so_many_rollbacks(whole, tmp_path):
    run = tmp_path / "run"
    flags = flags_of(run, **GUARD)
    stays = partial(poison, 53, persistent=True)
    child = Child(tmp_path, train, flags, [stays])
    assert child.wait() == 1
    assert child.stderr == "error: loss is nan at step 53; last checkpoint: step 40\n"
    assert child.stdout == "".join(rolled_back("loss", "nan", 53, n, 2, 40) for n in (1, 2))
    numbers = [r["number"] for r in records(run, "rollbacks.jsonl")]
    assert numbers == [1, 2]
    # Those rollbacks count for the same command, too; more of them may be allowed.
    assert fails(tmp_path, flags, stays) + "\n" == child.stderr
    child = Child(tmp_path, train, [*flags, "--config.guard.max_rollbacks=3"], [stays])
    assert child.wait() == 1
    assert child.stdout.endswith(rolled_back("loss", "nan", 53, 3, 3, 40))
    # With the cause gone the run goes on from its checkpoint.
    child = Child(tmp_path, train, flags)
    assert (child.wait(), child.stderr) == (0, "")
    assert [r["step"] for r in records(run)] == list(range(10, 101, 10))
    assert records(run)[:4] == records(whole.workdir)[:4]


def test_without_the_guard_a_nan_ends_the_run(whole, tmp_path):
    run = tmp_path / "run"
    said = fails(tmp_path, flags_of(run, **{"train.num_steps": 100}), partial(poison, 53))
    assert said == "error: loss is nan at step 53; last checkpoint: step 40"
    assert not (run / "rollbacks.jsonl").exists()
    assert checkpoint_steps(run / "checkpoints") == [20, 40]
    whole.assert_metrics(run, 50)


def test_rates_are_lowered_until_a_blow_up_ends(tmp_path):
    """A rate far too large, found by the size of a metric, and tamed by rollbacks to the start."""
    run, killed = tmp_path / "run", tmp_path / "killed"
    guard = (
        GUARD
        | ABSURD
        | {
            "guard.max_rollbacks": 8,
            "guard.rate_factor": 0.1,
            "guard.largest_metric": 1e4,
        }
    )
    child = Child(tmp_path, train, flags_of(run, **guard))
    assert (child.wait(), child.stderr) == (0, "")
    rollbacks = records(run, "rollbacks.jsonl")
    assert 0 < len(rollbacks) <= 8
    assert child.stdout.count("; rollback ") == len(rollbacks)
    assert all(abs(float(r["value"])) > 1e4 for r in rollbacks)
    start = template(**guard)
    with Checkpointer(run / "checkpoints") as saved:
        state = saved.restore(start)
    for level in ("theta_opt_state", "phi_opt_state"):
        scale = optax.tree.get(getattr(state, level), "rate_scale")
        assert float(scale) == pytest.approx(0.1 ** len(rollbacks), rel=1e-5)
    # Killed in the midst of the rollbacks, it comes to the same.
    kills = [partial(at_step, 5, partial(send, signal.SIGKILL))]
    child = Child(tmp_path, train, flags_of(killed, **guard), kills)
    assert child.wait() == -signal.SIGKILL
    child = Child(tmp_path, train, flags_of(killed, **guard))
    assert (child.wait(), child.stderr) == (0, "")
    assert child.stdout.startswith("resuming from step 0 of 100\n")
    assert_same_runs(killed, run, start)


def test_rates_that_cannot_be_lowered_are_refused_before_anything_is_recorded(tmp_path):
    state = create_state(jax.random.key(3), jnp.ones(2), theta_optimizer=optax.sgd(0.1))
    rollbacks = Rollbacks(tmp_path, most=1, rate_factor=0.5)
    with Checkpointer(tmp_path / "checkpoints") as saved:
        saved.save(state)
        with pytest.raises(ValueError, match="needs optimizers made by with_adjustable_rate"):
            rollbacks.applied(state, saved)
        with pytest.raises(ValueError, match="needs optimizers made by with_adjustable_rate"):
            rollbacks.recover(DivergenceError(3, "loss", float("nan"), 0), saved, state)
    assert rollbacks.records() == []


def test_a_checkpoint_takes_the_rollbacks_since_it_was_saved(tmp_path):
    def at(step):
        state = create_state(jax.random.key(3), jnp.ones(2), theta_optimizer=optax.sgd(0.1))
        return replace(state, step=jnp.int32(step))

    def folded(*numbers):
        key = jax.random.key(3)
        for number in numbers:
            key = jax.random.fold_in(key, number)
        return jax.random.key_data(key).tolist()

    def key_of(state):
        return jax.random.key_data(state.key).tolist()

    rollbacks = Rollbacks(tmp_path, most=2)
    with Checkpointer(tmp_path / "checkpoints") as saved:
        saved.save(at(0))
        error = DivergenceError(3, "loss", float("nan"), 0)
        state = rollbacks.recover(error, saved, at(0))
        assert key_of(state) == folded(1)
        saved.save(replace(state, step=jnp.int32(5)), notes=rollbacks.notes())
        state = rollbacks.recover(DivergenceError(8, "loss", float("nan"), 5), saved, at(0))
        assert (int(state.step), key_of(state)) == (5, folded(1, 2))
        # Should the checkpoint of step 5 be lost, the one before needs both.
        assert key_of(rollbacks.applied(saved.restore(at(0), 0), saved)) == folded(1, 2)


def test_a_stop_during_the_call_that_diverges_is_not_lost(tmp_path):
    """The run rolls back, and stops as soon as it has something to save."""
    run = tmp_path / "run"
    preparations = [partial(poison, 53), partial(signal_in_call, 50)]
    child = Child(tmp_path, train, flags_of(run, **GUARD), preparations)
    assert child.wait() == 75, (child.stdout, child.stderr)
    assert child.stdout == rolled_back("loss", "nan", 53, 1, 2, 40)
    assert child.stderr.startswith("stopped after step 45, which is saved")


def signal_in_call(step):
    """Sends this process a SIGTERM while it does the call of five steps after that step."""
    from experiments import train as binary

    indices = binary.data.BatchOrder.indices

    def indices_and_send(self, begin, num_steps):
        if begin == step + 5 and not sent:  # the next call's are drawn ahead
            sent.append(begin)
            send(signal.SIGTERM)
        return indices(self, begin, num_steps)

    sent = []
    binary.data.BatchOrder.indices = indices_and_send
