"""How much memory this process takes, and what TensorFlow would keep of it for ever."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from kerasimg.keras_internals import gradient_registry


def resident_bytes() -> int:
    """Bytes of the process that are in memory; where the system does not say, the most that there ever were."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def noted_gradients() -> set[str]:
    """The names by which TensorFlow has noted gradients of traced functions: each keeps the graph of its function."""
    return {name for name in gradient_registry() if name.startswith("CustomGradient-")}


def forget_gradients(names: Iterable[str]) -> None:
    """Let go of graphs that no one will run again; TensorFlow, which notes one per traced optimizer, never does."""
    registry = gradient_registry()
    for name in names:
        registry.pop(name, None)
