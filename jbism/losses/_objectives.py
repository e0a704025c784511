"""Which score-matching objective: options that corrupt a batch and score a score function.

An objective is called with a function of the whole batch, so the same one serves a tractable score,
the variational score of BiSM, and any estimate of the score.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp

from jbism import _checks, _random
from jbism.losses import _score_matching
from jbism.typing import Array, Key

ScoreFunction: TypeAlias = Callable[[Array], Array]  # [batch, *event] -> [batch, *event]


class Corrupted(NamedTuple):
    """Where an objective takes the score."""

    inputs: Array  # [batch, *event], v or v + σε
    noise: Array  # [batch, *event], ε; zero where the objective adds none
    sigma: Array  # [batch], the noise's standard deviation in the units of v; zero likewise


class Objective(Protocol):
    """What `jbism.losses.bism_loss` asks of an upper objective."""

    def corrupt(self, key: Key, v: Array) -> Corrupted:
        """Returns where the score of the batch v is taken."""
        ...

    def lower_weight(self, corrupted: Corrupted) -> Array:
        """Returns the weight of each example's lower divergence, [batch]."""
        ...

    def __call__(self, score: ScoreFunction, key: Key, corrupted: Corrupted) -> tuple[Array, Array]:
        """Returns the values [batch] and the scores [batch, *event]."""
        ...


@dataclass(frozen=True)
class CleanObjective:
    """An objective at the data themselves."""

    def corrupt(self, key: Key, v: Array) -> Corrupted:  # noqa: ARG002
        """Returns v as it is; no noise is drawn."""
        v = _checks.floating("v", v)
        return Corrupted(v, jnp.zeros_like(v), jnp.zeros(v.shape[:1], v.dtype))

    def lower_weight(self, corrupted: Corrupted) -> Array:
        """Weights of the lower divergence, [batch]: ones."""
        return jnp.ones_like(corrupted.sigma)


@dataclass(frozen=True)
class SM(CleanObjective):
    """Score matching with the exact divergence: ½‖s‖² + tr ∇_v s, D forward passes a batch.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> objective = SM()
      >>> v = jnp.array([[3.0, 4.0]])
      >>> values, _ = objective(lambda v: -v, jax.random.key(0),
      ...                       objective.corrupt(jax.random.key(1), v))
      >>> values.tolist()
      [10.5]
    """

    def __call__(
        self,
        score: ScoreFunction,
        key: Key,  # noqa: ARG002  (every objective takes one)
        corrupted: Corrupted,
    ) -> tuple[Array, Array]:
        """Returns the values [batch] and the scores [batch, *event]; the key is not used."""
        v = corrupted.inputs
        scores, tangent_map = jax.linearize(score, v)
        size = v[0].size

        def diagonal(index):
            basis = jnp.zeros(size, v.dtype).at[index].set(1.0).reshape(v.shape[1:])
            tangent = tangent_map(jnp.broadcast_to(basis[None], v.shape))
            return tangent.reshape(v.shape[0], size)[:, index]

        divergence = jnp.sum(jax.lax.map(diagonal, jnp.arange(size)), axis=0)
        return _score_matching.score_matching(scores, divergence), scores


@dataclass(frozen=True)
class SSM(CleanObjective):
    """Sliced score matching: ½‖s‖² + uᵀ(∇_v s)u, both terms from one forward-mode pass.

    Args:
      projection: the law of u, ``"rademacher"`` or ``"gaussian"``.

    Raises:
      ValueError: if the projection is unknown.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> objective = SSM()
      >>> v = jnp.array([[3.0, 4.0]])
      >>> values, _ = objective(lambda v: -v, jax.random.key(0),
      ...                       objective.corrupt(jax.random.key(1), v))
      >>> values.tolist()
      [10.5]
    """

    projection: str = "rademacher"

    def __post_init__(self):
        _checks.one_of("projection", self.projection, ("rademacher", "gaussian"))

    def __call__(self, score: ScoreFunction, key: Key, corrupted: Corrupted) -> tuple[Array, Array]:
        """Returns the values [batch] and the scores [batch, *event]."""
        v = corrupted.inputs
        draw = _random.rademacher if self.projection == "rademacher" else _random.normal
        u = draw(key, v.shape, v.dtype)
        scores, derivative = jax.jvp(score, (v,), (u,))
        return _score_matching.sliced_score_matching(scores, derivative, u), scores


@dataclass(frozen=True)
class DSM:
    """Denoising score matching: ½‖s(ṽ) + ε/σ‖², ṽ = v + σε.

    Args:
      sigma: σ > 0 in the units of v.

    Raises:
      ValueError: if sigma is not positive.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> objective = DSM(sigma=0.1)
      >>> corrupted = objective.corrupt(jax.random.key(0), jnp.zeros((4, 2)))
      >>> values, _ = objective(lambda v: -v / 0.1**2, jax.random.key(1), corrupted)
      >>> [round(float(x), 5) for x in values]  # the score of N(0, σ²), from a single point
      [0.0, 0.0, 0.0, 0.0]
    """

    sigma: float

    def __post_init__(self):
        object.__setattr__(self, "sigma", _checks.positive("sigma", self.sigma))

    def corrupt(self, key: Key, v: Array) -> Corrupted:
        """Draws ε and returns v + σε."""
        v = _checks.floating("v", v)
        noise = _random.normal(key, v.shape, v.dtype)
        sigma = jnp.full(v.shape[:1], self.sigma, v.dtype)
        return Corrupted(v + self.sigma * noise, noise, sigma)

    def lower_weight(self, corrupted: Corrupted) -> Array:
        """Weights of the lower divergence, [batch]: ones."""
        return jnp.ones_like(corrupted.sigma)

    def __call__(
        self,
        score: ScoreFunction,
        key: Key,  # noqa: ARG002  (every objective takes one)
        corrupted: Corrupted,
    ) -> tuple[Array, Array]:
        """Returns the values [batch] and the scores [batch, *event]; the key is not used."""
        scores = score(corrupted.inputs)
        values = _score_matching.denoising_score_matching(scores, corrupted.noise, sigma=self.sigma)
        return values, scores


@dataclass(frozen=True)
class MDSM:
    """Multiscale denoising score matching: ½‖s(ṽ)/σ_i + ε/σ₀²‖², ṽ = v + σ_i ε.

    The σ_i are spread over the batch from sigma_min (first example) to sigma_max (last), so batches
    have to be shuffled. Published settings on images in [0, 1]: sigma0 = 0.1 with 0.1 to 3
    geometric (MNIST) or 0.05 to 1.2 linear (CIFAR-10); sigma_max should reach the spread of the
    data, so that the energy is learned wherever sampling starts.

    Args:
      sigma_min: smallest σ_i > 0, in the units of v.
      sigma_max: largest σ_i >= sigma_min.
      sigma0: σ₀ > 0, the smoothing the energy is fitted to.
      spacing: ``"linear"`` or ``"geometric"``.

    Raises:
      ValueError: if a sigma is not positive, sigma_max < sigma_min, the spacing is unknown, or a
        batch of one example is to be corrupted at several σ.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> objective = MDSM(sigma_min=0.1, sigma_max=0.4, sigma0=0.1, spacing="geometric")
      >>> corrupted = objective.corrupt(jax.random.key(0), jnp.zeros((3, 2)))
      >>> [round(float(x), 3) for x in corrupted.sigma]
      [0.1, 0.2, 0.4]
    """

    sigma_min: float
    sigma_max: float
    sigma0: float
    spacing: str = "linear"

    def __post_init__(self):
        for name in ("sigma_min", "sigma_max", "sigma0"):
            object.__setattr__(self, name, _checks.positive(name, getattr(self, name)))
        _checks.one_of("spacing", self.spacing, ("linear", "geometric"))
        traced = any(isinstance(x, jax.core.Tracer) for x in (self.sigma_min, self.sigma_max))
        if not traced and self.sigma_max < self.sigma_min:
            raise ValueError(
                f"sigma_max must be >= sigma_min = {self.sigma_min}, got {self.sigma_max}"
            )

    def corrupt(self, key: Key, v: Array) -> Corrupted:
        """Draws ε and returns v + σ_i ε."""
        v = _checks.floating("v", v)
        if v.shape[0] == 1 and self.sigma_min < self.sigma_max:
            raise ValueError("v must hold at least 2 examples for MDSM to spread σ over, got 1")
        noise = _random.normal(key, v.shape, v.dtype)
        spread = jnp.linspace if self.spacing == "linear" else jnp.geomspace
        sigma = spread(self.sigma_min, self.sigma_max, v.shape[0], dtype=v.dtype)
        scale = sigma.reshape((-1,) + (1,) * (v.ndim - 1))
        return Corrupted(v + scale * noise, noise, sigma)

    def lower_weight(self, corrupted: Corrupted) -> Array:
        """Weights of the lower divergence, [batch]: 1/σ_i."""
        return 1.0 / corrupted.sigma

    def __call__(
        self,
        score: ScoreFunction,
        key: Key,  # noqa: ARG002  (every objective takes one)
        corrupted: Corrupted,
    ) -> tuple[Array, Array]:
        """Returns the values [batch] and the scores [batch, *event]; the key is not used."""
        scores = score(corrupted.inputs)
        values = _score_matching.multiscale_denoising_score_matching(
            scores, corrupted.noise, sigma=corrupted.sigma, sigma0=self.sigma0
        )
        return values, scores
