"""Several seeds and numbers of one config, trained by one program on all devices."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from experiments.builders import Experiment, build
from experiments.hyperparameters import config_at, step_of
from experiments.validation import ConfigError
from jbism import _checks
from jbism.data import to_unit
from jbism.training import TrainState


class Trained(NamedTuple):
    """What the training of several seeds leaves."""

    experiments: list[Experiment]  # of each run
    states: TrainState  # after the last step, leaves [runs, ...]
    diverged: np.ndarray  # [runs], the step of the first metric that is not finite, 0 if none
    compile_seconds: float
    train_seconds: float  # of the compiled steps alone


def build_runs(
    config: ConfigDict, num_seeds: int, points: Sequence[Mapping[str, float]] = ({},)
) -> list[Experiment]:
    """Builds, for each point, the experiments of ``config.seed``, ``config.seed + 1``, ...

    Raises:
      ValueError: if num_seeds is below 1, or as `build`.
    """
    _checks.integer("num_seeds", num_seeds, minimum=1)
    experiments = []
    for point in points:
        for i in range(num_seeds):
            own = config_at(config, point)
            own.seed = config.seed + i
            experiments.append(build(own))
    return experiments


def run_state(states: TrainState, i: int) -> TrainState:
    """Returns the state of run i."""
    return jax.tree.map(lambda x: x[i], states)


def train_seeds(
    config: ConfigDict,
    num_seeds: int,
    *,
    points: Sequence[Mapping[str, float]] = ({},),
    stops: Sequence[int] = (),
    at_stop: Callable[[int, list[Experiment], TrainState], None] | None = None,
    advanced: Callable[[int], Any] | None = None,
    compiler_options: dict[str, Any] | None = None,
) -> Trained:
    """Trains runs for ``config.train.num_steps`` steps, each step of all mapped over them.

    The runs are the seeds of each point. Seed s has its own data or split of them, initial
    parameters, batches and noise: those of ``config.seed = s`` trained alone, which it equals up to
    rounding. A run whose metrics cease to be finite goes on, and is named in ``diverged``. The runs
    are divided among as many devices as take equal shares.

    Args:
      config: the config of the first seed; the others count up from its ``seed``.
      num_seeds: seeds a point; there are R = len(points) · num_seeds runs.
      points: values of config keys, floats, the same keys in each; not of the energy or posterior.
      stops: steps, increasing, after which ``at_stop`` is called.
      at_stop: ``(step, experiments, states)``, states with leaves [R, ...], which it must not keep.
      advanced: called with the number of steps just done, for a progress bar.
      compiler_options: of XLA.

    Raises:
      ValueError: if num_seeds is below 1, a key of the points decides what is compiled, stops do
        not increase from above 0 to at most the last step, or as `build`.
    """
    last = config.train.num_steps
    if (
        any(b <= a for a, b in zip((0, *stops), stops, strict=False))
        or max(stops, default=0) > last
    ):
        raise ValueError(f"stops must increase within 1 to {last}, got {list(stops)}")
    experiments = build_runs(config, num_seeds, points)
    values = {
        key: jnp.repeat(jnp.asarray([point[key] for point in points]), num_seeds)
        for key in points[0]
    }
    orders = [experiment.order for experiment in experiments]
    own, every, by_step = _shardings(len(experiments))
    states = jax.tree.map(lambda *x: jnp.stack(x), *(e.initial_state for e in experiments))
    states = jax.device_put(states, own)
    data, data_axis = _stack([np.asarray(experiment.dataset.train) for experiment in experiments])
    data = jax.device_put(data, every if data_axis is None else own)
    values = jax.device_put(values, own)
    run = jax.jit(
        jax.shard_map(
            partial(_run, experiments[0], data_axis),
            mesh=own.mesh,
            in_specs=(own.spec, own.spec, data.sharding.spec, by_step.spec),
            out_specs=(own.spec, by_step.spec),
            check_vma=False,
        ),
        donate_argnums=0,
    )
    compiled: dict[int, Callable] = {}
    seconds = {"compile": 0.0, "train": 0.0}
    diverged = np.zeros(len(experiments), np.int64)
    begin = 0
    for end, is_stop in _calls(stops, last, config.train.steps_per_call):
        chunks = [order.indices(begin, end - begin) for order in orders]
        indices = jax.device_put(np.stack(chunks, axis=1), by_step)
        if end - begin not in compiled:
            start = time.perf_counter()
            lowered = _lower(run, states, values, data, indices)
            compiled[end - begin] = lowered.compile(compiler_options=compiler_options)
            seconds["compile"] += time.perf_counter() - start
        start = time.perf_counter()
        states, finite = compiled[end - begin](states, values, data, indices)
        first = _first_failure(np.asarray(finite))
        diverged = np.where((diverged == 0) & (first > 0), begin + first, diverged)
        seconds["train"] += time.perf_counter() - start
        if advanced is not None:
            advanced(end - begin)
        if is_stop and at_stop is not None:
            at_stop(end, experiments, states)
        begin = end
    return Trained(experiments, states, diverged, seconds["compile"], seconds["train"])


def _shardings(num_runs):
    """Returns the shardings of [R, ...], of what all runs share, and of [steps, R, ...]."""
    devices = jax.devices()
    count = max(n for n in range(1, len(devices) + 1) if num_runs % n == 0)
    mesh = Mesh(np.array(devices[:count]), ("runs",))
    specs = PartitionSpec("runs"), PartitionSpec(), PartitionSpec(None, "runs")
    return [NamedSharding(mesh, spec) for spec in specs]


def _stack(arrays):
    """Returns arrays [R, n, ...] and the axis of R; one array, and None, where all are the same."""
    first = arrays[0]
    if all(np.array_equal(first, x) for x in arrays[1:]):
        return first, None
    return np.stack(arrays), 0


def _calls(stops, last, steps_per_call):
    """Yields the step at which each call ends, and whether that is a stop."""
    begin = 0
    for stop in [*stops, *([] if stops and stops[-1] == last else [last])]:
        while begin < stop:
            begin = min(begin + steps_per_call, stop)
            yield begin, begin in stops


def _lower(run, states, values, data, indices):
    try:
        return run.lower(states, values, data, indices)
    except jax.errors.ConcretizationTypeError as error:
        raise ConfigError(
            f"one of {', '.join(values)} decides what is compiled: it cannot differ among points"
        ) from error


def _run(experiment, data_axis, states, values, data, indices):
    """Takes the steps of ``indices`` [steps, R, batch]; returns whether metrics are finite too."""

    def one(state, values, data, rows):
        state, metrics = step_of(experiment, values)(state, to_unit(data[rows]))
        return state, jnp.stack([jnp.isfinite(x) for x in metrics.values()]).all()

    def every_run(states, rows):
        return jax.vmap(one, in_axes=(0, 0, data_axis, 0))(states, values, data, rows)

    return jax.lax.scan(every_run, states, indices)


def _first_failure(finite):
    """Returns for each column of [steps, R] the first row that is false, from 1; 0 if none."""
    return np.where(finite.all(axis=0), 0, finite.argmin(axis=0) + 1)
