"""Where image data sets come from, and what is said when they are not there."""

import os
import pathlib
from collections.abc import Sequence

from jbism import _checks

SOURCES = ("auto", "tfds", "files")
_ARCHIVES = (".tar", ".xz", ".gz", ".tgz", ".zip", ".7z")


def check_source(title: str, source: str, data_dir: str | os.PathLike[str] | None) -> None:
    """Raises if ``source`` is unknown, or needs a folder that is not given."""
    _checks.one_of("source", source, SOURCES)
    if source == "files" and data_dir is None:
        raise ValueError(f"data_dir must name the folder that holds {title}, got None")


def not_found(
    title: str,
    tfds_name: str,
    *,
    looked_for: Sequence[pathlib.Path],
    folders: Sequence[pathlib.Path],
    tfds_place: str | None,
    tfds_error: ImportError | None,
    files: str,
    url: str,
) -> FileNotFoundError:
    """Returns the error that says where was looked, and how to come by the data.

    Args:
      title: what people call the data set.
      tfds_name: what tfds calls it.
      looked_for: the paths that are not there.
      folders: where they were looked for; archives in them are named as to be unpacked.
      tfds_place: where tfds has not prepared it, None if tfds was not asked.
      tfds_error: why tfds could not be asked.
      files: the files to download.
      url: where from.
    """
    parts = [f"no {title}"]
    if looked_for:
        parts[0] += f": looked for {', '.join(map(str, looked_for))}"
    packed = [path for folder in folders for path in _archives(folder)]
    if packed:
        parts.append(f"Unpack {', '.join(map(str, packed))} if it holds the images")
    if folders:
        parts.append(f"Get {files} from {url} and put it in {folders[0]}")
    if tfds_error is not None:
        parts.append(f"To look for what tensorflow-datasets prepared, {tfds_error}")
    if tfds_place is not None:
        data_dir = str(pathlib.Path(tfds_place).parents[1])
        parts.append(
            f"tensorflow-datasets has nothing prepared in {tfds_place}: "
            f"tfds.data_source({tfds_name!r}, data_dir={data_dir!r}) downloads and prepares it, "
            "which needs tensorflow"
        )
        if not folders:
            parts.append(f"Or get {files} from {url} and pass their folder as data_dir")
    return FileNotFoundError(". ".join(parts))


def _archives(folder):
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in _ARCHIVES)
