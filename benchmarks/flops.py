"""Counting the matrix-product FLOPs that a function must do, from its jaxpr."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


class UnknownLengthError(ValueError):
    """How often a loop turns is not known before it runs."""


def matmul_flops(function: Callable, *args: Any, unknown_turns: int | None = None) -> int:
    """Counts 2 × the multiply-adds of every matrix product and convolution a function needs.

    Loop bodies count once an iteration (XLA's own cost analysis counts them once in all), and
    products whose result is not used count as nothing. Two equal products count twice.

    Args:
      function: any traceable function.
      *args: its arguments, or their shapes (`jax.ShapeDtypeStruct`).
      unknown_turns: how often loops turn whose length the jaxpr does not tell.

    Returns:
      FLOPs of one call.

    Raises:
      ValueError: if products lie in such a loop and unknown_turns is None.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> power = lambda x: jax.lax.fori_loop(0, 10, lambda _, y: y @ x, x)
      >>> matmul_flops(power, jnp.eye(5))  # 10 products of 2 × 5³
      2500
    """
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    flops, _ = _count(jaxpr, [True] * len(jaxpr.outvars), unknown_turns)
    return flops


def _count(jaxpr, needed_outputs, turns):
    """FLOPs of a jaxpr for the outputs that are needed, and which inputs these need."""
    needed = {id(v) for v, need in zip(jaxpr.outvars, needed_outputs, strict=True) if need}
    flops = 0
    for eqn in reversed(jaxpr.eqns):
        outputs = [id(v) in needed for v in eqn.outvars]
        if any(outputs):
            eqn_flops, inputs = _count_equation(eqn, outputs, turns)
            flops += eqn_flops
            needed |= {id(v) for v, need in zip(eqn.invars, inputs, strict=True) if need}
    return flops, [id(v) in needed for v in jaxpr.invars]


def _count_equation(eqn, outputs, turns):
    everything = [True] * len(eqn.invars)
    name = eqn.primitive.name
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        depth = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
        return 2 * depth * eqn.outvars[0].aval.size, everything
    if name == "conv_general_dilated":
        kernel = eqn.invars[1].aval
        features = kernel.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
        return 2 * kernel.size // features * eqn.outvars[0].aval.size, everything
    if name == "conv3x3":  # jbism's, by the sums that define it
        arrays = [v.aval for v in (*eqn.invars, *eqn.outvars)]
        kernel, y = [
            arrays[i] for i in {"x": (0, 1), "k": (2, 1), "y": (1, 2)}[eqn.params["wanted"]]
        ]
        return 2 * kernel.size * math.prod(y.shape[1:4]), everything
    if name == "scan":
        return _count_scan(eqn, outputs, turns)
    bodies = [b for value in eqn.params.values() for b in _jaxprs(value)]
    if name == "cond":
        return max(_count(b, outputs, turns)[0] for b in bodies), everything
    if name == "while":
        flops = sum(_count(b, [True] * len(b.outvars), turns)[0] for b in bodies)
        if flops and turns is None:
            raise UnknownLengthError("a while loop of unknown length holds matrix products")
        return flops * (turns or 0), everything
    if len(bodies) == 1 and len(bodies[0].invars) == len(eqn.invars):
        return _count(bodies[0], outputs, turns)
    return sum(_count(b, [True] * len(b.outvars), turns)[0] for b in bodies), everything


def _count_scan(eqn, outputs, turns):
    body = eqn.params["jaxpr"].jaxpr
    num_consts, num_carry = eqn.params["num_consts"], eqn.params["num_carry"]
    carried = slice(num_consts, num_consts + num_carry)
    while True:  # a carry that the body needs is needed from the iteration before
        flops, inputs = _count(body, outputs, turns)
        carry = [a or b for a, b in zip(outputs[:num_carry], inputs[carried], strict=True)]
        if carry == outputs[:num_carry]:
            return eqn.params["length"] * flops, inputs
        outputs = carry + outputs[num_carry:]


def _jaxprs(value):
    if isinstance(value, core.ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, core.Jaxpr):
        return [value]
    if isinstance(value, (tuple, list)):
        return [b for item in value for b in _jaxprs(item)]
    return []
