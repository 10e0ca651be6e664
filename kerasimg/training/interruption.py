"""Ctrl-C: once, and the step is finished and kept; twice, and all ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """Whether the user has asked for an end."""

    asked = False


@contextmanager
def patient(say: Callable[[str], None]) -> Iterator[Interruption]:
    """Note a first Ctrl-C instead of raising KeyboardInterrupt; the second is as ever.

    Elsewhere than in the main thread, and where the program has a way of its own, nothing is changed.
    """
    interruption = Interruption()

    def note(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        interruption.asked = True
        say("interrupted: this step is finished and kept (Ctrl-C again: ends at once)")

    theirs = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    if theirs or threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield interruption
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
