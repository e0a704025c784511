"""Several devices and processes: the numbers of one, wherever the work is done."""

import json
import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jbism.data import BatchOrder
from jbism.training import DataParallel, create_state, make_mesh, train_steps
from tests.configs import TINY
from tests.data_parallel_cases import CASES, COUNTS, DIVIDED
from tests.processes import ROOT

# The U-statistic of KSD is a small difference of large sums.
TOLERANCE = {"vages_ksd": 1e-4}


def on_host_devices(count):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def run(line, *, devices, timeout):
    """Runs a command on so many host devices; returns the completed process."""
    done = subprocess.run(
        line,
        cwd=ROOT,
        env=on_host_devices(devices),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def computed():
    done = run([sys.executable, "-m", "tests.data_parallel_cases"], devices=8, timeout=1800)
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", CASES)
def test_a_step_on_several_devices_is_that_on_one(computed, name):
    results, tolerance = computed[name], TOLERANCE.get(name, 1e-5)
    one = results["none"]
    assert set(results) >= {str(n) for n in COUNTS}
    for layout, several in results.items():
        for metric, value in one["metrics"].items():
            if metric != "solve_residual":  # of rounding alone, once the solve is done
                assert several["metrics"][metric] == pytest.approx(value, rel=tolerance), layout
        assert several["change"].keys() == one["change"].keys()
        for level, change in one["change"].items():
            largest = np.abs(change).max()
            assert largest > 0
            np.testing.assert_allclose(
                several["change"][level], change, atol=tolerance * largest, rtol=0, err_msg=level
            )
        np.testing.assert_allclose(several["chains"], one["chains"], atol=1e-5)


def test_chains_and_large_parameters_are_divided(computed):
    for name, results in computed.items():
        chains = name == "persistent_cd"
        assert {results[str(n)]["divided"] for n in COUNTS} == {int(chains)}
        assert [results[str(n)]["share"] for n in COUNTS] == [1 / n for n in COUNTS]
        assert (name in DIVIDED) == ("divided" in results)
        if name in DIVIDED:
            assert results["divided"]["divided"] >= 5


def test_chains_of_a_report_on_several_devices_are_those_on_one(tmp_path):
    arrays = []
    for count in (1, 4):
        path = tmp_path / f"{count}.npz"
        run(
            [sys.executable, "-m", "tests.report_on_devices", str(path), str(count)],
            devices=4,
            timeout=600,
        )
        with np.load(path) as stored:
            arrays.append(dict(stored))
    for name, expected in arrays[0].items():
        np.testing.assert_allclose(arrays[1][name], expected, rtol=1e-5, atol=1e-5)


# Layouts


def make_state(**parts):
    return create_state(
        jax.random.key(0), {"w": jnp.ones((4, 6))}, theta_optimizer=optax.adam(0.1), **parts
    )


def test_a_mesh_of_more_devices_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"num_devices must be at most \d+, got 1000"):
        make_mesh(1000)
    with pytest.raises(ValueError, match="num_devices must be an integer >= 1, got 0"):
        make_mesh(0)
    with pytest.raises(ValueError, match=r"mesh must have an axis 'data', got \('x',\)"):
        DataParallel(jax.sharding.Mesh(np.array(jax.devices()[:1]), ("x",)))
    with pytest.raises(ValueError, match="shard_parameters_from must be an integer >= 1, got 0"):
        DataParallel(make_mesh(1), shard_parameters_from=0)


def test_what_the_devices_do_not_divide_is_refused():
    mesh = jax.sharding.AbstractMesh((3, 1), ("data", "model"))
    layout = object.__new__(DataParallel)
    object.__setattr__(layout, "mesh", mesh)
    with pytest.raises(ValueError, match="batch must be a multiple of the mesh's 3 devices, got 8"):
        layout.batches(np.zeros((2, 8), np.int32))
    with pytest.raises(ValueError, match="chains must be a multiple of the mesh's 3 devices"):
        layout.shardings(make_state(chains=jnp.zeros((4, 2))))


def test_the_longest_axis_that_can_be_divided_is():
    mesh = jax.sharding.AbstractMesh((2, 1), ("data", "model"))
    layout = object.__new__(DataParallel)
    object.__setattr__(layout, "mesh", mesh)
    object.__setattr__(layout, "shard_parameters_from", 24)
    shardings = layout.shardings(make_state(chains=jnp.zeros((4, 2))))
    P = jax.sharding.PartitionSpec
    assert shardings.theta["w"].spec == P(None, "data")
    assert shardings.ema["w"].spec == P(None, "data")
    assert shardings.theta_opt_state[0].mu["w"].spec == P(None, "data")
    assert shardings.chains.spec == P("data")
    assert shardings.step.spec == shardings.key.spec == P()
    object.__setattr__(layout, "shard_parameters_from", 25)
    assert layout.shardings(make_state()).theta["w"].spec == P()


def test_a_layout_of_one_device_changes_nothing():
    layout = DataParallel(make_mesh(1))

    def step(state, v):
        noise = jax.random.normal(jax.random.fold_in(state.key, state.step), v.shape)
        theta = jax.tree.map(lambda w: w + jnp.mean(v * noise), state.theta)
        moved = {**vars(state), "theta": theta, "step": state.step + 1}
        return type(state)(**moved), {"loss": jnp.mean(v)}

    data, order = jnp.arange(20.0), BatchOrder(jax.random.key(1), 20, 4)
    finals = []
    for given in (None, layout):
        state = make_state() if given is None else given.place(make_state())
        take = train_steps(step, data, layout=given)
        for i in range(3):
            state, _ = take(state, order.indices(2 * i, 2))
        finals.append(np.asarray(state.theta["w"]))
    np.testing.assert_array_equal(*finals)
    gathered = layout.gather(state)
    assert jax.tree.leaves(gathered)[0].sharding.num_devices == 1
    assert bool(jax.random.key_data(gathered.key).sum() == jax.random.key_data(state.key).sum())


def test_parts_of_a_batch_make_the_batch():
    order = BatchOrder(jax.random.key(0), num_examples=50, batch_size=12)
    parts = [order.part(i, 3).indices(5, 4) for i in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), order.indices(5, 4))
    halves = [order.part(1, 3).part(i, 2).indices(5, 4) for i in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves, axis=1), parts[1])
    with pytest.raises(ValueError, match="count must divide batch_size, 12, got 5"):
        order.part(0, 5)
    with pytest.raises(ValueError, match="index must be below count, 3, got 3"):
        order.part(3, 3)


# Processes


def command(workdir, num_steps, **flags):
    overrides = TINY | {"train.num_steps": num_steps, "mesh.data": -1}
    return [
        *(sys.executable, "-m", "experiments.train", "--noprogress", f"--workdir={workdir}"),
        "--config=experiments/configs/checkerboard_rbm.py",
        *(f"--config.{key}={value}" for key, value in overrides.items()),
        *(f"--{key}={value}" for key, value in flags.items()),
    ]


def train_alone(workdir, num_steps):
    done = run(command(workdir, num_steps), devices=2, timeout=300)
    return done.stdout


def train_by_two(workdir, num_steps):
    """Two processes with a device each; returns their exit codes, outputs and errors."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            command(workdir, num_steps, coordinator_address=address, num_processes=2, process_id=i),
            cwd=ROOT,
            env=on_host_devices(1),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], outputs


def metrics_of(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(10, 61, 10))
    return [{k: x for k, x in line.items() if k != "wall_time"} for line in lines]


def test_processes_share_a_run_and_its_checkpoints(tmp_path):
    alone = tmp_path / "alone"
    train_alone(alone, 60)

    # Written by two processes, gone on with by one.
    handed = tmp_path / "handed"
    codes, outputs = train_by_two(handed, 30)
    assert codes == [0, 0], outputs
    assert "after 30 steps" in outputs[0][0]
    assert "after 30 steps" not in outputs[1][0]
    assert "resuming from step 30" in train_alone(handed, 60)

    # And the other way round.
    joined = tmp_path / "joined"
    train_alone(joined, 30)
    codes, outputs = train_by_two(joined, 60)
    assert codes == [0, 0], outputs
    assert "resuming from step 30" in outputs[0][0]

    for workdir in (handed, joined):
        for ours, expected in zip(metrics_of(workdir), metrics_of(alone), strict=True):
            assert ours == pytest.approx(expected, rel=1e-4)
        evaluations = [json.loads((w / "evaluation.json").read_text()) for w in (workdir, alone)]
        assert evaluations[0]["log_likelihood"] == pytest.approx(
            evaluations[1]["log_likelihood"], abs=1e-4
        )


def test_what_one_process_refuses_ends_them_all(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    codes, outputs = train_by_two(tmp_path, 20)
    assert codes == [1, 1], outputs
    assert "neither empty nor a run's" in outputs[0][1]
    assert "process 0: WorkdirError" in outputs[1][1]
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
