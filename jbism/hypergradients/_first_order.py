"""No derivative through the lower level."""

from dataclasses import dataclass

import jax
import optax

from jbism import _checks
from jbism.hypergradients._descend import Descent, descend
from jbism.typing import Key, LowerLoss, Params


@dataclass(frozen=True)
class FirstOrder:
    """φ_N by N virtual steps that θ's gradient does not see; N = 0 is BiSM's cheapest form.

    dφ_N/dθ is taken as zero, so only the direct term ∂F/∂θ remains. That is wrong by 100 % where F
    depends on θ through φ alone, and right where the lower level is at its optimum and F is flat
    in φ there.

    Args:
      num_steps: N >= 0.
      optimizer: optax transformation of the virtual steps; needed if N > 0.
      unroll: iterations of the scan written out per loop turn.

    Raises:
      ValueError: if num_steps is negative, or positive without an optimizer.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> lower_loss = lambda theta, phi, key: 0.5 * jnp.sum((phi - theta) ** 2)
      >>> phi, _ = FirstOrder()(lower_loss, jnp.ones(2), jnp.zeros(2), jax.random.key(0))
      >>> phi.tolist()
      [0.0, 0.0]
    """

    num_steps: int = 0
    optimizer: optax.GradientTransformation | None = None
    unroll: int | bool = 1

    def __post_init__(self):
        _checks.integer("num_steps", self.num_steps, minimum=0)
        if self.optimizer is not None:
            _checks.instance("optimizer", self.optimizer, optax.GradientTransformation)
        elif self.num_steps > 0:
            raise ValueError(f"optimizer must be given for num_steps = {self.num_steps} > 0")

    def __call__(
        self,
        lower_loss: LowerLoss,
        theta: Params,
        phi: Params,
        key: Key,
        *,
        opt_state: optax.OptState | None = None,
    ) -> tuple[Params, Descent]:
        """Returns φ_N, without derivatives, and the `Descent` that led to it."""
        theta, phi, opt_state = jax.lax.stop_gradient((theta, phi, opt_state))
        if self.optimizer is None:
            optimizer, opt_state = optax.identity(), None
        else:
            optimizer = self.optimizer
        phi, _, descent = descend(
            lower_loss,
            theta,
            phi,
            key,
            num_steps=self.num_steps,
            optimizer=optimizer,
            opt_state=opt_state,
            unroll=self.unroll,
        )
        # Once more, for a lower loss that reaches θ by closure.
        return jax.lax.stop_gradient(phi), descent
