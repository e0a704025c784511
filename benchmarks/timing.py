"""Measuring compiled programs, and the machine's own rate of matrix products beside them."""

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

PRODUCT_SHAPE = (100, 560, 400)  # the GRBM 560/400's own product at batch 100


@dataclass(frozen=True)
class Program:
    """A compiled ``run(carry) -> carry`` that takes ``num_steps`` training steps a call."""

    run: Callable[[Any], Any]
    num_steps: int
    trace_seconds: float  # tracing and lowering
    compile_seconds: float
    temp_bytes: int | None  # scratch of the compiled program, beside arguments and results
    peak_bytes: int | None  # arguments, results and scratch, where the backend reports it
    flops: float | None = None  # as XLA counts them, loop bodies once
    bytes_accessed: float | None = None  # likewise


def compile_program(function: Callable, carry: Any, *constants: Any, num_steps: int) -> Program:
    """Compiles ``function(carry, *constants) -> (carry, anything)``, the carry donated."""
    start = time.perf_counter()
    lowered = jax.jit(function, donate_argnums=0).lower(carry, *constants)
    traced = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis() or {}
    return Program(
        run=lambda carry: compiled(carry, *constants)[0],
        num_steps=num_steps,
        trace_seconds=traced - start,
        compile_seconds=done - traced,
        temp_bytes=getattr(memory, "temp_size_in_bytes", None),
        peak_bytes=getattr(memory, "peak_memory_in_bytes", None),
        flops=costs.get("flops"),
        bytes_accessed=costs.get("bytes accessed"),
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


def time_call(program: Program, carry: Any) -> tuple[Any, Seconds]:
    """Runs the program once and returns its carry and the seconds a step."""
    wall, cpu = time.perf_counter(), time.process_time()
    carry = jax.block_until_ready(program.run(carry))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return carry, Seconds(wall / program.num_steps, cpu / program.num_steps)


def product_program(num_products: int) -> tuple[Program, Any]:
    """A scan of dependent float32 products of `PRODUCT_SHAPE`; returns it with its carry."""
    rows, depth, columns = PRODUCT_SHAPE
    key_x, key_w = jax.random.split(jax.random.key(0))
    x = jax.random.normal(key_x, (rows, depth))
    w = jnp.linalg.qr(jax.random.normal(key_w, (depth, columns)))[0]  # products stay bounded

    def run(x, w):
        def body(x, _):
            # One row of the result goes back into x, or the product would leave the loop.
            return x.at[0, :columns].set((x @ w)[0]), None

        return jax.lax.scan(body, x, None, length=num_products)

    return compile_program(run, x, w, num_steps=num_products), x


def product_flops() -> int:
    """FLOPs of one product of `PRODUCT_SHAPE`."""
    rows, depth, columns = PRODUCT_SHAPE
    return 2 * rows * depth * columns


def resident_bytes() -> int:
    """The most memory this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
