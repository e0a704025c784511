"""Where image data sets come from, and what is said when they are not there."""

import os
import pathlib
from collections.abc import Sequence

from jbism import _checks
from jbism.data._cifar_batches import CIFAR_ARCHIVE
from jbism.data._idx import IDX_FILES
from jbism.data._image_folder import holds_images

SOURCES = ("auto", "tfds", "files")
_ARCHIVES = (".tar", ".xz", ".gz", ".tgz", ".zip", ".7z")
_READ_PACKED = frozenset({CIFAR_ARCHIVE, *(f"{name}.gz" for name in IDX_FILES)})
_LISTED = 4
_FOLDER_TO_PASS = (
    "a folder that you pass as data_dir with source='files' "
    "(--config.data.dir, --config.data.NAME.source)"
)


def check_source(title: str, source: str, data_dir: str | os.PathLike[str] | None) -> None:
    """Raises if ``source`` is unknown, or needs a folder that is not given or no path."""
    _checks.one_of("source", source, SOURCES)
    if data_dir is not None:
        _checks.instance("data_dir", data_dir, (str, os.PathLike))
    if source == "files" and data_dir is None:
        raise ValueError(f"data_dir must name the folder that holds {title}, got None")


def not_found(
    title: str,
    tfds_name: str,
    *,
    data_dir: str | os.PathLike[str] | None,
    folders: Sequence[pathlib.Path],
    patterns: str,
    image_folder: str,
    tfds_place: str | None,
    tfds_error: ImportError | None,
    files: str,
    url: str,
    unpack: str = "",
) -> FileNotFoundError:
    """Returns the error that says how to come by the data, then where was looked.

    Of a folder that does not exist it says that first, and no more than where the data belong.

    Args:
      title: what people call the data set.
      tfds_name: what tfds calls it.
      data_dir: the folder that was given.
      folders: where files were looked for; archives in them are named as to be unpacked, images
        as to be moved.
      patterns: which files were looked for in each.
      image_folder: where below a folder its images belong.
      tfds_place: where tfds has not prepared it, None if tfds was not asked.
      tfds_error: why tfds could not be asked.
      files: the files to download.
      url: where from.
      unpack: the words that ask to unpack some of them, after a comma.
    """
    absence = "" if data_dir is None else missing_folder(data_dir)
    parts = [f"no {title}: {absence}" if absence else f"no {title}"]
    packed = [path for folder in folders for path in _archives(folder)]
    if packed:
        parts.append(f"Unpack {', '.join(map(str, packed))} if it holds the images")
    for folder in filter(holds_images, folders):
        parts.append(f"{folder} holds images directly: move them to {folder / image_folder}")
    place = folders[0] if folders else _FOLDER_TO_PASS
    parts.append(f"Get {files} from {url}{unpack} and put what you get in {place}")
    if absence and folders:
        return FileNotFoundError(". ".join(parts))
    if tfds_error is not None:
        parts.append(f"To look for what tensorflow-datasets prepared, {tfds_error}")
    if tfds_place is not None:
        tfds_dir = str(pathlib.Path(tfds_place).parents[1])
        parts.append(
            "Or, with tensorflow installed, "
            f"tfds.data_source({tfds_name!r}, data_dir={tfds_dir!r}) "
            f"downloads and prepares it in {tfds_place}"
        )
    if folders:
        parts.append(f"Looked in {', '.join(map(str, folders))} for {patterns}")
        parts += [f"{folder} holds {_listing(folder)}" for folder in folders if folder.is_dir()]
    return FileNotFoundError(". ".join(parts))


def missing_folder(data_dir: str | os.PathLike[str]) -> str:
    """Returns what to say of ``data_dir`` if it is no folder, else nothing."""
    path = pathlib.Path(data_dir)
    if path.is_dir():
        return ""
    return f"data_dir {str(path)!r} {'is no folder' if path.exists() else 'does not exist'}"


def _archives(folder):
    """The archives of ``folder``, without those that other data sets are read from as they are."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix in _ARCHIVES and path.name not in _READ_PACKED
    )


def _listing(folder):
    names = sorted(path.name for path in folder.iterdir())
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "") or "nothing"
