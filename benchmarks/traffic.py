"""The bytes that a compiled program reads and writes, read from its optimised HLO."""

from benchmarks import hlo as hlo_text
from benchmarks.flops import UnknownLengthError

_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
_SLICES = {"dynamic-slice", "gather", "slice"}


def memory_traffic(hlo: str, *, unknown_turns: int | None = None) -> int:
    """Counts the bytes that the instructions of a compiled program read and write.

    Every instruction, and every fusion as one, reads its operands and writes its result; of what it
    only takes slices of, or writes one into, the slice counts. The body of a while loop counts as
    often as the loop turns, where XLA's own cost analysis counts it once. The largest branch of a
    conditional counts. What caches hold costs no memory traffic, so this is the most there can be.

    Args:
      hlo: ``jax.jit(f).lower(...).compile().as_text()``.
      unknown_turns: how often loops turn whose length XLA does not know.

    Returns:
      Bytes of one run.

    Raises:
      ValueError: if the text holds no entry computation, an array of an unknown type, or such a
        loop and unknown_turns is None.

    Example:
      >>> memory_traffic('''ENTRY %main (x: f32[8]) -> f32[8] {
      ...   %x = f32[8]{0} parameter(0)
      ...   ROOT %y = f32[8]{0} negate(%x)
      ... }''')
      64
    """
    computations, entry = hlo_text.computations(hlo)
    known: dict[str, int] = {}

    def of(name):
        if name not in known:
            body = computations.get(name, {})
            known[name] = sum(moved(i, body) for i in body.values())
        return known[name]

    def moved(instruction, others):
        opcode = instruction.opcode
        if opcode in _FREE or opcode.endswith(("-done", "-update")):
            return 0
        if opcode == "while":
            turns = unknown_turns if instruction.trips is None else instruction.trips
            if turns is None:
                raise UnknownLengthError("a while loop of unknown length moves memory")
            return turns * sum(of(name) for name in instruction.loop.values())
        if opcode == "conditional":
            return max((of(name) for name in instruction.branches), default=0)
        if opcode in ("call", "async-start"):
            return sum(of(name) for name in instruction.calls)
        if opcode == "fusion":
            return _of_fusion(computations[instruction.calls[0]])
        return _of_operation(instruction, others)

    return of(entry)


def _of_operation(instruction, others):
    result = hlo_text.num_bytes(instruction.shape)
    if instruction.opcode in _SLICES:
        return 2 * result
    if instruction.opcode == "dynamic-update-slice":
        return 2 * _size(instruction.operands[1], others)
    return result + sum(_size(name, others) for name in instruction.operands)


def _of_fusion(body):
    users: dict[str, list] = {}
    for inner in body.values():
        for name in inner.operands:
            users.setdefault(name, []).append(inner)
    total = 0
    for inner in body.values():
        if inner.opcode == "parameter":
            total += _taken(inner, users, body)
        elif inner.root:
            total += _written(inner, body)
    return total


def _taken(value, users, body):
    """The bytes that a fusion reads of one of its parameters."""
    total, whole = 0, hlo_text.num_bytes(value.shape)
    for user in users.get(value.name, []):
        if user.opcode == "bitcast":
            total += _taken(user, users, body)
        elif user.opcode in _SLICES and user.operands[0] == value.name:
            total += hlo_text.num_bytes(user.shape)
        elif user.opcode != "dynamic-update-slice" or value.name in user.operands[1:]:
            return whole
    return min(total, whole)


def _written(value, body):
    """The bytes that a fusion writes as this result."""
    if value.opcode == "tuple":
        return sum(_written(body[name], body) for name in value.operands)
    if value.opcode == "bitcast":
        return _written(body[value.operands[0]], body)
    if value.opcode == "dynamic-update-slice":
        return _size(value.operands[1], body)
    return hlo_text.num_bytes(value.shape)


def _size(name, others):
    return hlo_text.num_bytes(others[name].shape) if name in others else 0
