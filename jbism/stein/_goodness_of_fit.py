"""A test whether points come from a model."""

from typing import NamedTuple

import jax.numpy as jnp

from jbism import _checks, _random
from jbism.stein._kernels import Kernel, gram_precision
from jbism.stein._ksd import map_stein_blocks
from jbism.typing import Array, Key


class GoodnessOfFit(NamedTuple):
    """What `goodness_of_fit` finds."""

    statistic: Array  # scalar, n times the U-statistic of the squared discrepancy
    p_value: Array  # scalar in (0, 1], a multiple of 1 / (1 + num_bootstrap); NaN without scores
    bootstrap: Array  # [num_bootstrap], the statistic under random signs


def goodness_of_fit(
    key: Key,
    v: Array,
    scores: Array,
    *,
    kernel: Kernel,
    num_bootstrap: int = 1000,
    block_size: int = 1024,
) -> GoodnessOfFit:
    """Tests whether points come from a model, of which only the score is needed.

    The statistic is n U = Σ_{i≠j} u_ij / (n-1) of the Stein kernel u (`stein_matrix`). Its law
    under the null hypothesis, that v_i are independent draws from the model, is approximated by the
    wild bootstrap (Chwialkowski et al., 2016; Liu et al., 2016): Σ_{i≠j} w_i w_j u_ij / (n-1) with
    independent random signs w_i. p = (1 + #{bootstrap >= statistic}) / (1 + num_bootstrap).

    The scores may be estimates, as `jbism.estimators.vaes` makes them for a latent-variable
    model: noise that is independent from point to point, of mean zero given the point, leaves the
    level of the test asymptotically right. A biased estimate tests another null hypothesis.

    Args:
      key: for the signs.
      v: points, [n, *event], n >= 2.
      scores: the model's score at each point, [n, *event], in 1 / units of v.
      kernel: `RBF`, `IMQ` or another `Kernel`.
      num_bootstrap: number of bootstrap draws, at least 1.
      block_size: the most rows of the Stein matrix in memory at once, beside num_bootstrap × n
        signs.

    Returns:
      A `GoodnessOfFit`. Under jit, where values cannot raise, a statistic that is not finite gives
      the p-value NaN.

    Raises:
      ValueError: if num_bootstrap < 1, and as `stein_row_sums`.
      TypeError: if num_bootstrap is no integer, and as `stein_row_sums`.

    Example:
      >>> import jax, jbism
      >>> v = jax.random.normal(jax.random.key(0), (300, 2))
      >>> kernel = jbism.stein.RBF("median")
      >>> right = goodness_of_fit(jax.random.key(1), v, -v, kernel=kernel)
      >>> wrong = goodness_of_fit(jax.random.key(1), v, -v + 0.5, kernel=kernel)
      >>> bool(right.p_value > 0.05), bool(wrong.p_value < 0.01)
      (True, True)
    """
    num_bootstrap = _checks.integer("num_bootstrap", num_bootstrap, minimum=1)
    v, scores = _checks.batched("v", v), _checks.batched("scores", scores)
    n = v.shape[0]
    signs = _random.rademacher(key, (num_bootstrap, n), scores.dtype)
    # The statistic is the draw of equal signs; alike in rounding, it ties with its like.
    signs = jnp.concatenate([jnp.ones((1, n), signs.dtype), signs])

    def partial_sums(u, indices):
        row_signs = jnp.take(signs, indices, axis=1, mode="clip")  # rows from n on are zero in u
        weighted = jnp.matmul(signs, u.T, precision=gram_precision)
        return jnp.sum(row_signs * weighted, axis=1)

    blocks, _ = map_stein_blocks(partial_sums, v, scores, kernel=kernel, block_size=block_size)
    sums = jnp.sum(blocks, axis=0) / (n - 1)
    statistic, bootstrap = sums[0], sums[1:]
    count = jnp.sum(bootstrap >= statistic)
    p_value = ((1 + count) / (1 + num_bootstrap)).astype(bootstrap.dtype)
    p_value = jnp.where(jnp.isfinite(statistic), p_value, jnp.nan)
    return GoodnessOfFit(statistic, p_value, bootstrap)
