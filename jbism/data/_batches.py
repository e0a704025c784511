"""The order of the data: a pure function of (key, epoch)."""

import copy
import functools

import jax
import numpy as np

from jbism import _checks
from jbism.typing import Key

_CACHED_EPOCHS = 4


class BatchOrder:
    """Which examples each training step sees.

    Epoch e visits ``jax.random.permutation(jax.random.fold_in(key, e), num_examples)`` in batches
    of ``batch_size``; the remainder that fills no batch is dropped. There is no other state, so a
    run can resume at any step.

    Args:
      key: random key of the order.
      num_examples: number of examples to choose from.
      batch_size: number of examples a step.

    Attributes:
      num_examples: number of examples to choose from.
      steps_per_epoch: number of whole batches an epoch, ``num_examples // batch_size``.

    Raises:
      TypeError: a number is no integer.
      ValueError: a number is below 1, or ``batch_size`` above ``num_examples``.

    Example:
      >>> import jax
      >>> import jbism.data
      >>> order = jbism.data.BatchOrder(jax.random.key(0), num_examples=10, batch_size=3)
      >>> order.steps_per_epoch, order.indices(step=2, num_steps=5).shape
      (3, (5, 3))
    """

    def __init__(self, key: Key, num_examples: int, batch_size: int):
        num_examples = _checks.integer("num_examples", num_examples, minimum=1)
        batch_size = _checks.integer("batch_size", batch_size, minimum=1)
        if batch_size > num_examples:
            raise ValueError(
                f"batch_size must be at most num_examples, {num_examples}, got {batch_size}"
            )
        self.num_examples = num_examples
        self.steps_per_epoch = num_examples // batch_size
        self._part = slice(0, batch_size)
        self._batches = functools.lru_cache(maxsize=_CACHED_EPOCHS)(
            functools.partial(_batches, key, num_examples, batch_size)
        )

    def indices(self, step: int, num_steps: int) -> np.ndarray:
        """Returns the rows of training steps ``step`` to ``step + num_steps - 1``.

        Args:
          step: first step, counted from 0 over all epochs.
          num_steps: number of steps, across as many epochs as they take.

        Returns:
          ``[num_steps, batch_size]`` int32 indices of examples; of a `part`, its columns.

        Raises:
          TypeError: a number is no integer.
          ValueError: ``step`` is negative, or ``num_steps`` below 1.
        """
        step = _checks.integer("step", step, minimum=0)
        num_steps = _checks.integer("num_steps", num_steps, minimum=1)
        first, skipped = divmod(step, self.steps_per_epoch)
        last = (step + num_steps - 1) // self.steps_per_epoch
        batches = np.concatenate([self._batches(epoch) for epoch in range(first, last + 1)])
        return batches[skipped : skipped + num_steps, self._part]

    def part(self, index: int, count: int) -> "BatchOrder":
        """Returns the order of one part of each batch, such as a process of several feeds.

        Args:
          index: which part, from 0.
          count: how many equal parts, one after the other, make a batch.

        Raises:
          TypeError: a number is no integer.
          ValueError: ``count`` does not divide the batch size, or ``index`` is not below it.
        """
        count = _checks.integer("count", count, minimum=1)
        index = _checks.integer("index", index, minimum=0)
        size = self._part.stop - self._part.start
        if size % count:
            raise ValueError(f"count must divide batch_size, {size}, got {count}")
        if index >= count:
            raise ValueError(f"index must be below count, {count}, got {index}")
        part = copy.copy(self)
        start = self._part.start + index * (size // count)
        part._part = slice(start, start + size // count)
        return part


def _batches(key, num_examples, batch_size, epoch):
    order = jax.random.permutation(jax.random.fold_in(key, epoch), num_examples)
    num_batches = num_examples // batch_size
    kept = np.asarray(order, np.int32)[: num_batches * batch_size]
    return kept.reshape(num_batches, batch_size)
