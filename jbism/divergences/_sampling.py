"""What the divergences share."""

from jbism import _checks
from jbism.typing import Array, Distribution, Energy, Latent, Params


def require_reparameterized(distribution: Distribution, divergence: str) -> None:
    """Raises if samples of ``distribution`` carry no derivatives to its parameters."""
    if not getattr(distribution, "reparameterized", True):
        raise ValueError(
            f"posterior must return a reparameterised distribution for {divergence}, got "
            f"{type(distribution).__name__}; use a relaxed one (temperature > 0)"
        )


def scalar_energy(energy: Energy, theta: Params, v: Array, h: Latent) -> Array:
    """Returns E(v, h; θ); raises if it is not a scalar."""
    return _checks.scalar("energy(theta, v, h)", energy(theta, v, h))
