"""What JAX has compiled, on disk: a second process reads it instead of compiling again.

JAX compiles a function for each model, shape and device, which takes most of a short run, on a GPU above all. Its
persistent cache is off by default; here it gets a folder in kerasimg's cache folder, shared by all runs. A cache that
the user has set (`JAX_COMPILATION_CACHE_DIR`) is used as it is. TensorFlow and PyTorch have no such cache.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kerasimg.cache_folder import cache_folder
from kerasimg.errors import counted

LIMIT = 4 * 1000**3
"""Largest total size in bytes; the least recently used files are removed when a process begins to use the cache."""
CHECKED = "checked"
"""The file in the folder whose date says up to when what JAX has written was found whole."""
SETTLED_S = 2.0
"""Seconds after its last change from which on a file is taken to be complete."""
ZSTANDARD = b"\x28\xb5\x2f\xfd"
"""The first bytes of what zstandard compressed (RFC 8878)."""
COMPILED = "/jax/core/compile/backend_compile_duration"
HIT = "/jax/compilation_cache/cache_hits"


@dataclass
class Compilations:
    """What this process has compiled since `open_compile_cache` was called first. Always 0 except on JAX."""

    functions: int = 0
    from_cache: int = 0
    """Those of `functions` that were read from the cache."""
    seconds: float = 0.0
    """Time of all of them; some are compiled in parallel."""

    def since(self, before: Compilations) -> Compilations:
        """Returns what was compiled after a copy was taken."""
        return Compilations(
            self.functions - before.functions, self.from_cache - before.from_cache, self.seconds - before.seconds
        )

    def copy(self) -> Compilations:
        """Returns a copy of the counts."""
        return self.since(Compilations())

    def describe(self) -> str:
        """Returns one line, empty if nothing was compiled."""
        if not self.functions:
            return ""
        return (
            f"compiled {counted(self.functions, 'function')} in {self.seconds:.1f} s, "
            f"{self.from_cache:,} of them read from the cache"
        )


TOTAL = Compilations()
"""The compilations of this process."""


def folder() -> Path:
    """Returns the folder of the compiled functions of this user."""
    return cache_folder() / "compiled"


@functools.cache
def open_compile_cache() -> None:
    """Have JAX store what it compiles, and count it; called before a model is built or loaded."""
    import keras

    if keras.backend.backend() != "jax":
        return
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    jax.monitoring.register_event_duration_secs_listener(_count_compilation)
    jax.monitoring.register_event_listener(_count_hit)
    if jax.config.jax_compilation_cache_dir is not None:
        return
    place = folder()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    _make_room()
    remove_damaged()
    jax.config.update("jax_compilation_cache_dir", str(place))
    # The many small functions of a model's operations take longer than the few large ones.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # JAX decides at its first compilation whether there is a cache, and that may be over.
    compilation_cache.reset_cache()


def files() -> list[Path]:
    """Returns the files of compiled functions, the least recently used first."""
    return sorted((path for path in folder().rglob("*") if path.is_file() and path.name != CHECKED), key=last_use_s)


def last_use_s(path: Path) -> float:
    """Returns when a file was last read or written, in seconds since 1970; 0 if it no longer exists."""
    with contextlib.suppress(OSError):
        status = path.stat()
        return max(status.st_atime, status.st_mtime)
    return 0.0


def remove_older(age_s: float = 0) -> list[int]:
    """Removes the files that were not used for `age_s` seconds; returns their sizes."""
    return [_remove(path) for path in files() if time.time() - last_use_s(path) >= age_s]


def _make_room() -> None:
    existing = files()
    sizes = [path.stat().st_size for path in existing if path.exists()]
    excess = sum(sizes) - LIMIT
    for path in existing:
        if excess <= 0:
            return
        excess -= _remove(path)


def remove_damaged() -> None:
    """Removes files written since the last look that JAX cannot read: it would warn of them in every process.

    JAX writes to the file itself, so that a process that is killed may leave a part of one, and never replaces it.
    Where the package zstandard is installed, JAX compresses by it; those files stay: this environment may lack it.
    """
    checked = folder() / CHECKED
    until = time.time() - SETTLED_S
    with contextlib.suppress(OSError):
        since = checked.stat().st_mtime if checked.exists() else until
        for path in folder().glob("*-cache"):
            if since <= path.stat().st_mtime < until:
                content = path.read_bytes()
                try:
                    if not content.startswith(ZSTANDARD):
                        zlib.decompress(content)
                except zlib.error:
                    _remove(path)
        checked.touch()
        os.utime(checked, (until, until))


def _remove(path: Path) -> int:
    with contextlib.suppress(OSError):
        size = path.stat().st_size
        path.unlink()
        return size
    return 0


def _count_compilation(event: str, duration_s: float, **_: Any) -> None:
    if event == COMPILED:
        TOTAL.functions += 1
        TOTAL.seconds += duration_s


def _count_hit(event: str, **_: Any) -> None:
    if event == HIT:
        TOTAL.from_cache += 1
