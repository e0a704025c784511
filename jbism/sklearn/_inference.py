"""What a fitted estimator computes by chains and sums, compiled: samples and log Z."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jbism.energies import GaussianRBM
from jbism.likelihood import AISResult, ais_gaussian_rbm, exact_log_partition
from jbism.sklearn._learning import gibbs
from jbism.typing import Array, Key

Arrays = dict[str, Array]  # as `GaussianRBM.arrays` returns them


def _rbm(arrays):
    """The model and its θ."""
    return GaussianRBM(arrays["hidden_bias"].size), {"params": arrays}


@functools.partial(jax.jit, static_argnames="num_steps")
def gibbs_steps(arrays: Arrays, key: Key, v: Array, *, num_steps: int) -> Array:
    """v after block Gibbs steps, [chains, D]."""
    rbm, theta = _rbm(arrays)
    return gibbs(rbm, theta, key, v, num_steps=num_steps)


@functools.partial(jax.jit, static_argnames=("num_samples", "num_steps"))
def samples(arrays: Arrays, key: Key, *, num_samples: int, num_steps: int) -> Array:
    """Ends of Gibbs chains that start at N(b, σ²), [num_samples, D]."""
    key_start, key_chains = jax.random.split(key)
    b, sigma = arrays["visible_bias"], jnp.exp(arrays["log_sigma"])
    noise = jax.random.normal(key_start, (num_samples, b.size), b.dtype)
    return gibbs_steps(arrays, key_chains, b[None] + sigma[None] * noise, num_steps=num_steps)


@jax.jit
def exact_log_z(arrays: Arrays) -> Array:
    """log Z by enumeration."""
    rbm, theta = _rbm(arrays)
    log_marginal = functools.partial(rbm.apply, theta, method="log_hidden_marginal")
    return exact_log_partition(log_marginal, rbm.num_hidden)


@functools.partial(jax.jit, static_argnames=("num_chains", "num_temperatures"))
def ais(arrays: Arrays, key: Key, *, num_chains: int, num_temperatures: int) -> AISResult:
    """log Z by annealed importance sampling."""
    given: dict[str, Any] = arrays
    return ais_gaussian_rbm(key, **given, num_chains=num_chains, num_temperatures=num_temperatures)
