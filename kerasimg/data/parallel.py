"""The same work on many things, on all cores, in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

CHUNK = 32
"""Things per task: handing over one by one costs as much as decoding a small picture."""


def each(function: Callable[[T], R], things: Sequence[T], threads: int | None = None) -> Iterator[R]:
    """function(thing) of every thing, in their order, by threads: for work that releases Python's lock.

    threads: how many; None: one per core that this process may use.
    """
    chunks = [things[start : start + CHUNK] for start in range(0, len(things), CHUNK)]
    with ThreadPoolExecutor(threads or cores()) as pool:
        yield from chain.from_iterable(pool.map(lambda chunk: [function(thing) for thing in chunk], chunks))


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
