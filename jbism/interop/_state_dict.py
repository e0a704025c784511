"""State dicts as NumPy arrays, from the checkpoints that the papers' PyTorch code writes."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from jbism import _checks
from jbism.interop._arrays import as_numpy

# What each part is called in a run's state dict (2020) and among a checkpoint's models (2021).
_PARTS = {"energy": ("model", "lvm"), "posterior": ("q", "q")}

_DATA_PARALLEL = "module."  # what PyTorch puts before the names of what it replicates


def read_state_dict(
    source: str | os.PathLike | Mapping[str, Any], part: str, *, averaged: bool = False
) -> dict[str, np.ndarray]:
    """Returns the arrays of the energy or of the posterior in a checkpoint, by name.

    Understood are what the code of Bao et al. (2020) writes, a state dict of the whole run with or
    without the state of its training; what that of Bao et al. (2021) writes, state dicts by model
    with or without their moving averages; and the state dict of one module alone, which is
    returned whole. Of a run that was data-parallel as a whole the ``module.`` before every name is
    left out. Nothing but tensors and plain containers is unpickled.

    Args:
      source: the path of a file that ``torch.save`` wrote, which needs PyTorch, or what it holds.
      part: ``"energy"`` or ``"posterior"``.
      averaged: the moving average of the parameters instead of the last ones.

    Raises:
      ModuleNotFoundError: if source is a path and PyTorch is not installed.
      FileNotFoundError: if there is no such file.
      TypeError: if source holds something else than arrays.
      ValueError: if source holds no state dict, not this part, or no moving average.

    Example:
      >>> import numpy as np
      >>> run = {"model.W": np.zeros((2, 4)), "q.main.weight": np.zeros((4, 2))}
      >>> list(read_state_dict(run, "energy"))
      ['W']
    """
    _checks.one_of("part", part, tuple(_PARTS))
    _checks.instance("source", source, (str, os.PathLike, Mapping))
    content = source if isinstance(source, Mapping) else _load(source)
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise ValueError(
            f"source must hold a state dict, which has names, got a {type(content).__name__}"
        )
    in_run, among_models = _PARTS[part]
    if "models_states" in content:
        state = _among_models(content, among_models, part, averaged)
    elif averaged:
        raise ValueError("averaged must be False: source holds no moving averages")
    else:
        run = content["model"] if isinstance(content.get("model"), Mapping) else content
        state = _of_run(run, in_run, part)
    if not state:
        raise ValueError("source must hold arrays, got none")
    return {name: as_numpy(f"source[{name!r}]", value) for name, value in state.items()}


def _among_models(content, name, part, averaged):
    key = "ema_models_states" if averaged else "models_states"
    models = content.get(key)
    if not isinstance(models, Mapping):
        raise ValueError(f"averaged must be {not averaged}: source holds nothing at {key!r}")
    if not isinstance(models.get(name), Mapping):
        raise ValueError(f"source holds no {part}: {name!r} is not among {sorted(models)}")
    return models[name]


def _of_run(run, name, part):
    """The entries of one part, or all where none is called after a part."""
    if all(key.startswith(_DATA_PARALLEL) for key in run):
        run = {key.removeprefix(_DATA_PARALLEL): value for key, value in run.items()}
    heads = {key.partition(".")[0] for key in run}
    if not heads & {head for head, _ in _PARTS.values()}:
        return run
    if name not in heads:
        raise ValueError(f"source holds no {part}: {name!r} is not among {sorted(heads)}")
    prefix = f"{name}."
    return {key.removeprefix(prefix): run[key] for key in run if key.startswith(prefix)}


def _load(path):
    os.stat(path)  # a missing file comes before a missing package
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'reading a checkpoint needs torch: pip install ".[torch]" where jbism was cloned',
            name=error.name,
        ) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # whatever unpickling foreign bytes may raise
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"source must be a file of tensors that torch.save wrote, got {os.fspath(path)!r}: "
            f"{type(error).__name__}: {reason}"
        ) from error
