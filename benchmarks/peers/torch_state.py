"""A training state in PyTorch, from the library's own, and the noise of a step by its generator."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import torch

from benchmarks.peers.noise import Draw, StepNoise
from benchmarks.peers.problems import NUM_LOWER_STEPS, Problem
from jbism.training import TrainState

Tensors = dict[str, torch.Tensor]
Step = Callable[["State", torch.Tensor, StepNoise], tuple["State", dict[str, torch.Tensor]]]


@dataclass
class Moments:
    """The state of Adam."""

    count: Any  # steps taken, a number or a scalar tensor
    mean: Tensors
    square: Tensors


@dataclass
class State:
    """What a peer's step takes and returns; it may be changed in place."""

    theta: Tensors
    phi: Tensors
    theta_moments: Moments
    phi_moments: Moments
    ema: Tensors


def state_of(state: TrainState, convert: Callable[[str, np.ndarray], np.ndarray]) -> State:
    """Returns a copy of the library's state.

    Args:
      state: of a step whose optimizers are `optax.adam`.
      convert: from a parameter's path and value to the value as the peer keeps it.
    """

    def tensors(tree):
        return {name: torch.tensor(x) for name, x in named(tree, convert).items()}

    def moments(opt_state):
        adam = opt_state[0]
        return Moments(int(adam.count), tensors(adam.mu), tensors(adam.nu))

    return State(
        theta=tensors(state.theta),
        phi=tensors(state.phi),
        theta_moments=moments(state.theta_opt_state),
        phi_moments=moments(state.phi_opt_state),
        ema=tensors(state.ema),
    )


def named(
    tree: Any, convert: Callable[[str, np.ndarray], np.ndarray] = lambda _, x: x
) -> Mapping[str, np.ndarray]:
    """Returns the leaves of Flax parameters by their paths, such as ``logits/kernel``."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree["params"])
    paths = ["/".join(entry.key for entry in path) for path, _ in leaves]
    return {
        path: convert(path, np.asarray(leaf)) for path, (_, leaf) in zip(paths, leaves, strict=True)
    }


def noise_of(noise: StepNoise, convert: Callable[[np.ndarray], np.ndarray]) -> StepNoise:
    """Returns the library's noise as tensors; ``convert`` lays out what has a visible's shape."""

    def tensors(draw):
        latent = None if draw.latent is None else torch.tensor(draw.latent)
        return Draw(torch.tensor(convert(draw.visible)), latent)

    return StepNoise(
        tuple(map(tensors, noise.lower)), tuple(map(tensors, noise.virtual)), tensors(noise.upper)
    )


def draw_noise(problem: Problem, batch_shape: tuple[int, ...]) -> StepNoise:
    """Draws the noise of a step, as much as the library draws, in PyTorch's own way."""
    size = (batch_shape[0], problem.num_latents)

    def lower():
        law = problem.lower_law
        return Draw(torch.randn(batch_shape), None if law is None else _latent_noise(law, size))

    if problem.num_particles is not None:
        size_upper: tuple[int, ...] = (size[0], problem.num_upper_latents, size[1])
    else:
        size_upper = size
    return StepNoise(
        tuple(lower() for _ in range(NUM_LOWER_STEPS)),
        tuple(lower() for _ in range(problem.num_virtual)),
        Draw(torch.randn(batch_shape), _latent_noise(problem.upper_law, size_upper)),
    )


def _latent_noise(law, size):
    if law == "normal":
        return torch.randn(size)
    if law == "uniform":
        return torch.rand(size)
    tiny = torch.finfo(torch.float32).tiny  # the logit of 0 is infinite
    return torch.empty(size).uniform_(tiny, 1.0).logit_()
