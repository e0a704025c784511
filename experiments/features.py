"""Extractors of image features, by which sets of images are compared.

The built-in one is a small classifier trained on the data at hand. What it yields are called small
classifier features: distances between them cannot be compared with published Fréchet inception
distances, nor between data sets. An extractor of one's own, such as an Inception network with its
weights, is named as ``path/to/file.py:function`` or ``package.module:function``: a function of
float images [n, height, width, channels] in [0, 1] that returns features [n, d].
"""

import hashlib
import importlib
import importlib.util
import json
import os
import pathlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from jbism import data

CLASSIFIER = "small classifier"
_BATCH = 256  # images an extractor sees at a time
_STEPS, _TRAIN_BATCH, _LEARNING_RATE = 1_500, 64, 2e-3
_SCALE_IMAGES = 2_000  # at most, of which the scale of the features is taken


@dataclass(frozen=True)
class Extractor:
    """A map from images to features, and what is to be said of it beside its figures."""

    name: str
    function: Callable[[np.ndarray], Any]
    details: dict[str, Any] = field(default_factory=dict)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Returns features [n, d] of images [n, height, width (, channels)], clipped to [0, 1].

        Raises:
          ValueError: if the function does not return one finite vector for each image.
        """
        images = np.asarray(images, np.float32).clip(0, 1)
        images = images[..., None] if images.ndim == 3 else images
        parts = []
        for start in range(0, len(images), _BATCH):
            batch = images[start : start + _BATCH]
            features = np.asarray(self.function(batch))
            if features.ndim != 2 or len(features) != len(batch) or features.dtype.kind != "f":
                raise ValueError(
                    f"extractor {self.name}: must return floating features [{len(batch)}, d] of "
                    f"{len(batch)} images, got {features.dtype} {features.shape}"
                )
            if not np.isfinite(features).all():
                raise ValueError(f"extractor {self.name}: returned a NaN or an infinity")
            parts.append(features)
        return np.concatenate(parts)

    def digest(self, images: np.ndarray) -> str:
        """Returns a hash of the name and of the features of a few images.

        It tells an extractor from what it was before its file or its weights changed.
        """
        return hashlib.sha256(self.name.encode() + self(images).tobytes()).hexdigest()


def load_extractor(spec: str) -> Extractor:
    """Returns the extractor called ``path/to/file.py:function`` or ``package.module:function``.

    Raises:
      ValueError: if there is no such file, module or function, or the file cannot be imported.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise ValueError(
            f"extractor must be 'path/to/file.py:function' or 'package.module:function', got "
            f"{spec!r}"
        )
    try:
        module = _load_file(pathlib.Path(place)) if place.endswith(".py") else _load_module(place)
    except Exception as error:
        raise ValueError(
            f"extractor: {place} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"extractor: {place} has no function {name!r}")
    return Extractor(spec, function)


def _load_file(path):
    spec = importlib.util.spec_from_file_location(f"extractor_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _load_module(name):
    return importlib.import_module(name)


class SmallClassifier(nn.Module):
    """Convolutions and 2x2 means down to sides of 4 to 7, a hidden layer, logits.

    On batches [n, height, width, channels]; returns logits [n, num_classes] and the hidden layer
    [n, num_features], which are the features.
    """

    num_classes: int
    num_features: int = 64

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns logits and features."""
        x, width = 2 * images - 1, 16
        x = nn.relu(nn.Conv(width, (3, 3))(x))
        while min(x.shape[1:3]) >= 8:
            width = min(2 * width, 64)
            x = nn.relu(nn.Conv(width, (3, 3))(nn.avg_pool(x, (2, 2), (2, 2))))
        features = nn.relu(nn.Dense(self.num_features)(x.reshape(len(x), -1)))
        return nn.Dense(self.num_classes)(features), features


def classifier_extractor(
    dataset: data.Dataset,
    path: str | os.PathLike[str],
    *,
    seed: int = 0,
    num_steps: int = _STEPS,
    progress: bool = True,
) -> Extractor:
    """Returns the features of a small classifier: that of a file, or trained now and stored there.

    The features are the hidden layer, divided by one number so that the mean of their squares is 1:
    the kernel distance depends on the scale. Runs are compared by one classifier if they name one
    file. Its accuracy is measured anew on the test set at hand.

    Args:
      dataset: images with labels; the classifier learns from ``train``.
      path: an ``.npz`` file, read if it exists, else written.
      seed: of the initial weights and of the order of the batches.
      num_steps: training steps, of 64 images.
      progress: whether to show a progress bar.

    Raises:
      ValueError: if the data have no images or no labels, or the file holds no classifier, or one
        of other images or other classes.
    """
    if dataset.image_shape is None or dataset.train_labels is None:
        raise ValueError(
            f"the {CLASSIFIER} needs images with labels, which {dataset.name} has not: name an "
            "extractor of your own"
        )
    path = pathlib.Path(path)
    train, test = (_images(dataset, v) for v in (dataset.train, dataset.test))
    classes = np.unique(dataset.train_labels)
    facts = {"image_shape": list(train.shape[1:]), "classes": classes.tolist()}
    digest = hashlib.sha256(train.tobytes()).hexdigest()
    model = SmallClassifier(num_classes=len(classes))
    apply = jax.jit(model.apply)
    if path.exists():
        params, stored = _read(path, facts)
    else:
        codes = np.searchsorted(classes, dataset.train_labels)
        params = _train(model, train, codes, seed, num_steps, progress)
        some = train[:: -(-len(train) // _SCALE_IMAGES)]
        scale = float(np.sqrt(np.mean(apply(params, some)[1] ** 2)))
        stored = {**facts, "train_sha256": digest, "seed": seed, "num_steps": num_steps}
        stored["feature_scale"] = scale
        _write(path, params, stored)
    scale = stored["feature_scale"]
    extractor = Extractor(
        f"{CLASSIFIER} features", lambda images: np.asarray(apply(params, images)[1]) / scale
    )
    logits = [apply(params, test[i : i + _BATCH])[0] for i in range(0, len(test), _BATCH)]
    hits = classes[np.concatenate(logits).argmax(1)] == dataset.test_labels
    extractor.details.update(
        num_features=model.num_features,
        test_accuracy=float(np.mean(hits)),
        trained_on_these_train_images=stored["train_sha256"] == digest,
        seed=stored["seed"],
        num_steps=stored["num_steps"],
    )
    return extractor


def _images(dataset, v):
    images = np.asarray(dataset.images(v), np.float32).clip(0, 1)
    return images[..., None] if images.ndim == 3 else images


def _train(model, images, codes, seed, num_steps, progress):
    key_init, key_order = jax.random.split(jax.random.key(seed))
    schedule = optax.cosine_decay_schedule(_LEARNING_RATE, num_steps)
    optimizer = optax.adamw(schedule, weight_decay=1e-2)
    params = jax.jit(model.init)(key_init, images[:1])
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, images, codes):
        def loss(params):
            logits, _ = model.apply(params, images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, codes).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    order = data.BatchOrder(key_order, len(images), min(_TRAIN_BATCH, len(images)))
    for rows in tqdm.tqdm(
        order.indices(0, num_steps), desc=f"{CLASSIFIER}", unit="step", disable=not progress
    ):
        params, state = step(params, state, images[rows], codes[rows])
    return params


def _write(path, params, facts):
    arrays = flax.traverse_util.flatten_dict(jax.tree.map(np.asarray, params), sep="/")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.npz")
    try:
        np.savez_compressed(temporary, facts=np.array(json.dumps(facts)), **arrays)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


_FACTS = {"train_sha256", "seed", "num_steps", "feature_scale"}


def _read(path, facts):
    try:
        with np.load(path) as file:
            arrays: dict[str, Any] = {
                name: jnp.asarray(file[name]) for name in file if name != "facts"
            }
            stored = json.loads(str(file["facts"]))
        if not isinstance(stored, dict) or not arrays or not stored.keys() >= _FACTS:
            raise ValueError("its arrays or facts are missing")
    except Exception as error:
        raise ValueError(f"{path}: holds no {CLASSIFIER}: {error}") from error
    for name, value in facts.items():
        if stored.get(name) != value:
            raise ValueError(
                f"{path}: a {CLASSIFIER} of {name} {stored.get(name)}, the data have {value}"
            )
    return flax.traverse_util.unflatten_dict(arrays, sep="/"), stored
