"""Maps a function over items on all cores, in order; progress reports."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

Progress = Callable[[int, int], None]
"""Called with the number of finished images and the total."""

CHUNK = 32
"""Items per task: submitting one by one costs as much as decoding a small image."""


def each(
    function: Callable[[T], R], things: Sequence[T], threads: int | None = None, chunk: int = CHUNK
) -> Iterator[R]:
    """Yields function(thing) for each thing, in order, on threads: for work that releases the GIL.

    threads: number of threads; None: one per core that this process may use.  chunk: things per task.
    """
    chunks = [things[start : start + chunk] for start in range(0, len(things), chunk)]
    given_up = threading.Event()

    def work(chunk: Sequence[T]) -> list[R]:
        return [function(thing) for thing in chunk if not given_up.is_set()]

    with ThreadPoolExecutor(threads or cores()) as pool:
        try:
            yield from chain.from_iterable(pool.map(work, chunks))
        finally:
            given_up.set()  # after Ctrl-C the pool waits for one thing per thread, not for a chunk


class Tally:
    """Counts what all threads have done, and reports progress at intervals after a while.

    progress: called by one thread only.  patience, interval: seconds before the first and between two calls.
    """

    def __init__(self, of: int, progress: Progress | None, patience: float, interval: float) -> None:
        self.of = of
        self.progress = progress
        self.interval = interval
        self.done = 0
        self.reported = 0
        self.due = time.monotonic() + patience
        self.lock = threading.Lock()

    def add(self) -> None:
        """Count one more."""
        if self.progress is None:
            return
        with self.lock:
            self.done += 1
            if (now := time.monotonic()) >= self.due:
                self.due = now + self.interval
                self.reported = self.done
                self.progress(self.done, self.of)

    def end(self) -> None:
        """Report the end, if progress was reported before."""
        if self.progress is not None and 0 < self.reported < self.done:
            self.progress(self.done, self.of)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
