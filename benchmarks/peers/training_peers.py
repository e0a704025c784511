"""The peers of training steps: what each needs, which problems it takes, and how it is built."""

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.peers.problems import Problem


@dataclass(frozen=True)
class Peer:
    """A library's way of writing a training step."""

    name: str
    packages: tuple[str, ...]
    builder: str  # "module:function", imported only where the packages are there
    takes: Callable[[Problem], bool]

    def build(self, problem: Problem, batch_shape: tuple[int, ...]) -> Callable:
        """Returns a `benchmarks.peers.torch_state.Step`."""
        module, function = self.builder.split(":")
        return getattr(importlib.import_module(module), function)(problem, batch_shape)

    def missing(self) -> str | None:
        """Says why the peer cannot be run here, or returns None."""
        absent = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if not absent:
            return None
        return f"{', '.join(absent)} not installed: pip install 'jbism[benchmarks]'"

    def versions(self) -> str:
        """Names the packages with their versions."""
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in self.packages)


def _without_solve(problem):
    return problem.num_solve_steps is None


def _bilevel_hypergradient(problem):
    return problem.num_virtual > 0 or problem.num_solve_steps is not None


_ROOM = "benchmarks.peers."
TRAINING_PEERS = {
    peer.name: peer
    for peer in (
        Peer("eager", ("torch",), _ROOM + "torch_eager:build", _without_solve),
        Peer("func", ("torch",), _ROOM + "torch_functional:build", _without_solve),
        Peer("compile", ("torch",), _ROOM + "torch_functional:build_compiled", _without_solve),
        Peer(
            "torchopt",
            ("torch", "torchopt"),
            _ROOM + "torchopt_bism:build",
            _bilevel_hypergradient,
        ),
    )
}
