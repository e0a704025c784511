"""The container every loader returns."""

import dataclasses
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from jbism.typing import Array

_SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A named data set of examples v in three splits, checked when it is made.

    Args:
      name: what the data set is called in logs and titles.
      train: ``[n, *event]`` floating array, kept as float32 numpy; so are the other splits.
      validation: ``[n, *event]``.
      test: ``[n, *event]``.
      image_shape: ``(height, width)`` or ``(height, width, channels)`` of one example seen as an
        image, None where examples are no images.
      log_density: the true log p(v) in nats, ``[..., *event] -> [...]``, where it is known.
      train_labels: ``[n]`` integer class of each training example, None where there are none.
      validation_labels: ``[n]``; all splits have labels, or none has.
      test_labels: ``[n]``.

    Raises:
      TypeError: examples are not floating, or labels not integer.
      ValueError: a split is empty, holds a NaN or an infinity, or differs from ``train`` in its
        event shape; ``image_shape`` does not fit the event; labels do not fit the examples.

    Example:
      >>> import numpy as np
      >>> import jbism.data
      >>> v = np.zeros((4, 6))
      >>> dataset = jbism.data.Dataset("zeros", train=v, validation=v, test=v, image_shape=(2, 3))
      >>> dataset.event_shape, dataset.images(dataset.test).shape
      ((6,), (4, 2, 3))
    """

    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    image_shape: tuple[int, ...] | None = None
    log_density: Callable[[Array], Array] | None = None
    train_labels: np.ndarray | None = None
    validation_labels: np.ndarray | None = None
    test_labels: np.ndarray | None = None

    def __post_init__(self):
        for split in _SPLITS:
            object.__setattr__(self, split, _examples(split, getattr(self, split)))
        for split in _SPLITS:
            event_shape = getattr(self, split).shape[1:]
            if event_shape != self.event_shape:
                raise ValueError(
                    f"{split} must have the event shape of train, {self.event_shape}, "
                    f"got {event_shape}"
                )
        if self.image_shape is not None:
            self._check_image_shape(self.image_shape)
        labelled = [split for split in _SPLITS if getattr(self, f"{split}_labels") is not None]
        if labelled and len(labelled) < len(_SPLITS):
            raise ValueError(f"labels must be given for all splits or none, got {labelled}")
        for split in labelled:
            name = f"{split}_labels"
            labels = _labels(name, getattr(self, name), len(getattr(self, split)))
            object.__setattr__(self, name, labels)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.train.shape[1:]

    def images(self, v: Array | np.ndarray) -> np.ndarray:
        """Returns examples ``[n, *event]`` as images ``[n, *image_shape]``.

        Raises:
          ValueError: the data set has no ``image_shape``, or ``v`` does not have its event shape.
        """
        if self.image_shape is None:
            raise ValueError(f"the examples of {self.name} are no images: image_shape is None")
        v = np.asarray(v)
        if v.shape[1:] != self.event_shape:
            raise ValueError(f"v must have shape (*, {self.event_shape}), got {v.shape}")
        return v.reshape(len(v), *self.image_shape)

    def _check_image_shape(self, image_shape):
        fits = math.prod(image_shape) == math.prod(self.event_shape)
        if len(image_shape) not in (2, 3) or not fits:
            raise ValueError(
                "image_shape must be (height, width) or (height, width, channels) with as many "
                f"values as the event shape {self.event_shape}, got {image_shape}"
            )


def _examples(split, x):
    x = np.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{split} must have a floating dtype, got {x.dtype}")
    if x.ndim == 0 or x.size == 0:
        raise ValueError(f"{split} must be a non-empty array [n, *event], got shape {x.shape}")
    with np.errstate(over="ignore"):  # what float32 cannot hold is reported below
        x = x.astype(np.float32, copy=False)
    finite = np.isfinite(x).reshape(len(x), -1).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{split} must be finite, but example {finite.argmin()} holds a NaN or an infinity "
            f"(and {np.sum(~finite) - 1} others do)"
        )
    return x


def _labels(name, labels, num_examples):
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"{name} must have an integer dtype, got {labels.dtype}")
    if labels.shape != (num_examples,):
        raise ValueError(f"{name} must have shape ({num_examples},), got {labels.shape}")
    return labels.astype(np.int32, copy=False)
