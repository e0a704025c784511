"""What the latents and features of a trained model of images are good for."""

from functools import partial
from typing import Any

import jax
import numpy as np
import tqdm

from experiments.image_evaluation import Model, choose_rows
from jbism import divergences, metrics

_INVERSE_REGULARIZATIONS = 1e-3, 1e-2, 1e-1, 1.0  # the larger, the longer a fit takes
_PROBE_STEPS = 200


def latent_means(model: Model, v: np.ndarray) -> np.ndarray:
    """Returns the mean of q(h | v) of each v, [n, L]."""
    return model.map(_latent_mean, v)


def _latent_mean(model, v):
    return model.experiment.infer(model.theta, model.phi)(v).mean.reshape(-1)


def trunk_features(model: Model, v: np.ndarray) -> np.ndarray:
    """Returns the features f(v) that the energy sees of each v, [n, features]."""
    return model.map(_trunk_features, v)


def _trunk_features(model, v):
    energy = model.experiment.energy
    return energy.apply(model.theta, v, method=lambda energy, v: energy.trunk(v))


def probe_latents(
    model: Model, *, train_rows: np.ndarray, test_rows: np.ndarray, progress: bool = True
) -> list[dict[str, Any]]:
    """Reads the labels by linear classifiers from what the model makes of images.

    That is the means of q and the features of the energy's trunk, where there are such, and to
    compare the pixels. Model and classifiers saw training examples only; each classifier's
    regularization is chosen on the validation examples.
    """
    dataset = model.experiment.dataset
    assert dataset.train_labels is not None
    assert dataset.validation_labels is not None
    assert dataset.test_labels is not None
    validation_rows = choose_rows(jax.random.key(0), len(dataset.validation), len(test_rows))
    splits = {
        "train": (train_rows, dataset.train_labels),
        "validation": (validation_rows, dataset.validation_labels),
        "test": (test_rows, dataset.test_labels),
    }
    v = {split: dataset.examples(split, rows) for split, (rows, _) in splits.items()}
    labels = {split: all_labels[rows] for split, (rows, all_labels) in splits.items()}
    representations = {"pixels": lambda x: x.reshape(len(x), -1)}
    if hasattr(model.experiment.energy, "trunk"):
        representations = {"trunk of E": partial(trunk_features, model)} | representations
    if model.experiment.latent_size:
        representations = {"mean of q": partial(latent_means, model)} | representations
    features = {
        name: {split: represent(x) for split, x in v.items()}
        for name, represent in representations.items()
    }
    rows = []
    pairs = [(name, kind) for name in features for kind in ("logistic", "svm")]
    for name, kind in tqdm.tqdm(pairs, desc="linear probes", disable=not progress):
        c, probe = _best_probe(features[name], labels, kind)
        rows.append(
            {
                "features": name,
                "num_features": features[name]["train"].shape[1],
                "classifier": {"logistic": "logistic regression", "svm": "linear SVM"}[kind],
                "inverse_regularization": c,
                "num_train": len(train_rows),
                "num_test": len(test_rows),
                **probe._asdict(),
            }
        )
    return rows


def _best_probe(x, labels, kind):
    """Returns C and the probe: the first C after which the validation accuracy does not rise."""

    def probe(split, c):
        return metrics.linear_probe(
            x["train"],
            labels["train"],
            x[split],
            labels[split],
            kind=kind,
            inverse_regularization=c,
            max_steps=_PROBE_STEPS,
        )

    best, highest = _INVERSE_REGULARIZATIONS[0], -1.0
    for c in _INVERSE_REGULARIZATIONS:
        accuracy = probe("validation", c).test_accuracy
        if accuracy <= highest:
            break
        best, highest = c, accuracy
    return best, probe("test", best)


def posterior_fisher_divergence(model: Model, key: jax.Array, v: np.ndarray) -> float | None:
    """Returns the mean Fisher divergence of q(h | v) from p(h | v); None of discrete latents."""
    if hasattr(model.experiment.energy, "free_energy"):
        return None
    return float(np.mean(model.map(_fisher, jax.random.split(key, len(v)), v)))


def _fisher(model, key, v):
    return divergences.Fisher(num_samples=10)(
        model.theta,
        model.phi,
        key,
        v,
        energy=model.experiment.energy.apply,
        posterior=model.experiment.posterior.apply,
    )


def embed(means: np.ndarray, *, seed: int) -> np.ndarray:
    """Returns t-SNE's positions [n, 2] of latent means [n, L], n >= 4."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(30.0, (len(means) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    with threadpool_limits(1):  # its threads wait by spinning: on a busy machine, for minutes
        return tsne.fit_transform(means.astype(np.float64)).astype(np.float32)
