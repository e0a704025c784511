"""What each method of an estimator trains by: its initial state, and many steps as one program."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jbism import losses
from jbism.divergences import MeanFieldKL
from jbism.energies import GaussianRBM, conditionals
from jbism.hypergradients import ImplicitCG
from jbism.likelihood import exact_log_partition
from jbism.posteriors import Bernoulli
from jbism.samplers import block_gibbs
from jbism.training import (
    TrainState,
    bism_step,
    contrastive_step,
    create_state,
    marginal_step,
    vages_step,
)
from jbism.typing import Array, Key, Params

METHODS = ("dsm", "ssm", "vages-dsm", "bidsm", "bissm", "cd", "pcd", "ml")


class Settings(NamedTuple):
    """What a compiled program depends on beside shapes; hashable."""

    method: str  # one of METHODS
    num_hidden: int
    learning_rate: float
    noise_level: float
    num_particles: int
    num_lower_steps: int
    num_gibbs_steps: int


@functools.partial(jax.jit, static_argnames=("settings", "dim_v", "dtype", "num_chains"))
def initial_state(
    settings: Settings, key: Key, dim_v: int, dtype: Any, *, num_chains: int
) -> TrainState:
    """Returns the state before the first step, for data of about zero mean and unit variance."""
    key_theta, key_phi, key_chains, key_train = jax.random.split(key, 4)
    rbm, posterior = GaussianRBM(settings.num_hidden), Bernoulli(settings.num_hidden)
    v, h = jnp.zeros(dim_v, dtype), jnp.zeros(settings.num_hidden, dtype)
    theta = rbm.init(key_theta, v, h)
    phi = posterior.init(key_phi, v) if _learns_posterior(settings) else {}
    persistent = settings.method == "pcd"
    chains = jax.random.normal(key_chains, (num_chains, dim_v), dtype) if persistent else ()
    theta, phi = jax.tree.map(lambda x: x.astype(dtype), (theta, phi))
    theta_optimizer, phi_optimizer = _optimizers(settings)
    return create_state(
        key_train,
        theta,
        phi,
        theta_optimizer=theta_optimizer,
        phi_optimizer=phi_optimizer,
        chains=chains,
    )


# Every fold of a cross-validation and every call of partial_fit runs the same program.
@functools.lru_cache(maxsize=64)
def compiled_steps(
    settings: Settings,
) -> Callable[[TrainState, Array], tuple[TrainState, dict[str, Array]]]:
    """Returns ``run(state, batches [steps, batch, D])``, which donates the state's buffers."""
    step = _step(settings)
    return jax.jit(lambda state, batches: jax.lax.scan(step, state, batches), donate_argnums=0)


def _learns_posterior(settings):
    return settings.method in ("vages-dsm", "bidsm", "bissm")


def _optimizers(settings):
    adam = optax.adam(settings.learning_rate, b2=0.95)
    return adam, adam if _learns_posterior(settings) else optax.identity()


def _step(settings):
    rbm = GaussianRBM(settings.num_hidden)
    theta_optimizer, phi_optimizer = _optimizers(settings)
    objective = losses.SSM() if "ssm" in settings.method else losses.DSM(settings.noise_level)
    if settings.method in ("cd", "pcd"):
        return contrastive_step(
            energy=functools.partial(rbm.apply, method="free_energy"),
            transition=functools.partial(gibbs, rbm),
            num_steps=settings.num_gibbs_steps,
            persistent=settings.method == "pcd",
            theta_optimizer=theta_optimizer,
        )
    if not _learns_posterior(settings):
        loss = _likelihood_loss(rbm) if settings.method == "ml" else _score_loss(rbm, objective)
        return marginal_step(loss=loss, theta_optimizer=theta_optimizer)
    parts: dict[str, Any] = {
        "energy": rbm.apply,
        "posterior": Bernoulli(settings.num_hidden).apply,
        "objective": objective,
        "divergence": MeanFieldKL(),
        "theta_optimizer": theta_optimizer,
        "phi_optimizer": phi_optimizer,
        "num_lower_steps": settings.num_lower_steps,
    }
    if settings.method == "vages-dsm":
        return vages_step(num_particles=settings.num_particles, **parts)
    return bism_step(hypergradient=ImplicitCG(), **parts)


def _score_loss(rbm, objective):
    def loss(theta, key, v):
        free_energy = functools.partial(rbm.apply, method="free_energy")
        value, aux = losses.marginal_loss(
            theta, key, v, free_energy=free_energy, objective=objective
        )
        return value, {"score_norm": aux.score_norm}

    return loss


def _likelihood_loss(rbm):
    def log_partition(theta):
        log_marginal = functools.partial(rbm.apply, theta, method="log_hidden_marginal")
        return exact_log_partition(log_marginal, rbm.num_hidden)

    def loss(theta, key, v):  # noqa: ARG001
        value, aux = losses.maximum_likelihood_loss(
            theta,
            v,
            free_energy=functools.partial(rbm.apply, method="free_energy"),
            log_partition=log_partition,
        )
        return value, {"log_partition": aux.log_partition}

    return loss


def gibbs(rbm: GaussianRBM, theta: Params, key: Key, v: Array, *, num_steps: int = 1) -> Array:
    """Moves visibles [chains, D] by block Gibbs steps."""
    return block_gibbs(key, v, num_steps=num_steps, **conditionals(rbm, theta))[0]
