"""The same work on many things, on all cores, in order."""

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
"""Called with how many images are done, and of how many."""

CHUNK = 32
"""Things per task: handing over one by one costs as much as decoding a small image."""


def each(function: Callable[[T], R], things: Sequence[T], threads: int | None = None) -> Iterator[R]:
    """function(thing) of every thing, in their order, by threads: for work that releases Python's lock.

    threads: how many; None: one per core that this process may use.
    """
    chunks = [things[start : start + CHUNK] for start in range(0, len(things), CHUNK)]
    given_up = threading.Event()

    def work(chunk: Sequence[T]) -> list[R]:
        return [function(thing) for thing in chunk if not given_up.is_set()]

    with ThreadPoolExecutor(threads or cores()) as pool:
        try:
            yield from chain.from_iterable(pool.map(work, chunks))
        finally:
            given_up.set()  # after Ctrl-C the pool waits for what is in work: one thing of each thread, not a chunk


class Tally:
    """Counts what any thread has done, and tells it now and then, once it has lasted a while.

    progress: called by one thread at a time.  patience, interval: seconds before the first and between two calls.
    """

    def __init__(self, of: int, progress: Progress | None, patience: float, interval: float) -> None:
        self.of = of
        self.progress = progress
        self.interval = interval
        self.done = 0
        self.told = 0
        self.due = time.monotonic() + patience
        self.lock = threading.Lock()

    def add(self) -> None:
        """One more is done."""
        if self.progress is None:
            return
        with self.lock:
            self.done += 1
            if (now := time.monotonic()) >= self.due:
                self.due = now + self.interval
                self.told = self.done
                self.progress(self.done, self.of)

    def end(self) -> None:
        """All is done: told where it was told before that something was."""
        if self.progress is not None and 0 < self.told < self.done:
            self.progress(self.done, self.of)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
