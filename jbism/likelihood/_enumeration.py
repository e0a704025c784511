"""Exact partition functions of models with few binary latents."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jbism import _checks
from jbism.distributions import binary_states
from jbism.typing import Array

_MAX_LATENTS = 24


def enumerate_binary(num_latents: int) -> Array:
    """Lists every h in {0, 1}^H.

    Args:
      num_latents: H, from 1 to 24.

    Returns:
      [2^H, H] in the default floating dtype; row i holds the binary digits of i, the highest first.

    Raises:
      ValueError: if num_latents is out of range.

    Example:
      >>> enumerate_binary(2).tolist()
      [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    num_latents = _check_num_latents(num_latents)
    return binary_states(jnp.arange(2**num_latents), num_latents)


def exact_log_partition(
    log_hidden_marginal: Callable[[Array], Array], num_latents: int, *, block_size: int = 4096
) -> Array:
    """Sums over every h in {0, 1}^H.

    log Z = log Σ_h exp(log_hidden_marginal(h)).

    The sum runs in blocks, and a derivative recomputes each block: memory is that of one block and
    2^H / block_size numbers.

    Args:
      log_hidden_marginal: maps ONE h [H] to log ∫ exp(-E(v, h)) dv, a scalar.
      num_latents: H, from 1 to 24.
      block_size: latents taken together, a power of 2.

    Returns:
      log Z, a scalar, differentiable in whatever log_hidden_marginal closes over.

    Raises:
      ValueError: if num_latents is out of range or block_size is not a power of 2.

    Example:
      >>> import jax.numpy as jnp
      >>> log_z = exact_log_partition(lambda h: 0.0 * jnp.sum(h), 10)  # 2^10 equal terms
      >>> round(float(log_z / jnp.log(2.0)), 5)
      10.0
    """
    num_latents = _check_num_latents(num_latents)
    block_size = _checks.integer("block_size", block_size, minimum=1)
    if block_size & (block_size - 1):
        raise ValueError(f"block_size must be a power of 2, got {block_size}")
    block_size = min(block_size, 2**num_latents)

    def log_marginal(h):
        return _checks.scalar("log_hidden_marginal(h)", log_hidden_marginal(h))

    @jax.checkpoint
    def block(first):
        h = binary_states(first + jnp.arange(block_size), num_latents)
        return jax.nn.logsumexp(jax.vmap(log_marginal)(h))

    firsts = jnp.arange(0, 2**num_latents, block_size)
    return jax.nn.logsumexp(jax.lax.map(block, firsts))


def exact_log_likelihood(
    v: Array,
    *,
    free_energy: Callable[[Array], Array],
    log_hidden_marginal: Callable[[Array], Array],
    num_latents: int,
    block_size: int = 4096,
) -> Array:
    """Exact log-likelihood of a model with few binary latents.

    log p(v) = -F(v) - log Z.

    Args:
      v: [batch, *event].
      free_energy: maps ONE v to F(v) = -log Σ_h exp(-E(v, h)).
      log_hidden_marginal: maps ONE h [H] to log ∫ exp(-E(v, h)) dv.
      num_latents: H, from 1 to 24.
      block_size: as in `exact_log_partition`.

    Returns:
      log p(v) in nats, [batch].

    Raises:
      ValueError: as `exact_log_partition`, and if v is an empty batch.
      TypeError: if v is not floating.

    Example:
      >>> import functools, jax, jax.numpy as jnp, jbism
      >>> rbm = jbism.energies.GaussianRBM(num_hidden=4)
      >>> theta = rbm.init(jax.random.key(0), jnp.zeros(2), jnp.zeros(4))
      >>> method = lambda name: functools.partial(rbm.apply, theta, method=name)
      >>> exact_log_likelihood(jnp.zeros((3, 2)), free_energy=method("free_energy"),
      ...                      log_hidden_marginal=method("log_hidden_marginal"),
      ...                      num_latents=4).shape
      (3,)
    """
    v = _checks.batched("v", v)
    log_z = exact_log_partition(log_hidden_marginal, num_latents, block_size=block_size)
    free_energies = jax.vmap(lambda v: _checks.scalar("free_energy(v)", free_energy(v)))(v)
    return -free_energies - log_z


def _check_num_latents(num_latents):
    num_latents = _checks.integer("num_latents", num_latents, minimum=1)
    if num_latents > _MAX_LATENTS:
        raise ValueError(
            f"num_latents must be <= {_MAX_LATENTS} to enumerate 2^H latents, got {num_latents}: "
            "estimate by annealed importance sampling"
        )
    return num_latents
