"""Objectives: pure functions of scores, option classes that choose one, and composed losses."""

from jbism.losses._bism import BismAux, bism_loss, bism_lower_loss, bism_upper_loss
from jbism.losses._ksd import KSD
from jbism.losses._marginal import MarginalAux, importance_loss, marginal_loss
from jbism.losses._objectives import DSM, MDSM, SM, SSM, Corrupted, Objective
from jbism.losses._score_matching import (
    denoising_score_matching,
    multiscale_denoising_score_matching,
    score_matching,
    sliced_score_matching,
)
from jbism.losses._vages import VagesAux, vages_loss

sm = score_matching
ssm = sliced_score_matching
dsm = denoising_score_matching
mdsm = multiscale_denoising_score_matching

__all__ = [
    "DSM",
    "KSD",
    "MDSM",
    "SM",
    "SSM",
    "BismAux",
    "Corrupted",
    "MarginalAux",
    "Objective",
    "VagesAux",
    "bism_loss",
    "bism_lower_loss",
    "bism_upper_loss",
    "denoising_score_matching",
    "dsm",
    "importance_loss",
    "marginal_loss",
    "mdsm",
    "multiscale_denoising_score_matching",
    "score_matching",
    "sliced_score_matching",
    "sm",
    "ssm",
    "vages_loss",
]
