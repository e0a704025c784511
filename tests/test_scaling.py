"""What programs communicate, as read from their text, and the benchmark of scaling end to end."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import communication, scaling_estimate, scaling_report
from benchmarks.rows import read_rows
from tests.processes import ROOT


def on_host_devices(count, *line):
    """Runs Python in a process with so many host devices; returns the completed process."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"
    return subprocess.run(
        [sys.executable, *line],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=600,
    )


PROGRAMS = """
import dataclasses, json
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from benchmarks.communication import communication
from jbism.training import make_mesh

mesh = make_mesh(4)
copied, divided = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))

def reduced(x):
    return jax.shard_map(lambda x: jax.lax.psum(x, "data"), mesh=mesh, in_specs=P("data"),
                         out_specs=P())(x)

def repeated(x, length):
    return jax.lax.scan(lambda c, _: (jnp.sin(reduced(c * x)) + c, None), x, None, length)[0]

def until(x):
    return jax.lax.while_loop(lambda c: c[0, 0] < 9, lambda c: c + reduced(c * x), x)

def loss(w, v):
    return jnp.mean((v @ w) ** 2)

def step(w, v):
    return jax.lax.with_sharding_constraint(w - jax.grad(loss)(w, v), w_sharding)

def shape(dims, sharding):
    return jax.ShapeDtypeStruct(dims, jnp.float32, sharding=sharding)

def counted(f, *shapes):
    return dataclasses.asdict(communication(jax.jit(f).lower(*shapes).compile().as_text()))

x = shape((4, 6), divided)
results = {"psum": counted(reduced, x), "until": counted(until, x)}
for length in (3, 7):
    results[f"scan{length}"] = counted(lambda x: repeated(x, length), x)
for name, w_sharding in (("copied", copied), ("divided", divided)):
    results[name] = counted(step, shape((8, 16), w_sharding), shape((12, 8), divided))
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def programs():
    done = on_host_devices(4, "-c", PROGRAMS)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_reduction_counts_its_array_once(programs):
    assert programs["psum"] == {
        "counts": {"all-reduce": 1},
        "num_bytes": {"all-reduce": 4 * 6},
        "unknown_loops": 0,
    }


def test_a_loop_of_known_length_multiplies(programs):
    for length in (3, 7):
        found = programs[f"scan{length}"]
        assert found["counts"] == {"all-reduce": length}
        assert found["num_bytes"] == {"all-reduce": length * 4 * 6}
        assert found["unknown_loops"] == 0


def test_a_loop_of_unknown_length_is_told(programs):
    assert programs["until"]["unknown_loops"] == 1
    assert programs["until"]["num_bytes"]["all-reduce"] >= 4 * 6


def test_copied_parameters_reduce_their_gradient_and_divided_ones_are_gathered(programs):
    assert programs["copied"]["num_bytes"] == {"all-reduce": 4 * 8 * 16}
    assert programs["divided"]["num_bytes"]["all-gather"] == 4 * 8 * 16
    assert set(programs["divided"]["counts"]) >= {"all-gather"}


ASYNCHRONOUS = """
%region (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %b)
}

%wrapped (p: bf16[8,4]) -> bf16[2,4] {
  %p = bf16[8,4]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %scatter = bf16[2,4]{1,0} reduce-scatter(%p), dimensions={0}, to_apply=%region
}

%quiet (p: f32[]) -> f32[] {
  ROOT %p = f32[] parameter(0)
}

%loud (p: f32[]) -> f32[] {
  %p = f32[] parameter(0)
  ROOT %r = f32[] all-reduce(%p), to_apply=%region
}

ENTRY %main (x: f32[2,4], y: bf16[8,4], n: s32[], s: f32[]) -> f32[8,4] {
  %x = f32[2,4]{1,0} parameter(0)
  %y = bf16[8,4]{1,0:T(8,128)(2,1)} parameter(1)
  %n = s32[] parameter(2)
  %s = f32[] parameter(3)
  %g = (f32[2,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%x), dimensions={0}
  %w = ((bf16[8,4]{1,0}), bf16[2,4]{1,0}, u32[]) async-start(%y), calls=%wrapped
  %wd = bf16[2,4]{1,0} async-done(%w), calls=%wrapped
  %c = f32[] conditional(%n, %s, %s), branch_computations={%quiet, %loud}
  %p = (f32[2,4], f32[2,4], u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1}}
  %pd = f32[2,4]{1,0} collective-permute-done(%p)
  %two = (f32[2,4]{1,0}, f32[]) all-reduce-start(f32[2,4]{1,0} %x, f32[] %s), to_apply=%region
  %twod = (f32[2,4]{1,0}, f32[]) all-reduce-done(%two)
  ROOT %gd = f32[8,4]{1,0} all-gather-done(%g)
}
"""


def test_asynchronous_pairs_branches_and_layouts_of_an_accelerator():
    found = communication.communication(ASYNCHRONOUS)
    assert found.counts == {
        "all-gather": 1,
        "reduce-scatter": 1,
        "all-reduce": 2,
        "collective-permute": 1,
    }
    assert found.num_bytes == {
        "all-gather": 4 * 32,
        "reduce-scatter": 2 * 32,  # its operand
        "all-reduce": 4 + 4 * 9,
        "collective-permute": 4 * 8,
    }


def test_unreadable_programs_are_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        communication.communication("HloModule nothing")
    odd = (
        "ENTRY %m (x: q9[2]) -> q9[2] {\n  %x = q9[2] parameter(0)\n  %r = q9[2] all-reduce(%x)\n}"
    )
    with pytest.raises(ValueError, match="unknown type 'q9'"):
        communication.communication(odd)


def test_suite_on_two_host_devices(tmp_path):
    """One process for each cell, and a report of all."""
    out = tmp_path / "out"
    line = ["-m", "benchmarks.sweep", "--suite=scaling", f"--out={out}", "--cases=toy_dsm_kl_n0"]
    line += ["--repeats=1", "--grid=batch=3", "--grid=scaling=strong"]
    line += ["--grid=shard_parameters_from=0,8"]
    done = on_host_devices(1, *line)
    assert done.returncode == 0, done.stderr
    rows = read_rows(out / "scaling.jsonl")
    measured = [
        (r["cell"]["devices"], r["cell"]["batch"], r["cell"]["shard_parameters_from"]) for r in rows
    ]
    assert measured == [(1, 4, 0), (2, 4, 0), (2, 4, 8)]
    single, copied, divided = rows
    assert single["communication"] == {}
    count, size = copied["communication"]["all-reduce"]
    # At least the gradients of q, K = 5 times, and of θ: 12 and 14 entries, 4 bytes each.
    assert count >= 6
    assert size >= 4 * (5 * 12 + 14)
    assert set(divided["communication"]) >= {"all-gather"}
    assert all(min(row["wall_ms"]) > 0 for row in rows)
    table = (out / "scaling.md").read_text()
    assert table.count("toy_dsm_kl_n0") == 3
    assert "cannot be faster" in table
    assert (out / "scaling.png").stat().st_size > 0


def _row(*, devices=1, batch=10, scaling=None, ms=2.0, cpu_ms=1.0, xla_mflop=5.0):
    cell = {"case": "a", "devices": devices, "scaling": scaling, "batch": batch}
    row = {
        "cell": {**cell, "shard_parameters_from": 0},
        "communication": {},
        "unknown_loops": 0,
        "xla_mflop": xla_mflop,
    }
    if ms is not None:
        row |= {"clock": "wall", "wall_ms": [ms, 9.0], "cpu_ms": [9.0, cpu_ms]}
    return row


def test_efficiency_and_work_are_those_of_one_example():
    rows = [
        _row(),
        _row(devices=4, batch=40, scaling="weak", ms=4.0, cpu_ms=4.4, xla_mflop=7.5),
        _row(devices=4, ms=1.0, cpu_ms=1.1, scaling="strong", xla_mflop=1.25),
        _row(devices=4, ms=None, scaling="strong", xla_mflop=1.25),
        _row(devices=4, batch=4, scaling="strong"),  # of another batch, with none to compare with
        {"cell": {"case": "a", "devices": 2}, "error": "no memory"},
    ]
    compared = scaling_report.relative(rows)
    assert [row["efficiency"] for row in compared] == [1.0, 0.5, 0.5, None]
    assert [row["cpu"] for row in compared] == pytest.approx([1.0, 1.1, 1.1, None])
    assert [row["work"] for row in compared] == pytest.approx([1.0, 1.5, 1.0, 1.0])


def test_estimate_is_the_sum_of_its_parts():
    """Closed form: 8 examples of 1 MFLOP, two devices, a gradient of 50 bytes."""
    machine = scaling_estimate.Machine("two", 2, peak=2e6, memory=100.0, ring=100.0, latency=0.25)
    row = {
        "batch": 8,
        "matmul_mflop": 8.0,
        "state_bytes": 50.0,
        "communication": {"all-reduce": [1, 50.0]},
    }
    found = scaling_estimate.estimate(row, machine, batch=8, fraction=0.5)
    assert found["compute"] == pytest.approx(4.0)
    assert found["update"] == pytest.approx(1.0)
    assert found["communication"] == pytest.approx(0.75)
    assert found["strong"] == pytest.approx(9.0 / 5.75 / 2)
    assert found["weak"] == pytest.approx(5.0 / 5.75)
