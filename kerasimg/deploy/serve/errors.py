"""Why a request is not answered: one table from the reason to the HTTP status."""

from __future__ import annotations

import re

from kerasimg.data.image_files import BadImage, TooCostly
from kerasimg.errors import KerasimgError

STATUS = {
    "body": 400,  # cannot be read, or asks for what there is not
    "address": 400,  # names an image by its address, which is never fetched
    "tensor": 400,  # numbers that are no image
    "key": 401,
    "route": 404,  # no such page, model or version
    "method": 405,
    "slow": 408,  # the body did not come in time
    "bytes": 413,
    "images": 413,
    "pixels": 413,
    "costly": 413,  # takes too long to read or to decode
    "type": 415,  # of the body
    "unknown": 415,  # a file that is no image
    "damaged": 422,  # an image that cannot be decoded
    "queue": 429,
    "failed": 500,
    "stopping": 503,
    "time": 503,  # the answer took too long
}
"""Reason -> status."""

RETRY_AFTER_S = {"queue": 1, "stopping": 5, "time": 2}
"""Reason -> after how many seconds the same request may be answered."""


class Refused(KerasimgError):
    """A request is refused for a reason of `STATUS`; the message is told to whoever asked."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason
        self.status = STATUS[reason]

    def __reduce__(self) -> tuple[type[Refused], tuple[str, str]]:
        return type(self), (self.reason, str(self))

    @property
    def headers(self) -> dict[str, str]:
        """That the answer has besides."""
        if self.reason == "key":
            return {"www-authenticate": "Bearer"}
        seconds = RETRY_AFTER_S.get(self.reason)
        return {} if seconds is None else {"retry-after": str(seconds)}


class TooManyPixels(BadImage):
    """An image's header tells of more pixels than are decoded."""


_NO_IMAGE = re.compile(r"is not an? |is a (HEIC|Git)")
_TOO_LARGE = re.compile(r"is too large|has [\d,]+ million pixels|.*(cannot allocate|out of memory)", re.IGNORECASE)


def refused_image(name: str, error: BadImage) -> Refused:
    """The refusal of a request for one of its images."""
    if isinstance(error, TooCostly):
        reason = "costly"
    elif isinstance(error, TooManyPixels) or _TOO_LARGE.match(error.reason):
        reason = "pixels"
    else:
        reason = "unknown" if _NO_IMAGE.match(error.reason) else "damaged"
    return Refused(reason, f"{name} {error.reason}")


def refused_route(status: int, method: str, path: str) -> Refused:
    """The refusal for an HTTP status of the router."""
    if status == 405:
        return Refused("method", f"{method} is not allowed for '{path[:80]}'; the Allow header lists what is")
    if status == 404:
        return Refused("route", f"no route '{path[:80]}'; GET /docs lists the routes")
    return Refused("body" if status < 500 else "failed", f"{method} '{path[:80]}' cannot be answered")


def refused_fault(request_id: str) -> Refused:
    """The refusal for a fault of the server's own, which only its log tells of."""
    return Refused("failed", f"the server has failed at this request; its log says more, by id {request_id}")
