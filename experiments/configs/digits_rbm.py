"""Gaussian RBM 64/64 on the 8x8 digits, by BiSM with denoising score matching."""

from experiments.configs import base


def get_config():
    """Settings of our own: the images are small, so are the noise and the model."""
    config = base.get_config()
    config.name = "digits_rbm"
    config.data.name = "digits"
    config.energy.gaussian_rbm.num_hidden = 64
    config.objective.name = "dsm"
    config.objective.dsm.sigma = 0.15
    config.divergence.name = "mean_field_kl"
    for optimizer in (config.theta_optimizer, config.phi_optimizer):
        optimizer.learning_rate = 1e-3
    config.train.num_steps = 20_000
    config.train.steps_per_call = 100
    config.log.log_every = 200
    config.log.checkpoint_every = 2_000
    return config
