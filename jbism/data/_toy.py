"""A toy distribution as a data set."""

import jax
import numpy as np

from jbism import _checks
from jbism.data._checkerboard import checkerboard, checkerboard_log_density
from jbism.data._dataset import Dataset
from jbism.data._toys import (
    eight_gaussians,
    pinwheel,
    rings,
    swiss_roll,
    two_moons,
    two_spirals,
)
from jbism.typing import Key

TOYS = {
    generator.__name__: generator
    for generator in (
        checkerboard,
        two_moons,
        pinwheel,
        rings,
        eight_gaussians,
        two_spirals,
        swiss_roll,
    )
}


def toy(
    name: str,
    key: Key,
    *,
    num_train: int = 50_000,
    num_validation: int = 10_000,
    num_test: int = 10_000,
) -> Dataset:
    """Draws a toy distribution's three splits, independent of one another.

    Args:
      name: the generator's name, such as ``"checkerboard"``.
      key: random key.
      num_train: number of training points.
      num_validation: number of validation points.
      num_test: number of test points.

    Returns:
      The data set, with its ``log_density`` for the checkerboard.

    Raises:
      ValueError: ``name`` is no toy, or a number is below 1.

    Example:
      >>> import jax
      >>> import jbism.data
      >>> jbism.data.toy("rings", jax.random.key(0), num_train=100).train.shape
      (100, 2)
    """
    generator = jax.jit(TOYS[_checks.one_of("name", name, tuple(TOYS))], static_argnums=1)
    numbers = {"num_train": num_train, "num_validation": num_validation, "num_test": num_test}
    for argument, number in numbers.items():
        _checks.integer(argument, number, minimum=1)
    key_train, key_validation, key_test = jax.random.split(key, 3)
    return Dataset(
        name,
        train=np.asarray(generator(key_train, num_train)),
        validation=np.asarray(generator(key_validation, num_validation)),
        test=np.asarray(generator(key_test, num_test)),
        log_density=checkerboard_log_density if name == "checkerboard" else None,
    )
