"""What a compiled program communicates, read from its optimised HLO."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from benchmarks import hlo as hlo_text

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)


@dataclass(frozen=True)
class Communication:
    """The collectives of one run of a program, as every device takes part in them.

    The bytes of a collective are those of the whole array: the operand of an all-reduce or a
    reduce-scatter, the result of an all-gather. What crosses a link depends on the algorithm.
    """

    counts: dict[str, int] = field(default_factory=dict)
    num_bytes: dict[str, int] = field(default_factory=dict)
    unknown_loops: int = 0  # that communicate, of unknown length: counted as one iteration

    def times(self, n: int) -> "Communication":
        """Returns the communication of n runs one after the other."""
        return Communication(
            {name: n * count for name, count in self.counts.items()},
            {name: n * size for name, size in self.num_bytes.items()},
            self.unknown_loops,
        )

    def total_bytes(self) -> int:
        """Returns the bytes of all collectives."""
        return sum(self.num_bytes.values())


def communication(hlo: str) -> Communication:
    """Counts the collectives in the text of an optimised HLO module.

    An asynchronous pair ``-start``, ``-done`` counts once. The body of a while loop counts as often
    as XLA says that it turns (``known_trip_count``), else once, and the loop as unknown. Of the
    branches of a conditional the one that moves most bytes counts.

    Args:
      hlo: ``jax.jit(f).lower(...).compile().as_text()``.

    Raises:
      ValueError: if the text holds no entry computation, or an array of an unknown type.

    Example:
      >>> communication('''ENTRY %main (x: f32[8]) -> f32[8] {
      ...   %x = f32[8]{0} parameter(0)
      ...   ROOT %sum = f32[8]{0} all-reduce(%x), to_apply=%add
      ... }''')
      Communication(counts={'all-reduce': 1}, num_bytes={'all-reduce': 32}, unknown_loops=0)
    """
    computations, entry = hlo_text.computations(hlo)
    known: dict[str, Communication] = {}

    def of(name):
        if name not in known:
            instructions = computations.get(name, {})
            known[name] = _sum(_of_instruction(i, instructions, of) for i in instructions.values())
        return known[name]

    return of(entry)


def _of_instruction(instruction, others, of):
    opcode = instruction.opcode
    kind = opcode.removesuffix("-done")
    if kind in COLLECTIVES:
        operands = instruction.operands
        if opcode != kind and operands[0] in others:  # those of its start
            operands = others[operands[0]].operands
        sent = sum(hlo_text.num_bytes(others[name].shape) for name in operands if name in others)
        return Communication({kind: 1}, {kind: max(sent, hlo_text.num_bytes(instruction.shape))})
    if opcode.endswith(("-done", "-update")) or opcode.removesuffix("-start") in COLLECTIVES:
        return Communication()
    if opcode == "while":
        body, condition = of(instruction.loop["body"]), of(instruction.loop["condition"])
        if instruction.trips is not None:
            return _sum([body.times(instruction.trips), condition.times(instruction.trips + 1)])
        once = _sum([body, condition])
        return _sum([once, Communication(unknown_loops=int(bool(once.counts)))])
    branches = [of(name) for name in instruction.branches]
    called = _sum(of(name) for name in instruction.calls)
    return _sum([called, max(branches, key=Communication.total_bytes, default=Communication())])


def _sum(parts: Iterable[Communication]) -> Communication:
    counts: dict[str, int] = {}
    num_bytes: dict[str, int] = {}
    unknown = 0
    for part in parts:
        unknown += part.unknown_loops
        for name, count in part.counts.items():
            counts[name] = counts.get(name, 0) + count
            num_bytes[name] = num_bytes.get(name, 0) + part.num_bytes[name]
    return Communication(counts, num_bytes, unknown)
