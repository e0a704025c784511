"""The kernelized Stein discrepancy."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jbism import _checks
from jbism.stein._kernels import Kernel, check_kernel, gram_precision, squared_distances
from jbism.typing import Array


def stein_matrix(v: Array, scores: Array, *, kernel: Kernel) -> Array:
    """The Stein kernel of every pair of points.

    u_ij = s_iᵀ s_j k + s_iᵀ ∇_{v_j} k + s_jᵀ ∇_{v_i} k + tr ∇_{v_i} ∇_{v_j} k, k = k(v_i, v_j)
    (Liu et al., 2016, Theorem 3.6). If s is the score of the law of v_i, E[u_ij] = 0 for
    every v_j. For a radial kernel k = κ(r²) with d = v_i - v_j in R^D

      u_ij = κ s_iᵀs_j + 2κ' (s_j - s_i)ᵀd - 2Dκ' - 4κ'' r².

    Args:
      v: points, [n, *event], n >= 2.
      scores: the model's score s at each point, [n, *event], in 1 / units of v.
      kernel: `RBF`, `IMQ` or another `Kernel`.

    Returns:
      The symmetric matrix u, [n, n].

    Raises:
      ValueError: if v has fewer than 2 points or no event axis, the scores have not its shape, or,
        outside of jit, v or scores hold NaN or Inf.
      TypeError: if v or scores are not floating, or the kernel is no kernel.

    Example:
      >>> import jax.numpy as jnp, jbism
      >>> v = jnp.array([[0.0], [1.0]])
      >>> u = stein_matrix(v, -v, kernel=jbism.stein.RBF(bandwidth=1.0))
      >>> [[round(float(x), 4) for x in row] for row in u]
      [[1.0, -0.6065], [-0.6065, 2.0]]
    """
    v, scores, kappa = _prepare(v, scores, kernel)
    off_diagonal = _stein_rows(v, scores, jnp.arange(v.shape[0]), v, scores, kappa)
    return off_diagonal + jnp.diag(_diagonal(scores, kappa))


def stein_row_sums(
    v: Array, scores: Array, *, kernel: Kernel, block_size: int = 1024
) -> tuple[Array, Array]:
    """The sums over j ≠ i of `stein_matrix`, and its diagonal, without the matrix.

    Up to block_size points are taken in one piece. More are taken in blocks of rows, which
    a derivative recomputes: memory is that of block_size × n numbers.

    Args:
      v: points, [n, *event], n >= 2.
      scores: the model's score at each point, [n, *event].
      kernel: `RBF`, `IMQ` or another `Kernel`.
      block_size: the most rows taken together, at least 1.

    Returns:
      Σ_{j≠i} u_ij and u_ii, both [n].

    Raises:
      ValueError: as `stein_matrix`, or if block_size < 1.
      TypeError: as `stein_matrix`, or if block_size is no integer.

    Example:
      >>> import jax.numpy as jnp, jbism
      >>> v = jnp.array([[0.0], [1.0]])
      >>> sums, diagonal = stein_row_sums(v, -v, kernel=jbism.stein.RBF(bandwidth=1.0))
      >>> [round(float(x), 4) for x in sums], diagonal.tolist()
      ([-0.6065, -0.6065], [1.0, 2.0])
    """
    blocks, diagonal = map_stein_blocks(
        lambda u, indices: jnp.sum(u, axis=1),  # noqa: ARG005
        v,
        scores,
        kernel=kernel,
        block_size=block_size,
    )
    return blocks.reshape(-1)[: diagonal.size], diagonal


def ksd(
    v: Array, scores: Array, *, kernel: Kernel, statistic: str = "u", block_size: int = 1024
) -> Array:
    """The squared kernelized Stein discrepancy between the law of the points and the model.

    U = Σ_{i≠j} u_ij / (n (n-1)) is unbiased and may be negative; V = Σ_ij u_ij / n² is biased
    upwards and never negative (Liu et al., 2016, Section 4). With estimated scores U stays
    unbiased as long as each point has independent noise of mean zero; V does not.

    Args:
      v: points, [n, *event], n >= 2.
      scores: the model's score at each point, [n, *event], in 1 / units of v.
      kernel: `RBF`, `IMQ` or another `Kernel`.
      statistic: ``"u"`` or ``"v"``.
      block_size: the most rows taken together, as in `stein_row_sums`.

    Returns:
      A scalar; NaN, under jit, if the scores hold NaN.

    Raises:
      ValueError: as `stein_row_sums`, or if the statistic is unknown.
      TypeError: as `stein_row_sums`.

    Example:
      >>> import jax, jbism
      >>> v = jax.random.normal(jax.random.key(0), (500, 2))
      >>> kernel = jbism.stein.RBF()
      >>> right, wrong = ksd(v, -v, kernel=kernel), ksd(v, -v - 0.5, kernel=kernel)
      >>> bool(abs(right) < 0.02), bool(wrong > 0.1)
      (True, True)
    """
    _checks.one_of("statistic", statistic, ("u", "v"))
    sums, diagonal = stein_row_sums(v, scores, kernel=kernel, block_size=block_size)
    n = diagonal.size
    if statistic == "u":
        return jnp.sum(sums) / (n * (n - 1))
    return (jnp.sum(sums) + jnp.sum(diagonal)) / n**2


def map_stein_blocks(
    function: Callable[[Array, Array], Any],
    v: Array,
    scores: Array,
    *,
    kernel: Kernel,
    block_size: int,
) -> tuple[Any, Array]:
    """Maps a function over blocks of rows of `stein_matrix`, each recomputed in a derivative.

    The function takes rows u [rows, n], whose diagonal entries are 0, and their indices [rows].
    Rows of index n and above fill the last block; they are 0.

    Returns:
      The function's results with a leading axis of blocks, and the diagonal of the matrix [n].
    """
    block_size = _checks.integer("block_size", block_size, minimum=1)
    v, scores, kappa = _prepare(v, scores, kernel)
    diagonal = _diagonal(scores, kappa)
    n = v.shape[0]

    def block(rows):
        row_v, row_scores, indices = rows
        return function(_stein_rows(row_v, row_scores, indices, v, scores, kappa), indices)

    if n <= block_size:
        result = block((v, scores, jnp.arange(n)))
        return jax.tree.map(lambda x: x[None], result), diagonal
    num_blocks = -(-n // block_size)
    num_rows = -(-n // num_blocks)

    def cut(x):
        padding = [(0, num_blocks * num_rows - n)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, padding).reshape(num_blocks, num_rows, *x.shape[1:])

    indices = jnp.arange(num_blocks * num_rows).reshape(num_blocks, num_rows)
    # Inside the loop of lax.map, CSE cannot undo the recomputation.
    checkpointed = partial(jax.checkpoint, prevent_cse=False)(block)
    return jax.lax.map(checkpointed, (cut(v), cut(scores), indices)), diagonal


def _prepare(v, scores, kernel):
    """Checks the arguments and returns centred points [n, D], scores [n, D] and the profile."""
    check_kernel(kernel)
    v, scores = _checks.examples("v", v), _checks.examples("scores", scores)
    _checks.same_shape("scores", scores, "v", v)
    n = v.shape[0]
    if n < 2:
        raise ValueError(f"v must hold at least 2 points, got shape {v.shape}")
    for name, x in (("v", v), ("scores", scores)):
        if not isinstance(x, jax.core.Tracer) and not np.isfinite(np.asarray(x)).all():
            raise ValueError(f"{name} must be finite, but holds NaN or Inf")
    v, scores = v.reshape(n, -1), scores.reshape(n, -1)
    # Distances do not depend on the origin, but their digits do.
    v = v - jax.lax.stop_gradient(jnp.mean(v, axis=0, keepdims=True))
    kappa = kernel.profile(v)
    return v, scores, kappa


def _stein_rows(v, scores, indices, all_v, all_scores, kappa):
    """Rows of the Stein matrix [rows, n]; zero on the diagonal and in rows of index n and above."""
    n, dim = all_v.shape
    off_diagonal = (indices[:, None] != jnp.arange(n)[None, :]) & (indices[:, None] < n)
    matmul = partial(jnp.matmul, precision=gram_precision)
    # A pair of equal index has distance 0, whatever the rounding of the products.
    squared = jnp.where(off_diagonal, squared_distances(v, all_v), 0.0)
    value, first, second = _derivatives(kappa, squared)
    # (s_j - s_i)ᵀ(v_i - v_j), the products apart
    cross = matmul(v, all_scores.T) + matmul(scores, all_v.T)
    own = jnp.sum(scores * v, axis=1)[:, None] + jnp.sum(all_scores * all_v, axis=1)[None, :]
    u = value * matmul(scores, all_scores.T)
    u = u + 2.0 * first * (cross - own - dim) - 4.0 * second * squared
    return jnp.where(off_diagonal, u, 0.0)


def _diagonal(scores, kappa):
    """u_ii = κ(0) ‖s_i‖² - 2Dκ'(0)."""
    zeros = jnp.zeros(scores.shape[0], scores.dtype)
    value, first, _ = _derivatives(kappa, zeros)
    return value * jnp.sum(scores**2, axis=1) - 2.0 * scores.shape[1] * first


def _derivatives(kappa, squared):
    """κ, κ' and κ'' at squared distances of any shape."""

    def checked(x):
        value = jnp.asarray(kappa(x))
        if value.shape != x.shape:
            raise ValueError(
                "kernel.profile(points) must return an elementwise function, but it maps shape "
                f"{x.shape} to {value.shape}"
            )
        return value

    ones = jnp.ones_like(squared)

    def value_and_first(x):
        return jax.jvp(checked, (x,), (ones,))

    (value, first), (_, second) = jax.jvp(value_and_first, (squared,), (ones,))
    return value, first, second
