"""Every key a config may have, with its default.

A choice is a section with a ``name`` and one sub-section of options for each name it may take, so
``--config.objective.name=ssm`` switches and ``--config.objective.dsm.sigma=0.1`` adjusts.
"""

import math

from ml_collections import ConfigDict


def _trunk():
    return {
        "name": "mlp",
        "none": {},
        "mlp": {
            "features": (256, 256),
            "activation": "elu",
            "residual": False,
            "dtype": "float32",
        },
        "conv_encoder": {
            "features": (32, 64),
            "strides": (),  # of each level, in place of pooling; none pools
            "activation": "elu",
            "implementation": "auto",
            "dtype": "float32",  # of the trunk's arithmetic; parameters and outputs are float32
        },
        "residual_conv": {
            "channels": 64,
            "blocks_per_level": 2,
            "levels": 3,
            "variant": "compact",  # or "published"
            "activation": "elu",
            "implementation": "auto",
            "dtype": "float32",
        },
    }


def _decoder():
    bounded = {"activation": "elu", "output_activation": "sigmoid", "dtype": "float32"}
    return {
        "name": "mlp",  # or "conv"; the output is "sigmoid", "tanh" or "none"
        "mlp": {"features": (256, 256)} | bounded,
        "conv": {"features": (128, 64, 32), "implementation": "auto"} | bounded,
    }


def _optimizer(eps_root):
    return {
        "name": "adam",
        "adam": {"b1": 0.9, "b2": 0.95, "eps": 1e-8, "eps_root": eps_root},
        "sgd": {"momentum": 0.0, "nesterov": False},
        "muon": {  # kernels; all else by Nesterov's Adam
            "beta": 0.95,
            "consistent_rms": 0.2,  # root mean square of the updates, in units of the rate
            "adam_b1": 0.9,
            "adam_b2": 0.95,
            "adam_eps_root": eps_root,
        },
        "learning_rate": 1e-3,
        "schedule": "constant",  # or "cosine", over decay_steps
        "decay_steps": 100_000,
        "final_learning_rate": 0.0,
        "clip_norm": 0.0,  # longest gradient, all parameters taken together; 0 for any
    }


def _noise():
    return {
        "noise_ratio": 1.0,  # noise examples per data example
        "noise_mean": 0.0,  # of every coordinate; the nearer the data, the more is learned
        "noise_scale": 1.0,
        "log_partition_init": 0.0,  # of the learned log Z
    }


def get_config() -> ConfigDict:
    """Returns all keys with their defaults; locked, so a wrong key is an error."""
    config = ConfigDict(
        {
            "name": "base",
            "seed": 0,
            "data": {
                "name": "checkerboard",
                "dir": "",  # folder of local files
                "toy": {"num_train": 50_000, "num_validation": 10_000, "num_test": 10_000},
                "digits": {},
                "freyface": {},
                # Of images: "files" in dir or "tfds"; "auto" takes files if there are any. -1: the
                # data set's own, 10,000 for validation.
                "mnist": {"source": "auto", "num_validation": 10_000, "num_test": -1},
                "fashion_mnist": {"source": "auto", "num_validation": 10_000, "num_test": -1},
                "cifar10": {"source": "auto", "num_validation": 10_000, "num_test": -1},
                "celeba": {
                    "source": "auto",
                    "size": 64,
                    "num_validation": -1,
                    "num_test": -1,
                    "lazy": False,  # decode images batch by batch instead of keeping them
                },
            },
            "energy": {
                "name": "gaussian_rbm",
                "gaussian_rbm": {
                    "num_hidden": 4,
                    "learn_sigma": True,
                    "sigma_init": 1.0,
                    "weights_init_scale": 0.01,
                },
                "deep_eblvm": {
                    "num_latents": 16,
                    "num_features": 32,
                    "coupling_bias": False,
                    "trunk": _trunk(),
                },
                "marginal": {  # no latents: the posterior is not used
                    "head": "squared_norm",  # or "linear", "softplus"
                    "num_features": -1,  # rows of the squared norm; -1 for those of the trunk
                    "spectral_norm_steps": 0,  # power iterations a call, on all kernels; 0: none
                    "trunk": _trunk(),
                },
                "gaussian_decoder": {  # the model of a variational autoencoder; log Z = 0
                    "num_latents": 16,
                    "scale": math.sqrt(0.5),
                    "decoder": _decoder(),
                },
            },
            # p_φ(v | h) of method "bidvl", whose energy has no latents.
            "generator": {"num_latents": 16, "decoder": _decoder()},
            "posterior": {
                "name": "bernoulli",
                "bernoulli": {"trunk": _trunk() | {"name": "none"}, "temperature": 0.1},
                "gaussian": {"trunk": _trunk(), "covariance": "diagonal"},
            },
            # How the objective's gradient comes about. "bism" goes through the fit of the posterior
            # (section hypergradient), "vages" takes samples of it; "marginal" has the exact free
            # energy, "importance" estimates it from uniform latents: both learn no posterior.
            # The rest have losses of their own and no use for the section objective: contrastive
            # divergence (CD, PCD), noise-contrastive estimation by the exact free energy ("nce")
            # or by a learned posterior ("vnce"), "maximum_likelihood" by enumeration of log Z,
            # bi-level doubly variational learning ("bidvl"), and "vae", in which energy and
            # posterior both descend the divergence, "kl" or "iwae".
            "method": {
                "name": "bism",
                "bism": {},
                "vages": {
                    "num_particles": 2,  # in each of the two sets; 0 for the exact expectation
                    "control_variate": False,
                    "independent": True,
                    "exact_posterior": False,  # particles of p(h|v) itself, where it is known
                    # Temperature 1 has noise_scale = √step_size; published 1e-4.
                    "refinement": {"num_steps": 0, "step_size": 1e-2, "noise_scale": 0.1},
                },
                "marginal": {},
                "importance": {"num_particles": 5},
                "contrastive": {
                    "num_steps": 1,  # k transitions
                    "persistent": False,  # PCD-k: chains go on from step to step
                    "num_chains": 100,  # where they do; else one an example
                    # An RBM has block Gibbs on v. Deep energies have Langevin dynamics on (v, h),
                    # the data's h from the learned posterior and then moved given v; without
                    # latents, on v.
                    "langevin": {
                        "step_size": 0.02,
                        "latent_step_size": 0.02,
                        "num_latent_steps": 10,
                    },
                },
                "nce": _noise(),
                "vnce": _noise() | {"num_particles": 5},  # of a noise example; 0 for exact
                "maximum_likelihood": {},
                "bidvl": {
                    "form": "compact",  # or "full", which has a hypergradient
                    "compact": {
                        "scale": math.sqrt(0.5),
                        "elbo_coefficient": 0.05,
                        "latent_coefficient": -1.0,  # -1 for 1 / the number of latents
                        "hinge": False,
                    },
                    "full": {
                        "scale": math.sqrt(0.5),
                        "elbo_coefficient": 1.0,
                        "weights": "uniform",  # or "generator", "flat"
                        "clip": (),  # (low, high), bounds of the weights; () for none
                        "num_particles": 1,
                    },
                },
                "vae": {},
            },
            "objective": {
                "name": "dsm",
                "sm": {},
                "ssm": {"projection": "rademacher"},
                "dsm": {"sigma": 0.05},
                "mdsm": {
                    "sigma_min": 0.1,
                    "sigma_max": 3.0,
                    "sigma0": 0.1,
                    "spacing": "geometric",
                },
                "ksd": {
                    "kernel": {
                        "name": "rbf",  # or "imq"; at the median distance of a batch, if so said
                        "rbf": {"bandwidth": 0.1, "median": False},
                        "imq": {"scale": 1.0, "exponent": -0.5, "median": False},
                    },
                },
            },
            "divergence": {
                "name": "kl",
                "kl": {"num_samples": 1},
                "mean_field_kl": {},
                "iwae": {"num_samples": 5},
                "fisher": {"num_samples": 1},
            },
            "hypergradient": {
                "name": "unroll",
                # The virtual steps use the live lower optimizer, or plain SGD of that rate.
                "unroll": {
                    "num_steps": 5,
                    "optimizer": "live",
                    "sgd_rate": 1.0,
                    "truncate": -1,  # steps that carry derivatives, the last; -1 for all
                    "remat": False,
                },
                "first_order": {},
                "implicit_cg": {
                    "num_steps": 20,
                    "ridge": 1e-3,
                    "tolerance": 1e-2,
                    "num_samples": 1,
                    "on_failure": "report",
                },
                "neumann": {
                    "num_terms": 20,
                    "step_size": 1.0,
                    "num_samples": 1,
                    "on_failure": "report",
                },
            },
            "theta_optimizer": _optimizer(eps_root=0.0),
            "phi_optimizer": _optimizer(eps_root=1e-8),  # an unroll differentiates it
            "train": {
                "num_steps": 20_000,
                "batch_size": 100,
                "num_lower_steps": 5,
                "ema_decay": 0.999,
                "flip": False,  # mirror each image of a batch left to right with probability 1/2
                "steps_per_call": 100,
                "unroll_lower": 1,  # lower steps written out per loop turn; 0 for all
            },
            # Devices that share each batch, -1 for all; "model" is reserved. Parameters of at least
            # so many entries are divided among them too; 0 for none.
            "mesh": {"data": 1, "model": 1, "shard_parameters_from": 0},
            # When a metric is NaN, infinite or larger than so much (0 for any), go back to the last
            # checkpoint, draw other noise, and multiply both levels' rates.
            "guard": {"max_rollbacks": 0, "rate_factor": 1.0, "largest_metric": 0.0},
            "log": {"log_every": 100, "checkpoint_every": 2_000, "max_checkpoints": 3},
            "sampling": {
                "name": "gibbs",
                "num_samples": 64,
                "gibbs": {"num_steps": 1_000},
                # No chain: G(h), h ~ N(0, I). Rows of pictures, 0 for no picture; each row of
                # traversals moves one latent of a test image from -span to span.
                "generator": {
                    "interpolation": {"num_rows": 6, "num_points": 8},
                    "traversal": {"num_rows": 8, "num_points": 9, "span": 2.5},
                },
                "langevin": {
                    "step_size": 0.02,
                    "latent_step_size": 0.02,
                    "hot": 100.0,
                    "hot_steps": 500,
                    "annealed_steps": 2_000,
                    "cool_steps": 200,
                    "reconstruction_steps": 1_000,  # at temperature 1, before cooling
                    # Of images only; 0 chains or rows for no picture. At most num_samples chains,
                    # and as many rows as there are (pairs of) test images.
                    "frames": {"num_chains": 6, "num_stages": 10},
                    # Interpolations start from the images on the line between two, with noise of
                    # scale sigma0 * sqrt(start_temperature); -1, as published: from noise alone.
                    "interpolation": {"num_rows": 6, "num_points": 8, "start_temperature": -1.0},
                    "inpainting": {"num_rows": 4, "num_draws": 5},
                },
            },
            "evaluation": {
                "use_ema": False,  # of θ; posteriors and generators have no moving average
                "num_examples": 500,  # test examples, at most
                "log_likelihood": True,
                "exact_max_latents": 20,  # enumerate log Z up to so many, else estimate by AIS
                "ais_chains": 500,
                "ais_temperatures": 1_000,
                "importance_samples": 100,  # of q, a test example, where log p̃(v) is intractable
            },
        }
    )
    return config.lock()
