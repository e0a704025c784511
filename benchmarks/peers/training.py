"""Training steps of the library and of its peers, to be proved equal and timed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np

from benchmarks.cases import Case
from benchmarks.peers import clock, proof
from benchmarks.peers.peer import Peer
from benchmarks.peers.problems import Problem
from jbism.training import TrainState, train_steps

_PYTORCH = (
    Peer("eager", ("torch",), "benchmarks.peers.torch_eager:build"),
    Peer("func", ("torch",), "benchmarks.peers.torch_functional:build"),
    Peer("compile", ("torch",), "benchmarks.peers.torch_functional:build_compiled"),
)
_TORCHOPT = Peer("torchopt", ("torch", "torchopt"), "benchmarks.peers.torchopt_bism:build")
_WARM_STEPS = 3  # so that the proof starts from moments that are not zero


@dataclass(frozen=True)
class Ours:
    """The library's step, a state it has reached, and what one step from there did."""

    step: Callable
    run: Callable  # the step by `jbism.training.train_steps`
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
        return cls(step, run, data, before, after, metrics, np.asarray(data[rows[_WARM_STEPS]]))

    @cached_property
    def in_double(self) -> "Ours":
        """The last step taken again in double precision, once for all peers."""
        with jax.enable_x64(True):
            before = jax.tree.map(_double, self.before)
            v = self.v.astype(np.float64)
            after, metrics = jax.jit(self.step)(before, v)
        return replace(self, before=before, after=after, metrics=metrics, v=v)


def _double(x):
    return x.astype(np.float64) if jax.numpy.issubdtype(x.dtype, np.floating) else x


@dataclass(frozen=True)
class TrainingContest:
    """A training step, by the library and by those peers that can write it."""

    case: Case
    problem: Problem

    @property
    def name(self) -> str:
        """The case's."""
        return self.case.name

    @property
    def peers(self) -> dict[str, Peer]:
        """PyTorch's that unroll or have nothing to; TorchOpt's where there is a hypergradient."""
        solves = self.problem.num_solve_steps is not None
        peers = [] if solves else list(_PYTORCH)
        if solves or self.problem.num_virtual:
            peers.append(_TORCHOPT)
        return {peer.name: peer for peer in peers}

    @property
    def targets(self) -> Mapping[str, float]:
        """The problem's."""
        return self.problem.targets

    def ours(self) -> Ours:
        """Takes the library's first few steps."""
        return Ours.of(self.case)

    def prove(self, peer: str, ours: Ours) -> tuple[Callable, float]:
        """Builds a peer's step and compares one step of it."""
        import torch

        torch.set_num_threads(1)
        step = self.peers[peer].build(self.problem, ours.v.shape)
        done = ours.in_double if self.problem.proved_in_double else ours
        with jax.enable_x64(self.problem.proved_in_double):
            found = proof.differences(
                self.problem, step, done.before, done.after, done.metrics, done.v
            )
        return step, proof.check(found, f"{peer} on {self.name}")

    def program(self, ours: Ours, proven: Callable | None) -> clock.Program:
        """Whole steps, with the batch gathered and the noise drawn."""
        if proven is None:
            return _our_program(self.case, ours)
        return _peer_program(self.case, self.problem, ours, proven)


def _our_program(case, ours):
    state = jax.tree.map(jax.numpy.copy, ours.before)
    indices = _indices(case.steps_per_call, case.batch_size, len(ours.data))

    def run(num_steps):
        nonlocal state
        for _ in range(num_steps // case.steps_per_call):
            state, _ = jax.block_until_ready(ours.run(state, indices))

    return clock.Program(run, multiple=case.steps_per_call)


def _peer_program(case, problem, ours, step):
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
            state, _ = step(state, data[rows[i % len(rows)]], draw())

    return clock.Program(run)


def _indices(num_steps, batch_size, num_examples):
    rng = np.random.default_rng(0)
    return rng.integers(0, num_examples, (num_steps, batch_size))
