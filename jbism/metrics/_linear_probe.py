"""How much of a label a linear classifier can read from features."""

import warnings
from typing import Any, NamedTuple

import numpy as np

from jbism import _checks
from jbism.metrics._features import pair
from jbism.typing import ArrayLike


class LinearProbe(NamedTuple):
    """A linear classifier's result on features."""

    test_accuracy: float  # share of the test examples
    train_accuracy: float
    converged: bool  # False: the optimizer stopped at max_steps


def linear_probe(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    *,
    kind: str = "logistic",
    inverse_regularization: float = 1.0,
    max_steps: int = 1_000,
) -> LinearProbe:
    """Trains a linear classifier on features and counts its hits on the test set.

    Features are standardised by the training set's mean and standard deviation. The classifier is
    scikit-learn's multinomial logistic regression or its one-against-all linear support vector
    machine (squared hinge loss); both have one optimum, and no randomness.

    Args:
      train_features: [n, d].
      train_labels: [n] integers of at least two classes.
      test_features: [m, d].
      test_labels: [m] integers; classes that training has not are misses.
      kind: ``"logistic"`` or ``"svm"``.
      inverse_regularization: C, the weight of the training loss against ½‖w‖².
      max_steps: of the optimizer.

    Returns:
      A `LinearProbe`.

    Raises:
      ImportError: if scikit-learn is not installed.
      TypeError: if features are not floating or labels not integer.
      ValueError: if shapes do not fit, a value is not finite, there is one class only, or an option
        is out of range.

    Example:
      >>> import numpy as np
      >>> labels = np.arange(40) % 2
      >>> features = np.random.default_rng(0).normal(size=(40, 3)) + 10.0 * labels[:, None]
      >>> linear_probe(features[:30], labels[:30], features[30:], labels[30:]).test_accuracy
      1.0
    """
    _checks.one_of("kind", kind, ("logistic", "svm"))
    c = _checks.positive("inverse_regularization", inverse_regularization)
    max_steps = _checks.integer("max_steps", max_steps, minimum=1)
    train, test = pair("train_features", train_features, "test_features", test_features)
    train, test = train.astype(np.float64), test.astype(np.float64)
    train_y = _labels("train_labels", train_labels, "train_features", train)
    test_y = _labels("test_labels", test_labels, "test_features", test)
    if len(np.unique(train_y)) < 2:
        raise ValueError("train_labels must be of at least 2 classes, got 1")
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import LinearSVC
    except ImportError as error:
        raise ImportError(
            "linear_probe needs scikit-learn: pip install 'jbism[experiments]'"
        ) from error
    classifier: Any
    if kind == "logistic":
        classifier = LogisticRegression(C=c, max_iter=max_steps)
    else:
        classifier = LinearSVC(C=c, dual=False, max_iter=max_steps)
    model = make_pipeline(StandardScaler(), classifier)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(train, train_y)
    return LinearProbe(
        float(model.score(test, test_y)),
        float(model.score(train, train_y)),
        bool(np.max(classifier.n_iter_) < max_steps),
    )


def _labels(name, labels, features_name, features):
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"{name} must have an integer dtype, got {labels.dtype}")
    if labels.shape != (len(features),):
        raise ValueError(
            f"{name} must have shape ({len(features)},), one for each of {features_name}, got "
            f"{labels.shape}"
        )
    return labels
