"""ASGI middleware for every request: request id, API key, metrics, and one JSON line in the log."""

from __future__ import annotations

import hmac
import json
import logging
import os
import re
import select
import sys
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from kerasimg.deploy.serve.errors import Refused, refused_fault
from kerasimg.deploy.serve.requests import ClientDisconnected

if TYPE_CHECKING:
    from kerasimg.deploy.serve.service import Service

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Answer = Callable[[Scope, Receive], Awaitable[tuple[bytes, dict[str, str]]]]
"""Answers a request with a body and its headers; raises Refused."""

OPEN = frozenset({"/", "/docs", "/openapi.json", "/about", "/v2/health/live", "/v2/health/ready"})
"""Paths that need no key: they reveal nothing about images."""

CLOSED_BY_CLIENT = 499
"""Logged status if the client disconnected before the response."""

LOG_RECORD = "kerasimg"
"""Key in a request's ASGI scope that holds the fields of its log line."""

_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_LONGEST_PATH = 200


def refusal(refused: Refused, path: str, request_id: str) -> tuple[bytes, dict[str, str]]:
    """Returns the JSON body of a refusal, in the format of the protocol in use, and its headers."""
    if path == "/v2" or path.startswith("/v2/"):
        document: dict[str, Any] = {"error": str(refused)}
    else:
        document = {"error": {"reason": refused.reason, "message": str(refused), "id": request_id}}
    return to_json(document), {"content-type": "application/json", **refused.headers}


class RequestMiddleware:
    """The outermost ASGI application."""

    def __init__(
        self, app: Any, busy: Callable[[Scope], tuple[str, Answer] | None], service: Service, *, key: str | None
    ) -> None:
        """Wraps an ASGI application.

        Args:
            app: the application.
            busy: returns the route and the answer of a request that skips the application, or None.
            service: whose metrics count requests.
            key: the API key that requests need, if any.
        """
        self.app = app
        self._busy = busy
        self._service = service
        self._key = None if key is None else key.encode()
        self._log = service.settings.log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        head = scope["method"] == "HEAD"
        if head:  # like GET, without the body
            scope = {**scope, "method": "GET"}
        headers = dict(scope["headers"])
        request_id = _request_id(headers)
        record: dict[str, Any] = {"id": request_id}
        scope[LOG_RECORD] = record
        status, route = 0, ""

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
            if chosen := self._busy(scope):
                route, answer = chosen
                body, pairs = await answer(scope, receive)
                await _send(marked, 200, body, pairs)
            else:
                await self.app(scope, receive, marked)
        except ClientDisconnected:
            pass  # nobody reads an answer
        except Refused as refused:
            record["reason"] = refused.reason
            await _send_refusal(refused, scope["path"], request_id, marked)
        except Exception as error:
            log_event("fault", id=request_id, error=traceback.format_exception(error)[-20:])
            record["reason"] = "failed"
            if not status:
                await _send_refusal(refused_fault(request_id), scope["path"], request_id, marked)
        finally:
            route = route or getattr(scope.get("route"), "path", "other")
            self._count(scope, route, record, status or CLOSED_BY_CLIENT, time.perf_counter() - started, head)

    def _check_key(self, headers: dict[bytes, bytes]) -> None:
        sent = headers.get(b"x-api-key")
        if sent is None:
            scheme, _, rest = headers.get(b"authorization", b"").partition(b" ")
            sent = rest.strip() if scheme.lower() == b"bearer" else b""
        # In constant time: the time must not reveal how much of a guess is right.
        if not hmac.compare_digest(sent, self._key or b""):
            raise Refused("key", "a key is needed: X-API-Key: KEY, or Authorization: Bearer KEY")

    def _count(self, scope: Scope, route: str, record: dict[str, Any], status: int, seconds: float, head: bool) -> None:
        self._service.count(route, status, seconds, record)
        if self._log:
            client = scope.get("client")
            log_event(
                "request",
                **record,
                client=client[0] if client else None,
                method="HEAD" if head else scope["method"],
                path=scope["path"][:_LONGEST_PATH],
                status=status,
                ms=round(seconds * 1000, 3),
            )


async def _send_refusal(refused: Refused, path: str, request_id: str, send: Send) -> None:
    body, headers = refusal(refused, path, request_id)
    if refused.reason in ("slow", "stopping"):
        headers["connection"] = "close"
    await _send(send, refused.status, body, headers)


async def _send(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    pairs.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def _request_id(headers: dict[bytes, bytes]) -> str:
    """Returns the client's X-Request-ID if it is valid, else a new id."""
    sent = headers.get(b"x-request-id", b"")
    return sent.decode() if _ID.fullmatch(sent) else os.urandom(8).hex()


_encode = json.JSONEncoder(ensure_ascii=True, default=str).encode


def log_event(event: str, **fields: Any) -> None:
    """Writes one JSON line to standard output; never an image or a file name."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    _LINES.write(_encode({"time": now, "event": event, **fields}))


class LineWriter:
    """Writes lines to standard output. Where it is a full pipe, they wait until another line can be written.

    The event loop, and with it every request, would otherwise wait for whoever reads the pipe.
    """

    def __init__(self, most: int = 10_000) -> None:
        self._lines: deque[str] = deque(maxlen=most)  # the oldest are dropped

    def write(self, line: str) -> None:
        """Writes a line, after those that wait."""
        self._lines.append(line)
        try:
            while self._lines and _writable():
                sys.stdout.write(self._lines.popleft() + "\n")
                sys.stdout.flush()
        except (BrokenPipeError, ValueError):
            # The reader of the log is gone; the server continues.
            self._lines.clear()


def _writable() -> bool:
    """Whether standard output takes 4 KB at once; always for what is not a pipe, and on Windows."""
    try:
        return bool(select.select((), (sys.stdout,), (), 0)[1])
    except (OSError, ValueError, TypeError):
        return True


_LINES = LineWriter()


class JsonHandler(logging.Handler):
    """Formats the log records of uvicorn and other libraries as JSON lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record as one line."""
        fields: dict[str, Any] = {"level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info and record.exc_info[0] is not None:
            fields["error"] = logging.Formatter().formatException(record.exc_info)
        log_event("log", logger=record.name, **fields)


def set_up_logging() -> None:
    """Makes uvicorn log warnings and errors as JSON lines."""
    logger = logging.getLogger("uvicorn")
    logger.handlers = [JsonHandler()]
    logger.setLevel(logging.WARNING)
    logger.propagate = False
