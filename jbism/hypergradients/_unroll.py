"""Differentiating through N virtual lower steps."""

from dataclasses import dataclass

import jax
import optax

from jbism import _checks
from jbism.hypergradients._descend import Descent, descend
from jbism.typing import Key, LowerLoss, Params

_FEW = 10  # steps that are written out by default


@dataclass(frozen=True)
class Unroll:
    """φ_N(θ) by N virtual optimizer steps from φ⁰, differentiated end to end.

    φ_0 = φ⁰ held constant, φ_n = φ_{n-1} - optimizer(∇_φ G(θ, φ_{n-1})), and dφ_N/dθ by reverse
    mode through the scan (Bao et al., 2020, Eqn. 13 with SGD; the published code differentiates
    the live Adam). With SGD of rate α the bias falls geometrically in N where G is strongly convex
    in φ; through Adam, whose normalised steps hardly move with θ, it may not fall at all.

    Differentiating Adam or AdamW needs ``eps_root > 0``: without it a gradient that is exactly zero
    gives NaN.

    Args:
      num_steps: N >= 0.
      optimizer: optax transformation of the virtual steps.
      remat: recompute steps in the backward pass, O(√N) instead of O(N) memory.
      unroll: iterations of the scan written out per loop turn; True for all, None for all if there
        are at most 10. Written out, a step of a 560/400 RBM is 9 to 15 % faster on a CPU and takes
        half the memory; rolled, a large N compiles faster.

    Raises:
      ValueError: if num_steps is negative.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> lower_loss = lambda theta, phi, key: 0.5 * jnp.sum((phi - theta) ** 2)
      >>> strategy = Unroll(3, optax.sgd(0.5))
      >>> phi_n = lambda theta: strategy(lower_loss, theta, jnp.zeros(()), jax.random.key(0))[0]
      >>> float(jax.grad(phi_n)(1.0))  # 1 - 0.5³
      0.875
    """

    num_steps: int
    optimizer: optax.GradientTransformation
    remat: bool = False
    unroll: int | bool | None = None

    def __post_init__(self):
        _checks.integer("num_steps", self.num_steps, minimum=0)
        _checks.instance("optimizer", self.optimizer, optax.GradientTransformation)

    def __call__(
        self,
        lower_loss: LowerLoss,
        theta: Params,
        phi: Params,
        key: Key,
        *,
        opt_state: optax.OptState | None = None,
    ) -> tuple[Params, Descent]:
        """Returns φ_N(θ) and the `Descent` that led to it; φ⁰ and opt_state are constants."""
        phi, opt_state = jax.lax.stop_gradient((phi, opt_state))
        unroll = self.num_steps <= _FEW if self.unroll is None else self.unroll
        phi, _, descent = descend(
            lower_loss,
            theta,
            phi,
            key,
            num_steps=self.num_steps,
            optimizer=self.optimizer,
            opt_state=opt_state,
            unroll=unroll,
            remat=self.remat,
        )
        return phi, descent
