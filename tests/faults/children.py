"""Training runs in processes that can be killed, starved and misled.

A process is forked off a server that has imported everything and started no backend, so that one of
them costs what it does and not what Python's imports cost.
"""

import multiprocessing
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["experiments.train", "tests.faults.children"])

_CLOCK = time.time

Preparation = Callable[[], Any]  # what a process does before it trains; it has to be picklable


class Child:
    """A process of ``function(*args)``; what it prints goes to two files in ``folder``."""

    def __init__(self, folder: pathlib.Path, function: Callable[..., None], *args: Any):
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{len(list(folder.glob('*.out'))):03}"
        self._files = folder / f"{stem}.out", folder / f"{stem}.err"
        for file in self._files:
            file.touch()
        self._process = _CONTEXT.Process(target=_begin, args=(self._files, function, args))
        self._process.start()

    @property
    def stdout(self) -> str:
        return self._files[0].read_text()

    @property
    def stderr(self) -> str:
        return self._files[1].read_text()

    def running(self) -> bool:
        return self._process.exitcode is None

    def wait_for(self, condition: Callable[[], Any]) -> None:
        """Returns as soon as the condition holds; the process must not end before."""
        deadline = time.monotonic() + 240
        while not condition():
            assert self.running(), (self.stdout, self.stderr)
            assert time.monotonic() < deadline, (self.stdout, self.stderr)
            time.sleep(0.0005)

    def wait(self) -> int:
        """Returns the exit code, that of a signal negative."""
        self._process.join(240)
        assert not self.running(), (self.stdout, self.stderr)
        return self._process.exitcode

    def send(self, number: int) -> int:
        """Sends a signal; returns the exit code."""
        os.kill(self._process.pid, number)
        return self.wait()

    def pause(self) -> None:
        """Stops the process where it is; it goes on holding what it holds."""
        os.kill(self._process.pid, signal.SIGSTOP)
        state = pathlib.Path(f"/proc/{self._process.pid}/stat")
        self.wait_for(lambda: not state.exists() or state.read_text().split()[2] == "T")

    def kill(self) -> None:
        assert self.send(signal.SIGKILL) == -signal.SIGKILL


@contextmanager
def ended(child: Child) -> Iterator[Child]:
    """Kills the process at the end of the context, should it still run."""
    try:
        yield child
    finally:
        if child.running():
            child.kill()


def _begin(files, function, args):
    for number, file in zip((1, 2), files, strict=True):
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    import jax

    jax.config.update("jax_platforms", "cpu")
    function(*args)


def train(flags: Sequence[str], preparations: Sequence[Preparation] = ()) -> None:
    """Runs ``experiments.train`` with the flags, as ``python -m`` does, but for its report.

    That is a function of the last state, and costs more than these trainings.
    """
    from experiments import _main
    from experiments import train as binary

    binary._report = lambda *_: None
    for prepare in preparations:
        prepare()
    sys.argv = ["train", *flags]
    _main.run(binary.main)


# Preparations


def limit_file_size(size: int) -> None:
    """No file may grow beyond so many bytes: writing more is an error (EFBIG)."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def at_step(step: int, does: Preparation) -> None:
    """Has the process do something when a step is done, before it is saved."""
    from experiments import train as binary

    fit = binary.fit

    def fit_and_do(*args, **options):
        def callback(_, at):
            if at == step:
                does()

        callbacks = [*options.pop("callbacks", ()), (5, callback)]
        return fit(*args, **options, callbacks=callbacks)

    binary.fit = fit_and_do


def send(number: int) -> None:
    """Sends this process a signal."""
    os.kill(os.getpid(), number)


def send_in_pieces(size: int) -> None:
    """Has the processes broadcast at most so many bytes at once."""
    from jbism.training import _processes

    _processes._PIECE = size


def fail() -> None:
    """Raises an error that nobody expects."""
    raise KeyError("lost")


def set_clock(seconds: float) -> None:
    """Sets the clock so far ahead of the true one."""
    time.time = lambda: _CLOCK() + seconds
    time.time_ns = lambda: int((_CLOCK() + seconds) * 1e9)


def poison(step: int, *, persistent: bool = False) -> None:
    """Makes the loss of a step NaN, as long as the key is the run's first one unless persistent."""
    import jax
    import jax.numpy as jnp

    from experiments import train as binary

    build, train_steps, first_key = binary.build, binary.train_steps, []

    def build_and_note(config):
        experiment = build(config)
        first_key.append(jax.random.key_data(experiment.initial_state.key))
        return experiment

    def train_poisoned_steps(one_step, *args, **options):
        def poisoned(state, v):
            after, metrics = one_step(state, v)
            ill = (jax.random.key_data(state.key) == first_key[0]).all() | persistent
            loss = jnp.where(ill & (after.step == step), jnp.nan, metrics["loss"])
            return after, metrics | {"loss": loss}

        return train_steps(poisoned, *args, **options)

    binary.build, binary.train_steps = build_and_note, train_poisoned_steps
