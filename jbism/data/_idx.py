"""MNIST's own files: idx arrays, gzipped or not."""

import gzip
import math
import pathlib
import zlib

import numpy as np

from jbism.data._raw import RawImages

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def read_idx_folder(folder: pathlib.Path) -> RawImages | None:
    """Returns the images of the four idx files in ``folder``, None if there is none of them.

    Raises:
      FileNotFoundError: some but not all are there.
      ValueError: a file is damaged, or images and labels differ in number.
    """
    found = {name: _find(folder, name) for name in IDX_FILES}
    if not any(found.values()):
        return None
    missing = [str(folder / f"{name}.gz") for name, path in found.items() if path is None]
    if missing:
        raise FileNotFoundError(f"{folder} lacks the idx file(s) {', '.join(missing)}")
    train, train_labels = _read_split(*(found[name] for name in IDX_FILES[:2]))
    test, test_labels = _read_split(*(found[name] for name in IDX_FILES[2:]))
    return RawImages(str(folder), train, train_labels, test, test_labels)


def _read_split(images_path, labels_path):
    images, labels = _read_idx(images_path, 3), _read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise ValueError(
            f"{images_path} and {labels_path} must hold as many images as labels, "
            f"got {len(images)} and {len(labels)}"
        )
    return images[..., None], labels


def _find(folder, name):
    paths = [folder / name, folder / f"{name}.gz"]
    return next((path for path in paths if path.is_file()), None)


def _read_idx(path, ndim):
    """Returns the uint8 array of a file: 0 0 8 ndim, the big-endian sizes, the values."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is no readable gzip file: {error}") from error
    start = 4 + 4 * ndim
    if data[:4] != bytes([0, 0, 8, ndim]):
        raise ValueError(
            f"{path} must begin with the idx magic number {2048 + ndim} of uint8 arrays of "
            f"rank {ndim}, got {int.from_bytes(data[:4], 'big')}"
        )
    if len(data) < start:
        raise ValueError(f"{path} must hold a header of {start} bytes, got {len(data)}")
    shape = tuple(np.frombuffer(data[4:start], ">u4").tolist())
    if len(data) - start != math.prod(shape):
        raise ValueError(
            f"{path} must hold {math.prod(shape)} values for its shape {shape}, "
            f"got {len(data) - start}"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
