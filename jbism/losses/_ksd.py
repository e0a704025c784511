"""The kernelized Stein discrepancy as an objective."""

from dataclasses import dataclass

from jbism import stein
from jbism.losses._objectives import CleanObjective, Corrupted, ScoreFunction
from jbism.stein._kernels import check_kernel
from jbism.typing import Array, Key


@dataclass(frozen=True)
class KSD(CleanObjective):
    """The kernelized Stein discrepancy between batch and model (Liu et al., 2016).

    The mean of its values is the U-statistic Σ_{i≠j} u_ij / (B (B - 1)) of `jbism.stein.ksd`: the
    value of an example, Σ_{j≠i} u_ij / (B - 1), depends on the whole batch. It takes no derivative
    of the score, so it serves every estimate of it.

    Args:
      kernel: `jbism.stein.RBF`, `jbism.stein.IMQ` or another radial kernel. Published on data in
        [0, 1]²: ``RBF(bandwidth=0.1)``.

    Raises:
      TypeError: if the kernel is no instance.
      ValueError: if a batch of one example is to be scored.

    Example:
      >>> import jax
      >>> objective = KSD(kernel=stein.RBF(bandwidth=1.0))
      >>> v = jax.random.normal(jax.random.key(0), (500, 2))
      >>> values, _ = objective(lambda v: -v, jax.random.key(1),
      ...                       objective.corrupt(jax.random.key(2), v))
      >>> bool(abs(values.mean()) < 0.02)
      True
    """

    kernel: stein.Kernel

    def __post_init__(self):
        check_kernel(self.kernel)

    def __call__(
        self,
        score: ScoreFunction,
        key: Key,  # noqa: ARG002  (every objective takes one)
        corrupted: Corrupted,
    ) -> tuple[Array, Array]:
        """Returns the values [batch] and the scores [batch, *event]; the key is not used."""
        v = corrupted.inputs
        scores = score(v)
        sums, _ = stein.stein_row_sums(v, scores, kernel=self.kernel)
        return sums / (v.shape[0] - 1), scores
