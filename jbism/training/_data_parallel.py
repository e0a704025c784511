"""Where the arrays of a training run lie when several devices share it."""

import math
from dataclasses import dataclass
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jbism import _checks
from jbism.training._processes import gathered, place
from jbism.training._state import TrainState

State = TypeVar("State")

_DATA = "data"


def make_mesh(num_devices: int | None = None) -> Mesh:
    """Returns a mesh of devices, ``("data", "model")`` = (num_devices, 1).

    Args:
      num_devices: the first so many devices; None for those of all processes, which several
        processes need.

    Raises:
      ValueError: if there are fewer devices, or several processes and not all devices.

    Example:
      >>> dict(make_mesh(1).shape)
      {'data': 1, 'model': 1}
    """
    # In order of their processes, so that the part of a batch that a process feeds is in one piece.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if num_devices is None:
        num_devices = len(devices)
    if _checks.integer("num_devices", num_devices, minimum=1) > len(devices):
        raise ValueError(f"num_devices must be at most {len(devices)}, got {num_devices}")
    if jax.process_count() > 1 and num_devices < len(devices):
        raise ValueError(
            f"num_devices must be all {len(devices)} devices of the {jax.process_count()} "
            f"processes, got {num_devices}"
        )
    grid = np.array(devices[:num_devices]).reshape(num_devices, 1)
    return Mesh(grid, (_DATA, "model"), axis_types=(AxisType.Auto, AxisType.Auto))


@dataclass(frozen=True)
class DataParallel:
    """Divides batches and Markov chains among the devices of a mesh, and large parameters too.

    The program stays that of one device: means, spreads of σ and sums over pairs are over the whole
    batch wherever its examples lie, and noise is a function of the key alone. XLA divides the
    work and adds the communication (SPMD), so results differ by rounding only.

    Args:
      mesh: with an axis ``data``, such as `make_mesh` returns.
      shard_parameters_from: divide a parameter, its moments in the optimizer and its moving average
        along their longest axis that the devices divide, if it has at least so many entries; each
        device then holds its part, and gathers parameters for a step. None keeps a copy on every
        device.

    Raises:
      TypeError: if mesh is no Mesh.
      ValueError: if it has no axis ``data``, or shard_parameters_from is below 1.

    Example:
      >>> import jax, jax.numpy as jnp, optax, jbism
      >>> layout = DataParallel(make_mesh(1))
      >>> state = jbism.training.create_state(
      ...     jax.random.key(0), {"w": jnp.ones(2)}, theta_optimizer=optax.sgd(0.1))
      >>> layout.place(state).theta["w"].sharding == layout.replicated()
      True
    """

    mesh: Mesh
    shard_parameters_from: int | None = None

    def __post_init__(self):
        _checks.instance("mesh", self.mesh, Mesh)
        if _DATA not in self.mesh.axis_names:
            raise ValueError(f"mesh must have an axis 'data', got {self.mesh.axis_names}")
        if self.shard_parameters_from is not None:
            _checks.integer("shard_parameters_from", self.shard_parameters_from, minimum=1)

    @property
    def num_devices(self) -> int:
        """How many devices share a batch."""
        return self.mesh.shape[_DATA]

    def replicated(self) -> NamedSharding:
        """Returns the sharding of what every device has a copy of."""
        return NamedSharding(self.mesh, PartitionSpec())

    def leading(self) -> NamedSharding:
        """Returns the sharding of examples or chains [n, ...] divided along their first axis."""
        return NamedSharding(self.mesh, PartitionSpec(_DATA))

    def shardings(self, state: TrainState) -> TrainState:
        """Returns the sharding of each leaf of a state, of arrays or their shapes.

        Raises:
          ValueError: if the devices do not divide the number of chains.
        """
        for leaf in jax.tree.leaves(state.chains):
            self.check_divides("chains", leaf.shape[0])
        parts = {name: getattr(state, name) for name in state.__dataclass_fields__}
        shardings = {name: jax.tree.map(self._parameter, tree) for name, tree in parts.items()}
        shardings["chains"] = jax.tree.map(lambda _: self.leading(), state.chains)
        return TrainState(**shardings)

    def place(self, state: TrainState) -> TrainState:
        """Returns a state, which every process has whole, where `shardings` says.

        Like `jax.device_put` it may share buffers with the one given, which is donated with it.

        Raises:
          ValueError: as `shardings`.
        """
        return place(state, self.shardings(state))

    def batches(self, own: np.ndarray) -> jax.Array:
        """Returns arrays [steps, batch, ...] divided along the batch.

        Args:
          own: this process's part of each batch, [steps, batch / processes, ...]; of processes in
            their order, the batch is the parts one after the other.

        Raises:
          ValueError: if the devices do not divide the batch.
        """
        own = np.asarray(own)
        count = jax.process_count()
        self.check_divides("batch", own.shape[1] * count)
        shape = (own.shape[0], own.shape[1] * count, *own.shape[2:])
        sharding = NamedSharding(self.mesh, PartitionSpec(None, _DATA))
        return jax.make_array_from_process_local_data(sharding, own, shape)

    def own(self, batches: np.ndarray) -> np.ndarray:
        """Returns this process's part of [steps, batch, ...], as `batches` takes it.

        Raises:
          ValueError: if the devices do not divide the batch.
        """
        self.check_divides("batch", batches.shape[1])
        return np.split(batches, jax.process_count(), axis=1)[jax.process_index()]

    def gather(self, tree: State) -> State:
        """Returns a tree whole, on this process's default device."""

        def whole(leaf):
            if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                data = jax.numpy.asarray(gathered(jax.random.key_data(leaf)))
                return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
            return jax.device_put(gathered(leaf))

        return jax.tree.map(whole, tree)

    def check_divides(self, name: str, count: int) -> None:
        """Raises a ValueError unless the devices divide a number."""
        if count % self.num_devices:
            raise ValueError(
                f"{name} must be a multiple of the mesh's {self.num_devices} devices, got {count}"
            )

    def _parameter(self, leaf):
        threshold = self.shard_parameters_from
        divisible = [n for n in leaf.shape if n % self.num_devices == 0]
        if threshold is None or math.prod(leaf.shape) < threshold or not divisible:
            return self.replicated()
        axis = leaf.shape.index(max(divisible))
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, _DATA))
