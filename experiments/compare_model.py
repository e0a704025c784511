"""One method of the comparison: its seeds trained, judged on the way, and judged at the end."""

import time
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import evaluation, sampling
from experiments.builders import Experiment
from experiments.seeds import seed_state, train_seeds
from jbism import likelihood
from jbism.training import TrainState

RESOLUTION = 120  # of the density's picture


def stops(num_steps: int, number: int) -> list[int]:
    """Returns at most ``number`` evenly spaced steps, the last ``num_steps``."""
    return sorted({round(num_steps * i / number) for i in range(1, number + 1)} - {0})


def measure(
    config: ConfigDict, *, num_seeds: int, num_validations: int, advanced=None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Trains and judges a method.

    Returns:
      Its figures, JSON values, None where a seed has diverged; and arrays for the picture, none
      unless the data are 2-D.
    """
    begin, cpu_begin = time.perf_counter(), time.process_time()
    selection = _Selection()
    trained = train_seeds(
        config,
        num_seeds,
        stops=stops(config.train.num_steps, num_validations),
        at_stop=selection.update,
        advanced=advanced,
    )
    lost = trained.diverged > 0
    selected = selection.states
    last = log_likelihoods(trained.experiments, trained.states, "test")
    best = last
    if not np.array_equal(selected.step, trained.states.step):
        best = log_likelihoods(trained.experiments, selected, "test")
    arrays = {} if lost[0] else _plane(trained.experiments[0], seed_state(trained.states, 0))
    figures = {
        "seeds": [experiment.config.seed for experiment in trained.experiments],
        "log_likelihood": _values(last, lost),
        "log_likelihood_method": "exact" if _is_exact(trained.experiments[0]) else "AIS",
        "best_log_likelihood": _values(best, lost),
        "best_steps": [
            None if gone else int(step) for gone, step in zip(lost, selected.step, strict=True)
        ],
        "diverged_at": [int(step) or None for step in trained.diverged],
        "validation_steps": selection.steps,
        "validation_log_likelihood": [
            _values(values, (trained.diverged > 0) & (trained.diverged <= step))
            for step, values in zip(selection.steps, selection.values, strict=True)
        ],
        "milliseconds": 1e3 * trained.train_seconds / (config.train.num_steps * num_seeds),
        "compile_seconds": trained.compile_seconds,
        "train_seconds": trained.train_seconds,
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": time.process_time() - cpu_begin,
    }
    return figures, arrays


class _Selection:
    """The state of each seed at its best validation log-likelihood so far."""

    states: TrainState

    def __init__(self):
        self.steps: list[int] = []
        self.values: list[np.ndarray] = []
        self.best: np.ndarray | None = None

    def update(self, step: int, experiments: list[Experiment], states: TrainState) -> None:
        values = log_likelihoods(experiments, states, "validation")
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


def log_likelihoods(experiments: list[Experiment], states: TrainState, split: str) -> np.ndarray:
    """Returns the mean log-likelihood of the seeds on their own ``test`` or ``validation`` set.

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
        v = np.stack([getattr(e.dataset, split)[:most] for e in experiments])
        theta = first.evaluated_theta(states)
        return np.asarray(_exact(theta, v, first.energy, first.num_latents), float)
    values = []
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
        state = seed_state(states, i)
        # The key of the estimates that follow training.
        key = jax.random.split(experiment.report_key)[1]
        theta = judged.evaluated_theta(state)
        values.append(evaluation.evaluate(judged, theta, state.phi, key)["log_likelihood"])
    return np.array(values)


def _is_exact(experiment):
    most = experiment.config.evaluation.exact_max_latents
    return hasattr(experiment.energy, "free_energy") and experiment.num_latents <= most


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


def _plane(experiment, state):
    """Returns samples and, where log Z is enumerated, the log-density of a model of 2-D data."""
    if experiment.dataset.event_shape != (2,):
        return {}
    theta = experiment.evaluated_theta(state)
    train = experiment.dataset.train
    margin = 0.25 * (train.max(0) - train.min(0))
    low, high = train.min(0) - margin, train.max(0) + margin
    # The keys of the samples and estimates that follow training.
    samples = sampling.draw(
        experiment,
        theta,
        state.phi,
        jax.random.split(experiment.report_key)[0],
        num_samples=experiment.config.sampling.num_samples,
        progress=False,
    )
    arrays = {
        "bounds": np.array([low[0], high[0], low[1], high[1]], np.float64),
        "samples": list(samples.panels.values())[-1],
        "data": train[: experiment.config.sampling.num_samples],
    }
    if _is_exact(experiment):
        centres = (np.arange(RESOLUTION, dtype=np.float32) + 0.5) / RESOLUTION
        x, y = np.meshgrid(*(low + (high - low) * centres[:, None]).T)
        points = jnp.asarray(np.stack([x, y], axis=-1).reshape(-1, 2))
        density = jax.jit(_log_likelihood, static_argnums=(2, 3))
        values = density(theta, points, experiment.energy, experiment.num_latents)
        arrays["log_density"] = np.asarray(values).reshape(RESOLUTION, RESOLUTION)
    return arrays
