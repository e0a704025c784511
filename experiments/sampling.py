"""Samples and reconstructions of a trained model, with progress, as arrays in data units."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import image_sampling
from experiments.builders import Experiment
from experiments.chains import Frames, LangevinChains
from experiments.devices import spread
from experiments.image_sampling import Inpaintings, Interpolations, Traversals
from experiments.resumable import ChainStore
from jbism import energies, samplers


class Samples(NamedTuple):
    """What a model draws; titles say how."""

    panels: dict[str, np.ndarray]  # title -> [n, *event]
    originals: np.ndarray | None = None  # [n, *event], test examples; None without latents
    reconstructions: np.ndarray | None = None  # [n, *event]
    frames: Frames | None = None  # of the joint samples; this and the rest of images only
    interpolations: Interpolations | None = None
    inpaintings: Inpaintings | None = None
    traversals: Traversals | None = None


def draw(
    experiment: Experiment,
    theta,
    phi,
    key,
    *,
    num_samples: int,
    pictures: bool = False,
    store: ChainStore | None = None,
    progress: bool = True,
) -> Samples:
    """Draws samples by the config's sampler and, by its latents, reconstructs test examples.

    Args:
      experiment: what was trained.
      theta: parameters of the energy.
      phi: parameters of the posterior.
      key: random key.
      num_samples: how many.
      pictures: of images, what else the config wants of a sampler: of Langevin dynamics frames,
        interpolations and inpaintings, of a generator interpolations and traversals.
      store: where chains are kept, so that killed ones go on.
      progress: show progress bars.

    Raises:
      ValueError: if the sampler is unknown or does not fit the energy.
    """
    name = experiment.config.sampling.name
    if name == "gibbs":
        return _gibbs(experiment, theta, phi, key, num_samples, store or ChainStore(), progress)
    pictures = pictures and experiment.dataset.image_shape is not None
    if name == "langevin":
        chains = LangevinChains(experiment, theta, store=store, progress=progress)
        return _langevin(experiment, theta, phi, key, num_samples, pictures, chains)
    if name == "generator":
        return _generator(experiment, theta, phi, key, num_samples, pictures)
    raise ValueError(
        f"config.sampling.name must be 'gibbs', 'langevin' or 'generator', got {name!r}"
    )


def reconstruct(
    experiment: Experiment,
    theta,
    phi,
    key,
    *,
    num_samples: int,
    store: ChainStore | None = None,
    progress: bool = True,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Returns test examples and their reconstructions by their latents.

    As `draw` makes them: the means of v of an RBM or a generator, else at most ``num_samples``
    draws. None without latents.
    """
    if experiment.config.sampling.name in ("gibbs", "generator"):
        return _decoded(experiment, theta, phi, num_samples)
    if experiment.num_latents == 0:
        return None, None
    chains = LangevinChains(experiment, theta, store=store, progress=progress)
    return _draws_of_latents(experiment, experiment.infer(theta, phi), chains, key, num_samples)


def _gibbs(experiment, theta, phi, key, num_samples, store, progress):
    energy = experiment.energy
    if not hasattr(energy, "visible_given_hidden"):
        raise ValueError("config.sampling.name = 'gibbs' needs an energy with conditionals")
    key_start, key_chain = jax.random.split(key)
    train = experiment.train_sample()
    mean, scale = train.mean(0), train.std(0)
    noise = jax.random.normal(key_start, (num_samples, *train.shape[1:]))
    v = mean[None] + scale[None] * noise
    given: dict[str, Any] = energies.conditionals(energy, theta)
    visible = given["visible_given_hidden"]
    chain = jax.jit(partial(samplers.block_gibbs, **given), static_argnames="num_steps")
    steps = experiment.config.sampling.gibbs.num_steps

    def piece(x, start, length):
        return chain(jax.random.fold_in(key_chain, start), x[0], num_steps=length)

    undrawn = jnp.zeros((num_samples, experiment.num_latents), v.dtype)
    of = key_chain, theta, experiment.config.energy.to_json()
    start = spread(experiment.config, (v, undrawn))
    v, h = store.run(piece, start, steps, "Gibbs", of=of, progress=progress)
    panels = {}
    if experiment.dataset.image_shape is not None:
        panels["E[v | h] of the Gibbs samples"] = jax.vmap(lambda h: visible(h).mean)(h)
    panels[f"Gibbs samples v, {steps:,} steps from noise"] = v
    reconstructions = _decoded(experiment, theta, phi, num_samples)
    return Samples(_to_host(panels), *reconstructions)


def _generator(experiment, theta, phi, key, num_samples, pictures):
    infer = experiment.infer(theta, phi)
    decode = jax.jit(jax.vmap(experiment.generate(theta, phi)))
    panels = {
        "G(h), h ~ N(0, I)": decode(jax.random.normal(key, (num_samples, experiment.latent_size)))
    }
    section = experiment.config.sampling.generator
    interpolations = traversals = None
    if pictures:
        interpolations = image_sampling.interpolate(
            experiment, infer, lambda h, _: decode(h), section.interpolation
        )
    if pictures and section.traversal.num_rows > 0:
        traversals = image_sampling.traverse(experiment, infer, decode, section.traversal)
    originals, reconstructions = _decoded(experiment, theta, phi, num_samples)
    return Samples(
        _to_host(panels),
        originals,
        reconstructions,
        interpolations=interpolations,
        traversals=traversals,
    )


def _decoded(experiment, theta, phi, num_samples):
    """Returns test examples, and the means of v given the means of their latents.

    They cost little: as many as there are samples, or figures are of.
    """
    num_examples = max(num_samples, experiment.config.evaluation.num_examples)
    infer, generate = experiment.infer(theta, phi), experiment.generate(theta, phi)
    originals = jnp.asarray(experiment.dataset.examples("test", slice(num_examples)))
    reconstructions = jax.jit(jax.vmap(lambda v: generate(infer(v).mean)))(originals)
    return np.asarray(originals), np.asarray(reconstructions)


def _langevin(experiment, theta, phi, key, num_samples, pictures, chains):
    dataset = experiment.dataset
    section = experiment.config.sampling.langevin
    keys = dict(
        zip(
            ("start", "q", "h", "via_q", "joint", "reconstruct", "interpolate", "inpaint"),
            jax.random.split(key, 8),
            strict=True,
        )
    )
    noise = 0.5 + jax.random.normal(keys["start"], (num_samples, *dataset.event_shape))
    joint, frames = chains.joint(
        keys["joint"],
        noise,
        jax.random.normal(keys["h"], (num_samples, experiment.num_latents)),
        "Langevin (v, h)" if experiment.num_latents else "Langevin v",
        num_chains=section.frames.num_chains if pictures else 0,
        num_stages=section.frames.num_stages,
    )
    inpaintings = None
    if pictures and section.inpainting.num_rows > 0:
        inpaintings = image_sampling.inpaint(experiment, chains, keys["inpaint"])
    if experiment.num_latents == 0:
        panels = _to_host({"samples v": joint})
        return Samples(panels, frames=frames, inpaintings=inpaintings)

    infer = experiment.infer(theta, phi)
    train = jnp.asarray(dataset.examples("train", slice(num_samples)))
    h = jax.vmap(lambda k, v: infer(v).sample(k))(jax.random.split(keys["q"], len(train)), train)
    via_q = chains.visible(
        keys["via_q"], noise[: len(train)], h, chains.schedule, "Langevin v | h, h ~ q"
    )
    originals, reconstructions = _draws_of_latents(
        experiment, infer, chains, keys["reconstruct"], num_samples
    )
    interpolations = None
    if pictures:
        interpolations = image_sampling.interpolate_by_chains(
            experiment, infer, chains, keys["interpolate"]
        )
    panels = {"v | h with h from q of training data": via_q, "joint samples (v, h)": joint}
    return Samples(
        _to_host(panels), originals, reconstructions, frames, interpolations, inpaintings
    )


def _draws_of_latents(experiment, infer, chains, key, num_samples):
    """Returns test examples, and v drawn given the means of their latents.

    At temperature 1 from an image that knows nothing of v: p(v | h) itself.
    """
    originals = jnp.asarray(experiment.dataset.examples("test", slice(num_samples)))
    latents = jax.vmap(lambda v: infer(v).mean)(originals)
    start = jnp.broadcast_to(experiment.train_sample().mean(0)[None], originals.shape)
    v = chains.visible(key, start, latents, chains.tempered, "reconstruction")
    return np.asarray(originals), np.asarray(v)


def _to_host(panels):
    return {title: np.asarray(x) for title, x in panels.items()}
