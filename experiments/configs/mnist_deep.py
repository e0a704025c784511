"""Deep EBLVM on MNIST, 32x32 (Bao et al., 2020); --config.data.dir names its folder."""

from experiments.configs import _images
from experiments.configs._widths import is_small


def get_config(width="published"):
    """Returns the published settings, or with ``:small`` after the file's name smaller ones."""
    config = _images.deep_eblvm(
        "mnist",
        width=width,
        channels=64,
        blocks=2,
        learning_rate=1e-4,
        steps=100_000,
    )
    config.objective.mdsm.sigma_min = 0.1
    config.objective.mdsm.sigma_max = 3.0
    config.objective.mdsm.spacing = "geometric"
    if is_small(width):  # from the widest noise, which covers the data: (sigma_max / sigma0)²
        config.sampling.langevin.hot = 900.0
    return config
