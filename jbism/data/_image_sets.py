"""MNIST, Fashion-MNIST and CIFAR-10 at the geometry of the papers."""

import dataclasses
import os
import pathlib
from collections.abc import Callable

from jbism.data._cifar_batches import CIFAR_ARCHIVE, CIFAR_FOLDER, read_cifar_batches
from jbism.data._dataset import Dataset
from jbism.data._idx import IDX_FILES, read_idx_folder
from jbism.data._image_folder import read_image_folder
from jbism.data._npz import read_npz
from jbism.data._raw import RawImages, split_images
from jbism.data._sources import check_source, not_found
from jbism.data._tfds import read_tfds


def mnist(
    data_dir: str | os.PathLike[str] | None = None,
    *,
    source: str = "auto",
    num_validation: int = 10_000,
    num_test: int | None = None,
) -> Dataset:
    """Returns MNIST, zero-padded from 28×28 to 32×32 as in Bao et al. (2020, 2021).

    Validation is the end of the training images in their stored order; with the published files
    the splits are of 50,000 / 10,000 / 10,000 examples.

    Args:
      data_dir: the folder that holds the data, directly or in ``mnist`` or ``MNIST/raw``: the four
        idx files, gzipped or not; or images as ``train|test/<class>/*.png`` (or ``.jpg``); or one
        ``*.npz`` with ``x_train``, ``y_train``, ``x_test``, ``y_test``, or with one array of images
        and one of labels; labels are integers ``[n]`` or ``[n, 1]``. Folders of classes, and
        archives without a test split, are put in an order in which the classes alternate. With
        tfds, its own ``data_dir``, by default ``~/tensorflow_datasets``.
      source: ``"files"`` reads those files, ``"tfds"`` what tensorflow-datasets has prepared in a
        format with random access, and ``"auto"`` the files if ``data_dir`` has any, else tfds.
      num_validation: number of validation examples.
      num_test: number of test examples: the first of the source's own test split, or, where it has
        none, taken behind those of validation from the end; None for the whole of its own.

    Returns:
      The data set of uint8 examples ``[n, 32, 32, 1]`` with labels;
      :meth:`Dataset.examples` and :func:`to_unit` give them in [0, 1].

    Raises:
      FileNotFoundError: no source has it.
      ImportError: tensorflow-datasets or Pillow is needed and not installed.
      TypeError: ``data_dir`` is no path.
      ValueError: an option is wrong, or a file damaged.

    Example:
      >>> import jbism.data
      >>> jbism.data.mnist("no/such/folder", source="files")
      Traceback (most recent call last):
      ...
      FileNotFoundError: ...
    """
    return _load(_MNIST, data_dir, source, num_validation, num_test)


def fashion_mnist(
    data_dir: str | os.PathLike[str] | None = None,
    *,
    source: str = "auto",
    num_validation: int = 10_000,
    num_test: int | None = None,
) -> Dataset:
    """Returns Fashion-MNIST, zero-padded from 28×28 to 32×32.

    Args:
      data_dir: as of :func:`mnist`, with the folders ``fashion_mnist`` and ``FashionMNIST/raw``.
      source: as of :func:`mnist`.
      num_validation: as of :func:`mnist`.
      num_test: as of :func:`mnist`.

    Returns:
      The data set of uint8 examples ``[n, 32, 32, 1]`` with labels.

    Raises:
      FileNotFoundError: no source has it.
      ImportError: tensorflow-datasets or Pillow is needed and not installed.
      TypeError: ``data_dir`` is no path.
      ValueError: an option is wrong, or a file damaged.

    Example:
      >>> import jbism.data
      >>> jbism.data.fashion_mnist("no/such/folder", source="files")
      Traceback (most recent call last):
      ...
      FileNotFoundError: ...
    """
    return _load(_FASHION_MNIST, data_dir, source, num_validation, num_test)


def cifar10(
    data_dir: str | os.PathLike[str] | None = None,
    *,
    source: str = "auto",
    num_validation: int = 10_000,
    num_test: int | None = None,
) -> Dataset:
    """Returns CIFAR-10, 32×32 RGB, split 40,000 / 10,000 / 10,000 as in Bao et al. (2020, 2021).

    Args:
      data_dir: as of :func:`mnist`, with the folder ``cifar10``, and in place of idx files the
        Python batches: ``data_batch_1`` to ``5`` and ``test_batch``, directly, in
        ``cifar-10-batches-py`` or in ``cifar-10-python.tar.gz``.
      source: as of :func:`mnist`.
      num_validation: as of :func:`mnist`.
      num_test: as of :func:`mnist`.

    Returns:
      The data set of uint8 examples ``[n, 32, 32, 3]`` with labels.

    Raises:
      FileNotFoundError: no source has it.
      ImportError: tensorflow-datasets or Pillow is needed and not installed.
      TypeError: ``data_dir`` is no path.
      ValueError: an option is wrong, or a file damaged.

    Example:
      >>> import jbism.data
      >>> jbism.data.cifar10("no/such/folder", source="files")
      Traceback (most recent call last):
      ...
      FileNotFoundError: ...
    """
    return _load(_CIFAR10, data_dir, source, num_validation, num_test)


@dataclasses.dataclass(frozen=True)
class _ImageSet:
    name: str
    title: str
    shape: tuple[int, int, int]
    pad: int
    folders: tuple[str, ...]  # in which the files may lie, below data_dir, before data_dir itself
    own_files: str  # by which its own format is recognised, as errors say it
    download: str
    read_own_files: Callable[[pathlib.Path], RawImages | None]
    url: str


_MNIST = _ImageSet(
    "mnist",
    "MNIST",
    (28, 28, 1),
    2,
    ("mnist", "MNIST/raw"),
    "*-ubyte(.gz)",
    ", ".join(f"{name}.gz" for name in IDX_FILES),
    read_idx_folder,
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_FASHION_MNIST = _ImageSet(
    "fashion_mnist",
    "Fashion-MNIST",
    (28, 28, 1),
    2,
    ("fashion_mnist", "FashionMNIST/raw"),
    "*-ubyte(.gz)",
    ", ".join(f"{name}.gz" for name in IDX_FILES),
    read_idx_folder,
    "https://github.com/zalandoresearch/fashion-mnist",
)
_CIFAR10 = _ImageSet(
    "cifar10",
    "CIFAR-10",
    (32, 32, 3),
    0,
    ("cifar10",),
    f"data_batch_*, {CIFAR_FOLDER}/data_batch_*, {CIFAR_ARCHIVE}",
    CIFAR_ARCHIVE,
    read_cifar_batches,
    "https://www.cs.toronto.edu/~kriz/cifar.html",
)


def _load(image_set, data_dir, source, num_validation, num_test):
    return split_images(
        image_set.name,
        _read(image_set, data_dir, source),
        shape=image_set.shape,
        pad=image_set.pad,
        num_validation=num_validation,
        num_test=num_test,
    )


def _read(image_set, data_dir, source):
    check_source(image_set.title, source, data_dir)
    folders, tfds_place, tfds_error = [], None, None
    if data_dir is not None and source != "tfds":
        folders = [pathlib.Path(data_dir) / folder for folder in (*image_set.folders, "")]
        for folder in folders:
            raw = _read_folder(image_set, folder)
            if raw is not None:
                return raw
    if source != "files":
        try:
            tfds_place, raw = read_tfds(image_set.name, image_set.shape, data_dir)
        except ImportError as error:
            if not folders:
                raise
            tfds_error = error
        else:
            if raw is not None:
                return raw
    raise not_found(
        image_set.title,
        image_set.name,
        data_dir=data_dir,
        folders=folders,
        patterns=f"{image_set.own_files}, train|test/<class>/*.png|jpg, *.npz",
        image_folder="train/<class>",
        tfds_place=tfds_place,
        tfds_error=tfds_error,
        files=image_set.download,
        url=image_set.url,
    )


def _read_folder(image_set, folder):
    if not folder.is_dir():
        return None
    return (
        image_set.read_own_files(folder)
        or read_image_folder(folder, image_set.shape)
        or read_npz(folder)
    )
