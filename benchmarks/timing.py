"""Measuring compiled programs, and the machine's own rates of products and copies beside them."""

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PRODUCT_SHAPE = (100, 560, 400)  # the GRBM 560/400's own product at batch 100


@dataclass(frozen=True)
class Program:
    """A compiled ``run(carry) -> (carry, anything)`` that takes ``num_steps`` steps a call."""

    run: Callable[[Any], tuple[Any, Any]]
    num_steps: int
    trace_seconds: float  # tracing and lowering
    compile_seconds: float
    temp_bytes: int | None  # scratch of the compiled program, beside arguments and results
    peak_bytes: int | None  # with arguments and results, those that share a buffer once
    flops: float | None  # as XLA counts them, loop bodies once
    bytes_accessed: float | None  # likewise
    hlo: str  # the optimised program


def compile_program(function: Callable, carry: Any, *constants: Any, num_steps: int) -> Program:
    """Compiles ``function(carry, *constants) -> (carry, anything)``, the carry donated.

    A function that is compiled anyway, one with a method ``lower``, stays as it is.
    """
    compiles = hasattr(function, "lower")
    jitted: Any = function if compiles else jax.jit(function, donate_argnums=0)
    start = time.perf_counter()
    lowered = jitted.lower(carry, *constants)
    traced = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis() or {}
    peak = None
    if memory is not None:
        held = memory.argument_size_in_bytes + memory.output_size_in_bytes
        peak = held - memory.alias_size_in_bytes + memory.temp_size_in_bytes
    return Program(
        run=lambda carry: jitted(carry, *constants),
        num_steps=num_steps,
        trace_seconds=traced - start,
        compile_seconds=done - traced,
        temp_bytes=getattr(memory, "temp_size_in_bytes", None),
        peak_bytes=peak,
        flops=costs.get("flops"),
        bytes_accessed=costs.get("bytes accessed"),
        hlo=compiled.as_text() or "",
    )


@contextlib.contextmanager
def counting_compilations() -> Iterator[list[float]]:
    """Yields a list that grows by the seconds of each compilation by XLA while the context lasts.

    Example:
      >>> import jax
      >>> with counting_compilations() as seconds:
      ...     x = jax.jit(lambda x: 3 * x)(1.0)
      >>> len(seconds)
      1
    """
    seconds: list[float] = []
    active = [True]

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if active and event == "/jax/core/compile/backend_compile_duration":
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seconds
    finally:
        active.clear()  # public API has no way to take a listener back


@dataclass(frozen=True)
class Seconds:
    """What one step took."""

    wall: float
    cpu: float  # of this process: on a pinned core, the wall time less what other jobs took


def time_calls(program: Program, carry: Any, num_calls: int = 1) -> tuple[Any, Seconds]:
    """Runs the program so many times and returns its carry and the seconds a step."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(num_calls):
        carry, _ = jax.block_until_ready(program.run(carry))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    num_steps = num_calls * program.num_steps
    return carry, Seconds(wall / num_steps, cpu / num_steps)


def product_program(
    num_products: int, shape: tuple[int, int, int] = PRODUCT_SHAPE
) -> tuple[Program, Any]:
    """A scan of dependent float32 products [rows, depth] × [depth, columns], and its carry."""
    rows, depth, columns = shape
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(rows, depth)), jnp.float32)
    w, _ = np.linalg.qr(rng.normal(size=(depth, columns)))  # orthogonal: products stay bounded

    def run(x, w):
        def body(x, _):
            # One row of the result goes back into x, or the product would leave the loop.
            return x.at[0, :columns].set((x @ w)[0]), None

        return jax.lax.scan(body, x, None, length=num_products)

    return compile_program(run, x, jnp.asarray(w, jnp.float32), num_steps=num_products), x


def product_flops(shape: tuple[int, int, int] = PRODUCT_SHAPE) -> int:
    """FLOPs of one product."""
    rows, depth, columns = shape
    return 2 * rows * depth * columns


def copy_program(num_copies: int, num_bytes: int) -> tuple[Program, Any]:
    """A scan of passes that read and write an array of so many bytes once each, and its carry."""
    x = jnp.zeros(num_bytes // 4)

    def run(x):
        return jax.lax.scan(lambda x, _: (x + 1.0, None), x, None, length=num_copies)

    return compile_program(run, x, num_steps=num_copies), x


def resident_bytes() -> int:
    """The most memory this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
