"""Objectives: pure functions of scores, option classes that choose one, and composed losses."""

from jbism.losses._bism import BismAux, bism_loss, bism_lower_loss
from jbism.losses._objectives import DSM, MDSM, SM, SSM, Corrupted, Objective
from jbism.losses._score_matching import (
    denoising_score_matching,
    multiscale_denoising_score_matching,
    score_matching,
    sliced_score_matching,
)

sm = score_matching
ssm = sliced_score_matching
dsm = denoising_score_matching
mdsm = multiscale_denoising_score_matching

__all__ = [
    "DSM",
    "MDSM",
    "SM",
    "SSM",
    "BismAux",
    "Corrupted",
    "Objective",
    "bism_loss",
    "bism_lower_loss",
    "denoising_score_matching",
    "dsm",
    "mdsm",
    "multiscale_denoising_score_matching",
    "score_matching",
    "sliced_score_matching",
    "sm",
    "ssm",
]
