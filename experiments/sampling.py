"""Samples and reconstructions of a trained model, with progress, as arrays in data units."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from experiments.builders import Experiment
from jbism import samplers

_CHUNK = 100  # sampler steps a dispatch


class Samples(NamedTuple):
    """What a model draws; titles say how."""

    panels: dict[str, np.ndarray]  # title -> [n, *event]
    originals: np.ndarray  # [n, *event], test examples
    reconstructions: np.ndarray  # [n, *event]


def draw(
    experiment: Experiment, theta, phi, key, *, num_samples: int, progress: bool = True
) -> Samples:
    """Draws samples by the config's sampler and reconstructs test examples.

    Raises:
      ValueError: if the sampler is unknown or does not fit the energy.
    """
    name = experiment.config.sampling.name
    if name == "gibbs":
        return _gibbs(experiment, theta, phi, key, num_samples, progress)
    if name == "langevin":
        return _langevin(experiment, theta, phi, key, num_samples, progress)
    raise ValueError(f"config.sampling.name must be 'gibbs' or 'langevin', got {name!r}")


def _gibbs(experiment, theta, phi, key, num_samples, progress):
    energy, infer = experiment.energy, experiment.infer(theta, phi)
    if not hasattr(energy, "visible_given_hidden"):
        raise ValueError("config.sampling.name = 'gibbs' needs an energy with conditionals")
    key_start, key_chain = jax.random.split(key)
    train = jnp.asarray(experiment.dataset.train)
    mean, scale = train.mean(0), train.std(0)
    noise = jax.random.normal(key_start, (num_samples, *train.shape[1:]))
    v = mean[None] + scale[None] * noise
    visible = partial(energy.apply, theta, method="visible_given_hidden")
    chain = jax.jit(
        partial(
            samplers.block_gibbs,
            hidden_given_visible=partial(energy.apply, theta, method="hidden_given_visible"),
            visible_given_hidden=visible,
        ),
        static_argnames="num_steps",
    )
    steps = experiment.config.sampling.gibbs.num_steps
    for start, length in _chunks(steps, "Gibbs", progress):
        v, h = chain(jax.random.fold_in(key_chain, start), v, num_steps=length)
    originals = jnp.asarray(experiment.dataset.test[:num_samples])
    latents = jax.vmap(lambda v: infer(v).mean)(originals)
    reconstructions = jax.vmap(lambda h: visible(h).mean)(latents)
    panels = {}
    if experiment.dataset.image_shape is not None:
        panels["E[v | h] of the Gibbs samples"] = jax.vmap(lambda h: visible(h).mean)(h)
    panels[f"Gibbs samples v, {steps:,} steps from noise"] = v
    return _to_host(panels, originals, reconstructions)


def _langevin(experiment, theta, phi, key, num_samples, progress):
    energy, infer = experiment.energy.apply, experiment.infer(theta, phi)
    section = experiment.config.sampling.langevin
    key_start, key_q, key_h, key_via, key_joint, key_rec = jax.random.split(key, 6)
    schedule = samplers.annealing_schedule(
        hot_steps=section.hot_steps,
        annealed_steps=section.annealed_steps,
        cool_steps=section.cool_steps,
        hot=section.hot,
    )
    visible = jax.jit(
        partial(samplers.langevin_visible, energy=energy, step_size=section.step_size)
    )
    step_sizes = (section.step_size, section.latent_step_size)
    joint = jax.jit(partial(samplers.langevin_joint, energy=energy, step_size=step_sizes))
    dataset = experiment.dataset
    shape = (num_samples, *dataset.event_shape)
    noise = 0.5 + jax.random.normal(key_start, shape)

    def denoised(v, h):
        objective = experiment.config.objective
        if objective.name != "mdsm":
            return v
        sigma = objective.mdsm.sigma0
        return jax.vmap(
            lambda v, h: samplers.denoise(v, energy=lambda v: energy(theta, v, h), sigma=sigma)
        )(v, h)

    def run_visible(chain_key, v, h, schedule, title):
        for start, length in _chunks(len(schedule), title, progress):
            temperatures = schedule[start : start + length]
            v = visible(chain_key, theta, v, h, temperatures, start=start)
        return denoised(v, h)

    train = jnp.asarray(dataset.train[:num_samples])
    h = jax.vmap(lambda k, v: infer(v).sample(k))(jax.random.split(key_q, len(train)), train)
    via_q = run_visible(key_via, noise[: len(train)], h, schedule, "Langevin v | h, h ~ q")

    v_joint = noise
    h_joint = jax.random.normal(key_h, (num_samples, experiment.num_latents))
    for start, length in _chunks(len(schedule), "Langevin (v, h)", progress):
        temperatures = schedule[start : start + length]
        v_joint, h_joint = joint(key_joint, theta, v_joint, h_joint, temperatures, start=start)

    originals = jnp.asarray(dataset.test[:num_samples])
    latents = jax.vmap(lambda v: infer(v).mean)(originals)
    mean_image = jnp.broadcast_to(jnp.asarray(dataset.train.mean(0))[None], originals.shape)
    tempered = samplers.annealing_schedule(
        hot_steps=section.reconstruction_steps,
        annealed_steps=0,
        cool_steps=section.cool_steps,
        hot=1.0,
    )
    # At temperature 1 from an image that knows nothing of v: p(v | h) itself, h the mean of q.
    reconstructions = run_visible(key_rec, mean_image, latents, tempered, "reconstruction")
    panels = {
        "v | h with h from q of training data": via_q,
        "joint samples (v, h)": denoised(v_joint, h_joint),
    }
    return _to_host(panels, originals, reconstructions)


def _chunks(num_steps, title, progress):
    with tqdm.tqdm(total=num_steps, desc=title, unit="step", disable=not progress) as bar:
        for start in range(0, num_steps, _CHUNK):
            length = min(_CHUNK, num_steps - start)
            yield start, length
            bar.update(length)


def _to_host(panels, originals, reconstructions):
    return Samples(
        {title: np.asarray(x) for title, x in panels.items()},
        np.asarray(originals),
        np.asarray(reconstructions),
    )
