"""What BiDVL on images shares: the published settings, or smaller ones."""

from ml_collections import ConfigDict

from experiments.configs import base
from experiments.configs._widths import is_small


def bidvl(data: str, *, width: str, levels: int) -> ConfigDict:
    """Returns a config of BiDVL's compact form with convolutional networks.

    Published, for CIFAR-10: 100 latents, Adam (0, 0.9) at 1e-4 for the energy and 3e-4 for
    generator and encoder, λ 0.05, K 1, batch 100, kernels of the energy divided by their spectral
    norms; ``levels`` halvings of the image lead to 4x4 pixels. ``small`` is for two CPU cores: a
    sixth of the channels, 32 latents, and higher rates for fewer steps.

    Raises:
      ValueError: if the width is neither.
    """
    small = is_small(width)
    base_channels = 8 if small else 48
    channels = tuple(base_channels * factor for factor in (2, 4, 8, 8)[:levels])
    config = base.get_config()
    config.name = f"{data}_bidvl"
    config.data.name = data
    config.energy.name = "marginal"
    config.energy.marginal.head = "softplus"
    config.energy.marginal.spectral_norm_steps = 10
    config.posterior.name = "gaussian"
    for trunk in (config.energy.marginal.trunk, config.posterior.gaussian.trunk):
        trunk.name = "conv_encoder"
        trunk.conv_encoder.features = channels
        trunk.conv_encoder.strides = (2,) * levels
        trunk.conv_encoder.activation = "leaky_relu"
    # The second for a variational autoencoder to compare with.
    for section in (config.generator, config.energy.gaussian_decoder):
        section.num_latents = 32 if small else 100
        section.decoder.name = "conv"
        section.decoder.conv.features = (channels[-1], *reversed(channels))
    config.method.name = "bidvl"
    bidvl = config.method.bidvl
    if small:
        for section in (bidvl.compact, bidvl.full, config.energy.gaussian_decoder):
            section.scale = 0.3
    bidvl.full.elbo_coefficient = 0.1
    rates = (2e-4, 1e-3) if small else (1e-4, 3e-4)
    for optimizer, rate in zip((config.theta_optimizer, config.phi_optimizer), rates, strict=True):
        optimizer.learning_rate = rate
        optimizer.adam.b1 = 0.0
        optimizer.adam.b2 = 0.9
    config.train.num_steps = 3_000 if small else 300_000
    config.train.batch_size = 50 if small else 100
    config.train.num_lower_steps = 1
    config.train.steps_per_call = 1  # a step takes long against its dispatch
    config.log.log_every = 10
    config.log.checkpoint_every = 500
    config.sampling.name = "generator"
    config.evaluation.log_likelihood = False
    return config
