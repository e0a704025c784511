"""The virtual lower steps without derivatives, which strategies share."""

import jax
import optax

from jbism import _checks, _random
from jbism.hypergradients._descend import Descent, run_steps
from jbism.typing import Key, LowerLoss, Params


def check_virtual_steps(name: str, num_steps: int, optimizer: object) -> None:
    """Raises unless N virtual steps can be taken by the optimizer, which N = 0 needs not."""
    _checks.integer(name, num_steps, minimum=0)
    if optimizer is not None:
        _checks.instance("optimizer", optimizer, optax.GradientTransformation)
    elif num_steps > 0:
        raise ValueError(f"optimizer must be given for {name} = {num_steps} > 0")


def virtual_keys(key: Key, num_steps: int) -> tuple[Key, Key, Key]:
    """Returns the keys of N steps, that of F, the same for all strategies, and one for the rest."""
    keys = _random.split(key, num_steps + 2)
    return keys[:num_steps], keys[num_steps], keys[num_steps + 1]


def constant_steps(
    lower_loss: LowerLoss,
    theta: Params,
    phi: Params,
    keys: Key,
    *,
    optimizer: optax.GradientTransformation | None,
    opt_state: optax.OptState | None,
    unroll: int | bool = 1,
) -> tuple[Params, Descent]:
    """Returns φ_N, a step a key, without derivatives, and the `Descent` that led to it."""
    theta, phi, opt_state = jax.lax.stop_gradient((theta, phi, opt_state))
    if optimizer is None:
        optimizer, opt_state = optax.identity(), None
    phi, _, descent = run_steps(
        lower_loss,
        theta,
        phi,
        keys,
        optimizer=optimizer,
        opt_state=opt_state,
        unroll=unroll,
        remat=False,
    )
    # Once more, for a lower loss that reaches θ by closure.
    return jax.lax.stop_gradient((phi, descent))
