"""BiDVL on MNIST, 32x32 (after Kan et al., 2022); --config.data.dir names its folder."""

from experiments.configs import _bidvl


def get_config(width="published"):
    """Returns the published settings, or with ``:small`` after the file's name smaller ones."""
    return _bidvl.bidvl("mnist", width=width, levels=3)
