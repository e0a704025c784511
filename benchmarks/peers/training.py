"""Proves a case's peers equal to the library and times them in turn with it."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks.cases import Case
from benchmarks.peers import clock, proof
from benchmarks.peers.problems import Problem
from benchmarks.peers.training_peers import Peer
from jbism.training import TrainState, train_steps

_WARM_STEPS = 3  # so that the proof starts from moments that are not zero


@dataclass(frozen=True)
class Proven:
    """A peer's step that has done the library's work."""

    peer: Peer
    step: Callable
    difference: float
    compile_seconds: float


@dataclass(frozen=True)
class Ours:
    """The library's step, a state it has reached, and what one step from there did."""

    run: Callable  # of `jbism.training.train_steps`
    data: jax.Array
    before: TrainState
    after: TrainState
    metrics: dict[str, Any]
    v: np.ndarray  # the batch of that step

    @classmethod
    def of(cls, case: Case) -> "Ours":
        """Builds the step of a case and takes the first few."""
        step, state, data = case.build()
        run = train_steps(step, data)
        rows = _indices(_WARM_STEPS + 1, case.batch_size, len(data))
        for i in range(_WARM_STEPS):
            state, _ = run(state, rows[i : i + 1])
        before = jax.tree.map(jax.numpy.copy, state)  # the state is donated
        after, metrics = run(state, rows[_WARM_STEPS:])
        metrics = {name: np.asarray(value)[0] for name, value in metrics.items()}
        return cls(run, data, before, after, metrics, np.asarray(data[rows[_WARM_STEPS]]))


def prove(problem: Problem, peer: Peer, ours: Ours) -> Proven:
    """Builds a peer's step and proves it equal.

    Raises:
      benchmarks.peers.proof.DisagreementError: if it is not.
    """
    step = peer.build(problem, ours.v.shape)
    start = time.perf_counter()
    found = proof.differences(problem, step, ours.before, ours.after, ours.metrics, ours.v)
    seconds = time.perf_counter() - start
    return Proven(peer, step, proof.check(found, f"{peer.name} on {problem.case}"), seconds)


def measure(
    case: Case, problem: Problem, ours: Ours, proven: list[Proven], repeats: int
) -> Iterator[dict[str, Any]]:
    """Times the library and the peers in turn; yields a row for each peer."""
    programs = [_our_program(case, ours), *(_peer_program(case, problem, ours, p) for p in proven)]
    names = ["jbism", *(p.peer.name for p in proven)]
    times = clock.alternate(dict(zip(names, programs, strict=True)), repeats)
    for one in proven:
        yield {
            "case": case.name,
            "peer": one.peer.name,
            "versions": one.peer.versions(),
            "difference": one.difference,
            "first_call_seconds": one.compile_seconds,
            **clock.compared(times["jbism"], times[one.peer.name]),
            "target": problem.targets.get(one.peer.name),
        }


def _our_program(case, ours):
    state = jax.tree.map(jax.numpy.copy, ours.before)
    indices = _indices(case.steps_per_call, case.batch_size, len(ours.data))

    def run(num_steps):
        nonlocal state
        for _ in range(num_steps // case.steps_per_call):
            state, _ = jax.block_until_ready(ours.run(state, indices))

    return clock.Program(run, multiple=case.steps_per_call)


def _peer_program(case, problem, ours, proven):
    import torch

    from benchmarks.peers.torch_models import model_of
    from benchmarks.peers.torch_state import draw_noise, state_of

    model = model_of(problem)
    state = state_of(ours.before, model.parameter)
    data = torch.tensor(model.visible(np.asarray(ours.data)))
    rows = torch.from_numpy(_indices(case.steps_per_call, case.batch_size, len(data)))
    draw = partial(draw_noise, problem, (case.batch_size, *data.shape[1:]))

    def run(num_steps):
        nonlocal state
        for i in range(num_steps):
            state, _ = proven.step(state, data[rows[i % len(rows)]], draw())

    return clock.Program(run)


def _indices(num_steps, batch_size, num_examples):
    rng = np.random.default_rng(0)
    return rng.integers(0, num_examples, (num_steps, batch_size))


def log(message: str) -> None:
    """Says on stderr what goes on."""
    print(message, file=sys.stderr, flush=True)
