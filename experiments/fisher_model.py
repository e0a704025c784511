"""The model, the truth, the posterior and the critic of the Fisher divergence experiment."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jbism import estimators, hypergradients, metrics
from jbism.divergences import MeanFieldKL
from jbism.energies import GaussianRBM
from jbism.networks import MLP
from jbism.posteriors import Bernoulli
from jbism.stein import FisherDivergence, fisher_divergence
from jbism.typing import Array, Params

SCORES = ("exact", "VaES")
CRITICS = ("shallow", "published")
_BLOCK = 10_000  # points of the truth at a time
_FRACTION = 0.1  # of the data that validates, and that tests


class Critic(nn.Module):
    """A multi-layer perceptron from R^D to R^D, beside a linear map that starts at zero or none.

    Attributes:
      features: widths of the hidden layers.
      activation: applied after each hidden layer.
      linear: whether the linear map is there.
    """

    features: tuple[int, ...]
    activation: Callable[[Array], Array]
    linear: bool

    @nn.compact
    def __call__(self, v: Array) -> Array:
        """Returns f(v), [D], of one v [D]."""
        f = nn.Dense(v.size)(MLP(self.features, self.activation)(v))
        if self.linear:
            f += nn.Dense(v.size, use_bias=False, kernel_init=nn.initializers.zeros)(v)
        return f


def check_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings with numbers for δ and what the critic's kind decides filled in.

    Raises:
      ValueError: if a flag's value cannot be used, naming it.
    """
    config = dict(config)
    try:
        deltas = [float(text) for text in config["deltas"]]
    except ValueError:
        raise ValueError(f"--deltas must be numbers, got {','.join(config['deltas'])}") from None
    for delta in deltas:
        if not (math.isfinite(delta) and delta >= 0):
            raise ValueError(f"--deltas must be numbers >= 0, got {delta}")
    for score in config["scores"]:
        if score not in SCORES:
            raise ValueError(f"--scores must be of {', '.join(SCORES)}, got {score!r}")
    for name, values in {"deltas": deltas, "scores": config["scores"]}.items():
        if not values or len(set(values)) != len(values):
            raise ValueError(f"--{name} must be different values, got {config[name]}")
    num_train = config["num_points"] - 2 * round(_FRACTION * config["num_points"])
    if config["batch_size"] > num_train:
        raise ValueError(
            f"--batch_size must be at most the {num_train} training points of "
            f"--num_points={config['num_points']}, got {config['batch_size']}"
        )
    published = config["critic"] == "published"
    if config["learning_rate"] is None:
        config["learning_rate"] = 2e-4 if published else 5e-3
    if not (math.isfinite(config["learning_rate"]) and config["learning_rate"] > 0):
        raise ValueError(f"--learning_rate must be a number > 0, got {config['learning_rate']}")
    if config["critic_width"] is None:
        config["critic_width"] = config["dim"] if published else 2 * config["dim"]
    return config | {"deltas": deltas}


def perturbed_model(key: jax.Array, dim: int, delta: float) -> tuple[GaussianRBM, Params]:
    """Returns a GRBM dim/dim of σ = 1 with W, b and c of δ N(0, 1); at δ = 0 it is N(0, I).

    The noise is the same at every δ.
    """
    rbm = GaussianRBM(num_hidden=dim, learn_sigma=False)
    shapes = {"weights": (dim, dim), "visible_bias": (dim,), "hidden_bias": (dim,)}
    keys = jax.random.split(key, len(shapes))
    noise = {
        name: delta * jax.random.normal(k, shape)
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    return rbm, {"params": noise}


def exact_score(rbm: GaussianRBM, theta: Params, v: Array) -> Array:
    """Returns ∇ log p(v; θ) = -∇F(v), [batch, D]."""
    return -jax.vmap(jax.grad(partial(rbm.apply, theta, method="free_energy")))(v)


def true_divergence(
    key: jax.Array, rbm: GaussianRBM, theta: Params, *, dim: int, num_points: int
) -> tuple[Array, Array]:
    """Returns ½ E‖s(v) + v‖² over v ~ N(0, I), and its standard error, by fresh points."""
    return _half_square(key, lambda v: exact_score(rbm, theta, v) + v, dim, num_points)


def critic_error(
    key: jax.Array,
    rbm: GaussianRBM,
    theta: Params,
    critic: nn.Module,
    critic_params: Params,
    *,
    dim: int,
    num_points: int,
) -> Array:
    """Returns ½ E‖f(v) - (s(v) + v)‖² over fresh v ~ N(0, I), the whole shortfall of a critic f.

    E[f·s + tr ∇f - ½‖f‖²] = ½ E‖s + v‖² - ½ E‖f - (s + v)‖², by parts.
    """

    def error(v):
        f: Any = jax.vmap(partial(critic.apply, critic_params))(v)
        return f - exact_score(rbm, theta, v) - v

    return _half_square(key, error, dim, num_points)[0]


def _half_square(key, function, dim, num_points):
    """½ E‖function(v)‖² over v ~ N(0, I), and its standard error."""

    def block(key):
        v = jax.random.normal(key, (min(num_points, _BLOCK), dim))
        return 0.5 * jnp.sum(function(v) ** 2, axis=1)

    num_blocks = -(-num_points // _BLOCK)
    values = jax.lax.map(block, jax.random.split(key, num_blocks)).reshape(-1)
    return jnp.mean(values), jnp.std(values) / math.sqrt(values.size)


def fit_posterior(
    key: jax.Array, v: Array, rbm: GaussianRBM, theta: Params, *, num_steps: int, batch_size: int
) -> tuple[Bernoulli, Params, Array]:
    """Fits q(h | v), Bernoulli of linear logits, to the model by its exact divergence on data.

    Returns:
      The posterior, φ, and E_data KL(q‖p(h | v)) in nats.
    """
    posterior = Bernoulli(num_latents=rbm.num_hidden, relaxed=False)
    key_init, key_fit = jax.random.split(key)
    phi = posterior.init(key_init, v[0])
    divergence = partial(MeanFieldKL(), energy=rbm.apply, posterior=posterior.apply)

    def lower_loss(theta, phi, key):
        batch = v[jax.random.randint(key, (batch_size,), 0, v.shape[0])]
        return jnp.mean(jax.vmap(lambda v: divergence(theta, phi, key, v))(batch))

    rate = optax.cosine_decay_schedule(1e-2, max(num_steps, 1))
    optimizer = optax.adam(rate, b1=0.9, b2=0.95)
    phi, _, _ = hypergradients.descend(
        lower_loss, theta, phi, key_fit, num_steps=num_steps, optimizer=optimizer
    )

    def kl(v):
        q: Any = posterior.apply(phi, v)
        p: Any = rbm.apply(theta, v, method="hidden_given_visible")
        return metrics.bernoulli_kl(q.logits, p.logits)

    # Rounding may take a divergence of zero below it.
    return posterior, phi, jnp.maximum(jnp.mean(jax.vmap(kl)(v[:_BLOCK])), 0.0)


def estimate(
    key: jax.Array,
    v: Array,
    score: Callable[[jax.Array, Array], Array],
    config: dict[str, Any],
    on_validation: Callable[..., None],
) -> tuple[FisherDivergence, nn.Module]:
    """Trains the critic of the settings on data v [n, D]; returns the estimate and the critic."""
    width = config["critic_width"]
    if config["critic"] == "published":
        critic = Critic((width, width), nn.elu, linear=False)
        rate: Any = config["learning_rate"]
    else:
        critic = Critic((width,), nn.tanh, linear=True)
        rate = optax.cosine_decay_schedule(config["learning_rate"], config["num_steps"])
    key_init, key_fit = jax.random.split(key)
    result = fisher_divergence(
        key_fit,
        v,
        score=score,
        critic=critic.apply,
        critic_params=critic.init(key_init, v[0]),
        optimizer=optax.adam(rate, b1=0.9, b2=0.95),
        num_steps=config["num_steps"],
        batch_size=config["batch_size"],
        evaluation_projections=config["evaluation_projections"],
        validation_fraction=_FRACTION,
        test_fraction=_FRACTION,
        validate_every=config["validate_every"],
        patience=config["patience"],
        on_validation=on_validation,
    )
    return result, critic


def vaes_score(
    rbm: GaussianRBM, theta: Params, posterior: Bernoulli, phi: Params, num_particles: int
) -> Callable[[jax.Array, Array], Array]:
    """Returns the variational estimate of the score, ``(key, v) -> [batch, D]``."""

    def score(key, v):
        return estimators.vaes(
            theta,
            phi,
            key,
            v,
            energy=rbm.apply,
            posterior=posterior.apply,
            num_particles=num_particles,
        )

    return score
