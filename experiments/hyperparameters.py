"""Grids of config values: points, and steps whose numbers are arrays, to be mapped over."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from experiments.builders import Experiment
from experiments.methods import build_method
from experiments.parts import build_optimizer

Point = dict[str, Any]  # dotted config key -> value

_OWN_FLAGS = {"seed": "--seeds", "train.num_steps": "--num_steps"}


def parse_grid(texts: Sequence[str], config: ConfigDict) -> list[Point]:
    """Returns every combination of the values of texts ``KEY=VALUE,VALUE,...``; of none, one.

    Raises:
      ValueError: if a text is not of that form, a key is not one of the config's numbers, strings
        and switches, is there twice or has a value twice, or a value is not of its type.
    """
    values: dict[str, list[Any]] = {}
    known = config.to_dict(preserve_field_references=False)
    for text in texts:
        key, separator, listed = text.partition("=")
        if not (separator and key and listed):
            raise ValueError(f"--grid must be KEY=VALUE,VALUE,..., got {text!r}")
        if key.startswith("config."):
            raise ValueError(f"--grid must have keys without 'config.', got {text!r}")
        if key in _OWN_FLAGS:
            raise ValueError(f"--grid must not have {key}: use {_OWN_FLAGS[key]}")
        if key in values:
            raise ValueError(f"--grid must have each key once, got {key} twice")
        default = _value_at(known, key)
        values[key] = [_parse(key, item, default) for item in listed.split(",")]
        if len(set(values[key])) < len(values[key]):
            raise ValueError(f"--grid must have each value once, got {text!r}")
    return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]


def _value_at(known, key):
    value: Any = known
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if not isinstance(value, (bool, int, float, str)):
        raise ValueError(f"--grid: {key} is no number, string or switch of the config")
    return value


def _parse(key, text, default):
    if isinstance(default, bool):
        switches = {"true": True, "false": False}
        if text.lower() in switches:
            return switches[text.lower()]
    else:
        try:
            return type(default)(text)
        except ValueError:
            pass
    raise ValueError(f"--grid: {key} must be of type {type(default).__name__}, got {text!r}")


def describe(point: Point) -> str:
    """Returns a point as text, such as ``learning_rate=0.01``, by the shortest names that differ.

    The whole key stands where its last part would stand for two.
    """
    last = [key.rpartition(".")[2] for key in point]
    return ", ".join(
        f"{name if last.count(name) == 1 else key}={value}"
        for (key, value), name in zip(point.items(), last, strict=True)
    )


def split_static(points: Sequence[Point]) -> list[tuple[Point, list[Point]]]:
    """Returns the points in groups of one program each: (what the group shares, its own floats).

    Floats of training may differ within a program. Integers, strings and switches decide shapes and
    branches, and a program has one energy and one posterior.
    """
    groups: dict[tuple, tuple[Point, list[Point]]] = {}
    for point in points:
        own = {key: x for key, x in point.items() if _may_be_mapped(key, x)}
        static = {key: x for key, x in point.items() if key not in own}
        groups.setdefault(tuple(static.items()), (static, []))[1].append(own)
    return list(groups.values())


def _may_be_mapped(key, value):
    return isinstance(value, float) and key.partition(".")[0] not in ("energy", "posterior")


def config_at(config: ConfigDict, point: Mapping[str, Any]) -> ConfigDict:
    """Returns a copy of the config with the values of a point, which may be traced."""
    own = config.copy_and_resolve_references()
    with own.ignore_type():
        own.update_from_flattened_dict(dict(point))
    if "train.steps_per_call" in point:  # whose multiples these have to be
        own.log.log_every = own.log.checkpoint_every = own.train.steps_per_call
    return own


def step_of(experiment: Experiment, values: Mapping[str, jax.Array]) -> Callable:
    """Returns the experiment's step with traced scalars in place of some of its config's floats."""
    if not values:
        return experiment.step
    config = config_at(experiment.config, values)
    unused = jax.random.key(0)  # of initial parameters, which the experiment has
    method = build_method(
        config,
        theta=experiment.initial_state.theta,
        v=jnp.asarray(experiment.dataset.examples("train", 0)),
        key_phi=unused,
        key_chains=unused,
        theta_optimizer=build_optimizer(config, "theta_optimizer"),
    )
    return experiment.augment(method.step)
