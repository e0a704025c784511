"""Gaussian RBM 2/4 on the 2x2 checkerboard: the toy of Bao et al. (2020)."""

from experiments.configs import base


def get_config():
    """Published settings: lr 1e-3, batch 100, σ 0.05, K 5, N 5, KL, linear logits, τ 0.1."""
    config = base.get_config()
    config.name = "checkerboard_rbm"
    config.data.name = "checkerboard"
    config.energy.gaussian_rbm.num_hidden = 4
    config.objective.name = "dsm"
    config.objective.dsm.sigma = 0.05
    for optimizer in (config.theta_optimizer, config.phi_optimizer):
        optimizer.learning_rate = 1e-3
    config.train.num_steps = 100_000
    config.train.steps_per_call = 1_000
    config.log.log_every = 1_000
    config.log.checkpoint_every = 20_000
    config.sampling.num_samples = 2_000
    config.evaluation.num_examples = 10_000
    return config
