"""What the library takes of `jax.random`: the same numbers, drawn by `jbism._threefry` on a CPU.

Keys go in and come out as they are in `jax.random`, so that callables are given keys of the kind
that the user has.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import jax

from jbism._threefry import quick_key
from jbism.typing import ArrayLike, Key

_Draw = TypeVar("_Draw", bound=Callable[..., Any])


def split(key: Key, num: int = 2) -> Key:
    """`jax.random.split`."""
    return _of_kind(key, jax.random.split(quick_key(key), num))


def fold_in(key: Key, data: ArrayLike) -> Key:
    """`jax.random.fold_in`."""
    return _of_kind(key, jax.random.fold_in(quick_key(key), data))


def _of_kind(key, quick):
    if not jax.dtypes.issubdtype(quick.dtype, jax.dtypes.prng_key):
        return quick  # raw, and left alone
    data = jax.random.key_data(quick)
    if not jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        return data
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))


def _quick(function: _Draw) -> _Draw:
    @wraps(function)
    def draw(key, *args, **kwargs):
        return function(quick_key(key), *args, **kwargs)

    return cast(_Draw, draw)


bernoulli = _quick(jax.random.bernoulli)
logistic = _quick(jax.random.logistic)
normal = _quick(jax.random.normal)
permutation = _quick(jax.random.permutation)
rademacher = _quick(jax.random.rademacher)
randint = _quick(jax.random.randint)
uniform = _quick(jax.random.uniform)
