"""The expressions of a spec ("=round8(c * alpha)"): a small, closed part of Python's, checked before it is evaluated."""

from __future__ import annotations

from typing import Final


class Unknown:
    """The value of what depends on a shape that only the built model knows; there is one, `UNKNOWN`."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = Unknown()
