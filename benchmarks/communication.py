"""What a compiled program communicates, read from its optimised HLO."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CALLS = re.compile(r"\b(?:calls|to_apply|called_computations)=\{?((?:%?[\w.\-]+(?:, )?)+)\}?")
_BRANCHES = re.compile(
    r"\b(?:branch_computations|true_computation|false_computation)=\{?((?:%?[\w.\-]+(?:, )?)+)\}?"
)
_WHILE = re.compile(r"\b(body|condition)=%?([\w.\-]+)")


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
    computations, entry = _computations(hlo)
    if entry is None:
        raise ValueError("hlo must hold an ENTRY computation")
    known: dict[str, Communication] = {}

    def of(name):
        if name not in known:
            instructions = computations.get(name, {})
            known[name] = _sum(_of_instruction(i, instructions, of) for i in instructions.values())
        return known[name]

    return of(entry)


@dataclass(frozen=True)
class _Instruction:
    shape: str
    opcode: str
    operands: list[str]
    attributes: str


def _computations(hlo):
    computations: dict[str, dict[str, _Instruction]] = {}
    entry = None
    current: dict[str, _Instruction] = {}
    for line in hlo.splitlines():
        if match := _COMPUTATION.match(line):
            current = computations[match[2]] = {}
            entry = match[2] if match[1] else entry
        elif match := _INSTRUCTION.match(line):
            name, shape, opcode, rest = match.groups()
            operands, attributes = _split(rest)
            current[name] = _Instruction(shape, opcode, operands, attributes)
    return computations, entry


def _split(rest):
    """The names of the operands, and what follows the parenthesis that closes them."""
    depth = 1
    for i, character in enumerate(rest):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return re.findall(r"%([\w.\-]+)", rest[:i]), rest[i + 1 :]
    return [], rest


def _of_instruction(instruction, others, of):
    opcode, attributes = instruction.opcode, instruction.attributes
    kind = opcode.removesuffix("-done")
    if kind in COLLECTIVES:
        operands = instruction.operands
        if opcode != kind and operands[0] in others:  # those of its start
            operands = others[operands[0]].operands
        sent = sum(_bytes(others[name].shape) for name in operands if name in others)
        return Communication({kind: 1}, {kind: max(sent, _bytes(instruction.shape))})
    if opcode.endswith(("-done", "-update")) or opcode.removesuffix("-start") in COLLECTIVES:
        return Communication()
    if opcode == "while":
        parts = dict(_WHILE.findall(attributes))
        body, condition = of(parts["body"]), of(parts["condition"])
        trips = _TRIPS.search(attributes)
        if trips:
            n = int(trips[1])
            return _sum([body.times(n), condition.times(n + 1)])
        once = _sum([body, condition])
        return _sum([once, Communication(unknown_loops=int(bool(once.counts)))])
    branches = [of(name) for name in _names(_BRANCHES, attributes)]
    called = _sum(of(name) for name in _names(_CALLS, attributes))
    return _sum([called, max(branches, key=Communication.total_bytes, default=Communication())])


def _names(pattern, attributes):
    return [n.lstrip("%") for group in pattern.findall(attributes) for n in group.split(", ") if n]


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


def _bytes(shape):
    """The bytes of an array's or tuple's type, such as ``(f32[2,3]{1,0}, s32[])``."""
    total = 0
    for dtype, dims in _ARRAY.findall(shape):
        size = math.prod(int(n.lstrip("<=")) for n in dims.split(",") if n)
        total += math.ceil(size * _bits(dtype) / 8)
    return total


def _bits(dtype):
    if dtype in ("token", "opaque"):
        return 0
    if dtype == "pred":
        return 8
    match = re.match(r"(?:bf|[fsuc])(\d+)", dtype)
    if match is None:
        raise ValueError(f"hlo holds an array of the unknown type {dtype!r}")
    return int(match[1])
