"""Deep EBLVM on CIFAR-10, 32x32 (Bao et al., 2020); --config.data.dir names its folder."""

from experiments.configs import _images


def get_config(width="published"):
    """Returns the published settings, or with ``:small`` after the file's name smaller ones."""
    config = _images.deep_eblvm(
        "cifar10",
        width=width,
        channels=128,
        blocks=3,
        learning_rate=5e-5,
        steps=300_000,
    )
    config.objective.mdsm.sigma_min = 0.05
    config.objective.mdsm.sigma_max = 1.2
    config.objective.mdsm.spacing = "linear"
    config.train.flip = True
    return config
