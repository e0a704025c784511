"""Configs of the least size, for tests of the experiments."""

import importlib

# What leaves a run its structure, at the least size.
TINY = {
    "data.toy.num_train": 400,
    "data.toy.num_validation": 10,
    "data.toy.num_test": 50,
    "train.num_steps": 60,
    "train.batch_size": 16,
    "train.steps_per_call": 10,
    "log.log_every": 10,
    "log.checkpoint_every": 20,
    "sampling.num_samples": 16,
    "sampling.gibbs.num_steps": 20,
    "evaluation.num_examples": 50,
}
TINY_DEEP = {
    "energy.deep_eblvm.num_latents": 4,
    "energy.deep_eblvm.num_features": 8,
    "energy.deep_eblvm.trunk.mlp.features": (32, 32),
    "energy.marginal.trunk.mlp.features": (32, 32),
    "energy.gaussian_decoder.num_latents": 4,
    "energy.gaussian_decoder.decoder.mlp.features": (8,),
    "generator.num_latents": 4,
    "generator.decoder.mlp.features": (8,),
    "posterior.gaussian.trunk.mlp.features": (32,),
    "train.num_steps": 20,
    "train.batch_size": 16,
    "train.steps_per_call": 10,
    "log.log_every": 10,
    "log.checkpoint_every": 10,
    "sampling.num_samples": 4,
    "sampling.generator.interpolation": {"num_rows": 2, "num_points": 3},
    "sampling.generator.traversal.num_rows": 3,
    "sampling.generator.traversal.num_points": 3,
    "sampling.langevin.hot_steps": 5,
    "sampling.langevin.annealed_steps": 10,
    "sampling.langevin.cool_steps": 5,
    "sampling.langevin.reconstruction_steps": 5,
    "sampling.langevin.frames": {"num_chains": 2, "num_stages": 3},
    "sampling.langevin.interpolation.num_rows": 2,
    "sampling.langevin.interpolation.num_points": 3,
    "sampling.langevin.inpainting.num_rows": 2,
    "sampling.langevin.inpainting.num_draws": 2,
    "evaluation.num_examples": 10,
    "evaluation.ais_chains": 4,
    "evaluation.ais_temperatures": 5,
    "evaluation.importance_samples": 3,
}
DEEP = {
    "energy.name": "deep_eblvm",
    "posterior.name": "gaussian",
    "divergence.name": "fisher",
    "hypergradient.name": "first_order",
    "sampling.name": "langevin",
}
# Without latents: what a deep config becomes.
MARGINAL = {"energy.name": "marginal", "method.name": "marginal", "sampling.name": "langevin"}
# With a generator: of BiDVL beside an energy without latents, of an autoencoder as the energy.
BIDVL = {
    "method.name": "bidvl",
    "energy.name": "marginal",
    "posterior.name": "gaussian",
    "sampling.name": "generator",
}
VAE = {
    "method.name": "vae",
    "energy.name": "gaussian_decoder",
    "posterior.name": "gaussian",
    "sampling.name": "generator",
}


def make_config(name, overrides):
    """Returns a config of ``experiments.configs`` with dotted keys overridden."""
    config = importlib.import_module(f"experiments.configs.{name}").get_config()
    config.update_from_flattened_dict(overrides)
    return config
