"""What the deep EBLVMs on images share: the published networks and settings, or smaller ones."""

from ml_collections import ConfigDict

from experiments.configs import base
from experiments.configs._widths import is_small


def deep_eblvm(
    data: str, *, width: str, channels: int, blocks: int, learning_rate: float, steps: int
) -> ConfigDict:
    """Returns a config of BiSM with multiscale denoising above and the Fisher divergence below.

    Published: K 5, N 0, 50 latents, batch 100, Adam (0.9, 0.95) with a cosine to 1e-6, EMA 0.999;
    for VaGES (``method.name=vages``), 2 particles refined by 5 Langevin steps. ``small`` is for two
    CPU cores: a quarter of the channels or less, one block a level, silu for ELU, thousands of
    steps, by Muon. The baseline without latents, ``energy.name=marginal`` and
    ``method.name=marginal``, has the same trunk and head.

    Raises:
      ValueError: if the width is neither.
    """
    small = is_small(width)
    if small:
        channels, blocks, learning_rate, steps = 16, 1, 5e-3, 3_000
    config = base.get_config()
    config.name = f"{data}_deep"
    config.data.name = data
    config.energy.name = "deep_eblvm"
    config.energy.deep_eblvm.num_latents = 50
    config.energy.deep_eblvm.coupling_bias = True
    for energy in (config.energy.deep_eblvm, config.energy.marginal):
        energy.num_features = 4 * channels * 4 * 4  # at 32x32
        energy.trunk.name = "residual_conv"
        energy.trunk.residual_conv.channels = channels
        energy.trunk.residual_conv.blocks_per_level = blocks
        energy.trunk.residual_conv.variant = "published"
        if small:
            energy.trunk.residual_conv.activation = "silu"
    config.posterior.name = "gaussian"
    trunk = config.posterior.gaussian.trunk
    trunk.name = "conv_encoder"
    trunk.conv_encoder.features = (16, 32, 64) if small else (64, 128, 256)
    trunk.conv_encoder.strides = (2, 2, 2)
    trunk.conv_encoder.activation = "leaky_relu"
    config.method.vages.refinement.num_steps = 5
    if not small:
        config.method.vages.refinement.noise_scale = 1e-4
    config.objective.name = "mdsm"
    config.divergence.name = "fisher"
    config.hypergradient.name = "first_order"
    for optimizer in (config.theta_optimizer, config.phi_optimizer):
        optimizer.learning_rate = learning_rate
        optimizer.schedule = "cosine"
        optimizer.decay_steps = steps
        optimizer.final_learning_rate = 1e-6
    if small:
        config.theta_optimizer.name = "muon"
        # q lags behind, and catches up while the energy comes to rest.
        config.phi_optimizer.learning_rate = 1e-3
        config.phi_optimizer.schedule = "constant"
    config.train.num_steps = steps
    config.train.batch_size = 50 if small else 100
    config.train.ema_decay = 0.99 if small else 0.999
    config.train.steps_per_call = 1  # a step takes long against its dispatch
    config.log.log_every = 10
    config.log.checkpoint_every = 500
    config.sampling.name = "langevin"
    config.evaluation.use_ema = True
    config.evaluation.num_examples = 100
    config.evaluation.log_likelihood = False  # AIS on images says nothing for what it costs
    if small:
        config.sampling.num_samples = 36
        config.sampling.langevin.hot_steps = 100
        config.sampling.langevin.annealed_steps = 1_000
        config.sampling.langevin.reconstruction_steps = 300
        # h says little of v yet: the line between two images under noise of scale 0.5.
        config.sampling.langevin.interpolation.start_temperature = 25.0
    return config
