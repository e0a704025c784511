"""How chains are laid out over devices."""

import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jbism import _checks
from jbism.typing import Array


def follow(x: Array, like: Array) -> Array:
    """Lays out the leading axis of x as that of ``like``, where the type of ``like`` says how.

    It says so on meshes with explicit axes; otherwise the compiler decides.
    """
    sharding: Any = jax.typeof(like).sharding
    if sharding.mesh.empty or sharding.spec[0] is None:
        return x
    if not isinstance(like, jax.core.Tracer):
        sharding = like.sharding  # which, unlike the type, knows the devices
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec(sharding.spec[0])))


def place(x: Array, sharding: NamedSharding | None, axis: int = 0) -> Array:
    """Lays out the chains, axis ``axis`` of x, as ``sharding`` says."""
    if sharding is None:
        return x
    # Random numbers, loops and reshaping are left to the compiler, whatever the kind of the axes.
    mesh = Mesh(sharding.mesh.devices, sharding.mesh.axis_names)
    spec = PartitionSpec(*[None] * axis, *sharding.spec)
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def num_parts(sharding: NamedSharding) -> int:
    """Returns into how many parts ``sharding`` splits the chains."""
    axes = sharding.spec[0] if len(sharding.spec) else None
    names = () if axes is None else (axes,) if isinstance(axes, str) else axes
    return math.prod(sharding.mesh.shape[name] for name in names)


def check(sharding: Any, name: str, num_chains: int) -> None:
    """Raises unless ``sharding`` is None or splits that many chains, called ``name``, evenly."""
    if sharding is None:
        return
    _checks.instance("sharding", sharding, NamedSharding)
    if len(sharding.spec) > 1:
        raise ValueError(f"sharding must have one axis, that of the chains, got {sharding.spec}")
    parts = num_parts(sharding)
    if num_chains % parts:
        raise ValueError(
            f"{name} must be a multiple of the {parts} parts of sharding, got {num_chains}"
        )
