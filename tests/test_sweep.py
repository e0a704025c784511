"""The sweep over sizes: what it measures, how it resumes, and what it makes of the results."""

import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest

from benchmarks import flops, programs, slopes, suites, sweep, sweep_report
from benchmarks import rows as results
from tests.processes import ROOT

MACHINE = {
    "backend": "cpu",
    "device": "cpu",
    "devices": None,
    "processor": "a processor",
    "cores": 1,
    "python": "3.11",
    "jax": "1",
    "jaxlib": "1",
}


# Grids and cells


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["N"], "must be NAME=VALUES"),
        (["=1"], "must be NAME=VALUES"),
        (["N=1", "N=2"], "each name once"),
        (["N="], "N must be different integers"),
        (["N=1,x"], "N must be different integers"),
        (["N=-1"], "N must be different integers"),
        (["N=2,2"], "N must be different integers"),
        (["scaling=wide"], "scaling must be weak or strong"),
    ],
)
def test_bad_grids_are_refused(texts, message):
    with pytest.raises(ValueError, match=f"^--grid.*{message}"):
        suites.parse_grid(texts)


def test_unknown_cases_and_parameters_are_refused():
    suite = suites.SUITES["hypergradients"]
    with pytest.raises(ValueError, match="--cases: 'unrol' matches none of first_order"):
        suites.cells_of(suite, "unrol", {})
    with pytest.raises(ValueError, match=r"--grid: 'chains' is no parameter .* N, batch"):
        suites.cells_of(suite, None, {"chains": (1,)})


def test_a_flag_sweeps_its_parameter_and_leaves_the_others_of_the_default_grid():
    suite = suites.SUITES["hypergradients"]
    cells = suites.cells_of(suite, "first_order", {"N": (0, 3), "batch": (7,)})
    assert {cell["batch"] for cell in cells} == {7}
    assert [(cell["N"], cell["K"]) for cell in cells] == [(0, 0), (0, 2), (0, 5), (0, 10), (3, 5)]


@pytest.mark.parametrize("name", suites.SUITES)
def test_default_cells_differ_and_expectations_are_about_them(name):
    suite = suites.SUITES[name]
    cells = suites.cells_of(suite, None, {})
    assert len({json.dumps(cell) for cell in cells}) == len(cells) > 0
    for expected in suite.expected:
        about = [c for c in cells if expected.of(c["case"], expected.parameter, expected.quantity)]
        assert len({cell[expected.parameter] for cell in about if expected.parameter in cell}) > 1


def test_devices_share_a_batch_or_bring_their_own():
    suite = suites.SUITES["scaling"]
    grid = {"devices": (1, 3), "shard_parameters_from": (0,), "batch": (10,)}
    cells = suites.cells_of(suite, "toy_dsm_kl_n0", grid)
    assert [(c["devices"], c["scaling"], c["batch"]) for c in cells] == [
        (1, None, 12),
        (3, "weak", 36),
        (3, "strong", 12),
    ]
    with pytest.raises(ValueError, match="--grid: devices must be numbers from 1"):
        suites.cells_of(suite, "toy_dsm_kl_n0", {"devices": (2, 4)})


@pytest.mark.parametrize("name", ["estimators", "hypergradients", "samplers", "ais"])
def test_every_case_is_a_program_of_its_parameters(name):
    """What a call returns to begin the next one is of the structure that it began with."""
    small = {"chains": 2, "width": 2, "batch": 2}
    for case, of in suites.SUITES[name].cases.items():
        cell = {"case": case, **{key: small.get(key, 3) for key in of.parameters}}
        built = programs.build(name, cell)
        shape = jax.eval_shape(built.function, built.carry, *built.constants)
        assert jax.tree.structure(shape[0]) == jax.tree.structure(built.carry)


def test_seeds_are_mapped_over_one_program():
    cell = {"case": "toy_dsm_kl_n0", "seeds": 3, "batch": 4}
    one, three = (programs.build("steps", {**cell, "seeds": n}) for n in (1, 3))
    assert len({tuple(key) for key in jax.random.key_data(three.carry.key).tolist()}) == 3
    products = [flops.matmul_flops(built.step, *built.step_args) for built in (one, three)]
    assert products[1] == 3 * products[0]


# Slopes


def test_slope_of_a_power():
    x = [1, 2, 5, 10]
    assert slopes.slope(x, [3 * a**1.5 for a in x]) == pytest.approx(1.5)
    assert slopes.slope(x, [7.0] * 4) == pytest.approx(0.0)
    assert slopes.slope([0, *x], [1.0, *x]) == pytest.approx(1.0)
    assert slopes.slope([0, 1], [1.0, 2.0]) is None


def test_slope_of_the_growth_is_one_for_every_line_and_not_for_a_parabola():
    x = [1, 2, 5, 10]
    line = [100 + 3 * a for a in x]
    assert slopes.slope(x, line) < 0.2
    assert slopes.slope(x, line, above_first=True) == pytest.approx(1.0)
    parabola = slopes.slope(x, [100 + 3 * a**2 for a in x], above_first=True)
    assert parabola > slopes.LINEAR.most


# The file of results


def test_rows_outlast_a_line_cut_short_and_the_latest_counts(tmp_path):
    path = tmp_path / "steps.jsonl"
    assert results.read_rows(path) == []
    one, two = {"case": "a", "N": 1}, {"case": "a", "N": 2}
    results.append_row(path, {"cell": one, "error": "no memory"})
    results.append_row(path, {"cell": two, "x": 2})
    with path.open("a") as file:
        file.write('{"cell": {"ca')
    assert len(results.read_rows(path)) == 2
    results.append_row(path, {"cell": one, "x": 1})
    rows = results.read_rows(path)
    assert results.find(rows, one) == {"cell": one, "x": 1}
    assert results.find(rows, two) == {"cell": two, "x": 2}
    assert results.find(rows, {"case": "b"}) is None
    results.append_row(path, {"case": "of another kind"})
    with pytest.raises(ValueError, match=r"steps.jsonl: line 4 is no result"):
        results.read_rows(path)


# The command


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs the command with flags by name, cells measured by a function, in a directory."""
    flags = {
        "SUITE": "hypergradients",
        "OUT": str(tmp_path / "out"),
        "CASES": "neumann",
        "GRID": ["N=1,2"],
        "REPEATS": 3,
        "COMPILE_ONLY": False,
        "PIN": True,
        "CORE": None,
        "MEMORY": None,
        "SECONDS": 10.0,
        "RETRY": False,
    }

    def run(measure, *, machine=MACHINE, **changed):
        measured = []

        def run_cell(options, *, timeout):
            cells = [o.partition("=")[2] for o in options if o.startswith("--cell=")]
            if not cells:
                return machine
            measured.append(json.loads(cells[0]))
            return measure(measured[-1])

        for name, value in {**flags, **changed}.items():
            monkeypatch.setattr(sweep, f"_{name}", SimpleNamespace(value=value))
        monkeypatch.setattr(sweep, "_run_cell", run_cell)
        sweep.main()
        return measured

    return run


def _row(milliseconds, scratch=1.0):
    return {
        "date": "2000-01-01",
        "clock": "cpu",
        "cpu_ms": [milliseconds, 2.0 * milliseconds, milliseconds],
        "wall_ms": [milliseconds, 2.2 * milliseconds, milliseconds],
        "matmul_mflop": 100.0,
        "traffic_mb": 1.0,
        "product_gflops": [100.0, 50.0, 100.0],  # slower as its neighbours are
        "copy_gbytes": [10.0, 5.0, 10.0],
        "temp_mib": scratch,
        "compile_seconds": 1.0,
    }


def test_cells_that_are_there_are_not_measured_again(command, tmp_path, capsys):
    def linear(cell):
        return _row(10.0 + 2.0 * cell["N"]) if cell["N"] < 4 else {"error": "no memory left"}

    first = command(linear, GRID=["N=1,4"])
    assert [cell["N"] for cell in first] == [1, 4]
    second = command(linear, GRID=["N=1,2,3,4"])
    assert [cell["N"] for cell in second] == [2, 3]
    assert [c["N"] for c in command(linear, GRID=["N=1,4"], RETRY=True)] == [4]
    table = (tmp_path / "out" / "hypergradients.md").read_text()
    assert "no memory left" in table
    assert "| neumann | N = 1, 2, 3 | time | 12 ms | 16 ms | 1.00 | linear" in table
    assert (tmp_path / "out" / "hypergradients.png").stat().st_size > 10_000
    assert "[1/2] neumann N=1: was 12 ms" in capsys.readouterr().err


def test_results_of_another_machine_or_other_settings_are_refused(command):
    command(lambda cell: _row(1.0))
    with pytest.raises(ValueError, match=r"^--out: .*machine.jax is \"1\" there, \"2\" here"):
        command(lambda cell: _row(1.0), machine={**MACHINE, "jax": "2"})
    with pytest.raises(ValueError, match=r"^--out: .*settings.repeats is 3 there, 4 here"):
        command(lambda cell: _row(1.0), REPEATS=4)


def test_a_core_that_may_not_be_used_is_refused(command):
    with pytest.raises(ValueError, match=r"^--core must be one of \[.*, got 100000"):
        command(lambda cell: _row(1.0), CORE=100_000)


def test_a_directory_that_cannot_be_written_is_refused(command, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^--out: .*cannot be used as a directory"):
        command(lambda cell: _row(1.0), OUT=str(tmp_path / "file"))


def test_verdicts_follow_the_slopes():
    suite = suites.SUITES["hypergradients"]
    base = {"K": 5, "batch": 100, "latents": 400, "visibles": 560}

    def row(n, milliseconds, scratch):
        return {"cell": {"case": "implicit_cg", "N": n, **base}, **_row(milliseconds, scratch)}

    good = [row(1, 11.0, 5.0), row(2, 12.0, 5.0), row(5, 15.0, 5.0)]
    bad = [row(1, 1.0, 5.0), row(2, 4.0, 10.0), row(5, 25.0, 25.0)]
    for given, holds in ((good, True), (bad, False)):
        found = {fit.quantity: fit for fit in sweep_report.fits(suite, given[::-1])}
        assert set(found) == {"time", "memory"}
        assert [found[key].holds for key in ("time", "memory")] == [holds, holds]
        assert found["time"].values == [1, 2, 5]
    lone = sweep_report.fits(suite, [*good[:1], {**good[1], "error": "killed"}])
    assert lone == []


def test_share_of_the_roofline_is_of_the_longer_bound():
    row = {**_row(4.0), "matmul_mflop": 100.0, "traffic_mb": 20.0}
    assert sweep_report.roofline(row) == (0.5, "memory")
    assert sweep_report.roofline({**row, "traffic_mb": 1.0}) == (0.25, "products")
    assert sweep_report.roofline({**row, "matmul_mflop": None}) is None


def test_a_slower_machine_changes_neither_shares_nor_slopes():
    def slowed(row, factor):
        times = {key: [factor * ms for ms in row[key]] for key in ("cpu_ms", "wall_ms")}
        rates = {
            key: [rate / factor for rate in row[key]] for key in ("product_gflops", "copy_gbytes")
        }
        return {**row, **times, **rates}

    suite = suites.SUITES["hypergradients"]
    case = suite.cases["neumann"].parameters
    rows = [{"cell": {"case": "neumann", **case, "N": n}, **_row(10.0 + n)} for n in (1, 2, 5)]
    uneven = [slowed(row, factor) for row, factor in zip(rows, (1.0, 1.7, 1.3), strict=True)]
    assert [sweep_report.roofline(row) for row in uneven] == [
        (pytest.approx(share), kind) for share, kind in map(sweep_report.roofline, rows)
    ]
    fit, *_ = sweep_report.fits(suite, uneven)
    assert fit.slope == pytest.approx(1.0)


# Cells as processes


def run_binary(*options):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.sweep", *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_cell_that_lacks_memory_is_a_result(tmp_path):
    """Of two cells in processes of their own the second wants more than there can be."""
    options = ["--suite=estimators", f"--out={tmp_path / 'out'}", "--cases=rbm_vaes"]
    options += ["--grid=L=2,200000000", "--grid=batch=1", "--grid=latents=4"]
    options += ["--grid=visibles=3", "--repeats=2", "--memory_gib=8"]
    done = run_binary(*options)
    assert done.returncode == 0, done.stderr
    good, failed = results.read_rows(tmp_path / "out" / "estimators.jsonl")
    assert len(good["cpu_ms"]) == 2
    assert good["resident_mib"] > 50
    for rate in ("product_gflops", "copy_gbytes"):
        assert len(good[rate]) == 2
        assert min(good[rate]) > 0
    assert "RESOURCE_EXHAUSTED" in failed["error"]
    assert "2 cells, 1 failed" in done.stderr
    assert "Failed: rbm_vaes, L = 200000000, batch = 1" in done.stdout
    share, _ = sweep_report.roofline(good)
    assert math.isfinite(share)


def test_what_starts_the_cells_starts_no_backend():
    """An accelerator is left to the processes of the cells."""
    script = (
        "import benchmarks.sweep\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_process_that_dies_or_takes_too_long_is_an_error(monkeypatch):
    def instead(line):
        monkeypatch.setattr(sweep, "_COMMAND", ["-c", line])
        return sweep._run_cell([], timeout=2.0)["error"]

    killed = (
        "import os; os.write(2, b'no memory\\n*** Trace ***\\n  @ 1\\n'); os.kill(os.getpid(), 9)"
    )
    assert instead(killed) == "ended by SIGKILL: no memory"
    assert instead("raise SystemExit('wrong')") == "exit code 1: wrong"
    assert instead("import time; time.sleep(9)") == "took longer than 2 s"
