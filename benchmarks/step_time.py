"""Times whole training steps on one core, beside that core's own rate of matrix products.

    python -m benchmarks.step_time [--cases=PATTERNS] [--repeats=R] [--out=FILE.json] [--core=N]

A step is what `jbism.training.train_steps` runs: gathering the batch, K lower steps, the upper step
and the moving average, many steps to one `lax.scan`. Repeats of all cases and of the matrix product
alternate, so that a machine shared with others slows all alike; compare ratios, and minima. FLOPs
are those of matrix products and convolutions, counted from the jaxpr (`benchmarks.flops`).
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
_MILLI, _MEBI = 1e-3, 2**20


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
    """
    selected = []
    for pattern in patterns.split(","):
        matches = fnmatch.filter(names, pattern)
        if not matches:
            raise ValueError(f"cases: {pattern!r} matches none of {', '.join(names)}")
        selected += [name for name in matches if name not in selected]
    return selected


def measure(cases: list, repeats: int, *, num_products: int = 1_000) -> dict[str, Any]:
    """Times each case ``repeats`` times, alternating with the matrix product.

    Returns:
      ``product_gflops`` (best, median) and a list of ``cases``, each a flat dictionary.
    """
    import jax

    from benchmarks import flops, timing
    from jbism.training import train_steps

    product, product_carry = timing.product_program(num_products)
    product_carry, _ = timing.time_call(product, product_carry)
    programs, states, results, seconds = {}, {}, {}, {}
    for case in cases:
        step, state, data = case.build()
        count = flops.matmul_flops(
            step, state, jax.ShapeDtypeStruct((case.batch_size, *data.shape[1:]), data.dtype)
        )
        indices = jax.random.randint(
            jax.random.key(2), (case.steps_per_call, case.batch_size), 0, len(data)
        )
        program = timing.compile_program(
            train_steps(step, data), state, indices, num_steps=case.steps_per_call
        )
        held = timing.resident_bytes()
        state, _ = timing.time_call(program, state)
        results[case.name] = {
            "name": case.name,
            "steps_per_call": case.steps_per_call,
            "trace_seconds": program.trace_seconds,
            "compile_seconds": program.compile_seconds,
            "temp_mib": _mebibytes(program.temp_bytes),
            "peak_mib": _mebibytes(program.peak_bytes),
            "resident_growth_mib": _mebibytes(timing.resident_bytes() - held),
            "matmul_mflop": count / 1e6,
            "published_ms": case.published_ms,
            "target_ms": case.target_ms,
        }
        programs[case.name], states[case.name], seconds[case.name] = program, state, []
        print(f"compiled {case.name} in {program.compile_seconds:.1f} s", file=sys.stderr)

    product_seconds = []
    for _ in range(repeats):
        for name, program in programs.items():
            product_carry, elapsed = timing.time_call(product, product_carry)
            product_seconds.append(elapsed)
            states[name], elapsed = timing.time_call(program, states[name])
            seconds[name].append(elapsed)
    best = timing.product_flops() / min(product_seconds)
    for name, result in results.items():
        _add_times(result, seconds[name], best)
    return {
        "product_gflops": {
            "best": best / 1e9,
            "median": timing.product_flops() / statistics.median(product_seconds) / 1e9,
        },
        "cases": list(results.values()),
    }


def _add_times(result, seconds, product_rate):
    """Adds the times, the fraction of the product rate reached, and the target at that rate."""
    from benchmarks.cases import REFERENCE_PRODUCT_GFLOPS

    fastest = min(seconds)
    result["min_ms"] = fastest / _MILLI
    result["median_ms"] = statistics.median(seconds) / _MILLI
    result["max_ms"] = max(seconds) / _MILLI
    result["product_rate_fraction"] = result["matmul_mflop"] * 1e6 / fastest / product_rate
    target = result["target_ms"]
    scale = REFERENCE_PRODUCT_GFLOPS * 1e9 / product_rate
    result["scaled_target_ms"] = None if target is None else target * scale


def _mebibytes(num_bytes):
    return None if num_bytes is None else num_bytes / _MEBI


def table(report: dict[str, Any]) -> str:
    """Formats a report of `measure` for reading."""
    columns = {
        "case": ("name", "{}"),
        "min ms": ("min_ms", "{:.3g}"),
        "median": ("median_ms", "{:.3g}"),
        "max": ("max_ms", "{:.3g}"),
        "target ms": ("scaled_target_ms", "{:.3g}"),
        "published ms": ("published_ms", "{:g}"),
        "MFLOP": ("matmul_mflop", "{:.5g}"),
        "of product rate": ("product_rate_fraction", "{:.0%}"),
        "temp MiB": ("temp_mib", "{:.3g}"),
        "RSS + MiB": ("resident_growth_mib", "{:.3g}"),
        "compile s": ("compile_seconds", "{:.1f}"),
    }
    rows = [list(columns)]
    for result in report["cases"]:
        values = [(result[key], form) for key, form in columns.values()]
        rows.append(["-" if value is None else form.format(value) for value, form in values])
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))])
        for row in rows
    ]
    rate = report["product_gflops"]
    lines.append(
        f"float32 product 100x560x400: {rate['best']:.0f} GFLOP/s best, {rate['median']:.0f} median"
    )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cases",
        default=DEFAULT_CASES,
        help="comma-separated shell patterns; 'deep32_*' compiles for long (default: %(default)s)",
    )
    parser.add_argument("--repeats", type=int, default=5, help="calls timed a case")
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
    report = {
        "jax": jax.__version__,
        "device": str(jax.devices()[0].device_kind),
        "processor": platform.processor() or platform.machine(),
        "pinned_core": core,
        **measure([cases[name] for name in select(list(cases), options.cases)], options.repeats),
    }
    print(json.dumps(report, indent=1))
    print(table(report))
    if options.out:
        with open(options.out, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
