"""What the binaries share: one-line errors and exit codes."""

import contextlib
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import app, flags, logging

from jbism.training import CheckpointError, DivergenceError, WorkdirError

_TRACEBACK = flags.DEFINE_bool("traceback", False, "Print the whole traceback of an error.")
_EXPECTED = (ValueError, TypeError, OSError, CheckpointError, DivergenceError, WorkdirError)


def run(main: Callable[[], None]) -> None:
    """Runs ``main``; an expected error becomes one line on stderr and exit code 1."""

    def guarded(argv: Sequence[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        if len(argv) > 1:
            _fail(f"unexpected argument {argv[1]!r}; options start with --")
        try:
            main()
        except KeyboardInterrupt:
            _fail("interrupted; the same command resumes from the latest checkpoint, if any")
        except _EXPECTED as error:
            if _TRACEBACK.value:
                traceback.print_exc()
            _fail(str(error))

    app.run(guarded, flags_parser=_parse_flags)


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[Any, int], None]]:
    """Yields a training callback that raises the first KeyboardInterrupt; a second comes at once.

    Raised just anywhere, it may leave the queues of the event writer in a state in which closing
    them never returns.
    """
    received: list[int] = []

    def receive(number, frame):  # noqa: ARG001
        received.append(number)
        signal.signal(signal.SIGINT, former)

    def check(state, step):  # noqa: ARG001
        if received:
            raise KeyboardInterrupt

    former = signal.signal(signal.SIGINT, receive)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, former)
    if received:
        raise KeyboardInterrupt


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
    print("error:", *message.split(), file=sys.stderr)
    sys.exit(1)
