"""The training loop: chunks of steps, with metrics, checkpoints and a guard against divergence."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
import tqdm

from jbism import _checks
from jbism.training._checkpoint import Checkpointer
from jbism.training._processes import any_process
from jbism.training._writer import MetricsWriter

_UNLOGGED = "unlogged"  # the note of a checkpoint that holds metrics since the last log


class Stepped(Protocol):
    """A training state: a pytree that counts the steps done."""

    @property
    def step(self) -> Any:
        """The number of steps done, a scalar integer array."""
        ...


State = TypeVar("State", bound=Stepped)


class Order(Protocol):
    """Which examples each step uses, as a function of the step."""

    def indices(self, step: int, num_steps: int, /) -> np.ndarray:
        """Returns int32 [num_steps, batch], the examples of the steps from ``step`` on."""
        ...


class StoppedError(RuntimeError):
    """Training was asked to stop, and did so after a step whose state is saved if anything is.

    Attributes:
      step: how many steps are done.
    """

    def __init__(self, step: int, saved: bool):
        super().__init__(
            f"stopped after step {step}, " + ("which is saved" if saved else "which is not saved")
        )
        self.step = step


class DivergenceError(RuntimeError):
    """A metric became NaN or infinite, or larger than allowed.

    Attributes:
      step: the step, counted from 1, whose metric it is.
      quantity: the metric's name.
      value: what it became.
      last_checkpoint_step: the latest checkpoint, saved while all metrics were finite, or None.
    """

    def __init__(self, step: int, quantity: str, value: float, last_checkpoint_step: int | None):
        checkpoint = "none" if last_checkpoint_step is None else f"step {last_checkpoint_step}"
        super().__init__(f"{quantity} is {value} at step {step}; last checkpoint: {checkpoint}")
        self.step = step
        self.quantity = quantity
        self.value = value
        self.last_checkpoint_step = last_checkpoint_step


def fit(
    state: State,
    train_steps: Callable[[State, np.ndarray], tuple[State, dict[str, Any]]],
    order: Order,
    *,
    num_steps: int,
    steps_per_call: int,
    log_every: int,
    checkpointer: Checkpointer | None = None,
    checkpoint_every: int | None = None,
    writer: MetricsWriter | None = None,
    progress: bool = True,
    callbacks: Sequence[tuple[int, Callable[[State, int], None]]] = (),
    largest_metric: float | None = None,
    should_stop: Callable[[], bool] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> State:
    """Trains from ``state.step`` to ``num_steps``.

    Calls end at multiples of ``steps_per_call``, so only the first and the last can be shorter.
    After each the metrics come to the host; if one is not finite, nothing more is written, called
    or saved, and `Rollbacks` can go on from the last checkpoint. Metrics are logged as their mean
    over the steps since the last log. At a step where
    several things are due, logging comes first, then the callbacks, then the checkpoint: a run
    resumed from a checkpoint repeats nothing and misses nothing, and equals an uninterrupted one
    to the bit.

    The guard sees what ``train_steps`` reports: report the gradient norm too, for the metrics of a
    step are those from before its update.

    Args:
      state: where to start; its buffers may be donated by ``train_steps``.
      train_steps: jitted ``(state, indices [S, batch]) -> (state, metrics)``, each metric [S];
        advances ``state.step`` by S.
      order: the examples' order.
      num_steps: the step to end at; a last log and a last checkpoint are made there.
      steps_per_call: S.
      log_every: steps between logs, a multiple of ``steps_per_call``.
      checkpointer: where checkpoints go.
      checkpoint_every: steps between checkpoints, a multiple of ``log_every``; by default the
        only one is at the end.
      writer: where metrics go.
      progress: whether to show a progress bar on stderr with the rate and the metrics called
        ``...loss``, or all if none is.
      callbacks: pairs ``(every, function(state, step))`` called at multiples of ``every``, a
        multiple of ``steps_per_call``. They must neither donate nor keep the state.
      largest_metric: magnitude beyond which a metric of a step counts as diverged; None for any.
      should_stop: asked after each call, when all that is due is done; at True in any process a
        checkpoint is saved, and `StoppedError` raised.
      notes: JSON values kept beside each checkpoint (`Checkpointer.notes`).

    Returns:
      The state at ``num_steps``.

    Raises:
      DivergenceError: if a metric is NaN or infinite, or beyond ``largest_metric``.
      StoppedError: if ``should_stop`` said so.
      ValueError: if the intervals do not divide each other as said, if ``state.step`` is beyond
        ``num_steps`` or behind the latest checkpoint, or if ``train_steps`` does not keep to its
        contract.

    Example:
      >>> from typing import NamedTuple
      >>> import jax.numpy as jnp
      >>> class State(NamedTuple):
      ...     step: jax.Array
      ...     mean: jax.Array
      >>> class Order:
      ...     def indices(self, step, num_steps):
      ...         return np.arange(step, step + num_steps, dtype=np.int32)[:, None] % 4
      >>> data = jnp.array([1.0, 2.0, 3.0, 4.0])
      >>> @jax.jit
      ... def train_steps(state, indices):
      ...     def one(state, i):
      ...         error = data[i].mean() - state.mean
      ...         return State(state.step + 1, state.mean + 0.1 * error), {"loss": error**2}
      ...     return jax.lax.scan(one, state, indices)
      >>> state = fit(State(jnp.int32(0), jnp.float32(0)), train_steps, Order(),
      ...             num_steps=200, steps_per_call=20, log_every=100, progress=False)
      >>> print(state.step, round(float(state.mean), 1))
      200 2.6
    """
    if checkpointer is not None:
        _checks.instance("checkpointer", checkpointer, Checkpointer)
    if writer is not None:
        _checks.instance("writer", writer, MetricsWriter)
    _check_intervals(steps_per_call, log_every, checkpointer, checkpoint_every, callbacks)
    if largest_metric is not None:
        largest_metric = _checks.positive("largest_metric", largest_metric)
    step = int(state.step)
    if step > _checks.integer("num_steps", num_steps, minimum=0):
        raise ValueError(f"state.step must be at most num_steps {num_steps}, got {step}")
    saved = checkpointer.latest_step() if checkpointer is not None else None
    if saved is not None and saved > step:
        raise ValueError(f"state.step must not be behind the latest checkpoint {saved}, got {step}")

    bar = tqdm.tqdm(total=num_steps, initial=step, unit="step", disable=not progress)
    unlogged: list[dict[str, np.ndarray]] = []
    if checkpointer is not None and saved == step:
        unlogged = [_from_note(x) for x in checkpointer.notes(step).get(_UNLOGGED, [])]
    chunks = _chunks(order, step, num_steps, steps_per_call)
    agreed = True  # whether all processes end here for the same reason

    def log():
        means = _means(unlogged)
        unlogged.clear()
        shown = [name for name in means if name.endswith("loss")] or list(means)
        bar.set_postfix({name: f"{means[name]:.4g}" for name in shown})
        if writer is not None:
            writer.write(step, means)

    def save(checkpointer, notes):
        if writer is not None:
            writer.sync()  # the resumed run takes the records up to here for written
        checkpointer.save(state, notes=notes)

    try:
        if step == num_steps and unlogged:  # stopped in the midst of a longer run that ends here
            written = writer is not None and writer.has(step, next(iter(unlogged[0])))
            if not written:
                log()
        chunk, compiled = next(chunks, None), False
        if chunk is not None:
            bar.set_postfix_str("compiling")
        while chunk is not None:
            begin, (step, indices) = step, chunk
            state, device_metrics = train_steps(state, indices)
            chunk = next(chunks, None)  # drawn while the device works
            metrics = _to_host(device_metrics, begin, step)
            _check_metrics(metrics, begin, largest_metric, checkpointer)
            if int(state.step) != step:
                raise ValueError(f"train_steps must take state.step to {step}, got {state.step}")
            if compiled:
                bar.update(step - begin)
            else:  # neither these steps nor their time tell the rate of the others
                bar.unpause()
                bar.initial = bar.last_print_n = bar.n = step
                bar.set_postfix_str("")
                compiled = True
            unlogged.append(metrics)
            if step % log_every == 0 or step == num_steps:
                log()
            for every, callback in callbacks:
                if step % every == 0:
                    callback(state, step)
            stops = should_stop is not None and any_process(should_stop())
            due = stops or (checkpoint_every is not None and step % checkpoint_every == 0)
            if checkpointer is not None and due and step < num_steps:
                held = {_UNLOGGED: [_to_note(x) for x in unlogged]} if unlogged else {}
                save(checkpointer, {**(notes or {}), **held})
            if stops and step < num_steps:
                raise StoppedError(step, checkpointer is not None)
        if checkpointer is not None and saved != num_steps:
            save(checkpointer, dict(notes or {}))
    except (DivergenceError, StoppedError):
        raise
    except BaseException:
        agreed = jax.process_count() == 1
        raise
    finally:
        bar.close()
        if checkpointer is not None and agreed:
            checkpointer.wait()
    return state


def _check_intervals(steps_per_call, log_every, checkpointer, checkpoint_every, callbacks):
    _checks.integer("steps_per_call", steps_per_call, minimum=1)
    _check_multiple("log_every", log_every, "steps_per_call", steps_per_call)
    if checkpoint_every is not None:
        # Otherwise a log after resumption would be a mean over fewer steps.
        _check_multiple("checkpoint_every", checkpoint_every, "log_every", log_every)
        if checkpointer is None:
            raise ValueError("checkpoint_every needs a checkpointer, got None")
    for i, (every, _) in enumerate(callbacks):
        _check_multiple(f"callbacks[{i}][0]", every, "steps_per_call", steps_per_call)


def _check_multiple(name, value, divisor_name, divisor):
    if _checks.integer(name, value, minimum=1) % divisor:
        raise ValueError(f"{name} must be a multiple of {divisor_name} {divisor}, got {value}")


def _chunks(
    order: Order, step: int, num_steps: int, steps_per_call: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the step each call ends at and the indices it takes."""
    while step < num_steps:
        end = min(step - step % steps_per_call + steps_per_call, num_steps)
        yield end, order.indices(step, end - step)
        step = end


def _to_host(device_metrics, begin, end):
    """Returns the metrics as float64 [end - begin]."""
    metrics = {
        name: np.asarray(values, np.float64)
        for name, values in jax.device_get(device_metrics).items()
    }
    for name, values in metrics.items():
        if values.shape != (end - begin,):
            raise ValueError(f"metric {name} must have shape ({end - begin},), got {values.shape}")
    return metrics


def _check_metrics(metrics, begin, largest, checkpointer):
    """Raises for the metric that is the first to be non-finite or too large."""
    limit = np.inf if largest is None else largest
    first = {
        name: np.flatnonzero(~(np.isfinite(x) & (np.abs(x) <= limit)))
        for name, x in metrics.items()
    }
    found = [(where[0], name) for name, where in first.items() if where.size]
    if found:
        i, name = min(found, key=lambda item: item[0])
        last_checkpoint_step = checkpointer.latest_step() if checkpointer is not None else None
        raise DivergenceError(
            begin + int(i) + 1, name, float(metrics[name][i]), last_checkpoint_step
        )


def _to_note(metrics):
    return {name: values.tolist() for name, values in metrics.items()}


def _from_note(note):
    return {name: np.asarray(values, np.float64) for name, values in note.items()}


def _means(chunks: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
    return {
        name: float(np.concatenate([chunk[name] for chunk in chunks]).mean()) for name in chunks[0]
    }
