"""Annealed Langevin chains of a trained model, in compiled pieces that can be resumed."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.builders import Experiment
from experiments.devices import spread
from experiments.resumable import CHUNK, ChainStore, piece_ends
from experiments.validation import trained_objective
from jbism import samplers


class Frames(NamedTuple):
    """A few chains on their way."""

    titles: list[str]
    images: np.ndarray  # [stage, chain, *event]


class LangevinChains:
    """The chains that ``config.sampling.langevin`` describes, each sampler compiled once.

    ``schedule`` holds the temperatures from noise to samples, ``tempered`` those that start at 1.
    All return v after the denoising step that ends the sampling of what MDSM trained. The titles
    of chains that share a store tell them apart.
    """

    def __init__(
        self,
        experiment: Experiment,
        theta: Any,
        *,
        store: ChainStore | None = None,
        progress: bool,
    ):
        section = experiment.config.sampling.langevin
        self._experiment, self._theta, self._progress = experiment, theta, progress
        self._store = store or ChainStore()
        trained = trained_objective(experiment.config) == "mdsm"
        # σ₀ of the noise that exp(-E) is a density under; 0 where none was trained with.
        self._noise_scale = experiment.config.objective.mdsm.sigma0 if trained else 0.0
        self.schedule = samplers.annealing_schedule(
            hot_steps=section.hot_steps,
            annealed_steps=section.annealed_steps,
            cool_steps=section.cool_steps,
            hot=section.hot,
        )
        self.tempered = samplers.annealing_schedule(
            hot_steps=section.reconstruction_steps,
            annealed_steps=0,
            cool_steps=section.cool_steps,
            hot=1.0,
        )
        energy = experiment.joint_energy
        both: dict[str, Any] = {
            "energy": energy,
            "step_size": (section.step_size, section.latent_step_size),
        }
        self._visible = jax.jit(
            partial(samplers.langevin_visible, energy=energy, step_size=section.step_size),
            static_argnames="shared_noise",
        )
        self._joint = jax.jit(partial(samplers.langevin_joint, **both))
        self._inpaint = jax.jit(
            partial(samplers.langevin_inpaint, noise_scale=self._noise_scale, **both)
        )
        self._denoised = jax.jit(self._denoise)

    def visible(self, key, v, h, temperatures, title, *, shared_noise=False) -> jax.Array:
        """Samples v given h."""
        v = spread(self._experiment.config, v)

        def piece(v, temperatures, start):
            return self._visible(
                key, self._theta, v, h, temperatures, start=start, shared_noise=shared_noise
            )

        of = key, h, shared_noise
        return self._denoised(self._run(piece, v, temperatures, title, of=of), h)

    def joint(
        self, key, v, h, title, *, num_chains=0, num_stages=0
    ) -> tuple[jax.Array, Frames | None]:
        """Samples v and h over the schedule.

        Returns:
          v, and the first ``num_chains`` chains at ``num_stages`` stages, or at all if there are
          fewer, evenly spread from the start to the last step, and denoised if they are; None
          without chains.
        """
        v, h = spread(self._experiment.config, (v, h))
        num_steps, watched = len(self.schedule), num_chains > 0
        gaps = min(num_stages - 1, num_steps) if watched else 1
        pieces_a_gap = -(-num_steps // (gaps * CHUNK))
        ends = piece_ends(num_steps, gaps * pieces_a_gap)

        def piece(x, temperatures, start):
            v, h, seen = x
            v, h = self._joint(key, self._theta, v, h, temperatures, start=start)
            return v, h, seen.at[ends.index(start) + 1].set(v[:num_chains])

        seen = jnp.zeros((len(ends), *v[:num_chains].shape), v.dtype).at[0].set(v[:num_chains])
        v, h, seen = self._run(
            piece, (v, h, seen), self.schedule, title, of=key, num_pieces=len(ends) - 1
        )
        v = self._denoised(v, h)
        if not watched:
            return v, None
        titles = [self._title(step) for step in ends[::pieces_a_gap]]
        images = list(seen[::pieces_a_gap])
        if self._noise_scale > 0:
            titles, images = [*titles, "denoised"], [*images, v[:num_chains]]
        return v, Frames(titles, np.stack(images))

    def inpaint(self, key, v, h, missing, title) -> jax.Array:
        """Samples the missing entries of v together with h; the other entries stay."""
        v, h = spread(self._experiment.config, (v, h))

        def piece(x, temperatures, start):
            return self._inpaint(
                key, self._theta, *x, missing, temperatures, observed=v, start=start
            )

        of = key, missing, self._noise_scale
        completed, h = self._run(piece, (v, h), self.schedule, title, of=of)
        completed = self._denoised(jnp.where(missing, completed, v), h)
        return jnp.where(missing, completed, v)

    def _run(self, piece, x, temperatures, title, *, of, num_pieces=None):
        config = self._experiment.config
        settings = config.energy.to_json(), config.sampling.langevin.to_json()
        return self._store.run(
            lambda x, start, length: piece(x, temperatures[start : start + length], start),
            x,
            len(temperatures),
            title,
            of=(of, self._theta, temperatures, settings),
            num_pieces=num_pieces,
            progress=self._progress,
        )

    def _denoise(self, v, h):
        if self._noise_scale == 0:
            return v
        energy = self._experiment.joint_energy
        return jax.vmap(
            lambda v, h: samplers.denoise(
                v, energy=lambda v: energy(self._theta, v, h), sigma=self._noise_scale
            )
        )(v, h)

    def _title(self, step):
        return f"step {step:,}, T = {self.schedule[step - 1]:.3g}" if step else "start"
