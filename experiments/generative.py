"""Methods that learn a generator: BiDVL, and the variational autoencoder."""

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from experiments.validation import naming
from jbism import losses
from jbism.typing import Divergence, Energy, Posterior


def bidvl_form(section: ConfigDict) -> losses.BidvlCompact | losses.BidvlFull:
    """Returns the form of the two levels that ``config.method.bidvl`` names."""
    options = dict(section[section.form])
    with naming(f"config.method.bidvl.{section.form}"):
        if section.form == "full":
            options["clip"] = tuple(options["clip"]) or None
            return losses.BidvlFull(**options)
        if options["latent_coefficient"] == -1:
            options["latent_coefficient"] = None
        return losses.BidvlCompact(**options)


def vae_losses(divergence: Divergence, *, energy: Energy, posterior: Posterior) -> dict[str, Any]:
    """Returns the losses of a variational autoencoder as `bilevel_step` has them.

    Both levels descend the mean divergence: log Z is zero, so it is a bound of -log p(v).
    """

    def lower_loss(theta, phi, key, v):
        keys = jax.random.split(key, v.shape[0])
        bound = jax.vmap(
            lambda key, v: divergence(theta, phi, key, v, energy=energy, posterior=posterior)
        )
        return jnp.mean(bound(keys, v))

    def upper_loss(theta, phi, phi_opt_state, key, v):  # noqa: ARG001
        return lower_loss(theta, phi, key, v), {}

    return {"upper_loss": upper_loss, "lower_loss": lower_loss}
