"""What is compared with what, and how a comparison goes: prove, then time in turn."""

import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from benchmarks.cases import all_cases
from benchmarks.peers import chains, clock, training
from benchmarks.peers.peer import Peer
from benchmarks.peers.problems import all_problems


class Contest(Protocol):
    """One piece of work that the library and some peers do."""

    @property
    def name(self) -> str:
        """Of the case."""
        ...

    @property
    def peers(self) -> Mapping[str, Peer]:
        """Who can do it, by name."""
        ...

    @property
    def targets(self) -> Mapping[str, float]:
        """By peer, its time over ours."""
        ...

    def ours(self) -> Any:
        """Prepares the library's side."""
        ...

    def prove(self, peer: str, ours: Any) -> tuple[Any, float]:
        """Prepares a peer's side, and returns it with its largest difference from ours.

        Raises:
          benchmarks.peers.proof.DisagreementError: if it does other work.
        """
        ...

    def program(self, ours: Any, proven: Any | None) -> clock.Program:
        """Returns what is timed, of the library where ``proven`` is None."""
        ...


def all_contests() -> dict[str, Contest]:
    """Every contest by the name of its case."""
    cases = all_cases()
    steps = [
        training.TrainingContest(cases[name], problem) for name, problem in all_problems().items()
    ]
    found: list[Contest] = [*steps, *chains.all_chains()]
    return {contest.name: contest for contest in found}


def hold(contest: Contest, peers: list[str], repeats: int | None) -> Iterator[dict[str, Any]]:
    """Yields a row for each peer; with ``repeats`` None of the proof alone."""
    present = []
    for name in peers:
        reason = contest.peers[name].missing()
        if reason is None:
            present.append(name)
        else:
            yield {"case": contest.name, "peer": name, "skipped": reason}
    if not present:
        return
    print(f"{contest.name}: the library's side", file=sys.stderr, flush=True)
    ours = contest.ours()
    proven, rows = {}, {}
    for name in present:
        start = time.perf_counter()
        proven[name], difference = contest.prove(name, ours)
        rows[name] = {
            "case": contest.name,
            "peer": name,
            "versions": contest.peers[name].versions(),
            "difference": difference,
            "first_call_seconds": time.perf_counter() - start,
        }
        print(f"{contest.name}: {name} proved equal", file=sys.stderr, flush=True)
    if repeats is None:
        yield from rows.values()
        return
    programs = {name: contest.program(ours, one) for name, one in proven.items()}
    times = clock.alternate({"jbism": contest.program(ours, None), **programs}, repeats)
    for name, row in rows.items():
        target = contest.targets.get(name)
        yield row | clock.compared(times["jbism"], times[name]) | {"target": target}
