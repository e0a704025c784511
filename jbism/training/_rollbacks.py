"""Going on from the last good checkpoint after training diverged."""

import json
import os
import pathlib
import time
from dataclasses import dataclass, replace
from typing import Any

import jax
import optax

from jbism import _checks
from jbism.training._checkpoint import Checkpointer
from jbism.training._loop import DivergenceError
from jbism.training._processes import on_primary
from jbism.training._state import TrainState
from jbism.training._workdir import replace_file

FILE = "rollbacks.jsonl"
_RATE_SCALE = "rate_scale"
_NOTE = "rollbacks"
_OPT_STATES = ("theta_opt_state", "phi_opt_state")


def with_adjustable_rate(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Returns an optimizer whose state holds a factor of its updates, 1 at first.

    `Rollbacks` lowers it.

    Args:
      optimizer: any optax transformation.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> optimizer = with_adjustable_rate(optax.sgd(0.1))
      >>> updates, _ = optimizer.update(jnp.ones(()), optimizer.init(jnp.ones(())))
      >>> round(float(updates), 6)
      -0.1
    """

    def scale(rate_scale):
        return optax.scale(rate_scale)

    return optax.chain(optimizer, optax.inject_hyperparams(scale)(rate_scale=1.0))


@dataclass(frozen=True)
class Rollbacks:
    """Returns to the last good checkpoint, with other randomness, as often as allowed.

    After the n-th divergence of a run its state is that of the latest checkpoint, saved while all
    metrics were sound, with the key folded with n: batches stay, noise is drawn anew. The rates may
    be lowered too. Each rollback is a line of ``rollbacks.jsonl``: ``number``, the ``step`` and
    ``quantity`` that diverged, its ``value`` as a string, ``to_step`` and ``wall_time``. A run that
    is killed after a rollback and before its next checkpoint applies it again when it resumes, so
    that it equals one that was not: a checkpoint has a note of how many rollbacks came before it.

    Args:
      workdir: the run's directory.
      most: how many rollbacks a run may make before it gives up, >= 0.
      rate_factor: what each multiplies both levels' rates by, in (0, 1]; below 1 both optimizers
        have to be made by `with_adjustable_rate`.

    Raises:
      ValueError: if a number is out of its range.

    Example:
      >>> import tempfile, jax, jax.numpy as jnp, optax
      >>> from jbism.training import create_state
      >>> optimizer = with_adjustable_rate(optax.sgd(0.1))
      >>> start = create_state(jax.random.key(0), jnp.ones(2), theta_optimizer=optimizer)
      >>> with tempfile.TemporaryDirectory() as run, Checkpointer(f"{run}/checkpoints") as saved:
      ...     rollbacks = Rollbacks(run, most=1)
      ...     saved.save(start)
      ...     error = DivergenceError(7, "loss", float("nan"), 0)
      ...     state = rollbacks.recover(error, saved, start)
      ...     print(int(state.step), rollbacks.records()[0]["quantity"])
      0 loss
    """

    workdir: str | os.PathLike
    most: int
    rate_factor: float = 1.0

    def __post_init__(self):
        _checks.integer("most", self.most, minimum=0)
        if not 0 < _checks.positive("rate_factor", self.rate_factor) <= 1:
            raise ValueError(f"rate_factor must be in (0, 1], got {self.rate_factor}")

    def records(self) -> list[dict[str, Any]]:
        """Returns the rollbacks of the run so far, in order."""

        def read():
            path = pathlib.Path(self.workdir) / FILE
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            return [json.loads(line) for line in lines]

        return on_primary(read)

    def notes(self) -> dict[str, int]:
        """Returns what a checkpoint saved now has to note (``notes`` of `fit`)."""
        return {_NOTE: len(self.records())}

    def applied(self, state: TrainState, checkpointer: Checkpointer) -> TrainState:
        """Returns the state of a checkpoint changed by the rollbacks since.

        Raises:
          ValueError: if rates are to be lowered, and no optimizer can.
        """
        return self._changed_since(state, checkpointer, len(self.records()))

    def _changed_since(self, state, checkpointer, number):
        """Changes a checkpoint's state by the rollbacks after it up to a number."""
        self._check_rates(state)
        before = checkpointer.notes(int(state.step)).get(_NOTE, 0)
        for n in range(before + 1, number + 1):
            state = self._changed(state, n)
        return state

    def _check_rates(self, state):
        scales = [optax.tree.get(getattr(state, name), _RATE_SCALE) for name in _OPT_STATES]
        if self.rate_factor < 1 and all(scale is None for scale in scales):
            raise ValueError("rate_factor below 1 needs optimizers made by with_adjustable_rate")

    def recover(
        self, error: DivergenceError, checkpointer: Checkpointer, template: TrainState
    ) -> TrainState:
        """Returns the state to go on from, and records the rollback.

        Args:
          error: what `fit` raised.
          checkpointer: that of the run.
          template: as of `Checkpointer.restore`.

        Raises:
          DivergenceError: ``error`` itself, if as many rollbacks as allowed were made, or there is
            no checkpoint.
          CheckpointError: if no checkpoint is intact.
          ValueError: as `applied`.
        """
        former = self.records()
        number = len(former) + 1
        state = None
        if number <= self.most:
            state = checkpointer.restore_intact(template, set_aside=True)
        if state is None:
            raise error
        changed = self._changed_since(state, checkpointer, number)
        record = {
            "number": number,
            "step": error.step,
            "quantity": error.quantity,
            "value": str(error.value),
            "to_step": int(state.step),
            "wall_time": time.time(),
        }
        text = "".join(json.dumps(line) + "\n" for line in [*former, record])
        on_primary(lambda: replace_file(pathlib.Path(self.workdir) / FILE, text))
        return changed

    def _changed(self, state, number):
        state = replace(state, key=jax.random.fold_in(state.key, number))
        if self.rate_factor == 1.0:
            return state
        lowered = {}
        for name in _OPT_STATES:
            opt_state = getattr(state, name)
            rate = optax.tree.get(opt_state, _RATE_SCALE)
            if rate is not None:
                rate = rate * self.rate_factor
                lowered[name] = optax.tree.set(opt_state, **{_RATE_SCALE: rate})
        return replace(state, **lowered)
