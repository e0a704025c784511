"""Adam with a constant inside of its root, in place and differentiable."""

from collections.abc import Sequence

import torch

from benchmarks.peers.torch_state import Moments, Tensors

RATE, DECAY, SQUARE_DECAY, EPS, EPS_ROOT = 1e-3, 0.9, 0.95, 1e-8, 1e-8


@torch.no_grad()
def update_(parameters: Tensors, gradients: Sequence[torch.Tensor], moments: Moments) -> None:
    """Takes one step in place."""
    moments.count += 1
    rate = RATE / (1.0 - DECAY**moments.count)
    correction = 1.0 - SQUARE_DECAY**moments.count
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        mean, square = moments.mean[name], moments.square[name]
        mean.lerp_(gradient, 1.0 - DECAY)
        square.mul_(SQUARE_DECAY).addcmul_(gradient, gradient, value=1.0 - SQUARE_DECAY)
        root = (square / correction).add_(EPS_ROOT).sqrt_().add_(EPS)
        parameter.addcdiv_(mean, root, value=-rate)


def updated(
    parameters: Tensors, gradients: Sequence[torch.Tensor], moments: Moments
) -> tuple[Tensors, Moments]:
    """Takes one step that can be differentiated; ``moments.count`` may be a tensor."""
    count = moments.count + 1
    rate = RATE / (1.0 - DECAY**count)
    correction = 1.0 - SQUARE_DECAY**count
    new, means, squares = {}, {}, {}
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        mean = moments.mean[name].lerp(gradient, 1.0 - DECAY)
        square = SQUARE_DECAY * moments.square[name]
        square = square.addcmul(gradient, gradient, value=1.0 - SQUARE_DECAY)
        root = (square / correction + EPS_ROOT).sqrt() + EPS
        new[name] = parameter - rate * (mean / root)
        means[name], squares[name] = mean, square
    return new, Moments(count, means, squares)
