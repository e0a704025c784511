"""BiDVL on CIFAR-10, 32x32 (Kan et al., 2022); --config.data.dir names its folder."""

from experiments.configs import _bidvl


def get_config(width="published"):
    """Returns the published settings, or with ``:small`` after the file's name smaller ones."""
    config = _bidvl.bidvl("cifar10", width=width, levels=3)
    config.train.flip = True
    return config
