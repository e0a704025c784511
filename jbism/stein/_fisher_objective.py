"""The objective of a critic of the Fisher divergence, and what is asked of score and critic."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jbism import _random
from jbism.typing import Array, Key, Params


class Critic(Protocol):
    """f(v) of one v; `flax.linen.Module.apply` is one."""

    def __call__(self, critic_params: Params, v: Array, /) -> Any:
        """Returns f(v), of the shape of v."""
        ...


class Score(Protocol):
    """The score of the model at a batch of v, exact or estimated with fresh noise from the key."""

    def __call__(self, key: Key, v: Array, /) -> Array:
        """Returns the scores, of the shape [batch, *event] of v."""
        ...


def objective_values(
    params: Params,
    key: Key,
    v: Array,
    *,
    score: Score,
    critic: Critic,
    num_projections: int | None,
) -> Array:
    """Returns f(v)ᵀs(v) + tr ∇f(v) - ½‖f(v)‖² of each v in a batch, [batch].

    The trace is a mean over Rademacher projections, or exact where their number is None.
    """
    key_score, key_projections = _random.split(key)
    s = jax.lax.stop_gradient(score(key_score, v))
    event = v.shape[1:]
    if num_projections is None:
        basis = jnp.eye(math.prod(event), dtype=v.dtype)
        directions, axis = basis.reshape(-1, *event), None
    else:
        shape = (v.shape[0], num_projections, *event)
        signs = _random.rademacher(key_projections, shape, v.dtype)
        directions, axis = signs / math.sqrt(num_projections), 0

    def value(v, s, directions):
        f, products = jax.vmap(
            lambda u: jax.jvp(partial(critic, params), (v,), (u,)), out_axes=(None, 0)
        )(directions)
        trace = jnp.sum(directions * products)
        return (jnp.vdot(f, s) + trace - 0.5 * jnp.vdot(f, f)).astype(v.dtype)

    return jax.vmap(value, in_axes=(0, 0, axis))(v, s, directions)


def evaluate_in_blocks(
    objective: Callable[..., Array],
    params: Params,
    key: Key,
    v: Array,
    *,
    block_size: int,
    num_projections: int | None,
) -> Array:
    """Returns the objective at each v, [n]; the last block is filled up with the first points."""
    n = v.shape[0]
    num_blocks = -(-n // block_size)
    index = jnp.arange(num_blocks * block_size).reshape(num_blocks, block_size) % n
    values = jax.lax.map(
        lambda x: objective(params, x[0], v[x[1]], num_projections=num_projections),
        (_random.split(key, num_blocks), index),
    )
    return values.reshape(-1)[:n]


def check_shapes(score: Score, critic: Critic, critic_params: Params, key: Key, v: Array) -> None:
    """Raises unless score and critic return the shapes of the batch v and of one v."""
    scores = jax.eval_shape(score, key, v)
    _check_output("score(key, v)", scores, "v", v)
    f = jax.eval_shape(critic, critic_params, v[0])
    _check_output("critic(critic_params, v)", f, "one v", v[0])


def _check_output(name, output, like_name, like):
    shape = getattr(output, "shape", None)
    if shape != like.shape:
        came = shape if shape is not None else jax.tree.structure(output)
        raise ValueError(f"{name} must have the shape of {like_name}, {like.shape}, got {came}")


def raise_not_finite(score: Score, key: Key, v: Array, block_size: int) -> None:
    """Raises for the argument that made an estimate NaN or infinite."""
    if not jnp.all(jnp.isfinite(v)):
        raise ValueError("v must be finite, but holds NaN or infinity")
    for start in range(0, v.shape[0], block_size):
        if not jnp.all(jnp.isfinite(score(key, v[start : start + block_size]))):
            raise ValueError(
                "score must be finite, but is NaN or infinite at a point of "
                f"v[{start}:{start + block_size}]"
            )
    raise ValueError(
        "critic must stay finite, but its objective became NaN or infinite; lower the learning "
        "rate of optimizer, or change critic_params"
    )
