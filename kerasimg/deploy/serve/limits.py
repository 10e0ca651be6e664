"""How much is in work at a time: a bound on images and on bytes, beyond which requests are refused at once.

Everything here runs in the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType

from kerasimg.deploy.serve.errors import Refused


class Room:
    """What is in work, against what may be."""

    def __init__(self, images: int, held_bytes: int) -> None:
        self.most_images = images
        self.most_bytes = held_bytes
        self.images = 0
        self.bytes = 0
        self.stopping = False

    def enter(self) -> Place:
        """A place for a request, which counts as one image until it says how many it has."""
        if self.stopping:
            raise Refused("stopping", "the server is stopping; ask another one, or again later")
        place = Place(self)
        place.take(images=1)
        return place


class Place:
    """What one request takes up; used as a context, it is given back at the end of it."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._images = 0
        self._bytes = 0
        self._works: list[tuple[Future, Future | None]] = []

    def take(self, *, images: int = 0, size: int = 0) -> None:
        """Take up more, or be refused.  images: in all, not besides.  size: further bytes."""
        more = max(0, images - self._images)
        room = self._room
        if room.images + more > room.most_images or room.bytes + size > room.most_bytes:
            raise Refused("queue", f"{room.images} images are in work; ask again in a moment")
        self._images += more
        self._bytes += size
        room.images += more
        room.bytes += size

    def until(self, work: Future, answer: Future | None = None) -> None:
        """Stay until a work in another thread is done, even where the request ends before it.

        answer: what the work is for; it is set by the work itself, whose own future follows a moment later.
        """
        self._works.append((work, answer))

    def __enter__(self) -> Place:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        unfinished = [work for work, answer in self._works if not (work.done() or _answered(answer))]
        if not unfinished:
            self._give_back()
            return
        # Only after a time limit or a fault: the threads go on with what the request has given up.
        loop = asyncio.get_running_loop()
        left = len(unfinished)

        def one_less() -> None:
            nonlocal left
            left -= 1
            if not left:
                self._give_back()

        for work in unfinished:
            work.add_done_callback(lambda work: _soon(loop, one_less))

    def _give_back(self) -> None:
        self._room.images -= self._images
        self._room.bytes -= self._bytes
        self._images = self._bytes = 0


def _answered(answer: Future | None) -> bool:
    return answer is not None and answer.done() and not answer.cancelled()


def _soon(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop is closed: the server has ended
        loop.call_soon_threadsafe(work)
