"""One entrance to every data set."""

import os
from typing import Any

from jbism import _checks
from jbism.data._celeba import celeba
from jbism.data._dataset import Dataset
from jbism.data._digits import digits
from jbism.data._freyface import freyface
from jbism.data._image_sets import cifar10, fashion_mnist, mnist
from jbism.data._toy import TOYS, toy
from jbism.typing import Key

_IMAGE_SETS = {loader.__name__: loader for loader in (mnist, fashion_mnist, cifar10, celeba)}


def load(
    name: str,
    *,
    key: Key | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Dataset:
    """Returns the data set called ``name``.

    Args:
      name: a toy (``"checkerboard"``, ``"two_moons"``, ``"pinwheel"``, ``"rings"``,
        ``"eight_gaussians"``, ``"two_spirals"``, ``"swiss_roll"``), ``"digits"``,
        ``"freyface"``, ``"mnist"``, ``"fashion_mnist"``, ``"cifar10"`` or ``"celeba"``.
      key: random key, from which toys are drawn and digits split; all others have a fixed order,
        and need none.
      data_dir: the folder of local files, for the data sets that are not made here; Frey face
        needs it, the images of tensorflow-datasets are found without it.
      **options: keyword arguments of the data set's own function.

    Returns:
      The data set.

    Raises:
      TypeError: an option that the data set's function does not have, or no key where one is
        needed.
      ValueError: ``name`` is unknown, or ``data_dir`` is missing for Frey face.

    Example:
      >>> import jax
      >>> import jbism.data
      >>> jbism.data.load("checkerboard", key=jax.random.key(0), num_test=7).test.shape
      (7, 2)
    """
    _checks.one_of("name", name, (*TOYS, "digits", "freyface", *_IMAGE_SETS))
    if name in _IMAGE_SETS:
        return _IMAGE_SETS[name](data_dir, **options)
    if name == "freyface":
        if data_dir is None:
            raise ValueError("data_dir must name the folder that holds Frey face, got None")
        return freyface(data_dir, **options)
    if key is None:
        raise TypeError(f"key must be a random key for {name}, got None")
    if name == "digits":
        return digits(key, **options)
    return toy(name, key, **options)
