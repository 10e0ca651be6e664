"""The wall time that a search may take, over all its processes: one that was killed and resumed has the rest."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from kerasimg.errors import KerasimgError
from kerasimg.files import read_object, write_json
from kerasimg.training.deadline import NEVER, Deadline

FILE = "budget.json"
TICK_S = 1.0
"""How often the time that was used is stored; a kill loses no more."""
_command: ContextVar[float | None] = ContextVar("command", default=None)
"""`time.monotonic` when the command began that a search is part of."""


@contextmanager
def minutes_from(began: float) -> Iterator[None]:
    """Have the minutes of searches begin at this time, since loading Keras is part of what a user waits for."""
    before = _command.set(began)
    try:
        yield
    finally:
        _command.reset(before)


def search_began() -> float:
    """Returns when the minutes of a search began that is called now: `time.monotonic`."""
    began = _command.get()
    return time.monotonic() if began is None else began


class TimeBudget:
    """The time of a search."""

    def __init__(self, folder: Path, minutes: float | None, began: float | None = None) -> None:
        """folder: where the used time is stored.  minutes: None: no limit.  began: `time.monotonic`; None: now."""
        self.file = folder / FILE
        self.seconds = math.inf if minutes is None else 60 * minutes
        self._began = time.monotonic() if began is None else began
        self._before = self._used_before()

    def _used_before(self) -> float:
        try:
            return float(read_object(self.file)["used_s"]) if self.file.is_file() else 0.0
        except (KerasimgError, KeyError, TypeError, ValueError):
            return 0.0

    @property
    def used_s(self) -> float:
        """Seconds so far, in all processes."""
        return self._before + time.monotonic() - self._began

    @property
    def left_s(self) -> float:
        """Seconds that are left; infinite without a limit."""
        return self.seconds - self.used_s

    def deadline(self, reserve_s: float = 0.0) -> Deadline:
        """The deadline of a training that leaves time for what comes after it."""
        return NEVER if math.isinf(self.seconds) else Deadline.after(self.left_s - reserve_s)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Store the used time while the block runs, if there is a limit."""
        if math.isinf(self.seconds):
            yield
            return
        done = threading.Event()

        def count() -> None:
            while not done.wait(TICK_S):
                self._store()

        self._store()
        thread = threading.Thread(target=count, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self._store()

    def _store(self) -> None:
        write_json(self.file, {"minutes": self.seconds / 60, "used_s": round(self.used_s, 1)})
