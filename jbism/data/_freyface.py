"""The Frey face frames, from a local file."""

import os
import pathlib

import numpy as np

from jbism import _checks
from jbism.data._dataset import Dataset
from jbism.data._sources import missing_folder

_FILE = "frey_rawface.mat"
_SHAPE = (560, 1965)


def freyface(data_dir: str | os.PathLike[str]) -> Dataset:
    """Returns the 1,965 Frey face frames in [0, 1], split 1400 / 300 / 265 in file order.

    Frame i is ``ff[:, i].reshape(28, 20) / 255`` of the MATLAB file ``frey_rawface.mat``.

    Args:
      data_dir: the folder that holds ``frey_rawface.mat`` or ``frey/frey_rawface.mat``.

    Returns:
      The data set of flat examples ``[n, 560]`` with ``image_shape`` (28, 20).

    Raises:
      FileNotFoundError: neither file is there.
      ImportError: scipy is not installed.
      TypeError: ``data_dir`` is no path.
      ValueError: the file cannot be read, or does not hold the array it should.

    Example:
      >>> import jbism.data
      >>> jbism.data.freyface("no/such/folder")
      Traceback (most recent call last):
      ...
      FileNotFoundError: ...
    """
    frames = read_frames(data_dir).reshape(-1, 560).astype(np.float32) / 255
    train, validation, test = np.split(frames, [1400, 1700])
    return Dataset("freyface", train=train, validation=validation, test=test, image_shape=(28, 20))


def read_frames(data_dir: str | os.PathLike[str]) -> np.ndarray:
    """Returns the frames of the file below ``data_dir``, uint8 ``[1965, 28, 20]``."""
    _checks.instance("data_dir", data_dir, (str, os.PathLike))
    return np.ascontiguousarray(_read(_find(pathlib.Path(data_dir))).T).reshape(-1, 28, 20)


def _find(data_dir):
    candidates = [data_dir / _FILE, data_dir / "frey" / _FILE]
    for path in candidates:
        if path.is_file():
            return path
    reason = missing_folder(data_dir) or f"looked for {candidates[0]} and {candidates[1]}"
    raise FileNotFoundError(
        f"no Frey face file: {reason}. Get {_FILE} from https://cs.nyu.edu/~roweis/data/{_FILE} "
        "and put it there."
    )


def _read(path):
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError("freyface needs scipy: pip install 'jbism[experiments]'") from error
    with path.open("rb") as file:
        try:
            variables = loadmat(file)
        except Exception as error:  # a damaged file makes scipy raise nearly anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{path} is no readable MATLAB file: {reason}") from error
    if "ff" not in variables:
        found = [name for name in variables if not name.startswith("__")]
        raise ValueError(f"{path} must hold a variable 'ff', but holds {found or 'none'}")
    ff = variables["ff"]
    if ff.shape != _SHAPE or ff.dtype != np.uint8:
        raise ValueError(
            f"{path}: ff must be a uint8 array of shape {_SHAPE}, got {ff.dtype} {ff.shape}"
        )
    return ff
