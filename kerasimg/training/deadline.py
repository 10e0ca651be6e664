"""A deadline of a training: when it passes, the training ends after the current step with what it has reached."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from kerasimg.errors import Interrupted, KerasimgError


class OutOfTime(KerasimgError):
    """The time was used up before there was anything to save."""


class Interruption:
    """Whether the user has asked to stop."""

    asked = False


@dataclass(frozen=True)
class Deadline:
    """A moment by the clock of `time.monotonic`, or when the user asks to stop."""

    at: float = math.inf
    interruption: Interruption | None = None

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """The deadline that many seconds from now; None: never."""
        return NEVER if seconds is None else cls(time.monotonic() + seconds)

    @property
    def left_s(self) -> float:
        """Seconds that are left, below 0 when it has passed."""
        return self.at - time.monotonic()

    @property
    def interrupted(self) -> bool:
        """Whether the user has asked to stop."""
        return self.interruption is not None and self.interruption.asked

    def check(self, what: str) -> None:
        """OutOfTime if it has passed, Interrupted if the user has asked to stop.  what: what is being done."""
        if self.interrupted:
            raise Interrupted(f"interrupted while {what}")
        if self.left_s <= 0:
            raise OutOfTime(f"the time ran out while {what}")


NEVER = Deadline()
