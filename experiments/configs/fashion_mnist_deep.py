"""Deep EBLVM on Fashion-MNIST, 32x32, as on MNIST; --config.data.dir names its folder."""

from experiments.configs import mnist_deep


def get_config(width="published"):
    """Returns the settings of MNIST, or with ``:small`` after the file's name smaller ones."""
    config = mnist_deep.get_config(width)
    config.name, config.data.name = "fashion_mnist_deep", "fashion_mnist"
    return config
