"""What the binaries share: one-line errors and exit codes."""

import sys
import traceback
from collections.abc import Callable, Sequence

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
            _fail("interrupted; the same command resumes from the latest checkpoint")
        except _EXPECTED as error:
            if _TRACEBACK.value:
                traceback.print_exc()
            _fail(" ".join(str(error).split()))

    app.run(guarded)


def _fail(message):
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)
