"""Measures one cell of `benchmarks.sweep`, which starts it, in a process of its own.

Prints one JSON object: what was measured, or why it failed. Without a cell it says what machine and
versions this is.
"""

import argparse
import datetime
import importlib.metadata
import itertools
import json
import math
import os
import pathlib
import platform
from typing import Any

from benchmarks.cores import pin_to_one_core, processor

_SAMPLE_SECONDS = 0.1  # a timed sample lasts at least as long
_MEBI = 2**20


def machine() -> dict[str, Any]:
    """Returns what this process runs on."""
    import jax

    own = hasattr(os, "sched_getaffinity")
    return {
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count() if jax.default_backend() != "cpu" else None,
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if own else os.cpu_count(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib")},
    }


def measure(suite: str, cell: dict[str, Any], repeats: int, *, clock: str) -> dict[str, Any]:
    """Compiles a cell's program, runs it, and times it alternating with products and copies.

    Args:
      suite: name of its suite.
      cell: its parameters.
      repeats: timed samples; 0 compiles and runs nothing.
      clock: what rates rest on, ``"cpu"`` time of a pinned process, else ``"wall"``.

    Returns:
      A dictionary of JSON values: times in milliseconds and counts of one step of the suite's unit,
      sizes in MiB; each sample has the rates that the machine had around it.
    """
    import jax

    from benchmarks import communication, flops, programs, timing, traffic

    built = programs.build(suite, cell)
    steps, turns = built.num_steps, {"unknown_turns": built.unknown_turns}
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(built.carry))
    program = timing.compile_program(built.function, built.carry, *built.constants, num_steps=steps)
    products: int | None
    moved: float | None
    try:
        products = flops.matmul_flops(built.step, *built.step_args, **turns)
        moved = traffic.memory_traffic(program.hlo, **turns) / steps
    except flops.UnknownLengthError:
        products = moved = None
    row = {
        "unit_steps": steps,
        "trace_seconds": program.trace_seconds,
        "compile_seconds": program.compile_seconds,
        "temp_mib": _mebibytes(program.temp_bytes),
        "peak_mib": _mebibytes(program.peak_bytes),
        "matmul_mflop": _scaled(products, 1e-6),
        "traffic_mb": _scaled(moved, 1e-6),
        "xla_mflop": _scaled(program.flops, 1e-6),  # loop bodies once, so not of a step
        "xla_mb": _scaled(program.bytes_accessed, 1e-6),
        **(built.published or {}),
    }
    if suite == "scaling":
        sent = communication.communication(program.hlo)
        row |= {
            "state_bytes": state_bytes,
            "communication": {
                name: [count / steps, sent.num_bytes[name] / steps]
                for name, count in sent.counts.items()
            },
            "unknown_loops": sent.unknown_loops,
        }
    if repeats:
        row |= _times(program, built.carry, repeats, clock)
    return row


def _times(program, carry, repeats, clock):
    import jax

    from benchmarks import timing

    before = timing.resident_bytes()
    carry, _ = timing.time_calls(program, carry)
    resident = timing.resident_bytes()
    device = jax.devices()[0].memory_stats() or {}
    carry, warm = timing.time_calls(program, carry)
    calls = max(1, math.ceil(_SAMPLE_SECONDS / (warm.wall * program.num_steps)))

    shape, num_products, num_bytes, num_copies = _yardsticks(jax.default_backend())
    product, x = timing.product_program(num_products, shape)
    copy, y = timing.copy_program(num_copies, num_bytes)
    x, _ = timing.time_calls(product, x)
    y, _ = timing.time_calls(copy, y)
    samples, products, copies = [], [], []
    for i in range(repeats + 1):
        x, seconds = timing.time_calls(product, x)
        products.append(getattr(seconds, clock))
        y, seconds = timing.time_calls(copy, y)
        copies.append(getattr(seconds, clock))
        if i < repeats:
            carry, seconds = timing.time_calls(program, carry, calls)
            samples.append(seconds)
    # Elsewhere the process's own time says nothing of the device's.
    cpu = [1e3 * seconds.cpu for seconds in samples]
    return {
        "calls": calls,
        "wall_ms": [1e3 * seconds.wall for seconds in samples],
        **({"cpu_ms": cpu} if jax.default_backend() == "cpu" else {}),
        "clock": clock,
        "product_gflops": _rates(timing.product_flops(shape), products),
        "copy_gbytes": _rates(2 * num_bytes, copies),
        "resident_mib": _mebibytes(resident),
        "resident_growth_mib": _mebibytes(resident - before),
        "device_peak_mib": _mebibytes(device.get("peak_bytes_in_use")),
    }


def _rates(work, seconds):
    """The giga-units a second around each sample, of what was measured before it and after it."""
    return [2e-9 * work / (before + after) for before, after in itertools.pairwise(seconds)]


def _yardsticks(backend):
    """Shape and number of products, bytes and number of copies that show the machine's rates."""
    from benchmarks import timing

    if backend == "cpu":
        return timing.PRODUCT_SHAPE, 200, 2**27, 2  # 128 MiB are in no cache
    return (4096, 4096, 4096), 50, 2**30, 20


def _limit_memory(gibibytes):
    """Bounds this process, and lets the system end it before others when memory runs out."""
    score = pathlib.Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text("1000")
    if gibibytes is not None:
        import resource

        limit = int(gibibytes * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _mebibytes(num_bytes):
    return None if num_bytes is None else num_bytes / _MEBI


def _scaled(value, scale):
    return None if value is None else value * scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite")
    parser.add_argument("--cell", type=json.loads)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--unpinned", action="store_true")
    parser.add_argument("--core", type=int)
    parser.add_argument("--memory_gib", type=float)
    options = parser.parse_args()
    if not options.unpinned:
        pin_to_one_core(options.core)
    cell = options.cell or {}
    if "devices" in cell:  # on a CPU, threads that stand for devices, each with one thread
        own = f"--xla_force_host_platform_device_count={cell['devices']}"
        former = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{former} {own} --xla_cpu_multi_thread_eigen=false".strip()
    if not cell:
        print(json.dumps(machine()))
        return
    _limit_memory(options.memory_gib)

    import jax

    jax.config.update("jax_enable_compilation_cache", False)  # compile times are measured
    clock = "cpu" if jax.default_backend() == "cpu" and not options.unpinned else "wall"
    row = {"date": datetime.date.today().isoformat()}
    try:
        row |= measure(options.suite, cell, options.repeats, clock=clock)
    except Exception as error:  # whatever it is, it is this cell's result
        lines = str(error).strip().splitlines() or [""]
        row["error"] = f"{type(error).__name__}: {lines[0]}"
    print(json.dumps(row, allow_nan=False))


if __name__ == "__main__":
    main()
