"""A deadline of a training: when it passes, the training ends after the current step with what it has reached."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from kerasimg.errors import KerasimgError


class OutOfTime(KerasimgError):
    """The time was used up before there was anything to save."""


@dataclass(frozen=True)
class Deadline:
    """A moment by the clock of `time.monotonic`."""

    at: float = math.inf

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """The deadline that many seconds from now; None: never."""
        return NEVER if seconds is None else cls(time.monotonic() + seconds)

    @property
    def left_s(self) -> float:
        """Seconds that are left, below 0 when it has passed."""
        return self.at - time.monotonic()

    def check(self, what: str) -> None:
        """OutOfTime if it has passed.  what: what is being done."""
        if self.left_s <= 0:
            raise OutOfTime(f"the time ran out while {what}")


NEVER = Deadline()
