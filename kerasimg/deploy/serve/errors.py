"""Reasons for refusing a request, and the HTTP status of each."""

from __future__ import annotations

import re
from typing import Any

from kerasimg.data.image_files import BadImage, TooCostly
from kerasimg.errors import KerasimgError

STATUS = {
    "body": 400,  # cannot be parsed, or has an unknown option
    "address": 400,  # gives the URL of an image; URLs are never fetched
    "tensor": 400,  # numbers that are not an image
    "key": 401,
    "route": 404,  # no such route, model or version
    "method": 405,
    "slow": 408,  # the body did not arrive in time
    "bytes": 413,
    "images": 413,
    "pixels": 413,
    "costly": 413,  # takes too long to parse or to decode
    "type": 415,  # of the body
    "unknown": 415,  # a file that is not an image
    "damaged": 422,  # an image that cannot be decoded
    "queue": 429,
    "failed": 500,
    "stopping": 503,
    "time": 503,  # the prediction took too long
}
"""Reason -> status."""

RETRY_AFTER_S = {"queue": 1, "stopping": 5, "time": 2}
"""Reason -> seconds after which the client may retry."""


class Refused(KerasimgError):
    """A refused request. `reason` is a key of `STATUS`; the message goes to the client."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason
        self.status = STATUS[reason]

    def __reduce__(self) -> tuple[type[Refused], tuple[str, str]]:
        return type(self), (self.reason, str(self))

    @property
    def headers(self) -> dict[str, str]:
        """Extra headers of the response."""
        if self.reason == "key":
            return {"www-authenticate": "Bearer"}
        seconds = RETRY_AFTER_S.get(self.reason)
        return {} if seconds is None else {"retry-after": str(seconds)}


class TooManyPixels(BadImage):
    """An image's header declares more pixels than the limit."""


_NO_IMAGE = re.compile(r"is not an? |is a (HEIC|Git)")
_TOO_LARGE = re.compile(r"is too large|has [\d,]+ million pixels|.*(cannot allocate|out of memory)", re.IGNORECASE)


def shown(value: Any, most: int = 40) -> str:
    """Returns a value of a request as it appears in a message: a list or an object, however large, by its type only."""
    if isinstance(value, str):
        return repr(value[:most])
    return type(value).__name__ if isinstance(value, list | dict) else str(value)[:most]


def refused_image(name: str, error: BadImage) -> Refused:
    """Returns the refusal for a bad image."""
    if isinstance(error, TooCostly):
        reason = "costly"
    elif isinstance(error, TooManyPixels) or _TOO_LARGE.match(error.reason):
        reason = "pixels"
    else:
        reason = "unknown" if _NO_IMAGE.match(error.reason) else "damaged"
    return Refused(reason, f"{name} {error.reason}")


def refused_route(status: int, method: str, path: str) -> Refused:
    """Returns the refusal for an HTTP status that the router raised."""
    if status == 405:
        return Refused("method", f"{method} is not allowed for '{path[:80]}'; the Allow header lists what is")
    if status == 404:
        return Refused("route", f"no route '{path[:80]}'; GET /docs lists the routes")
    return Refused("body" if status < 500 else "failed", f"{method} '{path[:80]}' cannot be answered")


def refused_fault(request_id: str) -> Refused:
    """Returns the refusal for an internal error, whose details are only in the server's log."""
    return Refused("failed", f"internal server error; see the server log, request id {request_id}")
