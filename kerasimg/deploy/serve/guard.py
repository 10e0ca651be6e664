"""uvicorn's HTTP protocol with limits on the size of headers and on the time until they are complete."""

from __future__ import annotations

import asyncio
from typing import Any

from kerasimg.boundary import limit
from kerasimg.keras_internals import http_protocol_class

HttpToolsProtocol: Any = http_protocol_class()

MAX_HEADER_BYTES = limit("request_header_bytes")
HEADER_TIMEOUT_S = 10.0
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class GuardedProtocol(HttpToolsProtocol):
    """Closes connections whose headers are too large or too slow; uvicorn accepts any.

    It also closes a connection whose body continues for too long after the request was refused.
    """

    _header_bytes = 0
    _in_body = False
    _own_bytes = 0
    """Header bytes of the current request; several requests may arrive at once."""
    _refused = False
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Starts the timeout for the first request."""
        super().connection_made(transport)
        self._start_timeout()

    def on_message_begin(self) -> None:
        """Resets the count for a new request."""
        self._own_bytes = 0
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
        self._in_body = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Passes on a part of the body."""
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Ends a request."""
        if self._refused:
            return
        self._in_body = False
        super().on_message_complete()

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
        super().connection_lost(exc)

    def _refuse(self) -> None:
        if not self._refused and not self.transport.is_closing():
            self.transport.write(TOO_LARGE)
        self._refused = True
        self._close()

    def _start_timeout(self) -> None:
        self._deadline = self.loop.call_later(HEADER_TIMEOUT_S, self._close)

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
