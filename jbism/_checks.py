"""Argument checks: each raises an error that names the argument, what was expected, what came."""

import math
import numbers
import operator
from typing import Any

import jax
import jax.numpy as jnp


def positive(name: str, value: Any) -> float:
    """Returns ``value`` as a float if it is a finite number above zero.

    So that numbers can be mapped over, a traced scalar passes, unchanged: it has no value to check.
    """
    return _bounded(name, value, lambda x: x > 0, "a number > 0")


def non_negative(name: str, value: Any) -> float:
    """Returns ``value`` as a float if it is a finite number not below zero; see `positive`."""
    return _bounded(name, value, lambda x: x >= 0, "a number >= 0")


def fraction(name: str, value: Any) -> float:
    """Returns ``value`` as a float if it is a number in [0, 1); see `positive`."""
    return _bounded(name, value, lambda x: 0 <= x < 1, "a number in [0, 1)")


def _bounded(name, value, accepts, expected):
    if isinstance(value, jax.core.Tracer):
        return scalar(name, value)
    if isinstance(value, jax.Array) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {expected}, got {value!r} of type {type(value).__name__}")
    if not (math.isfinite(value) and accepts(value)):
        raise ValueError(f"{name} must be {expected}, got {value!r}")
    return float(value)


def integer(name: str, value: Any, *, minimum: int) -> int:
    """Returns ``value`` as an int if it is an integer of at least ``minimum``."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if number < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}, got {number}")
    return number


def count(name: str, value: Any) -> Any:
    """Returns ``value`` if it is an integer not below zero; a traced scalar passes, unchecked."""
    if not isinstance(value, jax.Array):
        return integer(name, value, minimum=0)
    if not jnp.issubdtype(value.dtype, jnp.integer):
        raise TypeError(f"{name} must be an integer, got dtype {value.dtype}")
    return scalar(name, value)


def one_of(name: str, value: Any, choices: tuple) -> Any:
    """Returns ``value`` if it is one of ``choices``."""
    if value not in choices:
        listed = ", ".join(repr(c) for c in choices)
        raise ValueError(f"{name} must be one of {listed}, got {value!r}")
    return value


def floating(name: str, x: Any) -> jax.Array:
    """Returns ``x`` as an array if its dtype is floating."""
    if callable(x):
        raise TypeError(f"{name} must be an array, got {x!r}")
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name} must have a floating dtype, got {x.dtype}")
    return x


def rank(name: str, x: Any, expected: int) -> jax.Array:
    """Returns ``x`` as an array if it has ``expected`` dimensions."""
    x = jnp.asarray(x)
    if x.ndim != expected:
        raise ValueError(f"{name} must have rank {expected}, got shape {x.shape}")
    return x


def image(name: str, x: Any, *, halvings: int) -> jax.Array:
    """Returns ``x`` as an array if it is one floating image whose sides can be halved so often."""
    x = floating(name, x)
    if x.ndim != 3:
        raise ValueError(
            f"{name} must be one image [height, width, channels] an example, got shape {x.shape}"
        )
    if x.shape[0] % 2**halvings or x.shape[1] % 2**halvings:
        raise ValueError(
            f"{name} must have a height and a width that {2**halvings} divides, got shape {x.shape}"
        )
    return x


def shape(name: str, x: Any, expected: tuple) -> jax.Array:
    """Returns ``x`` as an array if it has shape ``expected``, where None matches any size."""
    x = jnp.asarray(x)
    matches = len(x.shape) == len(expected) and all(
        e is None or e == s for e, s in zip(expected, x.shape, strict=True)
    )
    if not matches:
        wanted = "(" + ", ".join("*" if e is None else str(e) for e in expected) + ")"
        raise ValueError(f"{name} must have shape {wanted}, got {x.shape}")
    return x


def same_shape(name: str, x: jax.Array, other_name: str, other: jax.Array) -> None:
    """Raises unless ``x`` and ``other`` have the same shape."""
    if jnp.shape(x) != jnp.shape(other):
        raise ValueError(
            f"{name} must have the shape of {other_name}, {jnp.shape(other)}, got {jnp.shape(x)}"
        )


def batched(name: str, x: Any) -> jax.Array:
    """Returns ``x`` as a floating array with a non-empty leading batch axis."""
    x = floating(name, x)
    if x.ndim < 1 or x.shape[0] == 0:
        raise ValueError(f"{name} must have a non-empty leading batch axis, got shape {x.shape}")
    return x


def examples(name: str, x: Any) -> jax.Array:
    """Returns ``x`` as a floating array [batch, *event] with at least one event axis."""
    x = batched(name, x)
    if x.ndim < 2:
        raise ValueError(f"{name} must have shape [batch, *event], got {x.shape}")
    return x


def option(name: str, value: Any, example: str) -> None:
    """Raises unless ``value`` is a callable that is no class, such as ``example``."""
    if isinstance(value, type) or not callable(value):
        raise TypeError(f"{name} must be an instance such as {example}, got {value!r}")


def function(name: str, value: Any) -> None:
    """Raises unless ``value`` is a function; a Flax module has one, its ``apply``."""
    if hasattr(value, "apply"):
        raise TypeError(
            f"{name} must be a function, got the module {type(value).__name__}; pass its apply"
        )
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {type(value).__name__}")


def scalar(name: str, x: Any) -> jax.Array:
    """Returns ``x`` as an array if it is a scalar."""
    x = jnp.asarray(x)
    if x.shape != ():
        raise ValueError(f"{name} must be a scalar, got shape {x.shape}")
    return x


def instance(name: str, value: Any, kind: type | tuple[type, ...]) -> Any:
    """Returns ``value`` if it is an instance of ``kind``."""
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(k.__name__ for k in kinds)
        raise TypeError(f"{name} must be {wanted}, got {type(value).__name__}")
    return value


def scalar_energy(energy: Any, theta: Any, v: Any, h: Any) -> jax.Array:
    """Returns E(v, h; θ) if it is a scalar."""
    return scalar("energy(theta, v, h)", energy(theta, v, h))


def reparameterized(distribution: Any, use: str) -> None:
    """Raises if samples of ``distribution`` carry no derivatives to its parameters."""
    if not getattr(distribution, "reparameterized", True):
        raise ValueError(
            f"posterior must return a reparameterised distribution for {use}, got "
            f"{type(distribution).__name__}; use a relaxed one (temperature > 0)"
        )
