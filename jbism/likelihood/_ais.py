"""Annealed importance sampling: the chains and the weights, for any path of densities."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jbism import _checks, _layout
from jbism.likelihood._ais_pieces import AISState, walk
from jbism.typing import Array, Key

_NORMAL_975 = 1.959964  # the 97.5 % quantile of N(0, 1)


class AISResult(NamedTuple):
    """An estimate of log Z by annealed importance sampling, in nats."""

    log_partition: Array  # scalar, the estimate of log Z
    log_weights: Array  # [chains], as `annealed_importance_sampling` returns them
    effective_sample_size: Array  # scalar, (Σw)² / Σw², from 1 to the number of chains
    # [2], 95 % confidence interval of log Z by the delta method. It knows only the weights that
    # came up: where the effective sample size is a few chains it is too narrow.
    interval: Array


def annealed_importance_sampling(
    key: Key,
    x: Any,
    *,
    log_density: Callable[[Any, Array], Array],
    transition: Callable[[Key, Any, Array], Any],
    betas: Array,
    start: int | Array = 0,
    log_weights: Array | None = None,
) -> tuple[Array, Any]:
    """Carries samples of f_{β₀} along a path of unnormalised densities f_β and weighs them.

    log w = Σ_k log f_{β_k}(x_{k-1}) - log f_{β_{k-1}}(x_{k-1}),  x_k ~ T_{β_k}(x_{k-1}),

    so that E[w] = Z_{β_K} / Z_{β₀} (Neal, 2001), whatever the number of temperatures: with few of
    them the weights spread, and the logarithm of their mean comes out low.

    The randomness of step k is a function of (key, start + k): a long run may be cut into pieces,
    ``betas[n:]`` with ``start=n`` and the log w and x that ``betas[: n + 1]`` led to goes on
    exactly where that ended.

    Args:
      key: random key, the same for all pieces of a run.
      x: exact independent samples of f_{β₀}, a pytree of arrays [chains, ...], or the chains that
        the piece before returned.
      log_density: ``(x, beta) -> log f_β(x)`` of ONE x; terms that are the same at every β may be
        left out.
      transition: ``(key, x, beta) -> x`` of ONE x; must leave f_β invariant.
      betas: β₀ ... β_K along the path, [K + 1] with K >= 1.
      start: the number of steps that went before; may be traced.
      log_weights: log w of the piece before, [chains]; zeros by default.

    Returns:
      log w [chains], and the chains' x after the last transition.

    Raises:
      ValueError: if betas are fewer than two, x has no chains or not as many on every array,
        log_weights are not one a chain, start is negative, or log_density is not a scalar.
      TypeError: if betas or log_weights are not floating, start is not an integer, or log_density
        or transition are no functions.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> log_w, _ = annealed_importance_sampling(  # N(0, 1) to 2 N(0, 1), every sample exact
      ...     jax.random.key(0), jax.random.normal(jax.random.key(1), (10,)),
      ...     log_density=lambda x, beta: -0.5 * x**2 + beta * jnp.log(2.0),
      ...     transition=lambda key, x, beta: jax.random.normal(key),
      ...     betas=jnp.linspace(0.0, 1.0, 5))
      >>> [round(float(w), 4) for w in jnp.exp(log_w[:2])]
      [2.0, 2.0]
    """
    betas = _checks.rank("betas", _checks.floating("betas", betas), 1)
    if betas.size < 2:
        raise ValueError(f"betas must have at least 2 entries, got {betas.size}")
    _checks.function("log_density", log_density)
    _checks.function("transition", transition)
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(x)]
    if not leaves or any(leaf.ndim == 0 or leaf.shape[0] == 0 for leaf in leaves):
        raise ValueError("x must have a non-empty leading axis of chains on every array")
    num_chains = leaves[0].shape[0]
    if any(leaf.shape[0] != num_chains for leaf in leaves):
        sizes = sorted({leaf.shape[0] for leaf in leaves})
        raise ValueError(f"x must have as many chains on every array, got {sizes}")

    def log_density_of_one(x, beta):
        return _checks.scalar("log_density(x, beta)", log_density(x, beta))

    if log_weights is None:
        of_all = jax.vmap(log_density_of_one, in_axes=(0, None))
        dtype = jax.eval_shape(of_all, x, betas[0]).dtype
        log_weights = _layout.follow(jnp.zeros(num_chains, dtype), leaves[0])
    log_weights = _checks.floating("log_weights", log_weights)
    log_weights = _checks.shape("log_weights", log_weights, (num_chains,))
    start = jnp.asarray(_checks.count("start", start), jnp.int32)
    end = walk(
        AISState(start, key, x, log_weights),
        betas.size - 1,
        log_density=log_density_of_one,
        transition=transition,
        path=betas,
        first=start,
    )
    return end.log_weights, end.chains


def summarize_weights(log_weights: Array, log_base: Array) -> AISResult:
    """Estimates log Z = log Z₀ + log E[w], with a 95 % interval.

    The interval is the delta method's: var(log w̄) ≈ var(w) / (n w̄²), and log Ẑ ± 1.96 standard
    errors. It knows only the weights that came up: where the effective sample size is a few chains,
    rare large weights were likely missed and it is too narrow.

    Args:
      log_weights: [chains], at least 2.
      log_base: log Z₀ of the density the chains started from, a scalar.

    Returns:
      An `AISResult`.

    Raises:
      ValueError: if there are fewer than 2 chains.
    """
    num_chains = _checks.integer("number of chains", log_weights.size, minimum=2)
    log_partition = log_base + jax.nn.logsumexp(log_weights) - math.log(num_chains)
    effective = 1.0 / jnp.sum(jax.nn.softmax(log_weights) ** 2)
    # Equal weights may come out a rounding above the number of chains.
    variance = jnp.maximum(num_chains / effective - 1.0, 0.0) / (num_chains - 1)
    half_width = _NORMAL_975 * jnp.sqrt(variance)
    interval = jnp.stack([log_partition - half_width, log_partition + half_width])
    return AISResult(log_partition, log_weights, effective, interval)
