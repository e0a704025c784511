"""The noise of one training step: as the library draws it from its keys, and in what shapes."""

from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.peers.problems import NUM_LOWER_STEPS, Problem


class Draw(NamedTuple):
    """The noise of one loss."""

    visible: Any  # [batch, *event], normal
    latent: Any  # [batch, latents] or [batch, particles, latents]; None where nothing is sampled


class StepNoise(NamedTuple):
    """The noise of one step."""

    lower: tuple[Draw, ...]  # of each committed lower step
    virtual: tuple[Draw, ...]  # of each unrolled one
    upper: Draw


def of_step(problem: Problem, key: jax.Array, step: int, batch_shape: tuple[int, ...]) -> StepNoise:
    """Returns what the library draws in the step of that number, as NumPy arrays.

    It follows how `jbism.training.bilevel_step` and the losses split their keys.
    """
    key_lower, key_upper = jax.random.split(jax.random.fold_in(key, step))
    lower_keys = list(jax.random.split(key_lower, NUM_LOWER_STEPS))
    if problem.num_particles is None:
        keys = list(jax.random.split(key_upper, problem.num_virtual + 2))
        virtual_keys, key_upper = keys[: problem.num_virtual], keys[problem.num_virtual]
        key_visible, key_rest = jax.random.split(key_upper)
        key_latent, _ = jax.random.split(key_rest)
        shape: tuple[int, ...] = (problem.num_latents,)
    else:
        virtual_keys = []
        key_visible, key_latent, _ = jax.random.split(key_upper, 3)
        shape = (problem.num_upper_latents, problem.num_latents)
    upper = Draw(
        np.array(jax.random.normal(key_visible, batch_shape)),
        _latent_noise(problem.upper_law, key_latent, (batch_shape[0], *shape)),
    )
    lower = [_lower_draw(problem, key, batch_shape) for key in lower_keys + virtual_keys]
    return StepNoise(tuple(lower[:NUM_LOWER_STEPS]), tuple(lower[NUM_LOWER_STEPS:]), upper)


def _lower_draw(problem, key, batch_shape):
    key_visible, key_latent = jax.random.split(key)
    latent = None
    if problem.lower_law is not None:
        shape = (batch_shape[0], problem.num_latents)
        latent = _latent_noise(problem.lower_law, key_latent, shape)
    return Draw(np.array(jax.random.normal(key_visible, batch_shape)), latent)


def _latent_noise(law, key, shape):
    """One key an example, and below it one a particle."""
    draw = {
        "normal": jax.random.normal,
        "logistic": jax.random.logistic,
        "uniform": jax.random.uniform,
    }[law]
    batch, *particles, size = shape

    def of_example(key):
        if not particles:
            return draw(key, (size,))
        key_sample, _ = jax.random.split(key)
        keys = jax.random.split(key_sample, particles[0])
        return jax.vmap(lambda key: draw(key, (size,)))(keys)

    return np.array(jax.vmap(of_example)(jax.random.split(key, batch)))
