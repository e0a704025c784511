"""The Fréchet distance between Gaussians, and between features taken for Gaussian."""

from typing import Any

import numpy as np

from jbism.metrics._features import double, pair
from jbism.typing import ArrayLike

_TOLERANCE = 1e-5  # of symmetry and positivity: covariances may come in single precision


def frechet_distance(
    mean_a: ArrayLike, cov_a: ArrayLike, mean_b: ArrayLike, cov_b: ArrayLike
) -> float:
    """The squared Fréchet (2-Wasserstein) distance between two Gaussians.

    ‖m_a - m_b‖² + tr(C_a + C_b - 2 (C_a C_b)^½) = ‖m_a - m_b‖² + min_U ‖F_a - F_b U‖², with
    C = F Fᵀ and U orthogonal (Dowson and Landau, 1982). The second form is a sum of squares: it
    keeps small distances, is never negative and takes singular covariances. In NumPy's double
    precision; the same number, to the bit, for exchanged arguments, and 0 for equal ones. Of two
    sets of examples, `frechet_distance_of_features` takes the means and covariances itself.

    Args:
      mean_a: [d].
      cov_a: [d, d], symmetric and positive semi-definite.
      mean_b: [d].
      cov_b: [d, d].

    Returns:
      The distance, in squared units of the variables. The Fréchet inception distance (Heusel et
      al., 2017) is this for Inception features; other features give figures on another scale.

    Raises:
      TypeError: if an argument is not floating.
      ValueError: if shapes do not fit, a value is not finite, or a covariance is not symmetric or
        has a negative eigenvalue.

    Example:
      >>> import numpy as np
      >>> frechet_distance(np.zeros(1), np.eye(1), np.array([3.0]), 4 * np.eye(1))  # 3² + (2 - 1)²
      10.0
    """
    gaussians = []
    size = double("mean_a", mean_a, rank=1).size
    for name, mean, cov in (("a", mean_a, cov_a), ("b", mean_b, cov_b)):
        mean, cov = double(f"mean_{name}", mean, rank=1), double(f"cov_{name}", cov, rank=2)
        if mean.size != size or not size:
            raise ValueError(f"mean_{name} must have the shape of mean_a, d >= 1, got {mean.shape}")
        if cov.shape != (size, size):
            raise ValueError(f"cov_{name} must have shape ({size}, {size}), got {cov.shape}")
        gaussians.append((mean, _factor(f"cov_{name}", cov)))
    return _distance(*gaussians)


def frechet_distance_of_features(features_a: ArrayLike, features_b: ArrayLike) -> float:
    """The squared Fréchet distance between Gaussians with two sets' means and covariances.

    As `frechet_distance` of the sample means and the unbiased sample covariances, which are not
    formed: there may be fewer examples than features. The estimate is biased upwards, the more the
    fewer the examples: compare sets of the same size, and with the distance between two sets of
    data of that size.

    Args:
      features_a: [n, d], n >= 2.
      features_b: [m, d], m >= 2.

    Returns:
      The distance, in squared units of the features.

    Raises:
      TypeError: if features are not floating.
      ValueError: if shapes do not fit, there are fewer than 2 examples, or a value is not finite.

    Example:
      >>> import numpy as np
      >>> features = np.random.default_rng(0).normal(size=(20, 5))
      >>> round(frechet_distance_of_features(features, features + 2.0), 6)  # 5 · 2²
      20.0
    """
    features = pair("features_a", features_a, "features_b", features_b, minimum=2)
    gaussians = []
    for x in features:
        x = x.astype(np.float64)
        mean = x.mean(0)
        triangular: Any = np.linalg.qr((x - mean) / np.sqrt(len(x) - 1), mode="r")
        gaussians.append((mean, triangular.T))
    return _distance(*gaussians)


def _factor(name, cov):
    """Returns F with F Fᵀ the covariance."""
    scale = max(np.abs(cov).max(), np.finfo(np.float64).tiny)
    if np.abs(cov - cov.T).max() > _TOLERANCE * scale:
        raise ValueError(f"{name} must be symmetric")
    values, vectors = np.linalg.eigh((cov + cov.T) / 2)
    if values[0] < -_TOLERANCE * scale:
        raise ValueError(
            f"{name} must be positive semi-definite, its least eigenvalue is {values[0]:.3g}"
        )
    return vectors * np.sqrt(values.clip(0))


def _distance(*gaussians):
    # Rounding depends on the order of the two; take them always in the same.
    (mean_a, a), (mean_b, b) = sorted(gaussians, key=lambda g: (g[0].tobytes(), g[1].tobytes()))
    between_means = np.sum((mean_a - mean_b) ** 2)
    if np.array_equal(a, b):
        return float(between_means)
    columns = max(a.shape[1], b.shape[1])
    a, b = (np.pad(x, ((0, 0), (0, columns - x.shape[1]))) for x in (a, b))
    left, _, right = np.linalg.svd(b.T @ a)
    return float(between_means + np.sum((a - b @ (left @ right)) ** 2))
