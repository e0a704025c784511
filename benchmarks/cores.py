"""The processor, and keeping a process to one core of it, so that its times compare."""

import os
import pathlib
import platform
import sys


def pin_to_one_core(core: int | None) -> int | None:
    """Keeps this process, and XLA's thread pools, to one core; call it before importing jax.

    Args:
      core: which; None takes the last that the process may run on.

    Returns:
      The core, or None where the system cannot pin, which is said on stderr.

    Raises:
      ValueError: if the process may not run on that core.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    if not hasattr(os, "sched_setaffinity"):
        if core is not None:
            raise ValueError(f"core {core}: this system cannot pin a process to a core")
        print("not pinned: this system has no sched_setaffinity", file=sys.stderr)
        return None
    allowed = sorted(os.sched_getaffinity(0))
    core = allowed[-1] if core is None else core
    if core not in allowed:
        raise ValueError(f"core must be one of {allowed}, got {core}")
    os.sched_setaffinity(0, {core})
    return core


def processor() -> str:
    """Returns the name of the processor, which Python has on some systems only."""
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} ({platform.machine()})"
    return platform.processor() or platform.machine()
