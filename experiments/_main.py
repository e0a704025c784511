"""What the binaries share: one-line errors and exit codes."""

import contextlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence

import jax
from absl import app, flags, logging

from jbism.training import (
    CheckpointError,
    DivergenceError,
    ProcessError,
    StoppedError,
    WorkdirError,
)

STOPPED = 75  # the exit code of a run that was told to stop and can go on: EX_TEMPFAIL

_TRACEBACK = flags.DEFINE_bool("traceback", False, "Print the whole traceback of an error.")
_EXPECTED = (
    ValueError,
    TypeError,
    OSError,
    CheckpointError,
    DivergenceError,
    ProcessError,
    WorkdirError,
)


class _Terminated(BaseException):
    """SIGTERM came."""


def run(main: Callable[[], None]) -> None:
    """Runs ``main``; an expected error becomes one line on stderr and exit code 1.

    After SIGTERM, or SIGINT while it trains, the exit code is `STOPPED`.
    """

    def guarded(argv: Sequence[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.FATAL)  # orbax logs what its errors say anyway
        if len(argv) > 1:
            _fail(f"unexpected argument {argv[1]!r}; options start with --")
        warnings.showwarning = _show_warning
        signal.signal(signal.SIGTERM, _terminate)
        sys.unraisablehook = _deliver_again
        try:
            main()
        except StoppedError as error:  # in all processes
            print(f"{error}; the same command goes on from there", file=sys.stderr)
            sys.exit(STOPPED)
        except _Terminated:
            print(
                "stopped by SIGTERM; the same command goes on from what is saved", file=sys.stderr
            )
            _leave(STOPPED, at_once=True)
        except KeyboardInterrupt:
            _print_error("interrupted; the same command resumes from the latest checkpoint, if any")
            _leave(1, at_once=True)
        except _EXPECTED as error:
            if _TRACEBACK.value:
                traceback.print_exc()
            _fail(str(error))
        except Exception as error:
            if not jax.distributed.is_initialized():
                raise
            if isinstance(error, jax.errors.JaxRuntimeError) and not _TRACEBACK.value:
                _fail(f"another process may have ended: {str(error).splitlines()[0]}")
            traceback.print_exc()
            _leave(1)

    app.run(guarded, flags_parser=_parse_flags)


@contextlib.contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Yields whether SIGINT or SIGTERM came; a second signal has its usual effect at once.

    Raised just anywhere, an interrupt may leave the queues of the event writer in a state in which
    closing them never returns.
    """
    received: list[int] = []

    def receive(number, frame):  # noqa: ARG001
        received.append(number)
        for each, handler in former.items():
            signal.signal(each, handler)

    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in former:
        signal.signal(number, receive)
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    if received:  # too late for training to stop
        signal.raise_signal(received[0])


def _terminate(*_):
    raise _Terminated


def _deliver_again(dropped):
    """Sends a signal once more that came where Python drops exceptions, as in a garbage collection.

    A moment later: the exceptions of this hook are dropped as well.
    """
    signals = {_Terminated: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}
    number = signals.get(dropped.exc_type)
    if number is None:
        sys.__unraisablehook__(dropped)
        return
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
    signal.setitimer(signal.ITIMER_REAL, 0.01)


def _show_warning(message, *_, **__):
    print("warning:", *str(message).split(), file=sys.stderr)


def _parse_flags(argv):
    """Parses the flags, which runs the config file and may raise whatever that raises."""
    try:
        return flags.FLAGS(argv)
    except Exception as error:
        if "--traceback" in argv:
            traceback.print_exc()
        if isinstance(error, flags.Error):
            # An error within a config file comes with its traceback, the error itself last.
            lines = str(error).strip().splitlines()
            _fail(lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}")
        while error.args and isinstance(error.args[0], Exception):
            error = error.args[0]  # ml_collections wraps a KeyError in an AttributeError
        reason = error.args[0] if isinstance(error, KeyError) else error
        _fail(f"--config: {type(error).__name__}: {reason}")


def _fail(message):
    _print_error(message)
    _leave(1)


def _print_error(message):
    print("error:", *message.split(), file=sys.stderr)


def _leave(code, *, at_once=False):
    """Exits, at once where threads may still compile, which an orderly exit takes badly.

    Of several processes one must not wait at its exit for those that wait for it.
    """
    if at_once or jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
