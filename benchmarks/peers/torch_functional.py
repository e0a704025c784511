"""PyTorch by `torch.func`: a pure step of nested transformations, eager or compiled whole."""

from functools import partial
from typing import Any

import torch
from torch.func import grad_and_value, jvp

from benchmarks.peers import torch_adam
from benchmarks.peers.problems import EMA_DECAY, Problem
from benchmarks.peers.torch_losses import Losses
from benchmarks.peers.torch_state import Moments, State, Step


def build(problem: Problem, batch_shape: tuple[int, ...]) -> Step:
    """Returns a step that leaves its state as it was."""
    return _on_state(_pure_step(problem, batch_shape))


def build_compiled(problem: Problem, batch_shape: tuple[int, ...]) -> Step:
    """Returns the same step compiled whole; its first call compiles."""
    return _on_state(torch.compile(_pure_step(problem, batch_shape), fullgraph=True))


def _pure_step(problem, batch_shape):
    parts = Losses(problem, batch_shape, lambda function, x: torch.func.grad(function)(x))
    upper_gradient = _bism_gradient if problem.num_particles is None else _vages_gradient

    def step(theta, phi, theta_moments, phi_moments, ema, v, noise):
        moments = Moments(*phi_moments)
        for draw in noise[0]:
            (phi, moments), lower_loss = _lower_step(parts, theta, phi, moments, v, draw)
        gradients, loss = upper_gradient(parts, theta, phi, moments, v, noise)
        theta, theta_moments = torch_adam.updated(
            theta, list(gradients.values()), Moments(*theta_moments)
        )
        ema = {name: mean.lerp(theta[name], 1.0 - EMA_DECAY) for name, mean in ema.items()}
        losses = {"loss": loss, "lower_loss": lower_loss}
        return theta, phi, _fields(theta_moments), _fields(moments), ema, losses

    return step


def _on_state(step):
    """The step on a `State`, whose dataclasses are no pytrees to PyTorch."""

    def on_state(state, v, noise):
        with torch.no_grad():
            theta, phi, theta_moments, phi_moments, ema, losses = step(
                state.theta,
                state.phi,
                _fields(state.theta_moments),
                _fields(state.phi_moments),
                state.ema,
                v,
                noise,
            )
        moments = Moments(*theta_moments), Moments(*phi_moments)
        return State(theta, phi, *moments, ema), losses

    return on_state


def _fields(moments: Moments) -> tuple[Any, Any, Any]:
    # A number would be compiled in, and compiled anew for each step.
    return torch.as_tensor(moments.count), moments.mean, moments.square


def _lower_step(parts, theta, phi, moments, v, draw):
    gradients, loss = grad_and_value(lambda phi: parts.lower(theta, phi, v, draw))(phi)
    return torch_adam.updated(phi, list(gradients.values()), moments), loss


def _bism_gradient(parts, theta, phi, moments, v, noise):
    def loss(theta):
        state = phi, moments
        for draw in noise.virtual:
            state, _ = _lower_step(parts, theta, *state, v, draw)
        return parts.upper(theta, state[0], v, noise.upper)

    return grad_and_value(loss)(theta)


def _vages_gradient(parts, theta, phi, moments, v, noise):  # noqa: ARG001
    """The VaGES estimate with forward over reverse in place of double backward."""
    model, denoising, draw = parts.model, parts.denoising, noise.upper
    corrupted = denoising.corrupt(v, draw)
    for_score, for_gradient = model.particles(phi, corrupted, draw.latent).chunk(2, dim=1)
    count = for_gradient.shape[1]

    def log_joint(theta, v, h):
        return -model.energy(theta, v, h)

    score = torch.func.grad(lambda v: log_joint(theta, v, for_score).mean(1).sum())(corrupted)
    cotangent, loss = grad_and_value(partial(denoising, draw=draw))(score)

    def surrogate(theta):
        values, products = jvp(
            lambda v: log_joint(theta, v, for_gradient), (corrupted,), (cotangent,)
        )
        centred = (products - products.mean(1, keepdim=True)).detach()
        return (products.mean(1) + (centred * values).sum(1) / (count - 1)).sum()

    return torch.func.grad(surrogate)(theta), loss
