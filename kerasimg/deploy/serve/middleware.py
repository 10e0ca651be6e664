"""What every request passes: its id, the key, counting, a line in the log; and the form in which a refusal is told."""

from __future__ import annotations

import hmac
import os
import re
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from pydantic_core import to_json

from kerasimg.deploy.serve import logs
from kerasimg.deploy.serve.errors import Refused, refused_fault
from kerasimg.deploy.serve.metrics import Meters

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

OPEN = frozenset({"/", "/docs", "/openapi.json", "/about", "/v2/health/live", "/v2/health/ready"})
"""Paths that are answered without a key: they say nothing of images."""

CLOSED_BY_CLIENT = 499
"""What the log has as the status where the client went before the answer."""

TOLD = "kerasimg"
"""The key of a request's scope under which what is told of it in the log is gathered."""

_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_LONGEST_PATH = 200


def refusal(refused: Refused, path: str, request_id: str) -> tuple[bytes, dict[str, str]]:
    """The body of a refusal, JSON in the form of the protocol that was spoken, and its headers."""
    if path == "/v2" or path.startswith("/v2/"):
        document: dict[str, Any] = {"error": str(refused)}
    else:
        document = {"error": {"reason": refused.reason, "message": str(refused), "id": request_id}}
    return to_json(document), {"content-type": "application/json", **refused.headers}


class Front:
    """The server's outermost ASGI application."""

    def __init__(self, app: Any, *, meters: Meters, key: str | None, log: bool, after: Callable[[], None]) -> None:
        """key: that requests must bring, if any.  after: called when a request is done."""
        self.app = app
        self._meters = meters
        self._key = None if key is None else key.encode()
        self._log = log
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()
        head = scope["method"] == "HEAD"
        if head:  # as GET, without the body
            scope = {**scope, "method": "GET"}
        headers = dict(scope["headers"])
        request_id = _request_id(headers)
        told: dict[str, Any] = {"id": request_id}
        scope[TOLD] = told
        status = 0

        async def marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            elif head:
                message = {**message, "body": b""}
            await send(message)

        try:
            if self._key is not None and scope["path"] not in OPEN:
                self._check_key(headers)
            await self.app(scope, receive, marked)
        except Refused as refused:
            told["reason"] = refused.reason
            await _send_refusal(refused, scope["path"], request_id, marked)
        except Exception as error:
            logs.tell("fault", id=request_id, error=traceback.format_exception(error)[-20:])
            told["reason"] = "failed"
            if not status:
                await _send_refusal(refused_fault(request_id), scope["path"], request_id, marked)
        finally:
            self._count(scope, told, status or CLOSED_BY_CLIENT, time.perf_counter() - begun, head)
            self._after()

    def _check_key(self, headers: dict[bytes, bytes]) -> None:
        given = headers.get(b"x-api-key")
        if given is None:
            scheme, _, rest = headers.get(b"authorization", b"").partition(b" ")
            given = rest.strip() if scheme.lower() == b"bearer" else b""
        # In constant time: how far a guess is right must not be told by how long the refusal takes.
        if not hmac.compare_digest(given, self._key or b""):
            raise Refused("key", "a key is needed: X-API-Key: KEY, or Authorization: Bearer KEY")

    def _count(self, scope: Scope, told: dict[str, Any], status: int, seconds: float, head: bool) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._meters.requests.labels(route, str(status)).inc()
        self._meters.seconds.labels(route).observe(seconds)
        if reason := told.get("reason"):
            self._meters.refused.labels(reason).inc()
        elif images := told.get("images"):
            self._meters.images.inc(images)
        if self._log:
            client = scope.get("client")
            logs.tell(
                "request",
                **told,
                client=client[0] if client else None,
                method="HEAD" if head else scope["method"],
                path=scope["path"][:_LONGEST_PATH],
                status=status,
                ms=round(seconds * 1000, 3),
            )


async def _send_refusal(refused: Refused, path: str, request_id: str, send: Send) -> None:
    body, headers = refusal(refused, path, request_id)
    headers["content-length"] = str(len(body))
    if refused.reason in ("slow", "stopping"):
        headers["connection"] = "close"
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def _request_id(headers: dict[bytes, bytes]) -> str:
    """The client's own id where it is a plain one, else a new one."""
    given = headers.get(b"x-request-id", b"")
    return given.decode() if _ID.fullmatch(given) else os.urandom(8).hex()
