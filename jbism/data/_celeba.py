"""CelebA: faces, cropped and shrunk, decoded at once or as they are needed."""

import dataclasses
import os
import pathlib
from collections.abc import Callable

import numpy as np

from jbism import _checks
from jbism.data._dataset import Dataset
from jbism.data._image_file import open_image, require_pillow, to_array
from jbism.data._image_folder import holds_images, image_paths
from jbism.data._lazy import LazyImages
from jbism.data._sources import check_source, not_found
from jbism.data._tfds import open_tfds

_SHAPE = (218, 178, 3)
_CROP = (19, 39, 159, 179)  # left, top, right, bottom of the central 140×140
_IMAGES, _PARTITION = "img_align_celeba", "list_eval_partition.txt"
_PUBLISHED = (162_770, 19_867, 19_962)  # in the order of the file names
_SPLITS = ("train", "validation", "test")


def celeba(
    data_dir: str | os.PathLike[str] | None = None,
    *,
    size: int = 64,
    source: str = "auto",
    num_validation: int | None = None,
    num_test: int | None = None,
    lazy: bool = False,
) -> Dataset:
    """Returns CelebA: the central 140×140 of the aligned faces, resized bilinearly.

    The crop and the resizing are those of Bao et al. (2020, 2021), who also mirror half of the
    training images at random; that is left to the training step.

    Args:
      data_dir: the folder that holds ``img_align_celeba`` with its 178×218 images, directly or in
        ``celeba``, and ``list_eval_partition.txt`` beside it; or ``img_align_celeba`` itself. With
        tfds, its own ``data_dir``, by default ``~/tensorflow_datasets``.
      size: height and width of the examples, 32 or 64.
      source: ``"files"`` reads that folder, ``"tfds"`` what tensorflow-datasets has prepared in a
        format with random access, and ``"auto"`` the folder if it is there, else tfds.
      num_validation: number of validation examples, taken from the end in stored order before
        those of test; None for the official partition: that of the text file or of tfds, or
        without them, if all 202,599 images are there, the published 162,770 / 19,867 / 19,962.
      num_test: number of test examples, the last in stored order; None if and only if
        ``num_validation`` is.
      lazy: whether to decode images when they are taken. Otherwise all are decoded now, and kept:
        2.5 GB at 64×64.

    Returns:
      The data set of uint8 examples ``[n, size, size, 3]``, without labels, each split a
      :class:`LazyImages` if lazy.

    Raises:
      FileNotFoundError: no source has it, or images of the partition are missing.
      ImportError: tensorflow-datasets or Pillow is needed and not installed.
      TypeError: ``data_dir`` is no path.
      ValueError: an option is wrong, the partition is damaged, or an image cannot be read; lazily,
        the last comes when it is taken.

    Example:
      >>> import jbism.data
      >>> jbism.data.celeba("no/such/folder", source="files")
      Traceback (most recent call last):
      ...
      FileNotFoundError: ...
    """
    _checks.one_of("size", size, (32, 64))
    _checks.instance("lazy", lazy, bool)
    faces = _open(data_dir, source)
    counts = _counts(faces, num_validation, num_test)
    from PIL.Image import Resampling  # Pillow is an extra, and is there once the faces are

    def split(start, count):
        def decode(i):
            image, label = faces.read(start + i)
            face = open_image(image, label, _SHAPE)
            return to_array(face.crop(_CROP).resize((size, size), Resampling.BILINEAR))

        images = LazyImages(decode, count, (size, size, 3))
        return images if lazy else np.asarray(images)

    starts = np.cumsum((0, *counts[:2])).tolist()
    splits = [split(start, count) for start, count in zip(starts, counts, strict=True)]
    return Dataset("celeba", **dict(zip(_SPLITS, splits, strict=True)), image_shape=(size, size, 3))


@dataclasses.dataclass(frozen=True)
class _Faces:
    place: str
    number: int
    partition: tuple[int, ...] | None  # numbers of the splits, in the order of the rows
    read: Callable[[int], tuple[pathlib.Path | bytes, str]]  # row -> an image, what it is called


def _open(data_dir, source):
    check_source("CelebA", source, data_dir)
    folders, tfds_place, tfds_error = [], None, None
    if data_dir is not None and source != "tfds":
        folder = pathlib.Path(data_dir)
        folders = [folder / "celeba", folder]
        if folder.absolute().name == _IMAGES and holds_images(folder):
            folders = [folder.absolute().parent]
        for folder in folders:
            if (folder / _IMAGES).is_dir():
                require_pillow("celeba")
                return _open_folder(folder)
    if source != "files":
        try:
            tfds_place, splits = open_tfds("celeb_a", _SPLITS, data_dir)
        except ImportError as error:
            if not folders:
                raise
            tfds_error = error
        else:
            if splits is not None:
                return _open_splits(tfds_place, splits)
    raise not_found(
        "CelebA",
        "celeb_a",
        data_dir=data_dir,
        folders=folders,
        patterns=f"{_IMAGES}/*.png|jpg",
        image_folder=_IMAGES,
        tfds_place=tfds_place,
        tfds_error=tfds_error,
        files=f"{_IMAGES}.zip and {_PARTITION}",
        url="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        unpack=", unpack the zip",
    )


def _open_folder(folder):
    paths = image_paths(folder / _IMAGES)
    if not paths:
        raise ValueError(f"{folder / _IMAGES} must hold images (.jpg, .png), but holds none")
    partition = None
    if (folder / _PARTITION).is_file():
        paths, partition = _partitioned(folder / _PARTITION, paths)
    elif len(paths) == sum(_PUBLISHED):
        partition = _PUBLISHED
    return _Faces(str(folder), len(paths), partition, lambda row: (paths[row], str(paths[row])))


def _partitioned(file, paths):
    """Returns the paths, train first, then validation, then test, and how many each."""
    by_name = {path.name: path for path in paths}
    splits: list[list[pathlib.Path]] = [[], [], []]
    missing = []
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        name, _, split = line.partition(" ")
        if split.strip() not in ("0", "1", "2"):
            raise ValueError(f"{file}:{number} must be 'IMAGE 0|1|2', got {line!r}")
        if name in by_name:
            splits[int(split)].append(by_name.pop(name))
        else:
            missing.append(name)
    if missing:
        raise FileNotFoundError(
            f"{file.parent / _IMAGES} lacks {missing[0]} and {len(missing) - 1} other images of "
            f"{file.name}"
        )
    if by_name:
        raise ValueError(f"{file} must list all images, but lacks {min(by_name)}")
    counts = tuple(map(len, splits))
    if 0 in counts:
        raise ValueError(f"{file} must put images in all of 0, 1 and 2, got {counts} images")
    return [path for split in splits for path in split], counts


def _open_splits(place, splits):
    counts = tuple(map(len, splits))
    ends = np.cumsum(counts)

    def read(row):
        split = int(np.searchsorted(ends, row, side="right"))
        i = int(row - ends[split] + counts[split])
        return splits[split][i]["image"], f"{place} {_SPLITS[split]}[{i}]"

    return _Faces(place, int(ends[-1]), counts, read)


def _counts(faces, num_validation, num_test):
    if num_validation is None and num_test is None:
        if faces.partition is None:
            raise ValueError(
                f"num_validation and num_test must be given, because {faces.place} has no "
                f"{_PARTITION} and {faces.number} images instead of {sum(_PUBLISHED)}; together "
                f"they must be below {faces.number}"
            )
        return faces.partition
    if num_validation is None or num_test is None:
        raise ValueError(
            "num_validation and num_test must be given together, "
            f"got {num_validation} and {num_test}: the last num_test images are for test, the "
            "num_validation before them for validation; both None: the official partition"
        )
    num_validation = _checks.integer("num_validation", num_validation, minimum=1)
    num_test = _checks.integer("num_test", num_test, minimum=1)
    num_train = faces.number - num_validation - num_test
    if num_train < 1:
        raise ValueError(
            f"num_validation + num_test must be below {faces.number}, the number of images, "
            f"got {num_validation} + {num_test}"
        )
    return num_train, num_validation, num_test
