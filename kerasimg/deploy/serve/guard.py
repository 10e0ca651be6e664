"""uvicorn's HTTP protocol with limits on the size of headers and on the time until they are complete."""

from __future__ import annotations

import asyncio
import http
import json
from typing import Any

from kerasimg.boundary import limit
from kerasimg.keras_internals import http_protocol_class

HttpToolsProtocol: Any = http_protocol_class()

MAX_HEADER_BYTES = limit("request_header_bytes")
MAX_SMALL_CHUNKS, SMALL_CHUNK_BYTES = limit("small_chunks"), 64
HEADER_TIMEOUT_S = 10.0


def _response(status: http.HTTPStatus, reason: str, message: str, headers: str = "") -> bytes:
    """Returns a whole response in the format of every error of the server."""
    body = json.dumps({"error": {"reason": reason, "message": message}})
    head = f"HTTP/1.1 {status} {status.phrase}\r\nconnection: close\r\ncontent-type: application/json\r\n{headers}"
    return f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()


INVALID = _response(http.HTTPStatus.BAD_REQUEST, "body", "the request is not valid HTTP/1.1")
TOO_LARGE = _response(
    http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "body", f"the headers have more than {MAX_HEADER_BYTES:,} bytes"
)
FULL = _response(
    http.HTTPStatus.TOO_MANY_REQUESTS,
    "queue",
    "too many connections are in work; retry in a moment",
    "retry-after: 1\r\n",
)


class WholeWrites:
    """The transport of one response: sends the head together with the beginning of the body.

    uvicorn writes them one after the other, and each write takes a system call and a packet.
    """

    def __init__(self, transport: Any, cycle: Any) -> None:
        self._transport, self._cycle = transport, cycle
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        """Keeps the head, and sends it with what follows."""
        if self._head is None and self._cycle.response_started:  # "100 Continue" comes before
            self._head = data
            return
        self._transport.write(self._head + data if self._head else data)
        self._head = b""

    def is_closing(self) -> bool:
        """Whether the connection is closed or about to be."""
        return bool(self._transport.is_closing())

    def close(self) -> None:
        """Closes the connection once everything is sent."""
        if self._head:
            self.write(b"")
        self._transport.close()


class GuardedProtocol(HttpToolsProtocol):
    """Closes connections whose headers are too large or too slow; uvicorn accepts any.

    It also closes a connection whose body continues for too long after the request was refused, and, where there are as
    many connections as allowed, the one whose client has been silent or incomplete for the longest.
    """

    _header_bytes = 0
    _in_body = False
    _own_bytes = 0
    """Header bytes of the current request; several requests may arrive at once."""
    _refused = False
    _chunks = 0
    _body_bytes = 0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Starts the timeout for the first request."""
        super().connection_made(transport)
        self._start_timeout()
        # In the order in which they began to wait. uvicorn would answer every request with 503, also to health checks.
        self._waiting: dict[GuardedProtocol, None] = self.server_state.__dict__.setdefault("waiting", {})
        self._waiting[self] = None
        self.limit_concurrency = None  # uvicorn's own check, which answers in plain text
        limit_connections = self.config.limit_concurrency
        while limit_connections and len(self.connections) >= limit_connections and self._waiting:
            oldest = next(iter(self._waiting))
            if oldest is self:
                break
            del self._waiting[oldest]
            self.connections.discard(oldest)
            oldest.transport.abort()

    def on_message_begin(self) -> None:
        """Resets the count for a new request."""
        self._own_bytes = self._chunks = self._body_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Counts a part of the path."""
        self._own_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Counts a header."""
        self._own_bytes += len(name) + len(value) + 4
        if self._own_bytes <= MAX_HEADER_BYTES:
            super().on_header(name, value)
        elif self._in_body:  # a trailer, after a body in chunks
            self._refuse()

    def on_headers_complete(self) -> None:
        """Passes the request on, or refuses it."""
        if self._own_bytes > MAX_HEADER_BYTES or self._refused:
            self._refuse()
            return
        most = self.config.limit_concurrency
        if most and max(len(self.connections), len(self.tasks)) >= most:  # all others are in work
            self._refuse(FULL)
            return
        self._in_body = True
        super().on_headers_complete()
        if self.scope["method"] != "HEAD":  # no body follows its head
            self.cycle.transport = WholeWrites(self.transport, self.cycle)

    def on_body(self, body: bytes) -> None:
        """Passes on a part of the body."""
        self._body_bytes += len(body)
        if not self._refused:
            super().on_body(body)

    def on_chunk_header(self) -> None:
        """Counts a chunk: a body of single bytes would keep the event loop busy for seconds."""
        self._chunks += 1
        if self._chunks > MAX_SMALL_CHUNKS + self._body_bytes // SMALL_CHUNK_BYTES:
            raise ValueError("too many small chunks")  # the parser stops, and the client gets a 400

    def on_message_complete(self) -> None:
        """Ends a request."""
        if self._refused:
            return
        self._in_body = False
        self._waiting.pop(self, None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Waits for the next request."""
        self._waiting.pop(self, None)
        self._waiting[self] = None
        super().on_response_complete()

    def data_received(self, data: bytes) -> None:
        """Receives bytes of headers or of a body."""
        of_a_body = self._in_body  # at least in part; the rest of a refused body is read and dropped
        if self._refused:
            return
        super().data_received(data)
        if self._refused:
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._header_bytes = 0
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
            return
        if not of_a_body:
            self._header_bytes += len(data)
        if self._header_bytes > MAX_HEADER_BYTES:
            self._refuse()
        elif self._deadline is None:
            self._start_timeout()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancels the timeout."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._waiting.pop(self, None)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP; uvicorn would do so in plain text."""
        self._refuse(INVALID)

    def _refuse(self, answer: bytes = TOO_LARGE) -> None:
        if not self._refused and not self.transport.is_closing():
            self.transport.write(answer)
        self._refused = True
        self._close()

    def _start_timeout(self) -> None:
        self._deadline = self.loop.call_later(HEADER_TIMEOUT_S, self._close)

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
