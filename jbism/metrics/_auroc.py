"""The area under the receiver operating characteristic."""

import jax
import numpy as np

from jbism import _checks
from jbism.metrics._features import double
from jbism.typing import ArrayLike, Key


def auroc(negative_scores: ArrayLike, positive_scores: ArrayLike) -> float:
    """The area under the ROC curve: how often a positive example scores above a negative one.

    P(s₊ > s₋) + ½ P(s₊ = s₋) over all pairs: the Mann-Whitney statistic. In double precision.

    Args:
      negative_scores: [n], such as of data from elsewhere.
      positive_scores: [m], such as of test data.

    Returns:
      The area, in [0, 1]; 0.5 where the scores tell nothing.

    Raises:
      TypeError: if scores are not floating.
      ValueError: if scores are not vectors, there are none, or one is not finite.

    Example:
      >>> import numpy as np
      >>> auroc(np.array([0.0, 1.0]), np.array([1.0, 2.0]))  # three pairs won and one tied
      0.875
    """
    ranks, num_negative = _ranks(negative_scores, positive_scores)
    return float(_area(ranks[:num_negative], ranks[num_negative:], ranks.max() + 1))


def auroc_interval(
    key: Key,
    negative_scores: ArrayLike,
    positive_scores: ArrayLike,
    *,
    level: float = 0.95,
    num_bootstrap: int = 1_000,
) -> tuple[float, float]:
    """A confidence interval of the area under the ROC curve, by the percentile bootstrap.

    Both sets are resampled with replacement, each by itself. Where the scores separate the sets
    perfectly, every resample does, and the interval is a point: it does not say how rare the
    exceptions may be.

    Args:
      key: of the resampling.
      negative_scores: [n].
      positive_scores: [m].
      level: of confidence, between 0 and 1.
      num_bootstrap: number of resamples.

    Returns:
      The lower and the upper end, in [0, 1].

    Raises:
      TypeError: as `auroc`.
      ValueError: as `auroc`, or if level is not between 0 and 1 or num_bootstrap is below 2.

    Example:
      >>> import jax, numpy as np
      >>> rng = np.random.default_rng(0)
      >>> low, high = auroc_interval(
      ...     jax.random.key(0), rng.normal(size=100), rng.normal(size=100) + 1.0)
      >>> low < 0.76 < high  # Φ(1 / √2)
      True
    """
    num_bootstrap = _checks.integer("num_bootstrap", num_bootstrap, minimum=2)
    if not _checks.positive("level", level) < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    ranks, num_negative = _ranks(negative_scores, positive_scores)
    negative, positive = ranks[:num_negative], ranks[num_negative:]
    rng = np.random.default_rng(np.asarray(jax.random.bits(key, (4,), np.uint32)))
    num_ranks = ranks.max() + 1
    areas = [
        _area(rng.choice(negative, len(negative)), rng.choice(positive, len(positive)), num_ranks)
        for _ in range(num_bootstrap)
    ]
    low, high = np.quantile(areas, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _ranks(negative_scores, positive_scores):
    """Returns the scores' ranks, equal ones sharing theirs, negatives first, and their number."""
    scores = []
    for name, x in (("negative_scores", negative_scores), ("positive_scores", positive_scores)):
        x = double(name, x, rank=1)
        if not x.size:
            raise ValueError(f"{name} must not be empty")
        scores.append(x)
    _, ranks = np.unique(np.concatenate(scores), return_inverse=True)
    return ranks, len(scores[0])


def _area(negative, positive, num_ranks):
    negatives = np.bincount(negative, minlength=num_ranks)
    positives = np.bincount(positive, minlength=num_ranks)
    below = np.cumsum(negatives) - negatives
    doubled = np.sum(positives * (2 * below + negatives))  # whole numbers: no rounding
    return doubled / (2 * len(negative) * len(positive))
