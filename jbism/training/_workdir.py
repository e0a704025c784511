"""The directory of one run, and the configuration that it belongs to."""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from jbism import _checks

CONFIG = "config.json"
OUTPUTS = (  # in the order in which they may go: a checkpoint needs the rollbacks since
    "tensorboard",
    "metrics.jsonl",
    "checkpoints",
    "checkpoints_damaged",
    "rollbacks.jsonl",
)


class WorkdirError(RuntimeError):
    """A directory cannot be used for the run that asks for it."""


def open_workdir(
    path: str | os.PathLike,
    config: dict[str, Any],
    *,
    overwrite: bool,
    may_differ: Sequence[str] = (),
    outputs: Sequence[str] = (),
) -> pathlib.Path:
    """Opens the directory of a run, new or to be resumed, and records its configuration.

    A directory belongs to a run if it holds a ``config.json``. It can be resumed with the same
    configuration only; one that is neither empty nor a run's is never touched.

    Args:
      path: the directory; created with its parents if absent.
      config: the configuration, nested dictionaries of JSON values with string keys.
      overwrite: whether to start anew, whatever the former configuration: the run's
        checkpoints, metrics and TensorBoard files and ``outputs`` are removed, other files stay.
      may_differ: dotted keys (``"eval.every"``), or prefixes of such (``"eval"``), that may
        differ on resumption; ``config.json`` is then rewritten.
      outputs: names of further files and folders that the run writes there.

    Returns:
      The absolute path.

    Raises:
      WorkdirError: if the directory is not a run's, cannot be written, or holds a run with a
        different configuration; the message names the differing keys with both values.
      TypeError: if ``config`` is not a dictionary of JSON values.
      ValueError: if ``config`` holds NaN or infinity.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     run = open_workdir(f"{folder}/run", {"sigma": 0.05}, overwrite=False)
      ...     try:
      ...         open_workdir(run, {"sigma": 0.3}, overwrite=False)
      ...     except WorkdirError as error:
      ...         print(error)
      /.../run: sigma is 0.05 there, 0.3 here
    """
    _checks.instance("config", config, dict)
    try:
        text = json.dumps(config, indent=2, sort_keys=True, allow_nan=False) + "\n"
    except TypeError as error:
        raise TypeError(f"config must hold JSON values only: {error}") from None
    except ValueError as error:
        raise ValueError(f"config must hold JSON values only: {error}") from None
    path = pathlib.Path(path).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        if (path / CONFIG).exists():
            if overwrite:
                _remove(path, (*OUTPUTS, *outputs))
            else:
                _check_same(path, json.loads(text), may_differ)
        elif set(path.iterdir()) - {_temporary(path / CONFIG)}:
            raise WorkdirError(f"{path}: neither empty nor a run's: it has no {CONFIG}")
        replace_file(path / CONFIG, text)
    except OSError as error:
        raise WorkdirError(f"{path}: cannot be used as a directory to write in: {error}") from error
    return path


def check_workdir(
    path: str | os.PathLike, config: dict[str, Any], *, may_differ: Sequence[str] = ()
) -> None:
    """Raises if a directory holds a run that cannot be resumed with a configuration.

    What `open_workdir` asks without touching the directory: early, before data and models are made.

    Args:
      path: the directory, which need not exist.
      config: as of `open_workdir`.
      may_differ: as of `open_workdir`.

    Raises:
      WorkdirError: if the run there has a different configuration, or its file is damaged.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     run = open_workdir(f"{folder}/run", {"sigma": 0.05}, overwrite=False)
      ...     check_workdir(run, {"sigma": 0.05})
      ...     try:
      ...         check_workdir(run, {"sigma": 0.3})
      ...     except WorkdirError as error:
      ...         print(error)
      /.../run: sigma is 0.05 there, 0.3 here
    """
    path = pathlib.Path(path).absolute()
    if (path / CONFIG).exists():
        _check_same(path, json.loads(json.dumps(config)), may_differ)


@contextlib.contextmanager
def lock_workdir(path: str | os.PathLike) -> Iterator[None]:
    """Holds a directory, so that no other process can: two runs would write over each other.

    The hold ends with the context or with the process, however that ends. Processes of one machine
    see it, and those of several where their common file system passes on locks of directories.

    Args:
      path: the directory; created with its parents if absent.

    Raises:
      WorkdirError: if another process holds it, or it cannot be made or locked.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder, lock_workdir(folder):
      ...     try:
      ...         with lock_workdir(folder):
      ...             pass
      ...     except WorkdirError as error:
      ...         print(error)
      /...: in use by another run
    """
    path = pathlib.Path(path).absolute()
    directory = None
    while directory is None:
        directory = _locked(path)
    try:
        yield
    finally:
        os.close(directory)


def _locked(path: pathlib.Path) -> int | None:
    """Returns the descriptor of a locked directory; None if it was removed in the meantime."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        try:
            directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # removed since it was made
            return None
    except OSError as error:
        raise WorkdirError(f"{path}: cannot be used as a directory to write in: {error}") from error
    held = False
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with contextlib.suppress(FileNotFoundError):
            held = os.path.samestat(os.fstat(directory), path.stat())
        return directory if held else None
    except BlockingIOError:
        raise WorkdirError(f"{path}: in use by another run") from None
    except OSError as error:
        raise WorkdirError(f"{path}: cannot be locked against other runs: {error}") from error
    finally:
        if not held:
            os.close(directory)


def _remove(path: pathlib.Path, names: Sequence[str]) -> None:
    for name in names:
        output = path / name
        if output.is_dir() and not output.is_symlink():
            shutil.rmtree(output)
        else:
            output.unlink(missing_ok=True)


def _check_same(path: pathlib.Path, config: dict, may_differ: Sequence[str]) -> None:
    try:
        former = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise WorkdirError(f"{path}: {CONFIG} is not valid JSON: {error}") from error
    differing = config_differences(former, config, may_differ)
    if differing:
        raise WorkdirError(f"{path}: {differing}")


def config_differences(
    former: dict[str, Any], config: dict[str, Any], may_differ: Sequence[str] = ()
) -> str:
    """Returns how two configurations differ, for reading; an empty string if they do not.

    Args:
      former: nested dictionaries of JSON values.
      config: likewise.
      may_differ: as of `open_workdir`.

    Example:
      >>> config_differences({"sigma": 0.05}, {"sigma": 0.3})
      'sigma is 0.05 there, 0.3 here'
    """
    there, here = dict(_flatten(former)), dict(_flatten(config))
    differing = [
        f"{key} is {there.get(key, 'absent')} there, {here.get(key, 'absent')} here"
        for key in sorted({*there, *here})
        if there.get(key) != here.get(key)
        and not any(key == free or key.startswith(f"{free}.") for free in may_differ)
    ]
    more = f"; and {len(differing) - 3} more" if len(differing) > 3 else ""
    return "; ".join(differing[:3]) + more


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields dotted keys and their values as JSON, in which 1, 1.0 and true differ."""
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from _flatten(child, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, json.dumps(value)


def _temporary(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name + ".tmp")


@contextlib.contextmanager
def naming(path: pathlib.Path) -> Iterator[None]:
    """Names the file in errors of writing, which know but its descriptor."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{path}: cannot be written: {error.strerror or error}") from error


def replace_file(path: str | os.PathLike, text: str) -> None:
    """Writes a file so that at no time, not even after a crash, a part of it has its name.

    Args:
      path: of a file to make or to replace, in a directory that exists.
      text: all of its content, written as UTF-8.

    Raises:
      OSError: if it cannot be written; the message names the file, which is as it was.

    Example:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     replace_file(f"{folder}/notes.txt", "done")
      ...     pathlib.Path(folder, "notes.txt").read_text()
      'done'
    """
    path = pathlib.Path(path)
    with naming(path):
        with _temporary(path).open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(_temporary(path), path)
