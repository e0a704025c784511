"""Reading the text of an optimised HLO module: its computations, arrays and loops."""

import math
import re
from dataclasses import dataclass

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CALLS = re.compile(r"\b(?:calls|to_apply|called_computations)=\{?((?:%?[\w.\-]+(?:, )?)+)\}?")
_BRANCHES = re.compile(
    r"\b(?:branch_computations|true_computation|false_computation)=\{?((?:%?[\w.\-]+(?:, )?)+)\}?"
)
_WHILE = re.compile(r"\b(body|condition)=%?([\w.\-]+)")


@dataclass(frozen=True)
class Instruction:
    """One instruction of a computation."""

    name: str
    shape: str  # of its result, an array's or tuple's type
    opcode: str
    operands: list[str]  # their names
    arguments: str  # what stands between its parentheses
    attributes: str
    root: bool  # gives the result of its computation

    @property
    def calls(self) -> list[str]:
        """The computations that it applies, the branches of a conditional apart."""
        return _names(_CALLS, self.attributes)

    @property
    def branches(self) -> list[str]:
        """The computations of which a conditional runs one."""
        return _names(_BRANCHES, self.attributes)

    @property
    def loop(self) -> dict[str, str]:
        """The computations called ``body`` and ``condition`` of a while loop."""
        return dict(_WHILE.findall(self.attributes))

    @property
    def trips(self) -> int | None:
        """How often a while loop turns, None where XLA does not know."""
        match = _TRIPS.search(self.attributes)
        return int(match[1]) if match else None


def computations(hlo: str) -> tuple[dict[str, dict[str, Instruction]], str]:
    """Parses an optimised HLO module.

    Args:
      hlo: ``jax.jit(f).lower(...).compile().as_text()``.

    Returns:
      Instructions by name of each computation by name, and the name of the entry computation.

    Raises:
      ValueError: if there is no entry computation.
    """
    found: dict[str, dict[str, Instruction]] = {}
    entry = None
    current: dict[str, Instruction] = {}
    for line in hlo.splitlines():
        if match := _COMPUTATION.match(line):
            current = found[match[2]] = {}
            entry = match[2] if match[1] else entry
        elif match := _INSTRUCTION.match(line):
            root, name, shape, opcode, rest = match.groups()
            arguments, attributes = _split(rest)
            operands = re.findall(r"%([\w.\-]+)", arguments)
            current[name] = Instruction(
                name, shape, opcode, operands, arguments, attributes, bool(root)
            )
    if entry is None:
        raise ValueError("hlo must hold an ENTRY computation")
    return found, entry


def num_bytes(shape: str) -> int:
    """Returns the bytes of an array's or tuple's type.

    Raises:
      ValueError: if an array is of an unknown type.

    Example:
      >>> num_bytes("(f32[2,3]{1,0}, s32[])")
      28
    """
    total = 0
    for dtype, dims in _ARRAY.findall(shape):
        size = math.prod(int(n.lstrip("<=")) for n in dims.split(",") if n)
        total += math.ceil(size * _bits(dtype) / 8)
    return total


def _split(rest):
    """What stands before the parenthesis that closes the arguments, and behind it."""
    depth = 1
    for i, character in enumerate(rest):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return rest[:i], rest[i + 1 :]
    return "", rest


def _names(pattern, attributes):
    return [n.lstrip("%") for group in pattern.findall(attributes) for n in group.split(", ") if n]


def _bits(dtype):
    if dtype in ("token", "opaque"):
        return 0
    if dtype == "pred":
        return 8
    match = re.match(r"(?:bf|[fsuc])(\d+)", dtype)
    if match is None:
        raise ValueError(f"hlo holds an array of the unknown type {dtype!r}")
    return int(match[1])
