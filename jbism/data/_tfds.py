"""Data sets that tensorflow-datasets has prepared, read without TensorFlow."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from jbism.data._image_file import read_image, require_pillow
from jbism.data._lazy import LazyImages
from jbism.data._raw import RawImages


def import_tfds(name: str) -> Any:
    """Returns the module tensorflow_datasets, or raises an ImportError that names the extra."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"{name} needs tensorflow-datasets (and importlib_resources): "
            "pip install 'jbism[experiments]'"
        ) from error
    return tfds


def open_tfds(
    name: str, splits: Sequence[str], data_dir: str | os.PathLike[str] | None
) -> tuple[str, list[Any] | None]:
    """Returns where tfds keeps a data set, and its splits, None if it has not prepared them there.

    A split is a random-access sequence of dicts whose ``"image"`` is the bytes of a PNG or JPEG.
    Nothing is downloaded.

    Raises:
      ImportError: tensorflow-datasets or Pillow is not installed.
      ValueError: the data set was prepared in a format without random access.
    """
    tfds = import_tfds(name)
    require_pillow(name)
    builder = tfds.builder(name, data_dir=data_dir)
    place = os.fspath(builder.data_path)
    if not builder.info.splits:
        return place, None
    try:
        sources = builder.as_data_source(
            list(splits), decoders={"image": tfds.decode.SkipDecoding()}
        )
    except NotImplementedError as error:
        raise ValueError(
            f"{place} must be prepared in a format with random access, such as "
            f"file_format='array_record', but is in {builder.info.file_format.value}"
        ) from error
    return place, sources


def read_tfds(
    name: str, shape: tuple[int, int, int], data_dir: str | os.PathLike[str] | None
) -> tuple[str, RawImages | None]:
    """Returns where tfds keeps a labelled data set, and its images, None if it does not."""
    place, sources = open_tfds(name, ("train", "test"), data_dir)
    if sources is None:
        return place, None
    arrays = []
    for split, source in zip(("train", "test"), sources, strict=True):
        examples = source.__getitems__(range(len(source)))
        images = LazyImages(_decoder(f"{place} {split}", examples, shape), len(examples), shape)
        labels = np.array([example["label"] for example in examples], np.int32)
        arrays += [np.asarray(images), labels]
    train, train_labels, test, test_labels = arrays
    return place, RawImages(place, train, train_labels, test, test_labels)


def _decoder(label, examples, shape):
    def decode(i):
        return read_image(examples[i]["image"], f"{label}[{i}]", shape)

    return decode
