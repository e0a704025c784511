"""Interpolations between images, traversals of latents, and completions of images."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.builders import Experiment
from experiments.chains import LangevinChains

_MOMENT_EXAMPLES = 1_000


class Interpolations(NamedTuple):
    """Images v given h on the line between the latents of two test images."""

    ends: np.ndarray  # [row, 2, *event], the test images
    weights: np.ndarray  # [point], from 0 to 1, of the second image's latent
    images: np.ndarray  # [row, point, *event]
    start_noise: float | None = None  # of scale that, on the line between the two images, v
    # starts; None: v knows of them by h alone


class Inpaintings(NamedTuple):
    """Test images some of whose pixels were drawn anew."""

    masks: dict[str, np.ndarray]  # what is missing -> [*event], True where it is
    originals: np.ndarray  # [row, *event]
    completions: np.ndarray  # [mask, row, draw, *event]


class Traversals(NamedTuple):
    """Images G(h) with h that of a test image but for one latent, which moves."""

    original: np.ndarray  # [*event], the test image
    latents: np.ndarray  # [row], which one; those that differ most between test images
    values: np.ndarray  # [point], what it is set to
    images: np.ndarray  # [row, point, *event]


def interpolate(
    experiment: Experiment,
    infer: Callable,
    decode: Callable[[jax.Array, jax.Array], jax.Array],
    section: ConfigDict,
) -> Interpolations | None:
    """Decodes latents between the means of q of pairs of test images.

    ``decode`` makes images [n, *event] of latents [n, L] and the images on the same lines
    [n, *event]. There are as many rows as the section says and the test set has pairs; None
    without any.
    """
    test = jnp.asarray(experiment.dataset.examples("test", slice(2 * section.num_rows)))
    num_rows, event = min(section.num_rows, len(test) // 2), test.shape[1:]
    if num_rows == 0:
        return None
    ends = test[: 2 * num_rows].reshape(num_rows, 2, *event)
    latents = jax.vmap(jax.vmap(lambda v: infer(v).mean))(ends)
    weights = jnp.linspace(0.0, 1.0, section.num_points)

    def line(pairs):
        at = jax.vmap(lambda pair, w: (1 - w) * pair[0] + w * pair[1], (None, 0))
        between = jax.vmap(at, (0, None))(pairs, weights)
        return between.reshape(-1, *between.shape[2:])

    images = decode(line(latents), line(ends)).reshape(num_rows, section.num_points, *event)
    return Interpolations(np.asarray(ends), np.asarray(weights), np.asarray(images))


def interpolate_by_chains(
    experiment: Experiment, infer: Callable, chains: LangevinChains, key: jax.Array
) -> Interpolations | None:
    """Interpolates by samples v given h.

    All chains are driven by one noise, which they start from too, and annealed as samples are:
    only h makes them differ. With a start temperature T they start at the images on the line
    between the two, plus that noise times σ₀√T, and are annealed from T on: MDSM makes ∇E/T the
    score of data under such noise. Then the images differ by their start as well.
    """
    key_start, key_chain = jax.random.split(key)
    section = experiment.config.sampling.langevin.interpolation
    temperature = section.start_temperature
    noise, temperatures = None, chains.schedule
    if temperature != -1:
        noise = float(experiment.config.objective.mdsm.sigma0 * np.sqrt(temperature))
        temperatures = temperatures[temperatures <= temperature]

    def decode(h, between):
        mean, scale = (jnp.full_like(between, 0.5), 1.0) if noise is None else (between, noise)
        start = mean + scale * jax.random.normal(key_start, between.shape[1:])[None]
        return chains.visible(key_chain, start, h, temperatures, "interpolation", shared_noise=True)

    found = interpolate(experiment, infer, decode, section)
    return found and found._replace(start_noise=noise)


def traverse(
    experiment: Experiment,
    infer: Callable,
    decode: Callable[[jax.Array], jax.Array],
    section: ConfigDict,
) -> Traversals:
    """Decodes the latents of the first test image, one of which at a time is moved.

    There are as many rows as the section says and there are latents.
    """
    test = jnp.asarray(experiment.dataset.examples("test", slice(_MOMENT_EXAMPLES)))
    means = jax.vmap(lambda v: infer(v).mean)(test)
    order = jnp.argsort(-jnp.std(means, axis=0))[: section.num_rows]
    values = jnp.linspace(-section.span, section.span, section.num_points)
    h = jax.vmap(lambda j: jax.vmap(lambda x: means[0].at[j].set(x))(values))(order)
    v = decode(h.reshape(-1, h.shape[-1]))
    images = v.reshape(len(order), len(values), *test.shape[1:])
    return Traversals(*map(np.asarray, (test[0], order, values, images)))


def inpaint(experiment: Experiment, chains: LangevinChains, key: jax.Array) -> Inpaintings:
    """Draws the missing pixels of test images, and h, given the other pixels.

    Several draws an image and a mask, each from noise of its own. There are as many rows as
    ``config.sampling.langevin.inpainting`` says and the test set has images.
    """
    section = experiment.config.sampling.langevin.inpainting
    key_v, key_h, key_chain = jax.random.split(key, 3)
    originals = jnp.asarray(experiment.dataset.examples("test", slice(section.num_rows)))
    event, masks = originals.shape[1:], _masks(experiment.dataset.image_shape)
    masks = {name: mask.reshape(event) for name, mask in masks.items()}
    layout = (len(masks), len(originals), section.num_draws)
    num_chains = int(np.prod(layout))

    def per_chain(x, axis):
        shape = [size if i == axis else 1 for i, size in enumerate(layout)]
        return jnp.broadcast_to(x.reshape(*shape, *event), (*layout, *event)).reshape(-1, *event)

    missing = per_chain(jnp.stack(list(masks.values())), 0)
    noise = 0.5 + jax.random.normal(key_v, (num_chains, *event))
    v = jnp.where(missing, noise, per_chain(originals, 1))
    h = jax.random.normal(key_h, (num_chains, experiment.num_latents))
    completed = chains.inpaint(key_chain, v, h, missing, "inpainting")
    return Inpaintings(masks, np.asarray(originals), np.asarray(completed.reshape(*layout, *event)))


def _masks(image_shape):
    """The lower half, and the central square of half the width, of [height, width, ...]."""
    height, width = image_shape[:2]
    lower, centre = np.zeros(image_shape, bool), np.zeros(image_shape, bool)
    lower[height // 2 :] = True
    centre[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
    return {"lower half": lower, "centre": centre}
