"""Admission control: limits the images and bytes in progress, and refuses requests beyond them at once.

Everything here runs in the thread of the event loop.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType

from kerasimg.deploy.serve.errors import Refused
from kerasimg.deploy.serve.workers import Budget
from kerasimg.errors import counted


class Capacity:
    """Images and bytes in progress, and their limits."""

    def __init__(self, images: int, held_bytes: int, seconds: float = math.inf) -> None:
        """Sets the limits.

        Args:
            images: maximum number of images in progress.
            held_bytes: maximum bytes of their requests.
            seconds: CPU time of a request in worker processes.
        """
        self.seconds = seconds
        self.max_images = images
        self.max_bytes = held_bytes
        self.images = 0
        self.bytes = 0
        self.stopping = False

    def reserve(self) -> Reservation:
        """Admits a request if there is room for an image. It counts as none until its body is complete."""
        if self.stopping:
            raise Refused("stopping", "the server is stopping; retry later, or use another server")
        reservation = Reservation(self)
        reservation.check(images=1)
        return reservation


class Reservation:
    """The share of the capacity that one request holds; a context manager that releases it on exit."""

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self.budget = Budget(capacity.seconds)
        self._images = 0
        self._bytes = 0
        self._works: list[tuple[Future, Future | None]] = []

    def take(self, *, images: int = 0, size: int = 0) -> None:
        """Reserves more, or raises Refused.

        Args:
            images: total number of images of the request.
            size: additional bytes.
        """
        self.check(images=images, size=size)
        more_images = max(0, images - self._images)
        capacity = self._capacity
        self._images += more_images
        self._bytes += size
        capacity.images += more_images
        capacity.bytes += size

    def check(self, *, images: int = 0, size: int = 0) -> None:
        """Raises Refused if there is no room for this many images and additional bytes."""
        more_images = max(0, images - self._images)
        capacity = self._capacity
        if capacity.images + more_images > capacity.max_images or capacity.bytes + size > capacity.max_bytes:
            raise Refused("queue", f"{counted(capacity.images, 'image', 'are')} in progress; retry in a moment")

    def hold_until_done(self, work: Future, answer: Future | None = None) -> None:
        """Keeps the reservation until work in another thread is done, even if the request ends earlier.

        Args:
            work: the future of the work.
            answer: the result that the work sets; it is done slightly before `work` itself.
        """
        self._works.append((work, answer))

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        unfinished = [work for work, answer in self._works if not (work.done() or _answered(answer))]
        if not unfinished:
            self._release()
            return
        # Only after a timeout or an error: threads still process what the request has abandoned.
        loop = asyncio.get_running_loop()
        remaining = len(unfinished)

        def finish_one() -> None:
            nonlocal remaining
            remaining -= 1
            if not remaining:
                self._release()

        for work in unfinished:
            work.add_done_callback(lambda work: _call_soon(loop, finish_one))

    def _release(self) -> None:
        self._capacity.images -= self._images
        self._capacity.bytes -= self._bytes
        self._images = self._bytes = 0


def _answered(answer: Future | None) -> bool:
    return answer is not None and answer.done() and not answer.cancelled()


def _call_soon(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop is closed: the server has stopped
        loop.call_soon_threadsafe(work)
