"""Type aliases and the protocols that energies, posteriors and distributions follow.

Every callable speaks about ONE example; the library maps it over batches, particles and chains.
"""

from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax

Array: TypeAlias = jax.Array
ArrayLike: TypeAlias = jax.typing.ArrayLike  # what becomes one: NumPy arrays and numbers too
Key: TypeAlias = jax.Array  # a typed key (jax.random.key) or a raw uint32 key
Params: TypeAlias = Any  # pytree of arrays
Latent: TypeAlias = Any  # pytree of arrays: one h


# Energies and posteriors are declared to return Any so that `flax.linen.Module.apply` is one.
class Energy(Protocol):
    """E(v, h; θ) of one visible v and one latent h; log p(v, h) = -E(v, h) - log Z."""

    def __call__(self, theta: Params, v: Array, h: Latent, /) -> Any:
        """Returns the scalar energy."""
        ...


class FreeEnergy(Protocol):
    """F(v; θ) of one visible v; log p(v) = -F(v) - log Z."""

    def __call__(self, theta: Params, v: Array, /) -> Any:
        """Returns the scalar free energy."""
        ...


@runtime_checkable
class Distribution(Protocol):
    """A distribution of one latent, itself a pytree.

    Two optional class attributes steer checks: ``discrete`` (default False) says that h has no
    ∇_h log q(h), and ``reparameterized`` (default True) says that ``sample`` carries derivatives.
    Two optional methods serve estimates that need no derivatives of samples: ``sample_hard(key)``
    of a relaxed distribution, and ``support()``, every h and its probability.
    """

    def sample(self, key: Key) -> Latent:
        """Draws one h."""
        ...

    def sample_and_log_prob(self, key: Key) -> tuple[Latent, Array]:
        """Draws one h and returns it with its scalar log-probability."""
        ...

    def log_prob(self, h: Latent) -> Array:
        """Returns the scalar log-probability of one h."""
        ...

    @property
    def mean(self) -> Latent:
        """The expectation of h."""
        ...


class Refinement(Protocol):
    """Moves particles closer to p(h | v; θ), for one v."""

    def __call__(self, theta: Params, key: Key, v: Array, h: Latent, /, *, energy: Energy) -> Any:
        """Returns the particles, leaves [L, ...], after their moves from h."""
        ...


class Posterior(Protocol):
    """q(h | v; φ) of one visible v."""

    def __call__(self, phi: Params, v: Array, /) -> Any:
        """Returns the `Distribution` of h given v."""
        ...


class UpperLoss(Protocol):
    """An upper-level loss F(θ, φ) whose remaining randomness is fixed by ``key``.

    It reaches θ and φ by its arguments, not by closure: strategies differentiate in these.
    """

    def __call__(self, theta: Params, phi: Params, key: Key, /) -> tuple[Array, Any]:
        """Returns the scalar loss and anything else that is worth keeping."""
        ...


class LowerLoss(Protocol):
    """A lower-level loss G(θ, φ) whose remaining randomness is fixed by ``key``."""

    def __call__(self, theta: Params, phi: Params, key: Key, /) -> Array:
        """Returns the scalar loss."""
        ...


class Divergence(Protocol):
    """A lower-level divergence between q(h | v; φ) and p(h | v; θ) for one v."""

    def __call__(
        self,
        theta: Params,
        phi: Params,
        key: Key,
        v: Array,
        /,
        *,
        energy: Energy,
        posterior: Posterior,
    ) -> Array:
        """Returns the scalar divergence, up to a constant of φ."""
        ...


class Hypergradient(Protocol):
    """A strategy for the θ-derivative of F(θ, φ_N(θ)), with φ_N from φ, a constant.

    It splits the key between the calls of its losses, which must not see one key twice unless they
    are to share their noise.
    """

    def __call__(
        self,
        upper_loss: UpperLoss,
        lower_loss: LowerLoss,
        theta: Params,
        phi: Params,
        key: Key,
        /,
        *,
        opt_state: Any = None,
    ) -> tuple[tuple[Array, Any], Any]:
        """Returns what the upper loss returned, F differentiable in θ through φ_N, and a
        `jbism.hypergradients.LowerLevel`.
        """
        ...
