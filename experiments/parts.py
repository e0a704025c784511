"""The parts of a model and of its training, from their config sections."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from experiments.validation import ConfigError, naming
from jbism import divergences, energies, hypergradients, losses, networks, posteriors, stein
from jbism.training import with_adjustable_rate
from jbism.typing import Divergence, Hypergradient


def _matrices(params):
    """How Muon reads parameters: kernels map all axes but the last to it; the rest is NAdam's."""
    return jax.tree.map(
        lambda x: (
            optax.contrib.MuonDimensionNumbers(tuple(range(x.ndim - 1)), x.ndim - 1)
            if x.ndim > 1
            else None
        ),
        params,
    )


_ACTIVATIONS = {
    "elu": nn.elu,
    "leaky_relu": partial(nn.leaky_relu, negative_slope=0.2),
    "silu": nn.silu,
    "softplus": nn.softplus,
    "tanh": jnp.tanh,
}
_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
_BOUNDS = {"none": None, "sigmoid": nn.sigmoid, "tanh": jnp.tanh}
# What an option of a network may be called.
_NAMED = {"activation": _ACTIVATIONS, "dtype": _DTYPES, "output_activation": _BOUNDS}
_TRUNKS = {
    "mlp": networks.MLP,
    "conv_encoder": networks.ConvEncoder,
    "residual_conv": networks.ResidualConvNet,
}
_DECODERS = {"mlp": networks.MLPDecoder, "conv": networks.ConvDecoder}
_ENERGIES = {
    "gaussian_rbm": energies.GaussianRBM,
    "deep_eblvm": energies.DeepEBLVM,
    "marginal": energies.MarginalEnergy,
    "gaussian_decoder": energies.GaussianDecoder,
}
_POSTERIORS = {"bernoulli": posteriors.Bernoulli, "gaussian": posteriors.Gaussian}
_OBJECTIVES = {
    "sm": losses.SM,
    "ssm": losses.SSM,
    "dsm": losses.DSM,
    "mdsm": losses.MDSM,
    "ksd": losses.KSD,
}
_DIVERGENCES = {
    "kl": divergences.KL,
    "mean_field_kl": divergences.MeanFieldKL,
    "iwae": divergences.IWAE,
    "fisher": divergences.Fisher,
}
_OPTIMIZERS = {
    "adam": optax.adam,
    "sgd": optax.sgd,
    "muon": partial(optax.contrib.muon, muon_weight_dimension_numbers=_matrices),
}


def _pick(section, registry, path):
    name = section.name
    if name not in registry:
        raise ConfigError(f"{path}.name must be one of {sorted(registry)}, got {name!r}")
    return registry[name], dict(section[name])


def _choose(section, registry, path):
    make, options = _pick(section, registry, path)
    with naming(f"{path}.{section.name}"):
        return make(**options)


def build_energy(section: ConfigDict, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """Returns the energy of v of a shape, and the number of its latents."""
    make, options = _pick(section, _ENERGIES, "config.energy")
    path = f"config.energy.{section.name}"
    if "trunk" in options:
        options["trunk"] = _network(options["trunk"], _TRUNKS, f"{path}.trunk")
        if options["trunk"] is None:
            raise ConfigError(f"{path}.trunk.name must not be 'none'")
    if "decoder" in options:
        decoder = options.pop("decoder")
        options["decoder"] = build_decoder(decoder, shape, f"{path}.decoder")
    if options.get("num_features") == -1:
        options["num_features"] = None
    with naming(path):
        if options.get("spectral_norm_steps", 0) > 0:
            options["trunk"] = networks.SpectralNorm(
                options["trunk"], options["spectral_norm_steps"]
            )
        return make(**options), options.get("num_latents", options.get("num_hidden", 0))


def build_posterior(section: ConfigDict, num_latents: int) -> nn.Module:
    """Returns the posterior module."""
    make, options = _pick(section, _POSTERIORS, "config.posterior")
    path = f"config.posterior.{section.name}.trunk"
    trunk = _network(options.pop("trunk"), _TRUNKS, path)
    with naming(f"config.posterior.{section.name}"):
        return make(num_latents=num_latents, trunk=trunk, **options)


def build_decoder(section: ConfigDict, shape: tuple[int, ...], path: str) -> nn.Module:
    """Returns the decoder of the section at ``path``, to v of a shape."""
    if section.name == "none":
        raise ConfigError(f"{path}.name must not be 'none'")
    decoder = _network(section, _DECODERS, path, shape=shape)
    with naming(f"{path}.{section.name}"):
        jax.eval_shape(decoder.init, jax.random.key(0), jnp.zeros(1))
    return decoder


def _network(section, registry, path, **given):
    if section.name == "none":
        return None
    make, options = _pick(section, registry, path)
    for option in sorted(options.keys() & _NAMED.keys()):
        choices = _NAMED[option]
        if options[option] not in choices:
            raise ConfigError(
                f"{path}.{section.name}.{option} must be one of {sorted(choices)}, "
                f"got {options[option]!r}"
            )
        options[option] = choices[options[option]]
    if "features" in options:
        options["features"] = tuple(options["features"])
    if "strides" in options:
        options["strides"] = tuple(options["strides"]) or None
    with naming(f"{path}.{section.name}"):
        return make(**options, **given)


def build_optimizer(config: ConfigDict, name: str) -> optax.GradientTransformation:
    """Returns the optimizer of the config's section ``name``."""
    section, path = config[name], f"config.{name}"
    rate = section.learning_rate
    if section.schedule == "cosine":
        rate = optax.cosine_decay_schedule(
            rate, section.decay_steps, alpha=section.final_learning_rate / rate
        )
    make, options = _pick(section, _OPTIMIZERS, path)
    with naming(f"{path}.{section.name}"):
        optimizer = make(rate, **options)
    if section.clip_norm > 0:
        optimizer = optax.chain(optax.clip_by_global_norm(section.clip_norm), optimizer)
    return with_adjustable_rate(optimizer) if config.guard.rate_factor < 1 else optimizer


def build_objective(section: ConfigDict) -> losses.Objective:
    """Returns the objective."""
    make, options = _pick(section, _OBJECTIVES, "config.objective")
    if section.name == "ksd":
        options = {"kernel": _kernel(section.ksd.kernel, "config.objective.ksd.kernel")}
    with naming(f"config.objective.{section.name}"):
        return make(**options)


def _kernel(section, path):
    make, options = _pick(section, {"rbf": stein.RBF, "imq": stein.IMQ}, path)
    if options.pop("median"):
        options["bandwidth" if section.name == "rbf" else "scale"] = "median"
    with naming(f"{path}.{section.name}"):
        return make(**options)


def build_divergence(section: ConfigDict) -> Divergence:
    """Returns the divergence of the lower level."""
    return _choose(section, _DIVERGENCES, "config.divergence")


def build_hypergradient(
    section: ConfigDict, phi_optimizer: optax.GradientTransformation
) -> Hypergradient:
    """Returns the hypergradient; "live" shares the lower level's optimizer."""
    registry = {
        "unroll": hypergradients.Unroll,
        "first_order": hypergradients.FirstOrder,
        "implicit_cg": hypergradients.ImplicitCG,
        "neumann": hypergradients.Neumann,
    }
    if section.name != "unroll":
        return _choose(section, registry, "config.hypergradient")
    make, options = _pick(section, registry, "config.hypergradient")
    if options["truncate"] == -1:
        options["truncate"] = None
    rate = options.pop("sgd_rate")
    kind = options.pop("optimizer")
    if kind not in ("live", "sgd"):
        raise ConfigError(
            f"config.hypergradient.unroll.optimizer must be 'live' or 'sgd', got {kind!r}"
        )
    optimizer = phi_optimizer if kind == "live" else optax.sgd(rate)
    with naming("config.hypergradient.unroll"):
        return make(optimizer=optimizer, **options)
