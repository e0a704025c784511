"""How far a strategy's gradient is from a reference."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jbism import _checks
from jbism.typing import Array, Hypergradient, Key, LowerLoss, Params, UpperLoss


class GradientBias(NamedTuple):
    """A gradient g beside a reference gradient r, all scalars."""

    norm: Array  # ‖g‖
    reference_norm: Array  # ‖r‖
    error: Array  # ‖g - r‖
    relative_error: Array  # ‖g - r‖ / ‖r‖
    cosine: Array  # of the angle between g and r; 1 if they point the same way


def bias(
    strategy: Hypergradient,
    reference: Hypergradient,
    upper_loss: UpperLoss,
    lower_loss: LowerLoss,
    theta: Params,
    phi: Params,
    key: Key,
    *,
    reference_phi: Params | None = None,
    opt_state: optax.OptState | None = None,
) -> GradientBias:
    """Compares a strategy's θ-gradient with that of a reference, as in Bao et al. (2020), Figure 1.

    Args:
      strategy: one of `jbism.hypergradients`.
      reference: another, such as ``ImplicitCG(num_steps=200, ridge=0.0, tolerance=1e-6)``.
      upper_loss: F, ``(theta, phi, key) -> (scalar, aux)``.
      lower_loss: G, ``(theta, phi, key) -> scalar``.
      theta: upper-level parameters.
      phi: φ⁰, where the strategy starts.
      key: for both strategies.
      reference_phi: where the reference starts, such as the lower optimum φ*; None for ``phi``.
      opt_state: state in which the strategy's virtual steps start.

    Returns:
      A `GradientBias`.

    Example:
      >>> import jax, jax.numpy as jnp, jbism
      >>> from jbism.hypergradients import FirstOrder, ImplicitCG
      >>> lower_loss = lambda theta, phi, key: 0.5 * jnp.sum((phi - theta) ** 2)
      >>> upper_loss = lambda theta, phi, key: (jnp.sum(theta[:1]) + jnp.sum(phi), None)
      >>> found = bias(FirstOrder(), ImplicitCG(ridge=0.0), upper_loss, lower_loss, jnp.ones(2),
      ...              jnp.ones(2), jax.random.key(0))
      >>> float(found.norm), round(float(found.error), 4)  # (1, 0), where (2, 1) would be right
      (1.0, 1.4142)
    """
    for name, value in (("strategy", strategy), ("reference", reference)):
        _checks.option(name, value, "FirstOrder()")
    start = phi if reference_phi is None else reference_phi

    def gradient(strategy, phi, opt_state):
        def loss(theta):
            (value, _), _ = strategy(upper_loss, lower_loss, theta, phi, key, opt_state=opt_state)
            return value

        return jax.grad(loss)(theta)

    return compare_gradients(gradient(strategy, phi, opt_state), gradient(reference, start, None))


def compare_gradients(gradient: Params, reference: Params) -> GradientBias:
    """Compares two gradients.

    Args:
      gradient: g, a tree.
      reference: r, a tree of the same structure and shapes.

    Returns:
      A `GradientBias`. Where g or r is zero the cosine is NaN; where r is, so is or infinite the
      relative error.

    Raises:
      ValueError: if the trees differ.

    Example:
      >>> import jax.numpy as jnp
      >>> found = compare_gradients({"w": jnp.array([3.0, 0.0])}, {"w": jnp.array([0.0, 4.0])})
      >>> float(found.error), float(found.cosine)
      (5.0, 0.0)
    """
    given, expected = (jax.tree.map(jnp.shape, tree) for tree in (gradient, reference))
    if given != expected:
        raise ValueError(f"gradient must have the shapes of reference, {expected}, got {given}")
    norm, reference_norm = optax.tree.norm(gradient), optax.tree.norm(reference)
    error = optax.tree.norm(jax.tree.map(jnp.subtract, gradient, reference))
    cosine = optax.tree.vdot(gradient, reference) / (norm * reference_norm)
    return GradientBias(norm, reference_norm, error, error / reference_norm, cosine)
