"""Trunks that energies and posteriors share: one example in, a vector of features out."""

from jbism.networks._conv import Conv3x3, ConvEncoder
from jbism.networks._mlp import MLP
from jbism.networks._residual import ResidualConvNet

__all__ = ["MLP", "Conv3x3", "ConvEncoder", "ResidualConvNet"]
