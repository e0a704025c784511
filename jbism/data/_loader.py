"""Batches decoded ahead of the training loop."""

import collections
import concurrent.futures
from typing import Any

import numpy as np

from jbism import _checks
from jbism.data._batches import BatchOrder
from jbism.data._lazy import LazyImages


class BatchLoader:
    """The batches of a :class:`BatchOrder`, taken from images that are decoded in threads.

    Batch t holds the rows ``order.indices(t, 1)``, so it is a function of the order's key and of
    t: a resumed run asks for the step it resumes at, and nothing else is to be saved. While a
    caller uses the batches it took, those that follow are decoded.

    Args:
      examples: the training split, :class:`LazyImages` or an array.
      order: the order, of as many examples.
      num_threads: threads that decode, each a batch at a time.
      num_ahead: batches decoded beyond those taken; so many are kept in memory.

    Raises:
      TypeError: a number is no integer, or ``order`` no BatchOrder.
      ValueError: ``num_threads`` is below 1, ``num_ahead`` negative, or ``order`` is of another
        number of examples.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> import jbism.data
      >>> images = jbism.data.LazyImages(lambda i: np.full((2, 2, 1), i, np.uint8), 10, (2, 2, 1))
      >>> order = jbism.data.BatchOrder(jax.random.key(0), num_examples=10, batch_size=4)
      >>> with jbism.data.BatchLoader(images, order) as loader:
      ...     v = loader.take(step=7, num_steps=3)
      >>> v.shape, bool((v[..., 0, 0, 0] == order.indices(7, 3)).all())
      ((3, 4, 2, 2, 1), True)
    """

    def __init__(
        self,
        examples: LazyImages | np.ndarray,
        order: BatchOrder,
        *,
        num_threads: int = 8,
        num_ahead: int = 16,
    ):
        num_threads = _checks.integer("num_threads", num_threads, minimum=1)
        self._num_ahead = _checks.integer("num_ahead", num_ahead, minimum=0)
        _checks.instance("order", order, BatchOrder)
        if order.num_examples != len(examples):
            raise ValueError(
                f"order must be of {len(examples)} examples, as many as there are, "
                f"got {order.num_examples}"
            )
        self._examples = examples
        self._order = order
        self._pool = concurrent.futures.ThreadPoolExecutor(num_threads, "jbism-batches")
        self._first = 0  # the step of the leftmost pending batch
        self._pending: collections.deque[concurrent.futures.Future[Any]] = collections.deque()
        self._closed = False

    def take(self, step: int, num_steps: int) -> np.ndarray:
        """Returns the batches of training steps ``step`` to ``step + num_steps - 1``.

        Consecutive calls find them decoded; a call for any other step is right too, but waits.

        Args:
          step: first step, counted from 0 over all epochs.
          num_steps: number of steps.

        Returns:
          ``[num_steps, batch_size, *event]`` of the examples' dtype.

        Raises:
          TypeError: a number is no integer.
          ValueError: ``step`` is negative, ``num_steps`` below 1, the loader is closed; or what
            decoding an image raised.
        """
        step = _checks.integer("step", step, minimum=0)
        num_steps = _checks.integer("num_steps", num_steps, minimum=1)
        if self._closed:
            raise ValueError("take needs an open loader, but it was closed")
        if step != self._first:
            self._drop()
            self._first = step
        lacking = num_steps + self._num_ahead - len(self._pending)
        if lacking > 0:
            begin = self._first + len(self._pending)
            for rows in self._order.indices(begin, lacking):
                self._pending.append(self._pool.submit(self._examples.__getitem__, rows))
        try:
            batches = [self._pending.popleft().result() for _ in range(num_steps)]
        except BaseException:
            self._drop()
            raise
        self._first = step + num_steps
        return np.stack(batches)

    def close(self) -> None:
        """Ends the threads; batches not yet taken are lost."""
        self._closed = True
        self._drop()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "BatchLoader":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _drop(self):
        for batch in self._pending:
            batch.cancel()
        self._pending.clear()
