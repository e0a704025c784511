"""Times whole training steps on one core, beside that core's own rate of matrix products.

    python -m benchmarks.step_time [--cases=PATTERNS] [--repeats=R] [--out=FILE.json] [--core=N]

A step is what `jbism.training.train_steps` runs: gathering the batch, K lower steps, the upper step
and the moving average, many steps to one `lax.scan`. Repeats of all cases and of the matrix product
alternate, so that a machine shared with others slows all alike. FLOPs are those of matrix products
and convolutions, counted from the jaxpr (`benchmarks.flops`). On a pinned core, fractions and
targets rest on CPU time, which leaves out what other jobs took; else on wall time.
"""

import argparse
import fnmatch
import json
import os
import platform
import statistics
import sys
from typing import Any

DEFAULT_CASES = "toy_*,rbm560_*"
_MEBI = 2**20

_COLUMNS = {
    "case": ("name", "{}"),
    "ms": ("min_ms", "{:.3g}"),
    "median": ("median_ms", "{:.3g}"),
    "max": ("max_ms", "{:.3g}"),
    "CPU ms": ("min_cpu_ms", "{:.3g}"),
    "target": ("scaled_target_ms", "{:.3g}"),
    "published": ("published_ms", "{:g}"),
    "MFLOP": ("matmul_mflop", "{:.4g}"),
    "of rate": ("product_rate_fraction", "{:.1%}"),
    "temp MiB": ("temp_mib", "{:.3g}"),
    "RSS + MiB": ("resident_growth_mib", "{:.3g}"),
    "compile s": ("compile_seconds", "{:.1f}"),
}


def pin_to_one_core(core: int | None) -> int | None:
    """Keeps this process, and XLA's thread pools, to one core; call it before importing jax.

    Args:
      core: which; None takes the last that the process may run on.

    Returns:
      The core, or None where the system cannot pin, which is said on stderr.

    Raises:
      ValueError: if the process may not run on that core.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    if not hasattr(os, "sched_setaffinity"):
        if core is not None:
            raise ValueError(f"core {core}: this system cannot pin a process to a core")
        print("not pinned: this system has no sched_setaffinity", file=sys.stderr)
        return None
    allowed = sorted(os.sched_getaffinity(0))
    core = allowed[-1] if core is None else core
    if core not in allowed:
        raise ValueError(f"core must be one of {allowed}, got {core}")
    os.sched_setaffinity(0, {core})
    return core


def select(names: list[str], patterns: str) -> list[str]:
    """Returns the names that match one of the comma-separated shell patterns.

    Raises:
      ValueError: if a pattern matches none.

    Example:
      >>> select(["toy_n0", "toy_n5", "deep"], "*_n5,toy_*")
      ['toy_n5', 'toy_n0']
    """
    selected: list[str] = []
    for pattern in patterns.split(","):
        matches = fnmatch.filter(names, pattern)
        if not matches:
            raise ValueError(f"cases: {pattern!r} matches none of {', '.join(names)}")
        selected += [name for name in matches if name not in selected]
    return selected


def measure(
    cases: list, repeats: int, *, num_products: int = 1_000, clock: str = "cpu"
) -> dict[str, Any]:
    """Times each case ``repeats`` times, alternating with the matrix product.

    Args:
      cases: each a `benchmarks.cases.Case`.
      repeats: timed calls of each.
      num_products: matrix products to a call.
      clock: what fractions and targets rest on, ``"cpu"`` (for a pinned process) or ``"wall"``.

    Returns:
      ``product_gflops``, the best rate by that clock, and a list of ``cases``, flat dictionaries.
    """
    from benchmarks import timing

    product, product_carry = timing.product_program(num_products)
    product_carry, _ = timing.time_call(product, product_carry)
    results, programs, states = [], [], []
    for case in cases:
        result, program, state = _compile_case(case)
        results.append(result)
        programs.append(program)
        states.append(state)
        print(f"compiled {case.name} in {program.compile_seconds:.1f} s", file=sys.stderr)

    product_times: list[timing.Seconds] = []
    times: list[list[timing.Seconds]] = [[] for _ in cases]
    for _ in range(repeats):
        for i, program in enumerate(programs):
            product_carry, elapsed = timing.time_call(product, product_carry)
            product_times.append(elapsed)
            states[i], elapsed = timing.time_call(program, states[i])
            times[i].append(elapsed)
    rate = timing.product_flops() / min(getattr(elapsed, clock) for elapsed in product_times)
    for result, case_times in zip(results, times, strict=True):
        fastest = min(getattr(elapsed, clock) for elapsed in case_times)
        result |= _times(case_times) | _compared(result, fastest, rate)
    return {"clock": clock, "product_gflops": rate / 1e9, "cases": results}


def _compile_case(case):
    """Returns what is known of a case before it is timed, its program, and its warm state."""
    import jax

    from benchmarks import flops, timing
    from jbism.training import train_steps

    step, state, data = case.build()
    batch = jax.ShapeDtypeStruct((case.batch_size, *data.shape[1:]), data.dtype)
    try:
        mflop = flops.matmul_flops(step, state, batch) / 1e6
    except flops.UnknownLengthError:  # a solve that ends by its residual
        mflop = None
    shape = (case.steps_per_call, case.batch_size)
    indices = jax.random.randint(jax.random.key(2), shape, 0, len(data))
    program = timing.compile_program(
        train_steps(step, data), state, indices, num_steps=case.steps_per_call
    )
    before = timing.resident_bytes()
    state, _ = timing.time_call(program, state)
    result = {
        "name": case.name,
        "steps_per_call": case.steps_per_call,
        "trace_seconds": program.trace_seconds,
        "compile_seconds": program.compile_seconds,
        "temp_mib": _mebibytes(program.temp_bytes),
        "peak_mib": _mebibytes(program.peak_bytes),
        "resident_growth_mib": _mebibytes(timing.resident_bytes() - before),
        "matmul_mflop": mflop,
        "published_ms": case.published_ms,
        "target_ms": case.target_ms,
        "target_gflops": case.target_gflops,
    }
    return result, program, state


def _times(times):
    wall = [1e3 * elapsed.wall for elapsed in times]
    return {
        "min_ms": min(wall),
        "median_ms": statistics.median(wall),
        "max_ms": max(wall),
        "min_cpu_ms": min(1e3 * elapsed.cpu for elapsed in times),
    }


def _compared(result, fastest, product_rate):
    """The fraction of the product rate that was reached, and the target at that rate."""
    target, gflops = result["target_ms"], result["target_gflops"]
    scale = 1.0 if gflops is None else 1e9 * gflops / product_rate
    mflop = result["matmul_mflop"]
    return {
        "product_rate_fraction": None if mflop is None else 1e6 * mflop / fastest / product_rate,
        "scaled_target_ms": None if target is None else target * scale,
    }


def _mebibytes(num_bytes):
    return None if num_bytes is None else num_bytes / _MEBI


def table(report: dict[str, Any]) -> str:
    """Formats a report of `measure` for reading."""
    rows = [list(_COLUMNS)]
    for result in report["cases"]:
        values = [(result[key], form) for key, form in _COLUMNS.values()]
        rows.append(["-" if value is None else form.format(value) for value, form in values])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row[1:], widths[1:], strict=True)
        lines.append("  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in cells)]))
    rate, clock = report["product_gflops"], report["clock"]
    lines.append(f"float32 product 100x560x400 in a scan: {rate:.0f} GFLOP/s of {clock} time")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cases",
        default=DEFAULT_CASES,
        help="comma-separated shell patterns; 'deep32_*' compiles for long (default: %(default)s)",
    )
    parser.add_argument("--repeats", type=int, default=10, help="calls timed a case")
    parser.add_argument("--out", help="write the report to this JSON file")
    parser.add_argument("--core", type=int, help="core to pin to; default the last allowed")
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {options.repeats}")
    core = pin_to_one_core(options.core)

    import jax

    from benchmarks.cases import all_cases

    jax.config.update("jax_enable_compilation_cache", False)  # compile times are measured
    cases = all_cases()
    selected = [cases[name] for name in select(list(cases), options.cases)]
    on_core = core is not None and jax.default_backend() == "cpu"
    report = {
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "core": core,
        **measure(selected, options.repeats, clock="cpu" if on_core else "wall"),
    }
    print(json.dumps(report, indent=1))
    print(table(report))
    if options.out:
        with open(options.out, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
