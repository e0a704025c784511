"""The generator of `jax.random`'s default keys, quicker on a CPU: the same numbers, in less time.

On a CPU JAX writes threefry's twenty rounds as a loop of five turns, and XLA compiles a turn to
sixteen kernels, thirteen of which copy the lists that the loop carries. Here a draw is one kernel.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import random as jax_generators

from jbism.typing import Key

# Of Threefry-2x32 with 20 rounds (Salmon et al., 2011).
_ROTATIONS = np.array([(13, 15, 26, 6), (17, 29, 16, 24)], np.uint32)
_PARITY = np.uint32(0x1BD11BDA)
_WORD = np.uint32(32)
_UINTS = {8: np.uint8, 16: np.uint16, 32: np.uint32}


def quick_key(key: Key) -> Key:
    """Returns the key for the same random numbers, drawn faster on a CPU.

    Returned as they are: keys of other generators or of JAX's former streams
    (``jax_threefry_partitionable`` off), and all keys where JAX looks for keys that are used twice
    (``jax_debug_key_reuse``), for it would lose track of them here.

    Args:
      key: any shape of typed keys, or of raw ones.

    Returns:
      Typed keys; those split from them are of the same kind.

    Example:
      >>> import jax
      >>> key = jax.random.key(0)
      >>> bool(jax.random.normal(key) == jax.random.normal(quick_key(key)))
      True
    """
    config: Any = jax.config
    if not config.jax_threefry_partitionable or config.jax_debug_key_reuse:
        return key
    if jax.random.key_impl(key) != "threefry2x32":
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_QUICK)


def _rounds(key_0, key_1, x_0, x_1):
    """The hash of the words x under the key."""
    keys = key_0, key_1, key_0 ^ key_1 ^ _PARITY
    x_0, x_1 = x_0 + key_0, x_1 + key_1
    for i in range(5):
        for left in _ROTATIONS[i % 2]:
            x_0 = x_0 + x_1
            x_1 = x_0 ^ ((x_1 << left) | (x_1 >> (_WORD - left)))
        x_0, x_1 = x_0 + keys[(i + 1) % 3], x_1 + keys[(i + 2) % 3] + np.uint32(i + 1)
    return x_0, x_1


def _jax_rounds(key_0, key_1, x_0, x_1):
    y_0, y_1 = jax_generators.threefry2x32_p.bind(key_0, key_1, x_0, x_1)
    # JAX's hash forgets over which devices of `jax.shard_map` its words vary; `_rounds` do not.
    zero = (key_0 ^ key_0) ^ (x_0 ^ x_0)
    return y_0 ^ zero, y_1 ^ zero


def _hash(combine, words, *operands):
    """The two words of the hash of words(*operands), key and counts, combined to one array."""

    def hashed(*operands):
        return combine(*_rounds(*words(*operands)))

    def unhashed(*operands):
        key_0, key_1, x_0, x_1 = words(*operands)
        return combine(key_0 ^ x_0, key_1 ^ x_1)

    # A branch that the compiler cannot tell to be taken is one it fuses nothing into: left in the
    # open, the rounds would be repeated by each use of what is drawn.
    def on_cpu(*operands):
        always = jax.lax.optimization_barrier(np.bool_(True))
        return jax.lax.cond(always, hashed, unhashed, *operands)

    def elsewhere(*operands):
        return combine(*_jax_rounds(*words(*operands)))

    return jax.lax.platform_dependent(*operands, cpu=on_cpu, default=elsewhere)


def _hash_of_counts(combine, key, shape):
    def words(key):
        counts = jax.lax.iota(np.uint32, math.prod(shape)).reshape(shape)
        return key[0], key[1], jnp.zeros_like(counts), counts

    return _hash(combine, words, key)


def _as_key(high, low):
    # Written as a choice, for both words of a key to come out of one kernel.
    first = jax.lax.broadcasted_iota(np.uint32, (*high.shape, 2), high.ndim) == 0
    return jnp.where(first, high[..., None], low[..., None])


def _as_word(high, low):
    return high ^ low


def _as_long_word(high, low):
    return (high.astype(np.uint64) << np.uint64(32)) | low.astype(np.uint64)


@partial(jax.jit, static_argnums=1)
def _split(key, shape):
    return _hash_of_counts(_as_key, key, shape)


@jax.jit
def _fold_in(key, data):
    def words(key, data):
        return key[0], key[1], jnp.zeros_like(data), data

    return _hash(_as_key, words, key, jnp.asarray(data, np.uint32))


@partial(jax.jit, static_argnums=(1, 2))
def _random_bits(key, bit_width, shape):
    # Counts of two words, or a number that is not known yet.
    if not all(isinstance(size, int) for size in shape) or math.prod(shape) >= 2**32:
        return jax_generators.threefry_prng_impl.random_bits(key, bit_width, shape)
    if bit_width == 64:
        return _hash_of_counts(_as_long_word, key, shape)
    return _hash_of_counts(_as_word, key, shape).astype(_UINTS[bit_width])


_QUICK = jax_generators.define_prng_impl(
    key_shape=(2,),
    seed=jax_generators.threefry_prng_impl.seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="threefry2x32_quick",
    tag="fry_quick",
)
