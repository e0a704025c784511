"""The 8×8 handwritten digits that scikit-learn ships."""

import jax
import numpy as np

from jbism import _checks
from jbism.data._dataset import Dataset
from jbism.typing import Key


def digits(key: Key, *, num_validation: int = 197, num_test: int = 200) -> Dataset:
    """Returns scikit-learn's 1,797 handwritten digits in [0, 1], split at random by the key.

    Pixels are counts 0..16, scaled by 1/16. No download: the images lie inside scikit-learn.

    Args:
      key: random key of the split; the same key gives the same split.
      num_validation: number of validation examples.
      num_test: number of test examples; all further ones are for training.

    Returns:
      The data set of examples ``[n, 8, 8, 1]`` with their labels 0..9.

    Raises:
      ImportError: scikit-learn is not installed.
      ValueError: a number is below 1, or no training example would be left.

    Example:
      >>> import jax
      >>> import jbism.data
      >>> jbism.data.digits(jax.random.key(0)).train.shape
      (1400, 8, 8, 1)
    """
    num_validation = _checks.integer("num_validation", num_validation, minimum=1)
    num_test = _checks.integer("num_test", num_test, minimum=1)
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("digits needs scikit-learn: pip install 'jbism[experiments]'") from error
    images, labels = load_digits(return_X_y=True)
    num_train = len(images) - num_validation - num_test
    if num_train < 1:
        raise ValueError(
            f"num_validation + num_test must be below {len(images)}, "
            f"got {num_validation} + {num_test}"
        )
    order = np.asarray(jax.random.permutation(key, len(images)))
    v = (images[order].reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    ends = [num_train, num_train + num_validation]
    train, validation, test = np.split(v, ends)
    train_labels, validation_labels, test_labels = np.split(labels[order], ends)
    return Dataset(
        "digits",
        train=train,
        validation=validation,
        test=test,
        image_shape=(8, 8, 1),
        train_labels=train_labels,
        validation_labels=validation_labels,
        test_labels=test_labels,
    )
