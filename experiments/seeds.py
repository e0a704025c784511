"""Several seeds of one config, trained by one program on all devices."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from experiments.builders import Experiment, build
from jbism import _checks
from jbism.training import TrainState


class Trained(NamedTuple):
    """What the training of several seeds leaves."""

    experiments: list[Experiment]  # of each seed
    states: TrainState  # after the last step, leaves [seeds, ...]
    diverged: np.ndarray  # [seeds], the step of the first metric that is not finite, 0 if none
    compile_seconds: float
    train_seconds: float  # all but compilation and what ``at_stop`` does


def build_seeds(config: ConfigDict, num_seeds: int) -> list[Experiment]:
    """Builds the experiments of the seeds ``config.seed``, ``config.seed + 1``, ...

    Raises:
      ValueError: if num_seeds is below 1, or as `build`.
    """
    _checks.integer("num_seeds", num_seeds, minimum=1)
    experiments = []
    for i in range(num_seeds):
        own = config.copy_and_resolve_references()
        own.seed = config.seed + i
        experiments.append(build(own))
    return experiments


def seed_state(states: TrainState, i: int) -> TrainState:
    """Returns the state of seed i."""
    return jax.tree.map(lambda x: x[i], states)


def train_seeds(
    config: ConfigDict,
    num_seeds: int,
    *,
    stops: Sequence[int] = (),
    at_stop: Callable[[int, list[Experiment], TrainState], None] | None = None,
    advanced: Callable[[int], Any] | None = None,
    compiler_options: dict[str, Any] | None = None,
) -> Trained:
    """Trains several seeds for ``config.train.num_steps`` steps, each step of all mapped over them.

    Seed s has its own data or split of them, initial parameters, batches and noise: those of
    ``config.seed = s`` trained alone, which it equals up to rounding. A seed whose metrics cease to
    be finite goes on, and is named in ``diverged``. The seeds are divided among as many devices as
    take equal shares.

    Args:
      config: the config of the first seed; the others count up from its ``seed``.
      num_seeds: S.
      stops: steps, increasing, after which ``at_stop`` is called.
      at_stop: ``(step, experiments, states)``, states with leaves [S, ...], which it must not keep.
      advanced: called with the number of steps just done, for a progress bar.
      compiler_options: of XLA.

    Raises:
      ValueError: if num_seeds is below 1, stops do not increase from above 0 to at most the last
        step, or as `build`.
    """
    last = config.train.num_steps
    if (
        any(b <= a for a, b in zip((0, *stops), stops, strict=False))
        or max(stops, default=0) > last
    ):
        raise ValueError(f"stops must increase within 1 to {last}, got {list(stops)}")
    experiments = build_seeds(config, num_seeds)
    orders = [experiment.order for experiment in experiments]
    own, every, by_step = _shardings(num_seeds)
    states = jax.tree.map(lambda *x: jnp.stack(x), *(e.initial_state for e in experiments))
    states = jax.device_put(states, own)
    data, data_axis = _stack([experiment.dataset.train for experiment in experiments])
    data = jax.device_put(data, every if data_axis is None else own)
    run = jax.jit(
        jax.shard_map(
            partial(_run, experiments[0].step, data_axis),
            mesh=own.mesh,
            in_specs=(own.spec, data.sharding.spec, by_step.spec),
            out_specs=(own.spec, by_step.spec),
            check_vma=False,
        ),
        donate_argnums=0,
    )
    compiled: dict[int, Callable] = {}
    seconds = {"compile": 0.0, "train": 0.0}
    diverged = np.zeros(num_seeds, np.int64)
    begin = 0
    for end, is_stop in _calls(stops, last, config.train.steps_per_call):
        start = time.perf_counter()
        chunks = [order.indices(begin, end - begin) for order in orders]
        indices = jax.device_put(np.stack(chunks, axis=1), by_step)
        if end - begin not in compiled:
            compiling = time.perf_counter()
            lowered = run.lower(states, data, indices)
            compiled[end - begin] = lowered.compile(compiler_options=compiler_options)
            spent = time.perf_counter() - compiling
            seconds["compile"] += spent
            start += spent
        states, finite = compiled[end - begin](states, data, indices)
        first = _first_failure(np.asarray(finite))
        diverged = np.where((diverged == 0) & (first > 0), begin + first, diverged)
        seconds["train"] += time.perf_counter() - start
        if advanced is not None:
            advanced(end - begin)
        if is_stop and at_stop is not None:
            at_stop(end, experiments, states)
        begin = end
    return Trained(experiments, states, diverged, seconds["compile"], seconds["train"])


def _shardings(num_seeds):
    """Returns the shardings of [S, ...], of what all seeds share, and of [steps, S, ...]."""
    devices = jax.devices()
    count = max(n for n in range(1, len(devices) + 1) if num_seeds % n == 0)
    mesh = Mesh(np.array(devices[:count]), ("seeds",))
    specs = PartitionSpec("seeds"), PartitionSpec(), PartitionSpec(None, "seeds")
    return [NamedSharding(mesh, spec) for spec in specs]


def _stack(arrays):
    """Returns arrays [S, n, ...] and the axis of S; one array, and None, where all are the same."""
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


def _run(step, data_axis, states, data, indices):
    """Takes the steps of ``indices`` [steps, S, batch]; returns whether metrics are finite too."""

    def one(state, data, rows):
        state, metrics = step(state, data[rows])
        return state, jnp.stack([jnp.isfinite(x) for x in metrics.values()]).all()

    def all_seeds(states, rows):
        return jax.vmap(one, in_axes=(0, data_axis, 0))(states, data, rows)

    return jax.lax.scan(all_seeds, states, indices)


def _first_failure(finite):
    """Returns for each column of [steps, S] the first row that is false, from 1; 0 if none."""
    return np.where(finite.all(axis=0), 0, finite.argmin(axis=0) + 1)
