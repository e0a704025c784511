"""A linear-Gaussian bi-level problem whose lower level is quadratic, and its contraction."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from jbism import distributions, divergences, energies, losses
from jbism.hypergradients import Unroll

# Compilation is nearly all of the time.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def check_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings with numbers for the shares.

    Raises:
      ValueError: if a flag's value cannot be used, naming it.
    """
    try:
        shares = sorted({float(text) for text in config["shares"]})
    except ValueError:
        raise ValueError(f"--shares must be numbers, got {','.join(config['shares'])}") from None
    if not shares:
        raise ValueError("--shares must be at least one number, got none")
    numbers = [(name, config[name]) for name in ("scale", "sigma", "distance")]
    for name, value in [*numbers, *(("shares", share) for share in shares)]:
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"--{name} must be a number > 0, got {value}")
    if config["batch_size"] <= config["dim"]:
        raise ValueError(
            f"--batch_size must be above --dim={config['dim']}, got {config['batch_size']}"
        )
    return config | {"shares": shares}


def contraction_factor(step_size: float, eigenvalues: np.ndarray) -> float:
    """κ = max |1 - αλ|, by which a step of gradient descent shrinks ‖φ - φ*‖ at the least."""
    return float(np.max(np.abs(1.0 - step_size * eigenvalues)))


class Problem:
    """A bi-level problem with a lower level that is quadratic in φ, {kernel [D, L], bias [L]}.

    Raises:
      ValueError: if the model of these settings is no density.
    """

    def __init__(self, config: dict[str, Any]):
        key_model, key_noise, key_start = jax.random.split(jax.random.key(config["seed"]), 3)
        dim, num_latents = config["dim"], config["num_latents"]
        model = energies.LinearGaussian(num_latents)
        self.theta, v, log_partition = jit(partial(_draw, model, config))(key_model)
        if not jnp.isfinite(log_partition):
            raise ValueError(f"--scale must be smaller for a density, got {config['scale']}")

        def posterior(phi, v):
            return distributions.Normal(v @ phi["kernel"] + phi["bias"], jnp.zeros(num_latents))

        objective, divergence = losses.DSM(config["sigma"]), divergences.KL()
        parts: Any = {"energy": model.apply, "posterior": posterior, "objective": objective}

        # All noise is fixed, and that of the levels the same.
        def upper_loss(theta, phi, _):
            return losses.bism_upper_loss(theta, phi, key_noise, v, **parts)

        def lower_loss(theta, phi, _):
            return losses.bism_lower_loss(theta, phi, key_noise, v, **parts, divergence=divergence)

        # Traced once for all strategies.
        self.upper_loss, self.lower_loss = jax.jit(upper_loss), jax.jit(lower_loss)
        self.key = key_noise
        self.zero, self.unravel = ravel_pytree(
            {"kernel": jnp.zeros((dim, num_latents)), "bias": jnp.zeros(num_latents)}
        )

        @jit
        def lower_level(theta, key):
            phi_star = self.optimum(theta)
            direction = jax.random.normal(key, phi_star.shape, phi_star.dtype)
            length = config["distance"] * jnp.linalg.norm(phi_star) / jnp.linalg.norm(direction)
            starts = jnp.stack([phi_star, phi_star + length * direction])
            return self.hessian(theta), jax.vmap(self.unravel)(starts)

        hessian, self.starts = lower_level(self.theta, key_start)
        self.eigenvalues = np.linalg.eigvalsh(hessian)

    def hessian(self, theta):
        """∂²G/∂φ², the same at every φ; φ as one vector."""
        return jax.hessian(lambda x: self.lower_loss(theta, self.unravel(x), None))(self.zero)

    def optimum(self, theta):
        """φ*(θ) as one vector."""
        slope = jax.grad(lambda x: self.lower_loss(theta, self.unravel(x), None))(self.zero)
        return -jnp.linalg.solve(self.hessian(theta), slope)

    def step_size(self, share: float) -> float:
        """Returns α, share 1 being that of the quickest contraction.

        Raises:
          ValueError: if gradient descent does not contract.
        """
        low, high = self.eigenvalues[[0, -1]]
        step_size = share * 2.0 / (low + high)
        if contraction_factor(step_size, self.eigenvalues) >= 1.0:
            limit = 1.0 + low / high
            raise ValueError(
                f"--shares must be below {limit:.4g}, and not nearly 0, for a contraction, "
                f"got {share:g}"
            )
        return float(step_size)

    def gradient(self, strategy, phi):
        """Returns the strategy's θ-gradient from a start, and its `Solve`."""

        def loss(theta):
            (value, _), lower = strategy(self.upper_loss, self.lower_loss, theta, phi, self.key)
            return value, lower.solve

        return jax.grad(loss, has_aux=True)(self.theta)

    def unrolled_gradient(self, num_steps, step_size, phi, *, max_steps: int):
        """The gradient of ``Unroll(num_steps, optax.sgd(step_size))``, both numbers traced.

        One program for all N: of max_steps, those after the first N have size zero, and the
        identity as derivative.
        """
        optimizer = optax.sgd(lambda count: jnp.where(count < num_steps, step_size, 0.0))
        return self.gradient(Unroll(max_steps, optimizer), phi)[0]


def _draw(model, config, key):
    """Returns θ, about its initial value, data of the initial model, and log Z of θ."""
    key_init, key_theta, key_data = jax.random.split(key, 3)
    initial = model.init(key_init, jnp.zeros(config["dim"]), jnp.zeros(config["num_latents"]))
    flat, unravel = ravel_pytree(initial)
    noise = jax.random.normal(key_theta, flat.shape, flat.dtype)
    theta = unravel(flat + config["scale"] * noise)
    data = model.apply(initial, method="marginal")
    v = jax.vmap(data.sample)(jax.random.split(key_data, config["batch_size"]))
    return theta, v, model.apply(theta, method="log_partition")
