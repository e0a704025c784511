"""How good the samples of a trained model of images are."""

import pathlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from experiments import sampling
from experiments.builders import Experiment
from experiments.resumable import ChainStore
from jbism import data, metrics

_BATCH = 100  # examples a dispatch
LEAST = 4  # samples that a distance wants
_SHOWN, _NEIGHBORS = 10, 6  # samples in the picture of neighbours, and neighbours of each
_MAX_VALUES = 250_000_000  # of the training images among which neighbours are sought


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model and its data."""

    experiment: Experiment
    theta: Any
    phi: Any
    _mapped: dict[Callable, Callable] = field(default_factory=dict, init=False, repr=False)

    def map(self, function: Callable[..., Any], *arrays: Any) -> Any:
        """Returns ``function(model, ...)`` of single examples, as NumPy arrays [n, ...].

        A function is compiled once, for any number of examples of one shape.
        """
        if function not in self._mapped:
            self._mapped[function] = jax.jit(jax.vmap(partial(function, self)))
        num, parts = len(arrays[0]), []
        for start in range(0, num, _BATCH):
            rows = np.arange(start, start + _BATCH).clip(max=num - 1)  # the last is filled up
            parts.append(jax.device_get(self._mapped[function](*(x[rows] for x in arrays))))
        return jax.tree.map(lambda *x: np.concatenate(x)[:num], *parts)


def choose_rows(key: jax.Array, num: int, most: int) -> np.ndarray:
    """Returns all of ``num`` rows, or ``most`` of them at random, in order."""
    if num <= most:
        return np.arange(num)
    return np.sort(np.asarray(jax.random.permutation(key, num)[:most]))


def stored_samples(path: pathlib.Path, dataset: data.Dataset) -> dict[str, np.ndarray]:
    """Returns the samples of a ``samples.npz``, by title.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file does not hold samples that can be compared with the data.
    """
    samples = read_samples(path)
    for title, v in samples.items():
        if len(v) < LEAST or v.shape[1:] != dataset.event_shape:
            raise ValueError(
                f"{path}: {title!r} must be {LEAST} or more of shape {dataset.event_shape}, got "
                f"{v.shape}; give num_samples to draw samples anew"
            )
    return samples


def read_samples(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns what `store_samples` wrote, or raises as `stored_samples`."""
    try:
        with np.load(path) as file:
            return {str(title): file[f"panel_{i}"] for i, title in enumerate(file["titles"])}
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: no such file; give num_samples to draw samples anew"
        ) from None
    except Exception as error:
        raise ValueError(f"{path}: holds no samples: {error}") from error


def store_samples(path: pathlib.Path, samples: dict[str, np.ndarray]) -> None:
    """Writes a file for `stored_samples`, whole or not at all."""
    arrays: dict[str, Any] = {f"panel_{i}": x for i, x in enumerate(samples.values())}
    temporary = path.with_name(f".{path.name}.tmp.npz")
    np.savez_compressed(temporary, titles=np.array(list(samples)), **arrays)
    temporary.replace(path)


def draw_samples(
    model: Model,
    key: jax.Array,
    *,
    num_samples: int,
    batch_size: int,
    folder: pathlib.Path,
    store: ChainStore | None = None,
    progress: bool = True,
) -> dict[str, np.ndarray]:
    """Draws samples by the config's sampler, a batch at a time, by title.

    Where the sampler starts from training examples, each sample has its own, chosen at random.
    Finished batches are kept in ``folder`` and, with the same arguments, not drawn again; the
    chains of the batch under way in ``store``.
    """
    dataset = model.experiment.dataset
    key_rows, key_batches = jax.random.split(key)
    order = np.asarray(jax.random.permutation(key_rows, len(dataset.train)))
    batches = []
    for i, start in enumerate(range(0, num_samples, batch_size)):
        path, size = folder / f"samples_{i}.npz", min(batch_size, num_samples - start)
        if not path.exists():
            rows: Any = slice(None)
            if model.experiment.config.sampling.name == "langevin":
                rows = order[np.arange(start, start + size) % len(order)]
            drawn = sampling.draw(
                replace(model.experiment, dataset=_for_sampling(dataset, rows)),
                model.theta,
                model.phi,
                jax.random.fold_in(key_batches, i),
                num_samples=size,
                store=store,
                progress=progress,
            )
            store_samples(path, drawn.panels)
        batches.append(read_samples(path))
    return {title: np.concatenate([panels[title] for panels in batches]) for title in batches[0]}


def _for_sampling(dataset, rows):
    """Returns the data a sampler starts from, with one image to reconstruct: it cannot do none."""
    labels = dict.fromkeys(("train_labels", "validation_labels", "test_labels"))
    one = dataset.examples("test", slice(1))
    train = dataset.examples("train", rows)
    return replace(dataset, train=train, validation=one, test=one, **labels)


def compare_samples(
    samples: dict[str, np.ndarray],
    dataset: data.Dataset,
    extract: Callable[[np.ndarray], np.ndarray],
    key: jax.Array,
    *,
    test: np.ndarray,
) -> list[dict[str, Any]]:
    """Compares samples with test images by the distances of their features.

    The last row compares training images with the same test images. It is the floor: what samples
    of the data's own distribution, as many as there are of the model, would get.
    """
    key_rows, *keys = jax.random.split(key, 2 + len(samples))
    num = min(max(map(len, samples.values())), len(dataset.train))
    train = dataset.examples("train", choose_rows(key_rows, len(dataset.train), num))
    reference = extract(dataset.images(test))
    rows = []
    for own, (title, v) in zip(keys, {**samples, "training images": train}.items(), strict=True):
        if len(v) < LEAST or not np.isfinite(v).all():
            raise ValueError(
                f"samples: {title!r} must be {LEAST} or more and finite, got {len(v)}, "
                f"{np.sum(~np.isfinite(v).reshape(len(v), -1).all(1))} of them with NaN or Inf"
            )
        features = extract(dataset.images(v))
        kernel = metrics.kernel_distance(own, features, reference)
        rows.append(
            {
                "images": title,
                "num_images": len(v),
                "num_test_images": len(test),
                "frechet_distance": metrics.frechet_distance_of_features(features, reference),
                "kernel_distance": kernel.mean,
                "kernel_distance_standard_deviation": kernel.standard_deviation,
                "kernel_distance_standard_error": kernel.standard_error,
            }
        )
    return rows


def nearest_training_images(
    samples: dict[str, np.ndarray], dataset: data.Dataset, key: jax.Array
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns the first samples of each kind as images, and the training images nearest to each.

    They are sought among all training images, or as many as memory allows, as the titles say.
    """
    rows = choose_rows(key, len(dataset.train), _MAX_VALUES // dataset.train[0].size)
    train = dataset.examples("train", rows)
    panels = {}
    for title, v in samples.items():
        images = dataset.images(v[:_SHOWN])
        found = metrics.nearest_neighbors(
            images.reshape(len(images), -1),
            train.reshape(len(train), -1),
            k=min(_NEIGHBORS, len(train)),
        ).indices
        nearest = dataset.images(train[found.ravel()]).reshape(*found.shape, *images.shape[1:])
        panels[f"{title}, and the nearest of {len(train):,} training images"] = images, nearest
    return panels
