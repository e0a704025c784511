"""CIFAR-10's own files: the Python batches, in a folder or its archive."""

import io
import pathlib
import pickle
import tarfile
import zlib

import numpy as np

from jbism.data._raw import RawImages

CIFAR_FOLDER = "cifar-10-batches-py"
CIFAR_ARCHIVE = "cifar-10-python.tar.gz"
_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
_BATCHES = (*_TRAIN, "test_batch")


def read_cifar_batches(folder: pathlib.Path) -> RawImages | None:
    """Returns the images of ``folder``'s Python batches, None if there are none.

    They are looked for in ``folder`` itself, in its ``cifar-10-batches-py``, then in its
    ``cifar-10-python.tar.gz``.

    Raises:
      FileNotFoundError: some but not all batches are there.
      ValueError: a file is damaged, or images and labels differ in number.
    """
    for place in (folder, folder / CIFAR_FOLDER):
        found = [name for name in _BATCHES if (place / name).is_file()]
        if found:
            _check_complete(place, found)
            return _combine(place, {name: (place / name).read_bytes() for name in _BATCHES})
    archive = folder / CIFAR_ARCHIVE
    if not archive.is_file():
        return None
    files = _unpack(archive)
    _check_complete(archive, files)
    return _combine(archive, files)


def _check_complete(place, found):
    missing = [name for name in _BATCHES if name not in found]
    if missing:
        raise FileNotFoundError(f"{place} lacks the CIFAR-10 batch(es) {', '.join(missing)}")


def _unpack(archive):
    files = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = pathlib.PurePosixPath(member.name).name
                data = tar.extractfile(member) if name in _BATCHES else None
                if data is not None:
                    files[name] = data.read()
    except (tarfile.TarError, zlib.error, OSError, EOFError) as error:
        raise ValueError(f"{archive} is no readable archive: {error}") from error
    return files


def _combine(place, files):
    batches = {name: _read_batch(place / name, data) for name, data in files.items()}
    train, train_labels = (
        np.concatenate(parts) for parts in zip(*(batches[n] for n in _TRAIN), strict=True)
    )
    test, test_labels = batches["test_batch"]
    return RawImages(str(place), train, train_labels, test, test_labels)


def _read_batch(path, data):
    try:
        batch = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        rows, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
    except Exception as error:  # a damaged pickle raises nearly anything
        raise ValueError(
            f"{path} is no readable CIFAR-10 batch: {type(error).__name__} {error}"
        ) from error
    if rows.ndim != 2 or rows.shape[1] != 3072 or rows.dtype != np.uint8:
        raise ValueError(
            f"{path}: data must be a uint8 array of shape (*, 3072), got {rows.dtype} {rows.shape}"
        )
    if labels.shape != rows.shape[:1]:
        raise ValueError(
            f"{path} must hold as many images as labels, got {len(rows)} and {labels.size}"
        )
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


class _Unpickler(pickle.Unpickler):
    """Reads NumPy arrays, numbers and strings, and runs nothing else a pickle may ask for."""

    def find_class(self, module, name):
        if (module, name) in {
            ("numpy.core.multiarray", "_reconstruct"),  # where NumPy 1 had it
            ("numpy._core.multiarray", "_reconstruct"),
        }:
            return np.empty(0).__reduce__()[0]
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a CIFAR-10 batch")
