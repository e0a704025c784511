"""Gaussian RBM 560/400 on Frey face (Bao et al., 2020); needs --config.data.dir."""

from experiments.configs import base


def get_config():
    """Published: lr 2e-4, batch 100, 20,000 steps, σ 0.3, K 5. Scales and lower level are ours."""
    config = base.get_config()
    config.name = "freyface_rbm"
    config.data.name = "freyface"
    config.energy.gaussian_rbm.num_hidden = 400
    # The scale the noise allows, and weights that wake the latents: from 1.0 and 0.01, at this
    # learning rate, it takes thousands of steps until either is there.
    config.energy.gaussian_rbm.sigma_init = 0.3
    config.energy.gaussian_rbm.weights_init_scale = 0.1
    config.divergence.name = "mean_field_kl"  # exact; the published code samples the same KL
    config.hypergradient.name = "implicit_cg"  # published: unroll, N 0 to 10
    config.objective.name = "dsm"
    config.objective.dsm.sigma = 0.3
    for optimizer in (config.theta_optimizer, config.phi_optimizer):
        optimizer.learning_rate = 2e-4
    config.train.num_steps = 20_000
    config.train.steps_per_call = 20
    config.log.log_every = 100
    config.log.checkpoint_every = 1_000
    config.sampling.num_samples = 64
    return config
