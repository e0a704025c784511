"""Times training steps on 1, 2, 4, ... devices, and counts what their programs communicate.

    python -m benchmarks.scaling --out=DIR [--devices=1,2,4,8] [--cases=PATTERNS] [--compile_only]

Weak scaling gives every device the case's batch, strong scaling divides that batch (both rounded up
to a multiple of the most devices). Each is measured with a copy of the parameters on every device
and with large parameters divided among them (`jbism.training.DataParallel`). On GPUs and TPUs the
first n devices are used; on a CPU every number of devices is a process of its own with so many host
devices, each with one thread. Writes scaling.jsonl, scaling.md and scaling.png to DIR.
"""

import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jaxlib
import numpy as np
from absl import flags

from benchmarks import flops, scaling_report, timing
from benchmarks.cases import Case, all_cases
from benchmarks.communication import communication
from benchmarks.step_time import select
from experiments import _main
from jbism.training import DataParallel, make_mesh, train_steps

DEFAULT_CASES = (
    "rbm560_dsm_kl_n5,rbm560_dsm_mean_field_kl_cg5,rbm560_vages_dsm_kl_l2,"
    "deep32_small_mdsm_fisher_n0"
)

_OUT = flags.DEFINE_string("out", None, "Directory of the results; made if absent.", required=True)
_CASES = flags.DEFINE_string("cases", DEFAULT_CASES, "Comma-separated shell patterns.")
_DEVICES = flags.DEFINE_list("devices", ["1", "2", "4", "8"], "Numbers of devices, rising from 1.")
_SHARD_FROM = flags.DEFINE_integer(
    "shard_parameters_from", 1_024, "Entries from which a parameter is divided; 0 leaves that out."
)
_SCALINGS = flags.DEFINE_multi_enum("scaling", ["weak", "strong"], ["weak", "strong"], "Which.")
_BATCH = flags.DEFINE_integer("batch", 0, "Batch instead of each case's own.", lower_bound=0)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Calls timed.", lower_bound=1)
_COMPILE_ONLY = flags.DEFINE_bool("compile_only", False, "Count, but run nothing.")
_ONLY = flags.DEFINE_integer("only", None, "Measure this one of the numbers, without a report.")


def configurations(
    devices: int, most: int, case_batch: int, shard_from: int, scalings: list[str]
) -> Iterator[tuple[list[str], int, int | None]]:
    """Yields what is measured on so many devices: (scalings, global batch, shard_parameters_from).

    On one device all is the same program.

    Example:
      >>> list(configurations(2, 8, 100, 0, ["weak", "strong"]))
      [(['weak'], 208, None), (['strong'], 104, None)]
      >>> list(configurations(1, 8, 100, 1_024, ["weak", "strong"]))
      [(['weak', 'strong'], 104, None)]
    """
    batch = -(-case_batch // most) * most
    if devices == 1:
        yield scalings, batch, None
        return
    for threshold in (None, shard_from) if shard_from else (None,):
        for scaling in scalings:
            yield [scaling], batch * devices if scaling == "weak" else batch, threshold


def measure(
    case: Case, devices: int, batch: int, threshold: int | None, repeats: int
) -> dict[str, Any]:
    """Compiles a case for so many devices, counts its communication and times it.

    Args:
      case: its batch size is not used.
      devices: the first so many.
      batch: examples a step, of all devices.
      threshold: `DataParallel`'s ``shard_parameters_from``.
      repeats: timed calls; 0 runs nothing.

    Returns:
      A flat dictionary but for ``communication``, of a step: per collective, [count, bytes].
    """
    step, state, data = case.build()
    layout = DataParallel(make_mesh(devices), threshold)
    indices = np.random.default_rng(0).integers(len(data), size=(case.steps_per_call, batch))
    indices = indices.astype(np.int32)
    try:
        example = jax.ShapeDtypeStruct((batch, *data.shape[1:]), data.dtype)
        mflop = flops.matmul_flops(step, state, example) / 1e6
    except flops.UnknownLengthError:  # a solve that ends by its residual
        mflop = None
    run = train_steps(step, data, layout=layout)
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    state = layout.place(state)
    compiled = run.lower(state, indices).compile()
    sent = communication(compiled.as_text() or "")
    per_step = {
        name: [count / case.steps_per_call, sent.num_bytes[name] / case.steps_per_call]
        for name, count in sent.counts.items()
    }
    on_cpu = jax.default_backend() == "cpu"
    times = []
    program = timing.Program(lambda s: run(s, indices)[0], case.steps_per_call, 0, 0, None, None)
    for i in range(repeats + 1 if repeats else 0):
        state, elapsed = timing.time_call(program, state)
        times += [elapsed] if i else []  # the first warms up
    return {
        "case": case.name,
        "devices": devices,
        "batch": batch,
        "shard_parameters_from": threshold,
        "matmul_mflop": mflop,
        "xla_flops": devices * (compiled.cost_analysis() or {})["flops"],  # loops count once
        "state_bytes": state_bytes,
        "communication": per_step,
        "unknown_loops": sent.unknown_loops,
        "ms": 1e3 * min(t.wall for t in times) if times else None,
        "median_ms": 1e3 * statistics.median(t.wall for t in times) if times else None,
        # Of all devices together, which are threads of this process; elsewhere it says nothing.
        "cpu_ms": 1e3 * min(t.cpu for t in times) if times and on_cpu else None,
    }


def machine() -> dict[str, Any]:
    """Returns what the rows were measured on."""
    own = hasattr(os, "sched_getaffinity")
    return {
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if own else os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
    }


def main() -> None:
    counts = _device_counts()
    cases = all_cases()
    selected = [cases[name] for name in select(list(cases), _CASES.value)]
    out = pathlib.Path(_OUT.value)
    rows = out / "scaling.jsonl"
    if _ONLY.value is not None:
        _measure_all(selected, _ONLY.value, max(counts), rows)
        return
    if rows.exists():
        raise ValueError(f"--out must hold no scaling.jsonl yet, got {out}")
    on_cpu = jax.default_backend() == "cpu"
    if not on_cpu and max(counts) > jax.device_count():
        raise ValueError(f"--devices must be at most {jax.device_count()}, got {max(counts)}")
    out.mkdir(parents=True, exist_ok=True)
    for n in counts:
        if on_cpu:
            _measure_in_process(n)
        else:
            _measure_all(selected, n, max(counts), rows)
    report = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    table = scaling_report.markdown(report, machine())
    (out / "scaling.md").write_text(table, encoding="utf-8")
    if not _COMPILE_ONLY.value:
        scaling_report.plot(report, machine(), out / "scaling.png")
    print(table)


def _device_counts():
    try:
        counts = [int(n) for n in _DEVICES.value]
    except ValueError:
        counts = []
    if counts[:1] != [1] or counts != sorted(set(counts)):
        raise ValueError(f"--devices must be rising numbers from 1, got {','.join(_DEVICES.value)}")
    return counts


def _measure_all(cases, devices, most, rows):
    repeats = 0 if _COMPILE_ONLY.value else _REPEATS.value
    for case in cases:
        batch = _BATCH.value or case.batch_size
        for scalings, size, threshold in configurations(
            devices, most, batch, _SHARD_FROM.value, _SCALINGS.value
        ):
            row = measure(case, devices, size, threshold, repeats)
            print(f"{case.name} on {devices}, batch {size}: {row['ms']} ms", file=sys.stderr)
            with rows.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps({"scaling": s, **row}) + "\n" for s in scalings)


def _measure_in_process(devices):
    """Runs this command for one number of host devices, which is fixed once JAX has started."""
    own = f"--xla_force_host_platform_device_count={devices} --xla_cpu_multi_thread_eigen=false"
    environment = {**os.environ, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {own}".strip()}
    command = [sys.executable, "-m", "benchmarks.scaling", *sys.argv[1:], f"--only={devices}"]
    done = subprocess.run(command, env=environment)
    if done.returncode:
        raise ValueError(f"--devices: the process of {devices} failed with {done.returncode}")


if __name__ == "__main__":
    _main.run(main)
