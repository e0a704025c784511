"""No derivative through the lower level."""

from dataclasses import dataclass
from typing import Any

import jax
import optax

from jbism.hypergradients._lower_level import LowerLevel
from jbism.hypergradients._virtual import check_virtual_steps, constant_steps, virtual_keys
from jbism.typing import Array, Key, LowerLoss, Params, UpperLoss


@dataclass(frozen=True)
class FirstOrder:
    """φ_N by N virtual steps that θ's gradient does not see; N = 0 is BiSM's cheapest form.

    dφ_N/dθ is taken as zero, so only the direct term ∂F/∂θ remains. That is wrong by 100 % where F
    depends on θ through φ alone, and right where the lower level is at its optimum and F is flat
    in φ there.

    Use it where nothing better is stable, as for deep energies with MDSM. On an RBM it fails: SSM
    diverges, DSM on Frey face ends with samples of one face.

    Args:
      num_steps: N >= 0.
      optimizer: optax transformation of the virtual steps; needed if N > 0.
      unroll: iterations of the scan written out per loop turn.

    Raises:
      ValueError: if num_steps is negative, or positive without an optimizer.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> lower_loss = lambda theta, phi, key: 0.5 * jnp.sum((phi - theta) ** 2)
      >>> upper_loss = lambda theta, phi, key: (jnp.sum(theta + phi), None)
      >>> loss = lambda theta: FirstOrder()(
      ...     upper_loss, lower_loss, theta, jnp.zeros(2), jax.random.key(0))[0][0]
      >>> jax.grad(loss)(jnp.ones(2)).tolist()  # of θ alone
      [1.0, 1.0]
    """

    num_steps: int = 0
    optimizer: optax.GradientTransformation | None = None
    unroll: int | bool = 1

    def __post_init__(self):
        check_virtual_steps("num_steps", self.num_steps, self.optimizer)

    def __call__(
        self,
        upper_loss: UpperLoss,
        lower_loss: LowerLoss,
        theta: Params,
        phi: Params,
        key: Key,
        *,
        opt_state: optax.OptState | None = None,
    ) -> tuple[tuple[Array, Any], LowerLevel]:
        """Returns F(θ, φ_N) with φ_N a constant, its aux, and the `LowerLevel`."""
        keys, key_upper, _ = virtual_keys(key, self.num_steps)
        if self.num_steps == 0:  # nothing else calls it, and it may be refused by what it is given
            jax.eval_shape(lower_loss, theta, phi, key_upper)
        phi, descent = constant_steps(
            lower_loss,
            theta,
            phi,
            keys,
            optimizer=self.optimizer,
            opt_state=opt_state,
            unroll=self.unroll,
        )
        return upper_loss(theta, phi, key_upper), LowerLevel(phi, descent, None)
