"""Checks of a config: what can be refused is refused before anything is built or written."""

import contextlib
import math
from collections.abc import Iterator

import jax
from ml_collections import ConfigDict

from experiments.configs import base
from jbism import _checks, samplers

# The latents that an energy has, in the terms of the posteriors over them.
_POSTERIOR_OF = {
    "gaussian_rbm": "bernoulli",
    "deep_eblvm": "gaussian",
    "gaussian_decoder": "gaussian",
}
_SAMPLERS_OF = {
    "gaussian_rbm": ("gibbs",),
    "deep_eblvm": ("langevin",),
    "marginal": ("langevin",),
    "gaussian_decoder": ("generator", "langevin"),
}
_OPTIMIZER_OPTIONS = {
    "adam": {
        "b1": _checks.fraction,
        "b2": _checks.fraction,
        "eps": _checks.non_negative,
        "eps_root": _checks.non_negative,
    },
    "sgd": {"momentum": _checks.fraction},
    "muon": {
        "beta": _checks.fraction,
        "consistent_rms": _checks.positive,
        "adam_b1": _checks.fraction,
        "adam_b2": _checks.fraction,
        "adam_eps_root": _checks.non_negative,
    },
}
_METHODS = (
    "bism",
    "vages",
    "marginal",
    "importance",
    "contrastive",
    "nce",
    "vnce",
    "maximum_likelihood",
    "bidvl",
    "vae",
)
_OWN_LOSSES = ("contrastive", "nce", "vnce", "maximum_likelihood", "bidvl", "vae")
# The energies that a method can train, where not all.
_ENERGIES_OF = {
    "bism": ("gaussian_rbm", "deep_eblvm", "gaussian_decoder"),
    "vages": ("gaussian_rbm", "deep_eblvm", "gaussian_decoder"),
    "contrastive": ("gaussian_rbm", "deep_eblvm", "marginal"),
    "vnce": ("gaussian_rbm", "deep_eblvm"),
    "marginal": ("gaussian_rbm", "marginal"),
    "nce": ("gaussian_rbm", "marginal"),
    "importance": ("gaussian_rbm",),
    "maximum_likelihood": ("gaussian_rbm",),
    "bidvl": ("marginal",),
    "vae": ("gaussian_decoder",),
}
_SAMPLERS = ("gibbs", "langevin", "generator")
_MAX_ENUMERATED = 20  # 2^20 latents a step


class ConfigError(ValueError):
    """A config key or value that cannot be used."""


def learns_posterior(config: ConfigDict) -> bool:
    """Whether the method fits a q(h | v); the others have p(h | v) itself, or need none."""
    name = config.method.name
    if name == "vages":
        return not config.method.vages.exact_posterior
    if name == "contrastive":
        return config.energy.name == "deep_eblvm"
    return name in ("bism", "vnce", "bidvl", "vae")


def trained_objective(config: ConfigDict) -> str | None:
    """The name of the score-based objective; None of a method with a loss of its own."""
    return None if config.method.name in _OWN_LOSSES else config.objective.name


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Turns an error of what a config section is used for into one that names the section."""
    try:
        yield
    except (ConfigError, jax.errors.ConcretizationTypeError):
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error


def validate(config: ConfigDict) -> None:
    """Raises `ConfigError` unless the keys are the known ones and the values can be used.

    What a section's own constructor checks is left to it.
    """
    with naming("--config"):
        getattr(config, "name", None)  # what stands for a file that failed raises why it did
        _checks.instance("get_config()", config, ConfigDict)
    _compare_keys(config.to_dict(), base.get_config().to_dict(), "config")
    try:
        _check_training(config)
        _check_devices(config)
        for name in ("theta_optimizer", "phi_optimizer"):
            _check_optimizer(config[name], f"config.{name}")
        _check_parts(config)
        _check_method(config)
        _check_sampling(config)
        _check_evaluation(config.evaluation)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error


def _compare_keys(given, known, path):
    for key in given:
        if key not in known:
            raise ConfigError(f"{path}.{key} is not a known config key; known: {sorted(known)}")
    for key, value in known.items():
        if key not in given:
            raise ConfigError(f"{path}.{key} is missing from the config")
        if isinstance(value, dict):
            if not isinstance(given[key], dict):
                raise ConfigError(f"{path}.{key} must be a section, got {given[key]!r}")
            _compare_keys(given[key], value, f"{path}.{key}")


def _check_training(config):
    train, log = config.train, config.log
    _checks.integer("config.seed", config.seed, minimum=0)
    for key in ("num_steps", "batch_size", "steps_per_call"):
        _checks.integer(f"config.train.{key}", train[key], minimum=1)
    _checks.instance("config.train.flip", train.flip, bool)
    for key in ("num_lower_steps", "unroll_lower"):
        _checks.integer(f"config.train.{key}", train[key], minimum=0)
    _checks.integer("config.log.max_checkpoints", log.max_checkpoints, minimum=1)
    _check_multiple("log.log_every", log.log_every, "train.steps_per_call", train.steps_per_call)
    _check_multiple("log.checkpoint_every", log.checkpoint_every, "log.log_every", log.log_every)


def _check_devices(config):
    mesh, guard = config.mesh, config.guard
    if mesh.data != -1:
        _checks.integer("config.mesh.data (or -1, for all devices)", mesh.data, minimum=1)
    if mesh.model != 1:
        raise ValueError(f"config.mesh.model must be 1: it is reserved, got {mesh.model}")
    _checks.integer("config.mesh.shard_parameters_from", mesh.shard_parameters_from, minimum=0)
    _checks.integer("config.guard.max_rollbacks", guard.max_rollbacks, minimum=0)
    _checks.non_negative("config.guard.largest_metric", guard.largest_metric)
    if _checks.positive("config.guard.rate_factor", guard.rate_factor) > 1:
        raise ValueError(f"config.guard.rate_factor must be in (0, 1], got {guard.rate_factor}")


def _check_optimizer(section, path):
    rate = _checks.positive(f"{path}.learning_rate", section.learning_rate)
    _checks.non_negative(f"{path}.clip_norm", section.clip_norm)
    for name, options in _OPTIMIZER_OPTIONS.items():
        for option, check in options.items():
            check(f"{path}.{name}.{option}", section[name][option])
    _checks.one_of(f"{path}.schedule", section.schedule, ("constant", "cosine"))
    if section.schedule == "cosine":
        _checks.integer(f"{path}.decay_steps", section.decay_steps, minimum=1)
        if not 0 <= section.final_learning_rate <= rate:
            raise ValueError(
                f"{path}.final_learning_rate must be in [0, learning_rate], "
                f"got {section.final_learning_rate}"
            )


def _check_multiple(name, value, divisor_name, divisor):
    if _checks.integer(f"config.{name}", value, minimum=1) % divisor:
        raise ValueError(
            f"config.{name} must be a multiple of config.{divisor_name}, {divisor}, got {value}"
        )


def _check_parts(config):
    energy, posterior = config.energy.name, config.posterior.name
    _checks.one_of("config.energy.name", energy, tuple(_SAMPLERS_OF))
    _checks.one_of("config.posterior.name", posterior, tuple(dict.fromkeys(_POSTERIOR_OF.values())))
    _checks.one_of("config.sampling.name", config.sampling.name, _SAMPLERS)
    where, posteriors, fitting = f"config.energy.name = {energy!r}", _POSTERIOR_OF, _SAMPLERS_OF
    if config.method.name == "bidvl":  # has a posterior and a generator beside the energy
        where += " and config.method.name = 'bidvl'"
        posteriors = {energy: "gaussian"}
        fitting = {energy: ("generator", "langevin")}
    wanted = {
        "posterior": (posteriors.get(energy, posterior),),
        "sampling": fitting[energy],
    }
    for section, names in wanted.items():
        if config[section].name not in names:
            raise ValueError(
                f"config.{section}.name must be {' or '.join(map(repr, names))} with {where}, got "
                f"{config[section].name!r}"
            )


def _check_method(config):
    method, energy = config.method, config.energy.name
    _checks.one_of("config.method.name", method.name, _METHODS)
    vages = method.vages
    _checks.integer("config.method.vages.num_particles", vages.num_particles, minimum=0)
    if vages.num_particles == 1:
        raise ValueError("config.method.vages.num_particles must be 0 or at least 2, got 1")
    _checks.integer(
        "config.method.importance.num_particles", method.importance.num_particles, minimum=1
    )
    if method.name == "vages":
        for name in ("sm", "ssm"):
            if config.objective.name == name:
                raise ValueError(
                    f"config.objective.name must not be {name!r} with config.method.name = "
                    "'vages', which does not estimate ∇_v of the score; use dsm, mdsm or ksd"
                )
        for option, given, needs in (
            ("exact_posterior", vages.exact_posterior, "gaussian_rbm"),
            ("num_particles = 0", vages.num_particles == 0, "gaussian_rbm"),
            ("refinement.num_steps > 0", vages.refinement.num_steps > 0, "deep_eblvm"),
        ):
            if given and energy != needs:
                raise ValueError(
                    f"config.method.vages.{option} needs config.energy.name = {needs!r}, "
                    f"got {energy!r}"
                )
        if vages.refinement.num_steps > 0 and vages.control_variate:
            raise ValueError(
                "config.method.vages.control_variate must be False where refinement.num_steps > 0"
            )
    head, num_features = (config.energy.marginal[key] for key in ("head", "num_features"))
    if energy == "marginal" and head != "squared_norm" and num_features != -1:
        raise ValueError(
            f"config.energy.marginal.num_features must be -1 with config.energy.marginal.head = "
            f"{head!r}, got {num_features}"
        )
    _check_baselines(config)
    _check_generative(config)
    _checks.positive("config.hypergradient.unroll.sgd_rate", config.hypergradient.unroll.sgd_rate)
    fitting = _ENERGIES_OF.get(method.name, (energy,))
    if energy not in fitting:
        raise ValueError(
            f"config.method.name = {method.name!r} needs config.energy.name = "
            f"{' or '.join(map(repr, fitting))}, got {energy!r}"
        )
    unroll, phi = config.hypergradient.unroll, config.phi_optimizer
    unrolls = method.name == "bism" or (method.name == "bidvl" and method.bidvl.form == "full")
    live = unrolls and config.hypergradient.name == "unroll" and unroll.optimizer == "live"
    eps_root = {"adam": "eps_root", "muon": "adam_eps_root"}.get(phi.name)
    if live and unroll.num_steps > 0 and eps_root and phi[phi.name][eps_root] == 0:
        raise ValueError(
            f"config.phi_optimizer.{phi.name}.{eps_root} must be > 0 (such as 1e-8) where Adam is "
            "differentiated by config.hypergradient.unroll, got 0"
        )


def _check_baselines(config):
    contrastive = config.method.contrastive
    for key in ("num_steps", "num_chains"):
        _checks.integer(f"config.method.contrastive.{key}", contrastive[key], minimum=1)
    _checks.instance("config.method.contrastive.persistent", contrastive.persistent, bool)
    langevin = contrastive.langevin
    for key in ("step_size", "latent_step_size"):
        _checks.positive(f"config.method.contrastive.langevin.{key}", langevin[key])
    _checks.integer(
        "config.method.contrastive.langevin.num_latent_steps", langevin.num_latent_steps, minimum=0
    )
    for name in ("nce", "vnce"):
        section = config.method[name]
        for key in ("noise_ratio", "noise_scale"):
            _checks.positive(f"config.method.{name}.{key}", section[key])
        for key in ("noise_mean", "log_partition_init"):
            if not math.isfinite(section[key]):
                raise ValueError(f"config.method.{name}.{key} must be finite, got {section[key]}")
    _checks.integer("config.method.vnce.num_particles", config.method.vnce.num_particles, minimum=0)
    enumerates = config.method.name == "vnce" and config.method.vnce.num_particles == 0
    if enumerates and config.energy.name != "gaussian_rbm":
        raise ValueError(
            "config.method.vnce.num_particles = 0 needs config.energy.name = 'gaussian_rbm', "
            f"got {config.energy.name!r}"
        )
    num_hidden = config.energy.gaussian_rbm.num_hidden
    if config.method.name == "maximum_likelihood" and num_hidden > _MAX_ENUMERATED:
        raise ValueError(
            "config.method.name = 'maximum_likelihood' enumerates 2^H latents a step: "
            f"config.energy.gaussian_rbm.num_hidden must be <= {_MAX_ENUMERATED}, got "
            f"{num_hidden}; annealed importance sampling estimates log Z beyond that, for "
            "evaluation alone: train by 'contrastive'"
        )


def _check_generative(config):
    bidvl = config.method.bidvl
    _checks.integer("config.generator.num_latents", config.generator.num_latents, minimum=1)
    _checks.one_of("config.method.bidvl.form", bidvl.form, ("compact", "full"))
    coefficient = bidvl.compact.latent_coefficient
    if coefficient != -1:  # 1 / the number of latents
        _checks.non_negative("config.method.bidvl.compact.latent_coefficient", coefficient)
    weighted = config.method.name == "bidvl" and bidvl.form == "full"
    weighted = weighted and bidvl.full.weights != "uniform"
    if weighted and config.train.batch_size < 2:
        raise ValueError(
            "config.train.batch_size must be at least 2 with config.method.bidvl.full.weights = "
            f"{bidvl.full.weights!r}, got {config.train.batch_size}"
        )
    if config.method.name == "vae" and config.divergence.name not in ("kl", "iwae"):
        raise ValueError(
            "config.divergence.name must be 'kl' or 'iwae' with config.method.name = 'vae', whose "
            f"evidence bounds they are, got {config.divergence.name!r}"
        )


def _check_sampling(config):
    section = config.sampling
    _checks.integer("config.sampling.num_samples", section.num_samples, minimum=1)
    _checks.integer("config.sampling.gibbs.num_steps", section.gibbs.num_steps, minimum=1)
    langevin = section.langevin
    for key in ("step_size", "latent_step_size"):
        _checks.positive(f"config.sampling.langevin.{key}", langevin[key])
    _checks.positive("config.sampling.generator.traversal.span", section.generator.traversal.span)
    _checks.integer(
        "config.sampling.langevin.reconstruction_steps", langevin.reconstruction_steps, minimum=1
    )
    points = {"num_rows": 0, "num_points": 2}
    minima = {
        "generator.interpolation": points,
        "generator.traversal": points,
        "langevin.frames": {"num_chains": 0, "num_stages": 2},
        "langevin.interpolation": points,
        "langevin.inpainting": {"num_rows": 0, "num_draws": 1},
    }
    for name, least in minima.items():
        sampler, picture = name.split(".")
        for key, minimum in least.items():
            path = f"config.sampling.{name}.{key}"
            _checks.integer(path, section[sampler][picture][key], minimum=minimum)
    with naming("config.sampling.langevin"):
        samplers.annealing_schedule(
            hot_steps=langevin.hot_steps,
            annealed_steps=langevin.annealed_steps,
            cool_steps=langevin.cool_steps,
            hot=langevin.hot,
        )
    path = "config.sampling.langevin.interpolation.start_temperature"
    start = langevin.interpolation.start_temperature
    if start == -1:
        return
    if _checks.positive(path, start) > langevin.hot:
        raise ValueError(
            f"{path} must be -1 or at most config.sampling.langevin.hot, {langevin.hot}, got "
            f"{start}"
        )
    leading = "annealed_steps" if start > 1 else "cool_steps"  # from there on
    if langevin[leading] == 0:
        raise ValueError(f"{path} = {start} needs config.sampling.langevin.{leading} > 0, got 0")
    if section.name == "langevin" and trained_objective(config) != "mdsm":
        raise ValueError(
            f"{path} must be -1 without config.objective.name = 'mdsm', which alone says how much "
            f"noise a temperature stands for, got {start}"
        )


def _check_evaluation(section):
    minima = {
        "num_examples": 1,
        "exact_max_latents": 0,
        "ais_chains": 2,
        "ais_temperatures": 2,
        "importance_samples": 1,
    }
    for key, minimum in minima.items():
        _checks.integer(f"config.evaluation.{key}", section[key], minimum=minimum)
    _checks.instance("config.evaluation.log_likelihood", section.log_likelihood, bool)
