"""Eager PyTorch in the manner of the papers' code: Adam unrolled by hand, double backward."""

from collections.abc import Callable

import torch

from benchmarks.peers import torch_adam
from benchmarks.peers.noise import Draw
from benchmarks.peers.problems import EMA_DECAY, Problem
from benchmarks.peers.torch_losses import Losses
from benchmarks.peers.torch_state import State, Step, Tensors

UpperGradient = Callable[
    [State, torch.Tensor, tuple[Draw, ...], Draw], tuple[torch.Tensor, tuple[torch.Tensor, ...]]
]  # (state, v, virtual draws, upper draw) -> loss, θ-gradient


def build(problem: Problem, batch_shape: tuple[int, ...]) -> Step:
    """Returns a step that changes its state in place."""
    parts = Losses(problem, batch_shape, derivative)
    if problem.num_particles is None:
        return bilevel_step(parts, lambda *args: bism_gradient(parts, *args))
    return bilevel_step(parts, lambda *args: vages_gradient(parts, *args))


def derivative(function, x):
    """The derivative of a scalar function at x, itself differentiable."""
    if not x.requires_grad:
        x = x.detach().requires_grad_()
    return torch.autograd.grad(function(x), x, create_graph=True)[0]


def bilevel_step(parts: Losses, upper_gradient: UpperGradient) -> Step:
    """K steps of Adam on φ, one on θ, and its moving average."""

    def step(state, v, noise):
        for parameter in state.phi.values():
            parameter.requires_grad_()
        for draw in noise.lower:
            lower_loss = parts.lower(state.theta, state.phi, v, draw)
            gradients = torch.autograd.grad(lower_loss, list(state.phi.values()))
            torch_adam.update_(state.phi, gradients, state.phi_moments)
        loss, gradients = upper_gradient(state, v, noise.virtual, noise.upper)
        torch_adam.update_(state.theta, gradients, state.theta_moments)
        for name, mean in state.ema.items():
            mean.lerp_(state.theta[name], 1.0 - EMA_DECAY)
        return state, {"loss": loss.detach(), "lower_loss": lower_loss.detach()}

    return step


def bism_gradient(parts, state, v, virtual, draw):
    """The gradient through the virtual steps, from a live copy of φ and of Adam's moments."""
    theta = variables(state.theta)
    phi, moments = variables(state.phi), state.phi_moments
    for virtual_draw in virtual:
        lower_loss = parts.lower(theta, phi, v, virtual_draw)
        gradients = torch.autograd.grad(lower_loss, list(phi.values()), create_graph=True)
        phi, moments = torch_adam.updated(phi, gradients, moments)
    loss = parts.upper(theta, phi, v, draw)
    return loss, gradients_of(loss, theta)


def vages_gradient(parts, state, v, virtual, draw):  # noqa: ARG001
    """The VaGES estimate by a backward pass through the gradients at every particle."""
    model, denoising = parts.model, parts.denoising
    corrupted = denoising.corrupt(v, draw)
    with torch.no_grad():
        particles = model.particles(state.phi, corrupted, draw.latent)
    for_score, for_gradient = particles.chunk(2, dim=1)
    inputs = corrupted.detach().requires_grad_()
    log_joint = -model.energy(state.theta, inputs, for_score).mean(1)
    score = torch.autograd.grad(log_joint.sum(), inputs)[0].requires_grad_()
    loss = denoising(score, draw)
    (cotangent,) = torch.autograd.grad(loss, score)

    theta = variables(state.theta)
    count = for_gradient.shape[1]
    # Each particle has a gradient of its own, so each has a v of its own.
    repeated = corrupted.repeat_interleave(count, 0).requires_grad_()
    log_joint = -model.energy(theta, repeated, for_gradient.flatten(0, 1))
    (gradient,) = torch.autograd.grad(log_joint.sum(), repeated, create_graph=True)
    products = gradient.view(-1, count, *v.shape[1:]) * cotangent[:, None]
    products = products.flatten(2).sum(2)
    log_joint = log_joint.view(-1, count)
    centred = (products - products.mean(1, keepdim=True)).detach()
    surrogate = products.mean(1) + (centred * log_joint).sum(1) / (count - 1)
    return loss, gradients_of(surrogate.sum(), theta)


def variables(parameters: Tensors) -> Tensors:
    return {name: x.detach().requires_grad_() for name, x in parameters.items()}


def gradients_of(loss, parameters):
    return torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
