"""The energies and posteriors in PyTorch, as functions of batches and of dictionaries of tensors.

Their parameters are named as in the library. ``h`` is [batch, latents], or [batch, particles,
latents] with one v for all particles of an example.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.peers.problems import Problem
from benchmarks.peers.torch_state import Tensors

Gradient = Callable[[Callable[[torch.Tensor], torch.Tensor], torch.Tensor], torch.Tensor]


class Model(Protocol):
    """An energy and its posterior."""

    def visible(self, x: np.ndarray) -> np.ndarray:
        """Returns [batch, *event] as PyTorch lays it out."""
        ...

    def parameter(self, path: str, x: np.ndarray) -> np.ndarray:
        """Returns a parameter of the library as PyTorch lays it out."""
        ...

    def energy(self, theta: Tensors, v: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """Returns E(v, h), [batch] or [batch, particles]."""
        ...

    def sample(self, phi: Tensors, v: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Returns h ~ q(h | v), differentiable in φ."""
        ...

    def particles(self, phi: Tensors, v: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Returns h ~ q(h | v), [batch, particles, latents], as the energy has them."""
        ...

    def log_q(self, phi: Tensors, v: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """Returns log q(h | v), [batch]."""
        ...

    def divergence(
        self, theta: Tensors, phi: Tensors, v: torch.Tensor, noise: Any, gradient: Gradient
    ) -> torch.Tensor:
        """Returns the lower level's divergence, [batch]."""
        ...


def model_of(problem: Problem) -> Model:
    """Returns the model of a problem."""
    if problem.model == "rbm":
        return GaussianRBM(exact=problem.divergence == "mean_field_kl")
    return DeepEBLVM()


class GaussianRBM:
    """The Gaussian RBM with a relaxed Bernoulli posterior of linear logits."""

    temperature = 0.1

    def __init__(self, *, exact: bool):
        self.exact = exact

    def visible(self, x):
        return x

    def parameter(self, path, x):  # noqa: ARG002
        return x

    def energy(self, theta, v, h):
        inputs = torch.addmm(theta["hidden_bias"], v, theta["weights"])
        if h.ndim == 3:
            inputs = inputs[:, None]
        quadratic = ((v - theta["visible_bias"]) * torch.exp(-theta["log_sigma"])).square()
        quadratic = 0.5 * quadratic.sum(-1)
        return (quadratic if h.ndim == 2 else quadratic[:, None]) - (inputs * h).sum(-1)

    def sample(self, phi, v, noise):
        return torch.sigmoid((self._logits(phi, v) + noise) / self.temperature)

    def particles(self, phi, v, noise):
        return (noise < torch.sigmoid(self._logits(phi, v))[:, None]).to(v.dtype)

    def log_q(self, phi, v, h):
        return _log_pmf(self._logits(phi, v), h)

    def divergence(self, theta, phi, v, noise, gradient):  # noqa: ARG002
        logits = self._logits(phi, v)
        if self.exact:
            mean = torch.sigmoid(logits)
            return self.energy(theta, v, mean) + _log_pmf(logits, mean)
        h = torch.sigmoid((logits + noise) / self.temperature)
        return self.energy(theta, v, h) + _log_pmf(logits, h)

    def _logits(self, phi, v):
        return torch.addmm(phi["logits/bias"], v, phi["logits/kernel"])


def _log_pmf(logits, h):
    return (h * logits - F.softplus(logits)).sum(-1)


class DeepEBLVM:
    """The published deep energy and Gaussian posterior, on images [batch, channels, side, side]."""

    slope = 0.01

    def visible(self, x):
        return np.moveaxis(x, -1, 1)

    def parameter(self, path, x):
        if x.ndim == 4:
            return np.transpose(x, (3, 2, 0, 1))
        if path.endswith("Dense_0/kernel"):  # of a shortcut, here a convolution of one pixel
            return x.T[:, :, None, None]
        return x

    def energy(self, theta, v, h):
        coupled = torch.addmm(
            theta["coupling/bias"], self._trunk(theta, v), theta["coupling/kernel"]
        )
        if h.ndim == 3:
            coupled = coupled[:, None]
        both = torch.cat([coupled + h, h], -1)
        return F.elu(both @ theta["head/kernel"] + theta["head/bias"]).square().sum(-1)

    def sample(self, phi, v, noise):
        mean, log_scale = self._moments(phi, v)
        return mean + torch.exp(log_scale) * noise

    def particles(self, phi, v, noise):
        mean, log_scale = self._moments(phi, v)
        return mean[:, None] + torch.exp(log_scale)[:, None] * noise

    def log_q(self, phi, v, h):
        mean, log_scale = self._moments(phi, v)
        scaled = (h - mean) * torch.exp(-log_scale)
        return -0.5 * scaled.square().sum(-1) - log_scale.sum(-1)  # up to a constant

    def divergence(self, theta, phi, v, noise, gradient):
        mean, log_scale = self._moments(phi, v)
        h = mean + torch.exp(log_scale) * noise
        score = gradient(lambda h: self.energy(theta, v, h).sum(), h)
        return 0.5 * (score - torch.exp(-log_scale) * noise).square().sum(-1)

    def _trunk(self, theta, v):
        x = _convolve(theta, "trunk/Conv3x3_0", v)
        block = 0
        while f"trunk/ResidualBlock_{block}/Conv3x3_0/kernel" in theta:
            name = f"trunk/ResidualBlock_{block}"
            y = _convolve(theta, f"{name}/Conv3x3_0", F.elu(x))
            y = _convolve(theta, f"{name}/Conv3x3_1", F.elu(y))
            if block % 2 == 0:  # two blocks a level, the first of which halves
                x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
            x = y + _convolve(theta, f"{name}/Dense_0", x)
            block += 1
        return _features(x)

    def _moments(self, phi, v):
        for layer in range(3):
            x = _convolve(phi, f"trunk/Conv3x3_{layer}", v, stride=2)
            v = F.leaky_relu(x, self.slope)
        features = _features(v)
        mean = torch.addmm(phi["mean/bias"], features, phi["mean/kernel"])
        return mean, torch.addmm(phi["log_scale/bias"], features, phi["log_scale/kernel"])


def _convolve(parameters, name, x, stride=1):
    kernel = parameters[f"{name}/kernel"]
    bias = parameters.get(f"{name}/bias")
    return F.conv2d(x, kernel, bias, stride=stride, padding=kernel.shape[-1] // 2)


def _features(x):
    return x.permute(0, 2, 3, 1).flatten(1)  # in the order of the library's dense layers
