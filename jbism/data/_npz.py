"""Images in a NumPy archive."""

import pathlib

import numpy as np

from jbism.data._raw import RawImages, by_class

_SPLIT = ("x_train", "y_train", "x_test", "y_test")


def read_npz(folder: pathlib.Path) -> RawImages | None:
    """Returns the images of the only ``*.npz`` of ``folder``, None if there is none.

    Either it holds ``x_train`` and ``x_test``, with ``y_train`` and ``y_test`` where there are
    labels. Or it holds one uint8 array of images ``[n, height, width]`` or ``[n, height, width,
    channels]`` and at most one integer array ``[n]`` or ``[n, 1]``, the labels, whatever their
    names (commonly ``x`` and ``y``); then there is no test split apart, and the order is that of
    `by_class`.

    Raises:
      ValueError: there are several archives, or it cannot be read, or does not hold just that.
    """
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        return None
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise ValueError(f"{folder} must hold one *.npz, got {names}")
    (path,) = paths
    arrays = _load(path)
    if "x_train" in arrays and "x_test" in arrays:
        _check_all_used(path, arrays, _SPLIT, f"none of {', '.join(_SPLIT)}")
        train, train_labels = _named(path, arrays, "train")
        test, test_labels = _named(path, arrays, "test")
        if (train_labels is None) != (test_labels is None):
            raise ValueError(f"{path} must hold both of y_train and y_test or neither")
        return RawImages(str(path), train, train_labels, test, test_labels)
    x = _only(path, arrays, "uint8 array of images", 1, _is_images)
    y = _only(path, arrays, "integer array of labels", 0, _is_labels)
    _check_all_used(path, arrays, (x, y), "neither uint8 images nor integer labels (n,) or (n, 1)")
    images = _images(path, x, arrays[x])
    if y is None:
        return RawImages(str(path), images, None, None, None)
    labels = _labels(path, y, arrays[y], len(images))
    order = by_class(labels)
    return RawImages(str(path), images[order], labels[order], None, None)


def _named(path, arrays, split):
    images = _images(path, f"x_{split}", arrays[f"x_{split}"])
    labels = arrays.get(f"y_{split}")
    if labels is not None:
        labels = _labels(path, f"y_{split}", labels, len(images))
    return images, labels


def _load(path):
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except Exception as error:  # a damaged archive raises nearly anything
        raise ValueError(f"{path} is no readable NumPy archive: {error}") from error


def _is_images(x):
    return x.dtype == np.uint8 and x.ndim in (3, 4)


def _is_labels(x):
    return np.issubdtype(x.dtype, np.integer) and (x.ndim == 1 or x.shape[1:] == (1,))


def _check_all_used(path, arrays, used, what):
    for key, x in arrays.items():
        if key not in used:
            raise ValueError(f"{path}: {key} is {what}, got {x.dtype} {x.shape}")


def _only(path, arrays, what, at_least, accepts):
    keys = [key for key, x in arrays.items() if accepts(x)]
    if not at_least <= len(keys) <= 1:
        held = ", ".join(f"{key} {x.dtype} {x.shape}" for key, x in arrays.items())
        raise ValueError(f"{path} must hold one {what}, but holds {held or 'nothing'}")
    return keys[0] if keys else None


def _images(path, key, x):
    if not _is_images(x):
        raise ValueError(
            f"{path}: {key} must be uint8 images of rank 3 or 4, got {x.dtype} {x.shape}"
        )
    return x[..., None] if x.ndim == 3 else x


def _labels(path, key, y, number):
    if not _is_labels(y) or len(y) != number:
        raise ValueError(
            f"{path}: {key} must be integer labels of shape ({number},) or ({number}, 1), "
            f"got {y.dtype} {y.shape}"
        )
    return y.reshape(number)
