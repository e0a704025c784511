"""The training steps that peers restate: what each is made of, and how much faster it should be."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from jbism import losses

NUM_LOWER_STEPS = 5
EMA_DECAY = 0.999


@dataclass(frozen=True)
class Problem:
    """What a peer has to know of one of `benchmarks.cases`; the proof of equality checks it."""

    case: str
    model: str  # "rbm" or "deep"
    num_latents: int
    objective: losses.DSM | losses.MDSM
    divergence: str  # "kl", "mean_field_kl" or "fisher"
    num_virtual: int = 0  # N, unrolled
    num_particles: int | None = None  # L of VaGES; None is BiSM
    num_solve_steps: int | None = None  # of conjugate gradients; None solves nothing
    proved_in_double: bool = False  # where single precision rounds off more than is tolerated
    targets: Mapping[str, float] = field(default_factory=dict)  # by peer, its time over ours

    @property
    def lower_law(self) -> str | None:
        """Of the noise behind a latent of the lower level; None where it is not sampled."""
        return {"kl": "logistic", "mean_field_kl": None, "fisher": "normal"}[self.divergence]

    @property
    def upper_law(self) -> str:
        """Of the noise behind a latent of the upper level."""
        if self.model == "deep":
            return "normal"
        return "logistic" if self.num_particles is None else "uniform"

    @property
    def num_upper_latents(self) -> int:
        """Latents an example at the upper level: two sets of particles by VaGES."""
        return 1 if self.num_particles is None else 2 * self.num_particles


@dataclass(frozen=True)
class _Family:
    model: str
    num_latents: int
    objective: losses.DSM | losses.MDSM

    def problem(self, case: str, eager: float | None, **options) -> Problem:
        """A problem to be so much faster than eager PyTorch, and no slower than other peers."""
        targets = {"compile": 1.0, "torchopt": 1.0}
        if eager is not None:
            targets["eager"] = eager
        return Problem(
            case, self.model, self.num_latents, self.objective, **options, targets=targets
        )


def all_problems() -> dict[str, Problem]:
    """Every problem by the name of its case."""
    toy = _Family("rbm", 4, losses.DSM(sigma=0.05)).problem
    frey = _Family("rbm", 400, losses.DSM(sigma=0.3)).problem
    deep = _Family("deep", 50, losses.MDSM(0.1, 3.0, 0.1, spacing="geometric")).problem
    exact = "mean_field_kl"
    problems = [
        toy("toy_dsm_kl_n5", 25.0, divergence="kl", num_virtual=5),
        toy("toy_dsm_mean_field_kl_cg5", None, divergence=exact, num_solve_steps=5),
        toy("toy_vages_dsm_kl_l2", None, divergence="kl", num_particles=2),
        frey("rbm560_dsm_kl_n5", 3.5, divergence="kl", num_virtual=5),
        frey("rbm560_dsm_mean_field_kl_n5", 3.5, divergence=exact, num_virtual=5),
        frey("rbm560_dsm_mean_field_kl_cg5", None, divergence=exact, num_solve_steps=5),
        frey("rbm560_vages_dsm_kl_l2", 6.0, divergence="kl", num_particles=2),
        frey("rbm560_vages_dsm_kl_l10", 8.0, divergence="kl", num_particles=10),
        deep("deep32_mdsm_fisher_n0", 1.0, divergence="fisher"),
        deep(
            "deep32_vages_mdsm_fisher_l2",
            2.0,
            divergence="fisher",
            num_particles=2,
            proved_in_double=True,  # of a trunk, differences between two particles nearly cancel
        ),
    ]
    return {problem.case: problem for problem in problems}


def met(ratio: float, target: float) -> bool:
    """Whether a ratio reaches its target.

    Example:
      >>> met(3.6, 3.5), met(0.9, 1.0)
      (True, False)
    """
    return math.isfinite(ratio) and ratio >= target
