"""Proof, before anything is timed, that a peer does the library's work."""

import copy
from typing import Any

import numpy as np

from benchmarks.peers import noise
from benchmarks.peers.problems import NUM_LOWER_STEPS, Problem
from jbism.training import TrainState

TOLERANCE = 1e-4
_DECAY = 0.9  # of Adam's first moment


class DisagreementError(ValueError):
    """A peer does not compute what the library does."""


def check(differences: dict[str, float], what: str) -> float:
    """Returns the largest difference.

    Raises:
      DisagreementError: if one is above the tolerance, or not a number.

    Example:
      >>> check({"loss": 1e-6, "gradient": 1e-5}, "eager")
      1e-05
    """
    for name, difference in differences.items():
        if not difference <= TOLERANCE:
            raise DisagreementError(
                f"{what} differs from the library in {name} by {difference:.2g}, "
                f"more than {TOLERANCE:g}: not timed"
            )
    return max(differences.values())


def relative(ours: Any, theirs: Any) -> float:
    """‖theirs - ours‖ / ‖ours‖, in double precision; 0 where both are zero.

    Example:
      >>> relative([3.0, 4.0], [3.0, 4.5])
      0.1
    """
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    difference, scale = np.linalg.norm(theirs - ours), np.linalg.norm(ours)
    return float(difference / scale) if scale > 0 else float(difference)


def differences(
    problem: Problem, peer_step: Any, before: TrainState, after: TrainState, metrics: dict, v: Any
) -> dict[str, float]:
    """Runs a peer's step from the library's state with its noise, and compares what both did.

    The gradients are read off Adam's first moment: that of θ is its change, those of φ at the K
    lower steps its decayed sum.

    Args:
      problem: what the step is.
      peer_step: a `benchmarks.peers.torch_state.Step`.
      before: the library's state.
      after: the library's state after its own step on v.
      metrics: of that step.
      v: the batch.

    Returns:
      Relative differences by name, one for each array.
    """
    import torch

    from benchmarks.peers.torch_models import model_of
    from benchmarks.peers.torch_state import noise_of, state_of

    model = model_of(problem)
    drawn = noise.of_step(problem, before.key, int(before.step), v.shape)
    start, ours = (state_of(state, model.parameter) for state in (before, after))
    batch = torch.tensor(model.visible(np.asarray(v)))
    theirs, losses = peer_step(copy.deepcopy(start), batch, noise_of(drawn, model.visible))

    found = {name: relative(metrics[name], losses[name].numpy()) for name in losses}
    for level, steps in (("theta", 1), ("phi", NUM_LOWER_STEPS)):
        moments = [getattr(state, f"{level}_moments") for state in (start, ours, theirs)]
        for name in moments[0].mean:
            first, *rest = (m.mean[name].detach().double().numpy() for m in moments)
            gradients = [moment - _DECAY**steps * first for moment in rest]
            found[f"{level}'s gradient {name}"] = relative(*gradients)
            squares = [m.square[name].detach().numpy() for m in moments[1:]]
            found[f"{level}'s second moment {name}"] = relative(*squares)
        counts = [int(m.count) for m in moments[1:]]
        found[f"{level}'s number of steps"] = float(counts[0] != counts[1])
    for part in ("theta", "phi", "ema"):
        for name, value in getattr(ours, part).items():
            other = getattr(theirs, part)[name].detach().numpy()
            found[f"{part} {name}"] = relative(value.numpy(), other)
    return found
