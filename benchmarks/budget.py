"""Holds what ten compiled programs cost against a committed file; no clock is involved.

    python -m benchmarks.budget             # exit code 1 if one costs more than in budget.json
    python -m benchmarks.budget --update    # write what jax and XLA give here

FLOPs of matrix products come from the jaxpr, the rest from XLA: FLOPs and bytes as its cost
analysis has them (loop bodies once), scratch memory, and how many programs two calls compile. They
are the same on every machine of a kind with the same jax: a slower program shows as a difference.
LLVM optimises little here, which these numbers do not see. The file has an entry for each backend,
version of jax and processor that it was made with; without one the exit code is 2.
"""

import argparse
import json
import os
import pathlib
import sys
from typing import Any

from benchmarks.cores import pin_to_one_core, processor

FILE = pathlib.Path(__file__).with_suffix(".json")
CASES = (
    "toy_dsm_kl_n0",
    "toy_vages_dsm_kl_l2",
    "rbm560_dsm_mean_field_kl_n0",
    "rbm560_dsm_kl_n2",
    "rbm560_dsm_kl_n2_remat",
    "rbm560_ssm_kl_n2",
    "rbm560_dsm_mean_field_kl_neumann15",
    "rbm560_dsm_mean_field_kl_cg15",
    "rbm560_vages_dsm_kl_l2",
    "rbm560_vages_dsm_kl_l10",
)
_TOLERANCE = {"matmul_flops": 0.0, "compilations": 0.0}  # relative; of others:
_OTHERS = 0.02  # XLA is the same from run to run, but for details of the processor
_QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def measure(names: tuple[str, ...] = CASES) -> dict[str, dict[str, float | None]]:
    """Returns the costs of each case by name."""
    from benchmarks.cases import all_cases

    cases = all_cases()
    return {name: _costs(cases[name]) for name in names}


def _costs(case) -> dict[str, float | None]:
    import jax

    from benchmarks import flops, timing
    from jbism.training import train_steps

    step, state, data = case.build()
    batch = jax.ShapeDtypeStruct((case.batch_size, *data.shape[1:]), data.dtype)
    matmul_flops = flops.matmul_flops(step, state, batch, unknown_turns=case.solve_steps)
    indices = jax.random.randint(jax.random.key(2), (2, case.batch_size), 0, len(data))
    with timing.counting_compilations() as compilations:
        program = timing.compile_program(train_steps(step, data), state, indices, num_steps=2)
        for _ in range(2):  # by the program that has just been compiled
            state, _ = timing.time_calls(program, state)
    return {
        "matmul_flops": float(matmul_flops),
        "xla_flops": program.flops,
        "xla_bytes": program.bytes_accessed,
        "temp_bytes": program.temp_bytes,
        "compilations": float(len(compilations)),
    }


def compare(
    measured: dict[str, dict[str, Any]], stored: dict[str, dict[str, Any]]
) -> tuple[list[str], list[str]]:
    """Returns what costs more than stored, and what costs less, a line each.

    Example:
      >>> compare({"a": {"temp_bytes": 120.0}}, {"a": {"temp_bytes": 100.0}})
      (['a: temp_bytes 100 -> 120 (+20.0 %)'], [])
    """
    worse: list[str] = []
    better: list[str] = []
    for name, costs in measured.items():
        for quantity, new in costs.items():
            old = stored.get(name, {}).get(quantity)
            if new == old:
                continue
            if new is None or old is None:
                worse.append(f"{name}: {quantity} {old} -> {new}")
                continue
            change = (new - old) / max(abs(old), 1.0)
            if abs(change) > _TOLERANCE.get(quantity, _OTHERS):
                line = f"{name}: {quantity} {old:.6g} -> {new:.6g} ({100 * change:+.1f} %)"
                (worse if change > 0 else better).append(line)
    return worse, better


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="write the file")
    options = parser.parse_args(arguments)
    # Flags and the number of cores change what is compiled, all but LLVM's.
    os.environ["XLA_FLAGS"] = _QUICK
    pin_to_one_core(None)

    import jax

    jax.config.update("jax_enable_compilation_cache", False)  # compilations are counted
    entry = f"{jax.default_backend()}, jax {jax.__version__}, {processor()}"
    entries = json.loads(FILE.read_text()) if FILE.exists() else {}
    if not options.update and entry not in entries:
        parser.exit(2, f"{FILE.name} has no entry for {entry}: add it by --update\n")
    measured = measure()
    if options.update:
        FILE.write_text(json.dumps({**entries, entry: measured}, indent=1) + "\n")
        print(f"wrote {entry} to {FILE.name}")
        return
    worse, better = compare(measured, entries[entry])
    for line in worse:
        print("worse:", line)
    for line in better:
        print("better:", line, "- keep it by --update")
    print(f"{len(measured)} programs, {len(worse)} costs worse, {len(better)} better ({entry})")
    sys.exit(bool(worse))


if __name__ == "__main__":
    main()
