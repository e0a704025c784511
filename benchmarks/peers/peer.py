"""A peer: the packages it needs, and where it is written."""

import importlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Peer:
    """A library's way of writing a piece of work."""

    name: str
    packages: tuple[str, ...]
    builder: str  # "module:function", imported only where the packages are there

    def build(self, *args: Any) -> Any:
        """Returns its side of a contest."""
        module, function = self.builder.split(":")
        return getattr(importlib.import_module(module), function)(*args)

    def missing(self) -> str | None:
        """Says why the peer cannot be run here, or returns None."""
        absent = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if not absent:
            return None
        return f"{', '.join(absent)} not installed: pip install 'jbism[benchmarks]'"

    def versions(self) -> str:
        """Names the packages with their versions."""
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in self.packages)
