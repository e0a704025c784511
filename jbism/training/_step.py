"""From losses and optimizers to a function that advances a `TrainState`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jbism import _checks, _random
from jbism.data import to_unit
from jbism.hypergradients import descend
from jbism.training._data_parallel import DataParallel
from jbism.training._processes import place
from jbism.training._state import TrainState
from jbism.typing import Array, ArrayLike, Key, Params

Metrics: TypeAlias = dict[str, Array]
Step: TypeAlias = Callable[[TrainState, Array], tuple[TrainState, Metrics]]
UpperLoss: TypeAlias = Callable[
    [Params, Params, optax.OptState, Key, Array], tuple[Array, Metrics]
]  # (theta, phi, phi_opt_state, key, v) -> loss, metrics
ChainedLoss: TypeAlias = Callable[
    [Params, Params, optax.OptState, Any, Key, Array], tuple[Array, tuple[Metrics, Any]]
]  # (theta, phi, phi_opt_state, chains, key, v) -> loss, (metrics, chains)


def bilevel_step(
    *,
    upper_loss: UpperLoss,
    lower_loss: Callable[[Params, Params, Key, Array], Array],
    theta_optimizer: optax.GradientTransformation,
    phi_optimizer: optax.GradientTransformation,
    num_lower_steps: int,
    ema_decay: float = 0.999,
    unroll_lower: int | bool = 1,
) -> Step:
    """Builds one step of bi-level learning: K lower steps on φ, then one upper step on θ.

    Args:
      upper_loss: ``(theta, phi, phi_opt_state, key, v) -> (loss, metrics)``.
      lower_loss: ``(theta, phi, key, v) -> scalar``.
      theta_optimizer: optax transformation of the upper level.
      phi_optimizer: optax transformation of the lower level.
      num_lower_steps: K >= 0.
      ema_decay: decay of the moving average of θ, in [0, 1).
      unroll_lower: iterations of the lower scan written out per loop turn.

    Returns:
      ``step(state, v) -> (state, metrics)`` with v [batch, *event], not yet jitted. The metrics are
      scalars: ``loss``, ``grad_norm``, those of the upper loss and, if K > 0, ``lower_loss`` and
      ``lower_grad_norm`` of the last lower step.

    Raises:
      ValueError: if num_lower_steps is negative or ema_decay is outside of [0, 1).

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from jbism.training import create_state
      >>> optimizers = dict(theta_optimizer=optax.sgd(0.1), phi_optimizer=optax.sgd(0.5))
      >>> step = bilevel_step(
      ...     upper_loss=lambda theta, phi, _, key, v: (jnp.sum((theta - phi) ** 2), {}),
      ...     lower_loss=lambda theta, phi, key, v: jnp.mean((v - phi) ** 2),
      ...     num_lower_steps=1, **optimizers)
      >>> state = create_state(jax.random.key(0), jnp.zeros(()), jnp.zeros(()), **optimizers)
      >>> state, metrics = step(state, jnp.ones(4))
      >>> float(state.phi), float(metrics["loss"])
      (1.0, 1.0)
    """

    def chained(theta, phi, phi_opt_state, chains, key, v):
        loss, metrics = upper_loss(theta, phi, phi_opt_state, key, v)
        return loss, (metrics, chains)

    return chained_step(
        upper_loss=chained,
        lower_loss=lower_loss,
        theta_optimizer=theta_optimizer,
        phi_optimizer=phi_optimizer,
        num_lower_steps=num_lower_steps,
        ema_decay=ema_decay,
        unroll_lower=unroll_lower,
    )


def chained_step(
    *,
    upper_loss: ChainedLoss,
    lower_loss: Callable[[Params, Params, Key, Array], Array],
    theta_optimizer: optax.GradientTransformation,
    phi_optimizer: optax.GradientTransformation,
    num_lower_steps: int,
    ema_decay: float,
    unroll_lower: int | bool,
) -> Step:
    """`bilevel_step` of an upper loss that also moves the state's Markov chains."""
    _checks.integer("num_lower_steps", num_lower_steps, minimum=0)
    ema_decay = _checks.fraction("ema_decay", ema_decay)

    def step(state, v):
        key_lower, key_upper = _random.split(_random.fold_in(state.key, state.step))
        phi, phi_opt_state, descent = descend(
            lambda theta, phi, key: lower_loss(theta, phi, key, v),
            state.theta,
            state.phi,
            key_lower,
            num_steps=num_lower_steps,
            optimizer=phi_optimizer,
            opt_state=state.phi_opt_state,
            unroll=unroll_lower,
        )
        (loss, (upper_metrics, chains)), grads = jax.value_and_grad(upper_loss, has_aux=True)(
            state.theta, phi, phi_opt_state, state.chains, key_upper, v
        )
        updates, theta_opt_state = theta_optimizer.update(grads, state.theta_opt_state, state.theta)
        theta = optax.apply_updates(state.theta, updates)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
        if not metrics.keys().isdisjoint(upper_metrics):
            raise ValueError(
                f"upper_loss must not return metrics called {sorted(metrics)}, "
                f"got {sorted(upper_metrics)}"
            )
        metrics |= upper_metrics
        if num_lower_steps:
            metrics |= {
                "lower_loss": descent.losses[-1],
                "lower_grad_norm": descent.grad_norms[-1],
            }
        state = TrainState(
            step=state.step + 1,
            key=state.key,
            theta=theta,
            phi=phi,
            theta_opt_state=theta_opt_state,
            phi_opt_state=phi_opt_state,
            ema=optax.incremental_update(theta, state.ema, 1.0 - ema_decay),
            chains=chains,
        )
        return state, metrics

    return step


def train_steps(
    step: Step, data: ArrayLike | None = None, *, layout: DataParallel | None = None
) -> "_Run":
    """Compiles many steps into one program.

    Args:
      step: ``(state, v) -> (state, metrics)`` for a batch v of floats.
      data: the training set, [n, *event], which then stays on the device; floating, or uint8, kept
        so and turned into floats in [0, 1] batch by batch (`jbism.data.to_unit`). None if calls
        bring their batches, such as those of a `jbism.data.BatchLoader`.
      layout: the devices that share the work; the state has to lie as its ``place`` puts it. Of
        several processes each has all of the data and gives all of the indices, or gives its part
        of the batches (`BatchOrder.part`). None for one device.

    Returns:
      ``run(state, indices) -> (state, metrics)`` with the rows of each step's batch in ``indices``
      [num_steps, batch], or [num_steps, seeds, batch] where the step is mapped over seeds, or
      ``run(state, batches)`` with ``batches`` [num_steps, batch, *event], and metrics stacked to
      [num_steps]. The buffers of the state passed in are donated: use the one returned. One step
      alone, [1, batch], runs outside of any loop, where XLA's CPU backend has its fast
      convolutions. ``run.lower(state, indices)`` is `jax.jit`'s, to look into the program.

    Raises:
      ValueError: if data has no leading axis or is empty; a call, if indices have no axes of
        steps and batch, or are not of rows of the data.
      TypeError: if data or batches are neither floating nor uint8.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> run = train_steps(lambda state, v: (state + v.sum(), {"sum": v.sum()}), jnp.arange(4.0))
      >>> state, metrics = run(jnp.zeros(()), jnp.array([[0, 1], [2, 3]]))
      >>> float(state), metrics["sum"].tolist()
      (6.0, [1.0, 5.0])
    """
    if layout is not None:
        _checks.instance("layout", layout, DataParallel)
    examples = None if data is None else jnp.asarray(data)
    if examples is not None:
        jax.eval_shape(_check_data, examples)
        if layout is not None:
            examples = place(examples, layout.replicated())

    def run(state, taken, examples):
        def one(state, taken):
            v = jnp.asarray(to_unit(taken if examples is None else examples[taken]))
            return step(state, v) if layout is None else _spread(layout, step, state, v)

        if taken.shape[0] == 1:
            state, metrics = one(state, taken[0])
            return state, jax.tree.map(lambda x: x[None], metrics)
        return jax.lax.scan(one, state, taken)

    return _Run(jax.jit(run, donate_argnums=0), layout, examples)


@dataclass(frozen=True, eq=False)
class _Run:
    """Many steps as one program, which puts what it is given where its layout says."""

    program: Any
    layout: DataParallel | None
    examples: Any

    def __call__(self, state: TrainState, taken: ArrayLike) -> tuple[TrainState, Metrics]:
        return self.program(state, self._placed(taken), self.examples)

    def lower(self, state: TrainState, taken: ArrayLike) -> jax.stages.Lowered:
        return self.program.lower(state, self._placed(taken), self.examples)

    def _placed(self, taken):
        if self.examples is not None and not isinstance(taken, jax.core.Tracer):
            _check_indices(np.asarray(taken), len(self.examples))
        if self.layout is None:
            return taken
        taken = np.asarray(taken)
        return self.layout.batches(taken if self.examples is None else self.layout.own(taken))


def _spread(layout, step, state, v):
    """Takes a step whose inputs and results lie as the layout says."""
    constrain = jax.lax.with_sharding_constraint
    shardings, everywhere = layout.shardings(state), layout.replicated()
    # Gathered once: left to itself, XLA would divide activations by features as parameters are.
    whole = constrain({"theta": state.theta, "phi": state.phi}, everywhere)
    state, metrics = step(replace(state, **whole), constrain(v, layout.leading()))
    return constrain(state, shardings), constrain(metrics, everywhere)


def _check_indices(indices, num_examples):
    # JAX takes an index beyond the end for the last.
    if indices.ndim < 2:
        raise ValueError(f"indices must have shape (num_steps, ..., batch), got {indices.shape}")
    if indices.size and not 0 <= indices.min() <= indices.max() < num_examples:
        raise ValueError(
            f"indices must be in [0, {num_examples}), the rows of data, got "
            f"{indices.min()} to {indices.max()}"
        )


def _check_data(examples):
    return _checks.batched("data", to_unit(examples) if examples.dtype == jnp.uint8 else examples)
