"""Markov chains, key first: block Gibbs, and Langevin dynamics over temperatures; their frames."""

from jbism.samplers._gibbs import block_gibbs
from jbism.samplers._langevin import denoise, langevin
from jbism.samplers._langevin_latent import (
    langevin_hidden,
    langevin_inpaint,
    langevin_joint,
    langevin_visible,
)
from jbism.samplers._record import record
from jbism.samplers._schedules import annealing_schedule

__all__ = [
    "annealing_schedule",
    "block_gibbs",
    "denoise",
    "langevin",
    "langevin_hidden",
    "langevin_inpaint",
    "langevin_joint",
    "langevin_visible",
    "record",
]
