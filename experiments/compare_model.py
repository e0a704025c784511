"""One method of the comparison: its runs trained, judged on the way, and judged at the end."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import evaluation, sampling
from experiments.builders import Experiment
from experiments.hyperparameters import Point, config_at, split_static
from experiments.seeds import run_state, train_seeds
from jbism import likelihood
from jbism.training import TrainState

RESOLUTION = 120  # of the density's picture


def stops(num_steps: int, number: int) -> list[int]:
    """Returns at most ``number`` evenly spaced steps, the last ``num_steps``."""
    return sorted({round(num_steps * i / number) for i in range(1, number + 1)} - {0})


class Measured(NamedTuple):
    """What a method came to at one point of the grid."""

    figures: dict[str, Any]  # JSON values, None where a seed has diverged
    arrays: dict[str, np.ndarray]  # for pictures, of the first seed


def measure(
    config: ConfigDict,
    points: Sequence[Point] = ({},),
    *,
    num_seeds: int,
    num_validations: int,
    advanced: Callable[[int], Any] | None = None,
) -> list[Measured]:
    """Trains and judges a method at every point, all that one program can hold in one program.

    What is true of a program as a whole, its seconds, is shared equally among its points.
    """
    measured = {}
    for static, own in split_static(points):
        shared = config_at(config, static)
        for point, result in zip(
            own, _measure(shared, own, num_seeds, num_validations, advanced), strict=True
        ):
            measured[tuple(sorted((static | point).items()))] = result
    return [measured[tuple(sorted(point.items()))] for point in points]


def _measure(config, points, num_seeds, num_validations, advanced):
    begin, cpu_begin = time.perf_counter(), time.process_time()
    selection = _Selection()
    trained = train_seeds(
        config,
        num_seeds,
        points=points,
        stops=stops(config.train.num_steps, num_validations),
        at_stop=selection.update,
        advanced=advanced,
    )
    lost = trained.diverged > 0
    selected = selection.states
    last, quality = log_likelihoods(trained.experiments, trained.states, "test")
    # The last update of all, which no metric saw.
    ended = ~lost & ~np.isfinite(last)
    diverged = np.where(ended, config.train.num_steps, trained.diverged)
    lost = lost | ended
    best = last
    if not np.array_equal(selected.step, trained.states.step):
        best, _ = log_likelihoods(trained.experiments, selected, "test")
    arrays = [
        {} if lost[i] else _pictured(trained.experiments[i], run_state(trained.states, i))
        for i in range(0, len(lost), num_seeds)
    ]
    seconds = {
        "compile_seconds": trained.compile_seconds,
        "train_seconds": trained.train_seconds,
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": time.process_time() - cpu_begin,
    }
    shared = {key: x / len(points) for key, x in seconds.items()}
    shared["milliseconds"] = 1e3 * trained.train_seconds / (config.train.num_steps * len(lost))
    results = []
    for i, picture in enumerate(arrays):
        runs = slice(i * num_seeds, (i + 1) * num_seeds)
        gone = lost[runs]
        figures = {
            "seeds": [experiment.config.seed for experiment in trained.experiments[runs]],
            "log_likelihood": _values(last[runs], gone),
            "log_likelihood_method": "exact" if _is_exact(trained.experiments[0]) else "AIS",
            **{name: _values(values[runs], gone) for name, values in quality.items()},
            "best_log_likelihood": _values(best[runs], gone),
            "best_steps": [
                None if x else int(step) for x, step in zip(gone, selected.step[runs], strict=True)
            ],
            "diverged_at": [int(step) or None for step in diverged[runs]],
            "validation_steps": selection.steps,
            "validation_log_likelihood": [
                _values(values[runs], gone & (diverged[runs] <= step))
                for step, values in zip(selection.steps, selection.values, strict=True)
            ],
            **shared,
        }
        results.append(Measured(figures, picture))
    return results


class _Selection:
    """The state of each seed at its best validation log-likelihood so far."""

    states: TrainState

    def __init__(self):
        self.steps: list[int] = []
        self.values: list[np.ndarray] = []
        self.best: np.ndarray | None = None

    def update(self, step: int, experiments: list[Experiment], states: TrainState) -> None:
        values, _ = log_likelihoods(experiments, states, "validation")
        self.steps.append(step)
        self.values.append(values)
        if self.best is None:
            self.best, self.states = values, jax.tree.map(jnp.copy, states)
            return
        # A number is better than what is not finite.
        better = np.isfinite(values) & ~(values <= self.best)

        def choose(new, old):
            return jnp.where(better.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

        self.best = np.where(better, values, self.best)
        self.states = jax.tree.map(choose, states, self.states)


def log_likelihoods(
    experiments: list[Experiment], states: TrainState, split: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns the mean log-likelihood of the seeds on their own ``test`` or ``validation`` set.

    And, where it is estimated, ``ais_effective_sample_size`` and ``ais_half_width``, half the 95 %
    interval of log Z in nats.

    By enumeration of log Z of all seeds at once, or seed by seed as `evaluation.evaluate`
    estimates it.

    Args:
      experiments: of each seed.
      states: leaves [seeds, ...].
      split: which set; at most ``evaluation.num_examples`` examples of it are taken.
    """
    first = experiments[0]
    if _is_exact(first):
        most = first.config.evaluation.num_examples
        v = np.stack([e.dataset.examples(split, slice(most)) for e in experiments])
        theta = first.evaluated_theta(states)
        return np.asarray(_exact(theta, v, first.energy, first.num_latents), float), {}
    estimates = []
    for i, experiment in enumerate(experiments):
        dataset = experiment.dataset
        judged = replace(
            experiment,
            dataset=replace(
                dataset,
                test=getattr(dataset, split),
                test_labels=getattr(dataset, f"{split}_labels"),
            ),
        )
        state = run_state(states, i)
        # The key of the estimates that follow training.
        key = jax.random.split(experiment.report_key)[1]
        theta = judged.evaluated_theta(state)
        estimates.append(evaluation.evaluate(judged, theta, state.phi, key))
    values = np.array([x["log_likelihood"] for x in estimates])
    if "log_partition" not in estimates[0]:  # log Z is known
        return values, {}
    widths = [(x["log_partition_high"] - x["log_partition_low"]) / 2 for x in estimates]
    return values, {
        "ais_effective_sample_size": np.array([x["ais_effective_sample_size"] for x in estimates]),
        "ais_half_width": np.array(widths),
    }


def _is_exact(experiment):
    most = experiment.config.evaluation.exact_max_latents
    return hasattr(experiment.energy, "log_hidden_marginal") and experiment.num_latents <= most


@partial(jax.jit, static_argnames=("energy", "num_latents"))
def _exact(theta, v, energy, num_latents):
    """Returns [seeds], the mean over v [seeds, batch, dim]."""

    def one(theta, v):
        return jnp.mean(_log_likelihood(theta, v, energy, num_latents))

    return jax.vmap(one)(theta, v)


def _log_likelihood(theta, v, energy, num_latents):
    return likelihood.exact_log_likelihood(
        v,
        free_energy=partial(energy.apply, theta, method="free_energy"),
        log_hidden_marginal=partial(energy.apply, theta, method="log_hidden_marginal"),
        num_latents=num_latents,
    )


def _values(values, lost):
    """Returns floats, None for what is lost or not finite."""
    return [
        None if gone or not np.isfinite(x) else float(x)
        for x, gone in zip(values, lost, strict=True)
    ]


def _pictured(experiment, state):
    """Returns the data and samples of a run, and log-densities where log Z of a plane is known."""
    if experiment.dataset.image_shape is None and experiment.dataset.event_shape != (2,):
        return {}
    theta = experiment.evaluated_theta(state)
    # The keys of the samples and estimates that follow training.
    samples = sampling.draw(
        experiment,
        theta,
        state.phi,
        jax.random.split(experiment.report_key)[0],
        num_samples=experiment.config.sampling.num_samples,
        progress=False,
    )
    titles, panels = list(samples.panels), list(samples.panels.values())
    dataset, shown = experiment.dataset, slice(experiment.config.sampling.num_samples)
    data = dataset.examples("train", shown)
    if dataset.image_shape is not None:
        # Of an RBM, E[v | h]: its v has the noise of σ.
        return {
            "data": dataset.images(data),
            "samples": dataset.images(panels[0]),
            "kind": np.array(titles[0]),
        }
    train = dataset.examples("train")
    margin = 0.25 * (train.max(0) - train.min(0))
    low, high = train.min(0) - margin, train.max(0) + margin
    arrays = {
        "bounds": np.array([low[0], high[0], low[1], high[1]], np.float64),
        "samples": panels[-1],
        "data": data,
    }
    if _is_exact(experiment):
        centres = (np.arange(RESOLUTION, dtype=np.float32) + 0.5) / RESOLUTION
        x, y = np.meshgrid(*(low + (high - low) * centres[:, None]).T)
        points = jnp.asarray(np.stack([x, y], axis=-1).reshape(-1, 2))
        density = jax.jit(_log_likelihood, static_argnums=(2, 3))
        values = density(theta, points, experiment.energy, experiment.num_latents)
        arrays["log_density"] = np.asarray(values).reshape(RESOLUTION, RESOLUTION)
    return arrays
