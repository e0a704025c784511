"""Deep EBLVM on CelebA, 32x32, as on CIFAR-10; --config.data.dir names its folder."""

from experiments.configs import cifar10_deep


def get_config(width="published"):
    """Returns the settings of CIFAR-10, or with ``:small`` after the file's name smaller ones."""
    config = cifar10_deep.get_config(width)
    config.name, config.data.name = "celeba_deep", "celeba"
    config.data.celeba.size = 32
    return config
