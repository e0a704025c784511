"""What the sampled divergences share."""

from jbism.typing import Distribution


def require_reparameterized(distribution: Distribution, divergence: str) -> None:
    """Raises if samples of ``distribution`` carry no derivatives to its parameters."""
    if not getattr(distribution, "reparameterized", True):
        raise ValueError(
            f"posterior must return a reparameterised distribution for {divergence}, got "
            f"{type(distribution).__name__}; use a relaxed one (temperature > 0)"
        )
