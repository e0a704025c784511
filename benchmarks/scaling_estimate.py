"""Estimates parallel efficiency on machines one does not have, from what was counted on one's own.

    python -m benchmarks.scaling_estimate --measured=DIR/scaling.jsonl [--batches=104,1024]

A step takes the time of its products at a stated fraction of the peak rate, that of reading and
writing the train state once in memory, which every device does whole, and that of its collectives,
one after the other: nothing overlaps. See docs/scaling.md for the assumptions.
"""

import pathlib
from dataclasses import dataclass
from typing import Any

from absl import flags

from benchmarks.rows import read_rows
from experiments import _main

_MEASURED = flags.DEFINE_multi_string("measured", None, "A scaling.jsonl.", required=True)
_BATCHES = flags.DEFINE_list("batches", ["104", "1024"], "Global batches of strong scaling.")
_FRACTIONS = flags.DEFINE_list("fractions", ["0.2", "0.5"], "Of the peak rate of products.")


@dataclass(frozen=True)
class Machine:
    """Published rates of devices and what joins them, in FLOP/s, bytes/s and seconds."""

    name: str
    devices: int
    peak: float  # of products of float32 at JAX's default precision there
    memory: float  # of one device
    ring: float  # what a device sends to its neighbours, and at once receives
    latency: float  # of one small all-reduce


MACHINES = (
    # TF32, dense. NCCL reaches 370 of NVLink 4's 450 GB/s each way; 30 µs is an assumption.
    Machine("8 × H100 SXM", 8, 494.7e12, 3.35e12, 370e9, 30e-6),
    # bfloat16. Two axes of 45 GB/s each way: an 8 × 8 slice has no links that close its rings.
    # There and back along both axes 28 hops, 1 µs each.
    Machine("TPU v5e-64", 64, 197e12, 819e9, 90e9, 28e-6),
)


def communication_seconds(sent: dict[str, list[float]], machine: Machine) -> float:
    """Returns what collectives, [count, bytes] each, take one after the other on a ring.

    Example:
      >>> machine = Machine("two", 2, peak=1.0, memory=1.0, ring=10.0, latency=1.0)
      >>> communication_seconds({"all-reduce": [3, 50.0], "all-gather": [1, 20.0]}, machine)
      10.0
    """
    n = machine.devices
    seconds = 0.0
    for kind, (count, size) in sent.items():
        crossings = {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1.0}
        seconds += crossings.get(kind, (n - 1) / n) * size / machine.ring + count * machine.latency
    return seconds


def estimate(
    row: dict[str, Any], machine: Machine, *, batch: int, fraction: float
) -> dict[str, float]:
    """Returns seconds of the parts of a step, and its efficiency, of strong and of weak scaling.

    Args:
      row: of the suite ``scaling``, on several devices with copied parameters; flat.
      machine: on which.
      batch: global; of weak scaling, that many examples on every device would be the one to beat.
      fraction: of the peak rate.
    """
    per_example = 1e6 * row["matmul_mflop"] / row["batch"] / (machine.peak * fraction)
    update = 2 * row["state_bytes"] / machine.memory
    sent = communication_seconds(row["communication"], machine)
    alone, own = batch * per_example, batch / machine.devices * per_example
    step = own + update + sent
    return {
        "compute": own,
        "update": update,
        "communication": sent,
        "strong": (alone + update) / step / machine.devices,  # against one device with the batch
        "weak": (own + update) / step,  # against one device with this device's part
    }


def markdown(rows: list[dict[str, Any]], batches: list[int], fractions: list[float]) -> str:
    """Formats the estimates of every case on every machine."""
    lines = [
        "| machine | case | global batch | of peak | products, ms | state, ms | collectives, ms "
        "| strong | weak |",
        "|" + " --- |" * 9,
    ]
    for machine in MACHINES:
        for row in rows:
            for batch in batches:
                batch = -(-batch // machine.devices) * machine.devices
                for fraction in fractions:
                    e = estimate(row, machine, batch=batch, fraction=fraction)
                    lines.append(
                        f"| {machine.name} | {row['case']} | {batch} | {fraction:.0%} "
                        f"| {1e3 * e['compute']:.3g} | {1e3 * e['update']:.3g} "
                        f"| {1e3 * e['communication']:.3g} "
                        f"| {e['strong']:.0%} | {e['weak']:.0%} |"
                    )
    return "\n".join(lines)


def main() -> None:
    stored = [row for path in _MEASURED.value for row in read_rows(pathlib.Path(path))]
    rows = [{**row["cell"], **row} for row in stored if "error" not in row]
    most: dict[str, dict[str, Any]] = {}
    unknown = set()
    for row in rows:
        if row["devices"] == 1 or row["shard_parameters_from"]:
            continue
        if row["unknown_loops"] or row["matmul_mflop"] is None:
            unknown.add(row["case"])
        elif row["devices"] >= most.get(row["case"], row)["devices"]:
            most[row["case"]] = row
    if not most:
        raise ValueError(
            "--measured must hold rows of several devices, copied parameters and known loops"
        )
    batches, fractions = map(int, _BATCHES.value), map(float, _FRACTIONS.value)
    print(markdown(list(most.values()), list(batches), list(fractions)))
    if unknown:
        print(f"\n*Left out, for a loop of unknown length: {', '.join(sorted(unknown))}.*")


if __name__ == "__main__":
    _main.run(main)
