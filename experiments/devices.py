"""The devices that a config asks for, shared by training and by the chains of a report."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from experiments.validation import ConfigError, naming
from jbism.training import DataParallel, make_mesh


def build_layout(config: ConfigDict) -> DataParallel | None:
    """Returns how training is laid out over devices; None for one device of a lone process.

    Raises:
      ConfigError: if there are not so many devices, or one is to divide parameters.
      ValueError: if they do not divide the batch or the persistent chains.
    """
    section = config.mesh
    if section.data == 1 and jax.process_count() == 1:
        if section.shard_parameters_from:
            raise ConfigError(
                "config.mesh.shard_parameters_from divides parameters among devices, and "
                "config.mesh.data is 1"
            )
        return None
    with naming("config.mesh.data"):
        mesh = make_mesh(None if section.data == -1 else section.data)
    with naming("config.mesh"):
        layout = DataParallel(mesh, section.shard_parameters_from or None)
    layout.check_divides("config.train.batch_size", config.train.batch_size)
    if config.method.name == "contrastive" and config.method.contrastive.persistent:
        name = "config.method.contrastive.num_chains"
        layout.check_divides(name, config.method.contrastive.num_chains)
    return layout


def chain_sharding(config: ConfigDict, num_chains: int) -> NamedSharding | None:
    """Returns how chains [num_chains, ...] are divided among devices; None for one device.

    As many of the config's devices, of this process, as take equal shares: which does not change
    what the chains do.
    """
    devices = jax.local_devices()
    if config.mesh.data != -1:
        devices = devices[: config.mesh.data]
    count = max(n for n in range(1, len(devices) + 1) if num_chains % n == 0)
    if count == 1:
        return None
    return NamedSharding(Mesh(np.array(devices[:count]), ("chains",)), PartitionSpec("chains"))


def spread(config: ConfigDict, chains: Any) -> Any:
    """Puts chains, a pytree of arrays [num_chains, ...], on the devices of `chain_sharding`."""
    sharding = chain_sharding(config, jax.tree.leaves(chains)[0].shape[0])
    return chains if sharding is None else jax.device_put(chains, sharding)
