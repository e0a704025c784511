"""The two levels of bi-level score matching in PyTorch, whichever way derivatives are taken."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.peers.noise import Draw
from benchmarks.peers.problems import Problem
from benchmarks.peers.torch_models import Gradient, Model, model_of
from benchmarks.peers.torch_state import Tensors
from jbism import losses


@dataclass(frozen=True)
class Denoising:
    """½‖score_scale s(ṽ) + noise_scale ε‖² at ṽ = v + σε; each factor for all or for an example."""

    sigma: Any
    score_scale: Any
    noise_scale: Any
    lower_weight: Any

    def corrupt(self, v: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Returns ṽ."""
        return v + self.sigma * draw.visible

    def __call__(self, score: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Returns the mean over the batch."""
        residual = self.score_scale * score + self.noise_scale * draw.visible
        return 0.5 * residual.flatten(1).square().sum(1).mean()


def denoising_of(objective: losses.DSM | losses.MDSM, batch_shape: tuple[int, ...]) -> Denoising:
    """Returns the library's objective for batches of that shape."""
    if isinstance(objective, losses.DSM):
        return Denoising(objective.sigma, 1.0, 1.0 / objective.sigma, 1.0)
    corrupted = objective.corrupt(jax.random.key(0), jnp.zeros((batch_shape[0], 1)))
    weight = torch.tensor(np.array(objective.lower_weight(corrupted)))
    sigma = torch.tensor(np.array(corrupted.sigma)).view(-1, *[1] * (len(batch_shape) - 1))
    return Denoising(sigma, 1.0 / sigma, 1.0 / objective.sigma0**2, weight)


class Losses:
    """The losses of a problem, given how to take the derivative of a scalar in a tensor."""

    model: Model

    def __init__(self, problem: Problem, batch_shape: tuple[int, ...], gradient: Gradient):
        self.model = model_of(problem)
        self.denoising = denoising_of(problem.objective, batch_shape)
        self.gradient = gradient

    def lower(self, theta: Tensors, phi: Tensors, v: torch.Tensor, draw: Draw) -> torch.Tensor:
        """The weighted mean of the divergence at ṽ."""
        corrupted = self.denoising.corrupt(v, draw)
        values = self.model.divergence(theta, phi, corrupted, draw.latent, self.gradient)
        return (self.denoising.lower_weight * values).mean()

    def upper(self, theta: Tensors, phi: Tensors, v: torch.Tensor, draw: Draw) -> torch.Tensor:
        """The denoising loss of the score of p̃(v, h) / q(h | v) at one h ~ q."""
        corrupted = self.denoising.corrupt(v, draw)
        h = self.model.sample(phi, corrupted, draw.latent)

        def log_ratio(v):
            return -(self.model.energy(theta, v, h) + self.model.log_q(phi, v, h)).sum()

        return self.denoising(self.gradient(log_ratio, corrupted), draw)
