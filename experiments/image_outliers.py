"""Whether a trained model of images tells other images from those of its test set."""

import pathlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from experiments.image_evaluation import Model
from jbism import data, divergences, estimators, metrics

_PARTICLES = 10  # of q, an image
_EXACT = "log p(v) + log Z", "-‖∇ log p(v)‖"
_VARIATIONAL = (
    "-E(v, mean of q)",
    f"log p(v) + log Z by {_PARTICLES} samples of q",
    "-‖variational score at the mean of q‖",
)


def scores(model: Model, key: jax.Array, v: np.ndarray) -> dict[str, np.ndarray]:
    """Returns scores of each example, [n], that are to be high on data, by name.

    The log-density without its constant log Z is exact where the energy has a free energy; else
    -E(v, h) stands for it, h the mean of q(h | v), and so does its importance estimate by samples
    of q. The score ∇_v log p(v) is exact likewise, or the variational score at the mean; its norm
    is small near modes.
    """
    if hasattr(model.experiment.energy, "free_energy"):
        return dict(zip(_EXACT, model.map(_exact, v), strict=True))
    keys = jax.random.split(key, len(v))
    return dict(zip(_VARIATIONAL, model.map(_variational, keys, v), strict=True))


def _exact(model, v):
    free_energy = partial(model.experiment.energy.apply, model.theta, method="free_energy")
    value, gradient = jax.value_and_grad(free_energy)(v)
    return -value, -jnp.linalg.norm(gradient.reshape(-1))


def _variational(model, key, v):
    experiment, theta, phi = model.experiment, model.theta, model.phi
    given: Any = {"energy": experiment.energy.apply, "posterior": experiment.posterior.apply}
    h = experiment.infer(theta, phi)(v).mean
    score = estimators.variational_score(theta, phi, v, h, **given)
    bound = divergences.IWAE(_PARTICLES)(theta, phi, key, v, **given)
    return -experiment.energy.apply(theta, v, h), -bound, -jnp.linalg.norm(score.reshape(-1))


def detect(
    model: Model,
    others: dict[str, np.ndarray],
    key: jax.Array,
    *,
    test: np.ndarray,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Returns how often a test image scores above another image, for each kind and each score."""
    key_test, key = jax.random.split(key)
    of_test = scores(model, key_test, test)
    rows = []
    for i, (name, v) in enumerate(
        tqdm.tqdm(others.items(), desc="other images", disable=not progress)
    ):
        key_scores, key_interval = jax.random.split(jax.random.fold_in(key, i))
        for j, (score, values) in enumerate(scores(model, key_scores, v).items()):
            own = jax.random.fold_in(key_interval, j)
            for what, x in ((name, values), ("test images", of_test[score])):
                if not np.isfinite(x).all():
                    raise ValueError(f"{score} of {what} is not finite everywhere")
            low, high = metrics.auroc_interval(own, values, of_test[score])
            rows.append(
                {
                    "other_images": name,
                    "score": score,
                    "num_other_images": len(v),
                    "num_test_images": len(test),
                    "auroc": metrics.auroc(values, of_test[score]),
                    "auroc_low": low,
                    "auroc_high": high,
                }
            )
    return rows


def corrupted_images(
    key: jax.Array, dataset: data.Dataset, test: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns images [n, *event] that are no data, by name, one for each test image."""
    images = dataset.images(test)
    images = images[..., None] if images.ndim == 3 else images
    key_noise, key_level, key_shuffle = jax.random.split(key, 3)
    pixels = jnp.asarray(images.reshape(len(images), -1, images.shape[-1]))
    shuffled = jax.vmap(jax.random.permutation)(jax.random.split(key_shuffle, len(pixels)), pixels)
    color = jax.random.uniform(key_level, (len(images), 1, 1, images.shape[-1]))
    corrupted = {
        "uniform noise": jax.random.uniform(key_noise, images.shape),
        "constant images": jnp.broadcast_to(color, images.shape),
        "test images, pixels shuffled": shuffled,
        "test images, inverted": 1 - images,
        "test images, means of two": (images + np.roll(images, 1, axis=0)) / 2,
    }
    return {name: np.asarray(x).reshape(test.shape) for name, x in corrupted.items()}


def read_images(path: pathlib.Path, dataset: data.Dataset) -> np.ndarray:
    """Returns the images of an ``.npz`` file as examples [n, *event] of the data.

    The file holds one array, or one called ``images`` or ``x``: [n, height, width (, channels)],
    floats in [0, 1] or bytes. Smaller images are padded with zeros on all sides, as MNIST's are.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it holds no such images, or images of another shape than the data's.
    """
    try:
        with np.load(path) as file:
            names = [name for name in file if name in ("images", "x")] or list(file)
            if len(names) != 1:
                raise ValueError(
                    f"one array, or one called 'images' or 'x', is wanted, got {names}"
                )
            images = file[names[0]]
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except Exception as error:
        raise ValueError(f"{path}: holds no images: {error}") from error
    image_shape = _with_channels(dataset.image_shape)
    given = _with_channels(images.shape[1:])
    if len(given) == 3 and given[2] == image_shape[2]:
        height, width = ((image_shape[axis] - given[axis]) // 2 for axis in (0, 1))
        if height >= 0 and width >= 0:
            margins = (0, 0), (height, height), (width, width), (0, 0)
            images = np.pad(images.reshape(-1, *given), margins)
    if not images.size or images.shape[1:] != image_shape:
        raise ValueError(
            f"{path}: images must have shape [n, height, width, channels] with the data's "
            f"{image_shape}, or less of its height and width by even numbers, got "
            f"{(*images.shape[:1], *given)}"
        )
    if images.dtype == np.uint8:
        images = images / np.float32(255)
    if images.dtype.kind != "f" or not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"{path}: images must be bytes, or floats in [0, 1]")
    return images.astype(np.float32).reshape(len(images), *dataset.event_shape)


def _with_channels(shape):
    return (*shape, 1) if len(shape) == 2 else tuple(shape)
