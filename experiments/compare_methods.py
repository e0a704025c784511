"""The methods that the comparison knows: what each sets in a config."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments.builders import build
from experiments.hyperparameters import Point, config_at
from experiments.validation import ConfigError, validate

_DSM, _SSM, _KSD = ({"objective.name": name} for name in ("dsm", "ssm", "ksd"))
_EXACT = {"method.name": "marginal"}
_BISM = {"method.name": "bism"}
_PUBLISHED = {"hypergradient.name": "unroll", "hypergradient.unroll.optimizer": "live"}
_IMPLICIT = {"hypergradient.name": "implicit_cg", "divergence.name": "mean_field_kl"}
_VAGES = {"method.name": "vages", "method.vages.exact_posterior": False}


def _particles(number):
    return {"method.vages.num_particles": number}


def _contrastive(persistent):
    return {
        "method.name": "contrastive",
        "method.contrastive.num_steps": 1,
        "method.contrastive.persistent": persistent,
    }


# By the exact free energy; by bi-level score matching; by VaGES; and the rest, with no score.
METHODS: dict[str, dict[str, Any]] = {
    "dsm": _DSM | _EXACT,
    "ssm": _SSM | _EXACT,
    "ksd": _KSD | _EXACT,
    "is-ksd": _KSD | {"method.name": "importance"},
    "bidsm-first-order": _DSM | _BISM | {"hypergradient.name": "first_order"},
    "bidsm-unroll": _DSM | _BISM | _PUBLISHED,
    "bidsm-implicit": _DSM | _BISM | _IMPLICIT,
    "bissm-unroll": _SSM | _BISM | _PUBLISHED,
    "bissm-implicit": _SSM | _BISM | _IMPLICIT,
    "vages-dsm": _DSM | _VAGES | _particles(2),
    "vages-dsm-10": _DSM | _VAGES | _particles(10),
    "vages-ksd": _KSD | _VAGES | _particles(2),
    "cd1": _contrastive(False),
    "pcd1": _contrastive(True),
    "ml": {"method.name": "maximum_likelihood"},
    "nce": {"method.name": "nce"},
    "vnce": {"method.name": "vnce"},
}


def select(
    config: ConfigDict, names: Sequence[str], points: Sequence[Point] = ({},)
) -> tuple[list[str], dict[str, str]]:
    """Returns the methods of a ``--methods`` flag, each once; ``all`` stands for all that fit.

    Args:
      config: the config that each method's keys are set in.
      names: the flag's.
      points: the grid's; a method fits if it does at every point.

    Returns:
      The methods, and of those that ``all`` leaves out what each runs into.

    Raises:
      ValueError: if there is none, or one is unknown.
      ConfigError: if one that is named does not fit, or none does, or the config cannot be used.
    """
    known = ["all", *METHODS]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        given = ", ".join(map(repr, unknown)) or "none"
        raise ValueError(f"--methods must be of {', '.join(known)}; got {given}")
    named = list(METHODS) if "all" in names else list(dict.fromkeys(names))
    validate(config)
    refused = {}
    for name in named:
        try:
            for point in points:
                _check_point(config, name, point)
        except ConfigError as error:
            refused[name] = str(error)
    fitting = [name for name in named if name not in refused]
    if refused and not (fitting and "all" in names):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise ConfigError(
            f"--methods: the config does not fit {reasons}. Fitting: {','.join(fitting) or 'none'}"
        )
    return fitting, refused


def _check_point(config, name, point):
    own = [key for key in point if key in METHODS[name]]
    if own:
        raise ConfigError(f"--grid has {own[0]}, which this method sets itself")
    build(config_at(method_config(config, name), point))


def method_config(config: ConfigDict, name: str) -> ConfigDict:
    """Returns a copy of a config with a method's keys set."""
    own = config.copy_and_resolve_references()
    own.update_from_flattened_dict(METHODS[name])
    return own
