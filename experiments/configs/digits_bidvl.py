"""BiDVL on the 8x8 digits: an energy without latents, an encoder, and a generator."""

from experiments.configs import base


def get_config():
    """After the published settings (compact form, λ 0.05, K 1), scaled to 8x8 images."""
    config = base.get_config()
    config.name = "digits_bidvl"
    config.data.name = "digits"
    config.energy.name = "marginal"
    config.energy.marginal.head = "softplus"
    config.energy.marginal.trunk.name = "mlp"
    config.energy.marginal.trunk.mlp.features = (256, 256)
    config.posterior.name = "gaussian"
    config.posterior.gaussian.trunk.name = "mlp"
    config.posterior.gaussian.trunk.mlp.features = (256, 256)
    # The second for a variational autoencoder to compare with.
    for section in (config.generator, config.energy.gaussian_decoder):
        section.num_latents = 10
        section.decoder.name = "mlp"
        section.decoder.mlp.features = (256, 256)
    config.method.name = "bidvl"
    bidvl = config.method.bidvl
    for section in (bidvl.compact, bidvl.full, config.energy.gaussian_decoder):
        section.scale = 0.2  # √½ outweighs all of 64 pixels
    bidvl.full.elbo_coefficient = 0.1
    for optimizer, rate in ((config.theta_optimizer, 2e-4), (config.phi_optimizer, 1e-3)):
        optimizer.learning_rate = rate
        optimizer.adam.b1 = 0.0
        optimizer.adam.b2 = 0.9
    config.train.num_steps = 10_000
    config.train.num_lower_steps = 1
    config.train.steps_per_call = 100
    config.sampling.name = "generator"
    config.evaluation.num_examples = 200
    config.evaluation.log_likelihood = False
    return config
