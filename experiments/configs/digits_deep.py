"""Deep EBLVM on the 8x8 digits by BiSM: multiscale denoising above, Fisher divergence below."""

from experiments.configs import base


def get_config():
    """After the published MNIST settings (K 5, N 0, EMA), scaled to 8x8 images and minutes."""
    config = base.get_config()
    config.name = "digits_deep"
    config.data.name = "digits"
    config.energy.name = "deep_eblvm"
    config.energy.deep_eblvm.num_latents = 50
    config.energy.deep_eblvm.num_features = 64
    config.energy.deep_eblvm.trunk.name = "mlp"
    config.energy.deep_eblvm.trunk.mlp.features = (512, 512, 512)
    config.energy.deep_eblvm.trunk.mlp.residual = True
    config.posterior.name = "gaussian"
    config.posterior.gaussian.trunk.name = "mlp"
    config.posterior.gaussian.trunk.mlp.features = (256, 256)
    config.objective.name = "mdsm"
    config.objective.mdsm.sigma_max = 2.0
    config.divergence.name = "fisher"
    config.hypergradient.name = "first_order"
    config.train.num_steps = 3_500
    config.train.steps_per_call = 50
    config.train.ema_decay = 0.995
    for optimizer in (config.theta_optimizer, config.phi_optimizer):
        optimizer.learning_rate = 1e-3
        optimizer.schedule = "cosine"
        optimizer.decay_steps = 3_500
        optimizer.final_learning_rate = 1e-5
    config.log.log_every = 50
    config.log.checkpoint_every = 1_000
    config.sampling.name = "langevin"
    config.sampling.langevin.latent_step_size = 0.1
    config.sampling.langevin.annealed_steps = 1_000
    config.evaluation.use_ema = True
    config.evaluation.num_examples = 200
    config.evaluation.ais_chains = 32
    config.evaluation.ais_temperatures = 1_500
    return config
