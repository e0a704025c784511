"""The mixture experiment's density, its model, and one method learned and judged."""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.special import logsumexp

from jbism import networks, posteriors
from jbism.hypergradients import FirstOrder, Unroll
from jbism.losses import BidvlCompact, BidvlFull, BidvlParams
from jbism.training import bidvl_step, create_state, marginal_step

METHODS = (
    "likelihood",
    "compact",
    "full",
    "full, unrolled",
    "full, generator's weights",
    "full, known weights",
    "full, flat weights",
)
RESOLUTION = 80  # cells a side of the quadrature and of the pictures
_NUM_SAMPLES = 5_000
_NEAR = 3.0  # noises
_MASS = 1e-3  # of the data's, that quadrature may lack


def check_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings, the methods in their order.

    Raises:
      ValueError: if a flag's value cannot be used, naming it.
    """
    chosen = METHODS if config["methods"] == ["all"] else tuple(config["methods"])
    for name in chosen:
        if slug(name) not in map(slug, METHODS):
            listed = ", ".join(map(slug, METHODS))
            raise ValueError(f"--methods must be all, or of {listed}, got {name}")
    positive = ("radius", "noise", "scale", "theta_rate", "phi_rate", "unroll_rate")
    for name in positive:
        if not (math.isfinite(config[name]) and config[name] > 0):
            raise ValueError(f"--{name} must be a number > 0, got {config[name]}")
    if not chosen:
        raise ValueError(f"--methods must be all, or of {', '.join(map(slug, METHODS))}, got none")
    ring = Ring(config)
    mass = float(jnp.sum(jnp.exp(jax.vmap(ring.log_density)(ring.points) + ring.log_cell)))
    if abs(mass - 1.0) > _MASS:
        raise ValueError(
            f"--noise must be wide enough for a grid of {RESOLUTION} x {RESOLUTION} cells, which "
            f"holds {mass:.3f} of the data's mass at --noise={config['noise']} and "
            f"--radius={config['radius']}"
        )
    methods = [name for name in METHODS if slug(name) in map(slug, chosen)]
    return config | {"methods": methods}


def slug(name: str) -> str:
    """Returns a method's name as one word, as flags and files have it."""
    return name.replace("'s", "").replace(",", "").replace(" ", "_")


class Ring:
    """Gaussians of one size evenly on a circle, and a grid that holds all but nothing of them."""

    def __init__(self, config: dict[str, Any]):
        self.noise = config["noise"]
        angles = 2.0 * jnp.pi * jnp.arange(config["num_modes"]) / config["num_modes"]
        self.centres = config["radius"] * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
        limit = 2.5 * max(config["radius"], 2.5 * self.noise)
        self.bounds = (-limit, limit, -limit, limit)
        axis = limit * (2.0 * (jnp.arange(RESOLUTION) + 0.5) / RESOLUTION - 1.0)
        self.points = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
        self.log_cell = 2.0 * math.log(2.0 * limit / RESOLUTION)

    def log_density(self, v: jax.Array) -> jax.Array:
        """log p_d of one v, in nats."""
        squares = jnp.sum(((v[None] - self.centres) / self.noise) ** 2, axis=1)
        constant = math.log(len(self.centres) * 2.0 * math.pi * self.noise**2)
        return logsumexp(-0.5 * squares) - constant

    def sample(self, key: jax.Array, num_samples: int) -> jax.Array:
        """Draws points, [num_samples, 2]."""
        key_mode, key_noise = jax.random.split(key)
        modes = jax.random.randint(key_mode, (num_samples,), 0, len(self.centres))
        return self.centres[modes] + self.noise * jax.random.normal(key_noise, (num_samples, 2))

    def shares(self, v: jax.Array) -> jax.Array:
        """The share of points [n, 2] near each mode, within three noises; 1 / modes is even."""
        distances = jnp.linalg.norm(v[:, None] - self.centres[None], axis=2)
        near = distances < _NEAR * self.noise
        nearest = distances == jnp.min(distances, axis=1, keepdims=True)
        return jnp.mean(near & nearest, axis=0)


class RingEnergy(nn.Module):
    """E(v) = ½‖v / s‖² + f(v): a wide Gaussian, tilted by a network that is bounded."""

    scale: float
    features: int

    @nn.compact
    def __call__(self, v: jax.Array) -> jax.Array:
        """Returns E(v) of one v."""
        features = networks.MLP((self.features, self.features), activation=nn.tanh)(v)
        return 0.5 * jnp.sum((v / self.scale) ** 2) + nn.Dense(1)(features)[0]


class Study:
    """The model of the settings, and how each method learns it."""

    def __init__(self, config: dict[str, Any]):
        self.config = config
        self.ring = Ring(config)
        width = config["width"]
        self.energy = RingEnergy(config["radius"], width)
        self.posterior = posteriors.Gaussian(
            config["num_latents"], networks.MLP((width, width), activation=nn.silu)
        )
        self.generator = networks.MLPDecoder((2,), (width, width), activation=nn.silu)

    def log_density(self, theta: Any) -> jax.Array:
        """log p_θ at the grid's points, normalised over its square, the model's whole space."""
        energies = self._energies(theta, self.ring.points)
        return -energies - logsumexp(-energies) - self.ring.log_cell

    def divergence(self, theta: Any) -> jax.Array:
        """KL(p_d ‖ p_θ) in nats, by quadrature."""
        log_data = jax.vmap(self.ring.log_density)(self.ring.points)
        weights = jnp.exp(log_data + self.ring.log_cell)
        return jnp.sum(weights * (log_data - self.log_density(theta)))

    def generate(self, phi: BidvlParams, key: jax.Array) -> jax.Array:
        """Draws points from p_φ(v), the noise included, [n, 2]."""
        key_latent, key_noise = jax.random.split(key)
        h = jax.random.normal(key_latent, (_NUM_SAMPLES, self.config["num_latents"]))
        means = jnp.asarray(jax.vmap(partial(self.generator.apply, phi.generator))(h))
        return means + self.config["scale"] * jax.random.normal(key_noise, means.shape)

    def start(self, name: str, key: jax.Array) -> Any:
        """Returns the state before the first step of a seed; θ is that of every method."""
        keys = jax.random.split(key, 4)
        theta, phi = self.energy.init(keys[0], jnp.zeros(2)), None
        if name != "likelihood":
            latent = jnp.zeros(self.config["num_latents"])
            phi = BidvlParams(
                self.generator.init(keys[1], latent), self.posterior.init(keys[2], jnp.zeros(2))
            )
        theta_optimizer, phi_optimizer = self._optimizers()
        return create_state(
            keys[3],
            theta,
            phi,
            theta_optimizer=theta_optimizer,
            phi_optimizer=None if phi is None else phi_optimizer,
        )

    def step(self, name: str) -> Callable[[Any], Any]:
        """Returns ``state -> (state, metrics)``, its batch drawn afresh."""
        theta_optimizer, phi_optimizer = self._optimizers()
        if name == "likelihood":
            step = marginal_step(loss=self._likelihood, theta_optimizer=theta_optimizer)
        else:
            form, hypergradient = self._form(name)
            step = bidvl_step(
                energy=self.energy.apply,
                generator=self.generator.apply,
                posterior=self.posterior.apply,
                form=form,
                hypergradient=hypergradient,
                theta_optimizer=theta_optimizer,
                phi_optimizer=phi_optimizer,
                num_lower_steps=self.config["num_lower_steps"],
            )

        def with_data(state):
            key_data = jax.random.fold_in(jax.random.fold_in(state.key, 1), state.step)
            return step(state, self.ring.sample(key_data, self.config["batch_size"]))

        return with_data

    def _form(self, name):
        scale, first_order = self.config["scale"], FirstOrder()
        unroll = Unroll(self.config["unroll_steps"], optax.sgd(self.config["unroll_rate"]))
        full = partial(BidvlFull, scale, self.config["full_elbo"])
        weighted = partial(full, num_particles=self.config["num_particles"])
        return {
            "compact": (BidvlCompact(scale, self.config["compact_elbo"]), None),
            "full": (full(), first_order),
            "full, unrolled": (full(), unroll),
            "full, generator's weights": (weighted(weights="generator"), first_order),
            "full, known weights": (weighted(weights=self.ring.log_density), first_order),
            "full, flat weights": (weighted(weights="flat"), first_order),
        }[name]

    def _optimizers(self):
        """Adam, both rates falling to zero with the last step."""
        steps, lower = self.config["num_steps"], self.config["num_lower_steps"]
        theta = optax.cosine_decay_schedule(self.config["theta_rate"], steps)
        # One update a lower step.
        phi = optax.cosine_decay_schedule(self.config["phi_rate"], steps * lower)
        return optax.adam(theta, b1=0.5, b2=0.9), optax.adam(phi, b1=0.5, b2=0.9)

    def _energies(self, theta, v):
        return jax.vmap(partial(self.energy.apply, theta))(v)

    def _likelihood(self, theta, key, v):  # noqa: ARG002
        log_partition = logsumexp(-self._energies(theta, self.ring.points)) + self.ring.log_cell
        return jnp.mean(self._energies(theta, v)) + log_partition, {}


class Measured(NamedTuple):
    """What a method came to."""

    figures: dict[str, Any]  # JSON values
    arrays: dict[str, np.ndarray]  # for pictures, of the first seed


def measure(study: Study, name: str, *, advanced: Callable[[int], Any] | None = None) -> Measured:
    """Learns a method's seeds in one program, judged on the way and at the end.

    Raises:
      ValueError: if a seed has diverged.
    """
    config = study.config
    begin = time.perf_counter()
    states = jax.vmap(partial(study.start, name))(
        jax.random.split(jax.random.key(config["seed"]), config["seeds"])
    )
    one = study.step(name)

    @partial(jax.jit, static_argnames="length", donate_argnums=0)
    def run(states, length):
        # One after the other: on a CPU batched products are slower than as many small ones.
        def steps(state):
            return jax.lax.scan(lambda state, _: one(state), state, length=length)

        states, metrics = jax.lax.map(steps, states)
        return states, jax.vmap(study.divergence)(states.theta), metrics

    stops = sorted({round(config["num_steps"] * i / 20) for i in range(1, 21)} - {0})
    curve, last = [], 0
    for stop in stops:
        states, divergences, metrics = run(states, stop - last)
        curve.append(np.asarray(divergences, float).tolist())
        if advanced is not None:
            advanced(stop - last)
        last = stop
    if not np.isfinite(curve[-1]).all():
        raise ValueError(f"{name} has diverged: lower --theta_rate or --phi_rate")
    figures = {"steps": stops, "divergence": curve, "seconds": time.perf_counter() - begin}
    log_density = jax.jit(study.log_density)(jax.tree.map(lambda x: x[0], states.theta))
    arrays = {"log_density": np.asarray(log_density).reshape(RESOLUTION, RESOLUTION)}
    if name != "likelihood":
        keys = jax.random.split(jax.random.key(config["seed"] + 1), config["seeds"])
        samples = jax.jit(jax.vmap(study.generate))(states.phi, keys)
        arrays["samples"] = np.asarray(samples[0])
        shares = jax.vmap(study.ring.shares)(samples)
        figures["mode_shares"] = np.asarray(shares, float).tolist()
        for metric in ("reconstruction_error", "effective_sample_size"):
            # Over the last stretch.
            figures[metric] = np.asarray(metrics[metric].mean(axis=1), float).tolist()
    return Measured(figures, arrays)
