"""Annealed importance sampling of Gaussian RBMs, forwards from the base and backwards to it."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from jbism import _checks, _layout, _random
from jbism.likelihood._ais import AISResult, summarize_weights
from jbism.likelihood._ais_pieces import AISPieces, begin, walk
from jbism.typing import Array, Key


def ais_gaussian_rbm(
    key: Key,
    *,
    weights: Array,
    visible_bias: Array,
    hidden_bias: Array,
    log_sigma: Array,
    num_chains: int = 500,
    num_temperatures: int = 1_000,
    chunk_size: int | None = None,
    sharding: NamedSharding | None = None,
) -> AISResult:
    """Estimates log Z of a Gaussian RBM from the base without interactions.

    The base has W = 0 and c = 0, so log Z₀ = Σ log σ + (D/2) log 2π + H log 2. The path scales W
    and c by β from 0 to 1 in equal steps; transitions are v → h → v at β; the weights accumulate
    free-energy differences (Salakhutdinov and Murray, 2008).

    E[Ẑ] = Z, so that log Ẑ is low on average (and log-likelihoods high); `reverse_ais_gaussian_rbm`
    errs to the other side.

    Args:
      key: randomness of the chains.
      weights: W, [D, H].
      visible_bias: b, [D].
      hidden_bias: c, [H].
      log_sigma: log σ, [D].
      num_chains: independent chains, at least 2.
      num_temperatures: values of β, 0 and 1 among them, at least 2.
      chunk_size: chains at a time, a divisor of num_chains, to bound memory; all together by
        default. Another size draws other numbers.
      sharding: how the chains, one axis, are laid out over devices, such as
        ``NamedSharding(mesh, PartitionSpec("chains"))``; on one device by default. The chains, and
        those of a chunk, must be a multiple of its parts.

    Returns:
      An `AISResult`, its interval by the delta method.

    Raises:
      ValueError: if shapes do not fit or a number is out of range.
      TypeError: if a parameter is not floating.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> result = ais_gaussian_rbm(
      ...     jax.random.key(0), weights=0.1 * jnp.ones((3, 2)), visible_bias=jnp.zeros(3),
      ...     hidden_bias=jnp.zeros(2), log_sigma=jnp.zeros(3), num_chains=100,
      ...     num_temperatures=20)
      >>> round(float(result.log_partition), 1)
      4.2
    """
    return ais_gaussian_rbm_pieces(
        weights=weights,
        visible_bias=visible_bias,
        hidden_bias=hidden_bias,
        log_sigma=log_sigma,
        num_chains=num_chains,
        num_temperatures=num_temperatures,
        chunk_size=chunk_size,
        sharding=sharding,
    ).run(key)


def ais_gaussian_rbm_pieces(
    *,
    weights: Array,
    visible_bias: Array,
    hidden_bias: Array,
    log_sigma: Array,
    num_chains: int = 500,
    num_temperatures: int = 1_000,
    chunk_size: int | None = None,
    sharding: NamedSharding | None = None,
) -> AISPieces:
    """`ais_gaussian_rbm` in pieces, to be interrupted; arguments, errors and result are its own.

    Returns:
      An `AISPieces`, which has an example.
    """
    rbm = _check_parameters(weights, visible_bias, hidden_bias, log_sigma)
    num_chains = _checks.integer("num_chains", num_chains, minimum=2)
    _layout.check(sharding, "num_chains", num_chains)
    betas = _betas(num_temperatures)
    weights, visible_bias, _, log_sigma = rbm

    def init(key):
        key_base, key_chains = _random.split(key)
        noise = _random.normal(key_base, (num_chains, weights.shape[0]), weights.dtype)
        v = visible_bias[None] + jnp.exp(log_sigma)[None] * _layout.place(noise, sharding)
        return begin(key_chains, v, v.dtype)

    def summarize(state):
        return summarize_weights(state.log_weights, _log_base_partition(weights, log_sigma))

    walk_chains = _walk(rbm, betas, num_chains, chunk_size, sharding)
    return AISPieces(betas.size - 1, init, walk_chains, summarize)


def reverse_ais_gaussian_rbm(
    key: Key,
    v: Array,
    *,
    weights: Array,
    visible_bias: Array,
    hidden_bias: Array,
    log_sigma: Array,
    num_temperatures: int = 1_000,
    chunk_size: int | None = None,
) -> AISResult:
    """Estimates log Z of a Gaussian RBM from its own samples, annealed to the base.

    The path of `ais_gaussian_rbm`, walked back: E[1/Ẑ] = 1/Z, so that log Ẑ is high on average and
    with the forward estimate brackets log Z (Burda et al., 2015). That rests on v being samples of
    the model: chains that have not converged void it.

    Args:
      key: randomness of the chains.
      v: independent samples of the model, [chains, D], such as the ends of long Gibbs chains.
      weights: W, [D, H].
      visible_bias: b, [D].
      hidden_bias: c, [H].
      log_sigma: log σ, [D].
      num_temperatures: values of β, 1 and 0 among them, at least 2.
      chunk_size: as in `ais_gaussian_rbm`, a divisor of the number of chains.

    Returns:
      An `AISResult`; its log_weights estimate Z₀ / Z.

    Raises:
      ValueError: if shapes do not fit or a number is out of range.
      TypeError: if a parameter or v is not floating.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> v = jax.random.normal(jax.random.key(0), (100, 3))
      >>> result = reverse_ais_gaussian_rbm(
      ...     jax.random.key(1), v, weights=jnp.zeros((3, 2)), visible_bias=jnp.zeros(3),
      ...     hidden_bias=jnp.zeros(2), log_sigma=jnp.zeros(3), num_temperatures=5)
      >>> round(float(result.log_partition), 3)  # (3/2) log 2π + 2 log 2
      4.143
    """
    return reverse_ais_gaussian_rbm_pieces(
        v,
        weights=weights,
        visible_bias=visible_bias,
        hidden_bias=hidden_bias,
        log_sigma=log_sigma,
        num_temperatures=num_temperatures,
        chunk_size=chunk_size,
    ).run(key)


def reverse_ais_gaussian_rbm_pieces(
    v: Array,
    *,
    weights: Array,
    visible_bias: Array,
    hidden_bias: Array,
    log_sigma: Array,
    num_temperatures: int = 1_000,
    chunk_size: int | None = None,
) -> AISPieces:
    """`reverse_ais_gaussian_rbm` in pieces; arguments, errors and result are its own.

    Returns:
      An `AISPieces`, which has an example.
    """
    rbm = _check_parameters(weights, visible_bias, hidden_bias, log_sigma)
    weights, _, _, log_sigma = rbm
    v = _checks.shape("v", _checks.batched("v", v), (None, weights.shape[0]))
    v = v.astype(weights.dtype)
    betas = _betas(num_temperatures)[::-1]

    def summarize(state):
        ratio = summarize_weights(state.log_weights, jnp.zeros((), v.dtype))
        log_base = _log_base_partition(weights, log_sigma)
        return ratio._replace(
            log_partition=log_base - ratio.log_partition, interval=log_base - ratio.interval[::-1]
        )

    walk_chains = _walk(rbm, betas, len(v), chunk_size)
    return AISPieces(betas.size - 1, lambda key: begin(key, v, v.dtype), walk_chains, summarize)


def _walk(rbm, betas, num_chains, chunk_size, sharding=None):
    """Returns ``(state, num_steps) -> state``, by chunks of chains if there are to be any."""
    weights, visible_bias, hidden_bias, log_sigma = rbm
    sigma, betas = jnp.exp(log_sigma), betas.astype(weights.dtype)

    # β multiplies the product and not W, so one vᵀW serves both densities and the transition.
    def field(v):
        return hidden_bias + v @ weights

    def log_density(v, beta):
        # The quadratic term is the same at every β: without it there is less to round.
        return jnp.sum(jax.nn.softplus(beta * field(v)))

    def transition(key, v, beta):
        key_h, key_v = _random.split(key)
        h = _random.bernoulli(key_h, jax.nn.sigmoid(beta * field(v))).astype(v.dtype)
        noise = _random.normal(key_v, v.shape, v.dtype)
        return visible_bias + beta * sigma**2 * (weights @ h) + sigma * noise

    path = {"log_density": log_density, "transition": transition, "path": betas}
    if chunk_size is None:
        return lambda state, num_steps: walk(state, num_steps, **path)
    if num_chains % _checks.integer("chunk_size", chunk_size, minimum=1):
        raise ValueError(
            f"chunk_size must divide the number of chains, {num_chains}, got {chunk_size}"
        )
    _layout.check(sharding, "chunk_size", chunk_size)

    def walk_chunks(state, num_steps):
        def chunks(x):
            return _layout.place(x.reshape(-1, chunk_size, *x.shape[1:]), sharding, axis=1)

        def one(chunk):
            key, v, log_weights = chunk
            part = state._replace(key=key, chains=v, log_weights=log_weights)
            part = walk(part, num_steps, **path)
            return part.step, part.chains, part.log_weights

        v, log_weights = chunks(state.chains), chunks(state.log_weights)
        keys = jax.vmap(partial(_random.fold_in, state.key))(jnp.arange(len(v)))
        steps, v, log_weights = jax.lax.map(one, (keys, v, log_weights))
        v, log_weights = (
            _layout.place(x.reshape(num_chains, *x.shape[2:]), sharding) for x in (v, log_weights)
        )
        return state._replace(step=steps[0], chains=v, log_weights=log_weights)

    return walk_chunks


def _log_base_partition(weights, log_sigma):
    dim_v, num_hidden = weights.shape
    constant = 0.5 * dim_v * math.log(2.0 * math.pi) + num_hidden * math.log(2.0)
    return jnp.sum(log_sigma) + constant


def _betas(num_temperatures):
    return jnp.linspace(0.0, 1.0, _checks.integer("num_temperatures", num_temperatures, minimum=2))


def _check_parameters(weights, visible_bias, hidden_bias, log_sigma):
    weights = _checks.rank("weights", _checks.floating("weights", weights), 2)
    dim_v, num_hidden = weights.shape
    vectors = {
        "visible_bias": (visible_bias, dim_v),
        "hidden_bias": (hidden_bias, num_hidden),
        "log_sigma": (log_sigma, dim_v),
    }
    checked = [
        _checks.shape(name, _checks.floating(name, x), (size,))
        for name, (x, size) in vectors.items()
    ]
    # Weights of chains are sums over temperatures: in shorter floats they would be all alike.
    dtype = jnp.promote_types(jnp.result_type(weights, *checked), jnp.float32)
    return tuple(x.astype(dtype) for x in (weights, *checked))
