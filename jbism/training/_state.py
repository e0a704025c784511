"""Everything a training run carries from step to step."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jbism import _checks
from jbism.typing import Array, Key, Params


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "step",
        "key",
        "theta",
        "phi",
        "theta_opt_state",
        "phi_opt_state",
        "ema",
        "chains",
    ],
    meta_fields=[],
)
@dataclass(frozen=True)
class TrainState:
    """The state of bi-level training, a pytree.

    Randomness is a function of (key, step) and the data order one of (key, epoch), so this is all
    that a resumed run needs to continue bit for bit.
    """

    step: Array  # int32 scalar, upper steps taken
    key: Key  # base key; step t uses fold_in(key, t)
    theta: Params  # energy
    phi: Params  # posterior
    theta_opt_state: optax.OptState
    phi_opt_state: optax.OptState
    ema: Params  # exponential moving average of theta
    chains: Any = ()  # where persistent Markov chains are; empty where a method has none


def create_state(
    key: Key,
    theta: Params,
    phi: Params | None = None,
    *,
    theta_optimizer: optax.GradientTransformation,
    phi_optimizer: optax.GradientTransformation | None = None,
    chains: Any = (),
) -> TrainState:
    """Returns the state before the first step; the average starts at theta.

    Args:
      key: base key of the run's randomness.
      theta: initial parameters of the energy.
      phi: initial parameters of the posterior; None where none is learned.
      theta_optimizer: optax transformation of the upper level.
      phi_optimizer: optax transformation of the lower level, given with phi.
      chains: where the Markov chains of a method that has persistent ones start, a pytree of
        leaves [chains, ...]; see `contrastive_step`.

    Raises:
      ValueError: if phi is given without phi_optimizer.
      TypeError: if a parameter or the chains are not floating.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> state = create_state(jax.random.key(0), {"w": jnp.ones(2)}, {"b": jnp.zeros(3)},
      ...                      theta_optimizer=optax.sgd(0.1), phi_optimizer=optax.sgd(0.1))
      >>> int(state.step), state.ema["w"].tolist()
      (0, [1.0, 1.0])
    """
    phi = {} if phi is None else phi
    if phi_optimizer is None:
        if jax.tree.leaves(phi):
            raise ValueError("phi_optimizer must be given with phi, got None")
        phi_optimizer = optax.identity()
    for name, tree in (("theta", theta), ("phi", phi), ("chains", chains)):
        for leaf in jax.tree.leaves(tree):
            _checks.floating(name, leaf)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        key=key,
        theta=theta,
        phi=phi,
        theta_opt_state=theta_optimizer.init(theta),
        phi_opt_state=phi_optimizer.init(phi),
        # In at least single precision: 1 - decay would vanish in a shorter float.
        ema=jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), theta),
        chains=chains,
    )
    # Training donates the state's buffers: each has to be its own, and none the caller's.
    return jax.tree.map(jnp.copy, state)
