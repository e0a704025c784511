"""The kernel distance between two sets of features."""

from typing import NamedTuple

import jax
import numpy as np

from jbism import _checks
from jbism.metrics._features import pair
from jbism.typing import ArrayLike, Key


class KernelDistance(NamedTuple):
    """An unbiased estimate of MMD², with its uncertainty."""

    mean: float  # over the subsets; may be negative
    standard_deviation: float  # between subsets: what is commonly printed beside the mean
    standard_error: float  # of the mean, for fresh examples of both sets


def kernel_distance(
    key: Key,
    features_a: ArrayLike,
    features_b: ArrayLike,
    *,
    num_subsets: int = 100,
    subset_size: int | None = None,
) -> KernelDistance:
    """The kernel distance: the unbiased MMD² with the kernel k(x, y) = (xᵀy / d + 1)³.

    Of s examples of each set,

      MMD² = 1/(s(s - 1)) Σ_{i≠j} [k(a_i, a_j) + k(b_i, b_j)] - 2/s² Σ_{i,j} k(a_i, b_j),

    averaged over random subsets (Bińkowski et al., 2018, who take Inception features: KID). Unlike
    the Fréchet distance it is unbiased, whatever s. In NumPy's double precision.

    Subsets share examples, so that the mean is less certain than their number suggests. The
    standard error is that of subsampling, std · √(s / (n - s) + 1 / num_subsets), n the size of the
    smaller set; where both sets come from one distribution, it is too large rather than too small.

    Args:
      key: chooses the subsets.
      features_a: [n, d].
      features_b: [m, d].
      num_subsets: at least 2.
      subset_size: s, at least 2 and below n and m; by default half of the smaller set, at most
        1,000.

    Returns:
      A `KernelDistance`, in units of the kernel.

    Raises:
      TypeError: if features are not floating.
      ValueError: if shapes do not fit, a value is not finite, there are fewer than 4 examples, or
        subset_size is not below the number of examples.

    Example:
      >>> import jax, numpy as np
      >>> rng = np.random.default_rng(0)
      >>> near = kernel_distance(jax.random.key(0), rng.normal(size=(200, 5)),
      ...                        rng.normal(size=(200, 5)))
      >>> far = kernel_distance(jax.random.key(0), rng.normal(size=(200, 5)),
      ...                       rng.normal(size=(200, 5)) + 0.5)
      >>> abs(near.mean) < 3 * near.standard_error < 0.5 * far.mean
      True
    """
    a, b = pair("features_a", features_a, "features_b", features_b, minimum=4)
    num_subsets = _checks.integer("num_subsets", num_subsets, minimum=2)
    smaller = min(len(a), len(b))
    if subset_size is None:
        subset_size = min(smaller // 2, 1_000)
    size = _checks.integer("subset_size", subset_size, minimum=2)
    if size >= smaller:
        raise ValueError(
            f"subset_size must be below the size of the smaller set, {smaller}, got {size}"
        )
    rng = np.random.default_rng(np.asarray(jax.random.bits(key, (4,), np.uint32)))
    values = [_mmd(_subset(rng, a, size), _subset(rng, b, size), size) for _ in range(num_subsets)]
    deviation = np.std(values, ddof=1)
    error = deviation * np.sqrt(size / (smaller - size) + 1 / num_subsets)
    return KernelDistance(float(np.mean(values)), float(deviation), float(error))


def _subset(rng, x, size):
    return x[rng.choice(len(x), size, replace=False)].astype(np.float64)


def _mmd(a, b, size):
    def sum_off_diagonal(x):
        k = _kernel(x, x)
        return k.sum() - np.trace(k)

    within = sum_off_diagonal(a) + sum_off_diagonal(b)
    return within / (size * (size - 1)) - 2 * _kernel(a, b).mean()


def _kernel(x, y):
    return (x @ y.T / x.shape[1] + 1) ** 3
