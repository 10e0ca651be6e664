"""uvicorn's HTTP protocol with a bound on headers: on their bytes, and on the time until they are whole."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEADER_BYTES = 32 * 1024
HEADER_TIMEOUT_S = 10.0
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn holds as many headers as a client sends, for as long as it takes; this one hangs up.

    So it does, too, where a body goes on for that long after the request was refused.
    """

    _header_bytes = 0
    _in_body = False
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client has connected, and must soon ask for something."""
        super().connection_made(transport)
        self._expect()

    def on_headers_complete(self) -> None:
        """A request is known; its body follows."""
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A request is whole."""
        self._in_body = False
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """Bytes have come: of a header, or of the body of a request that is known."""
        of_a_body = self._in_body  # at least in part; what is refused early is read on and thrown away
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._header_bytes = 0
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
            return
        if not of_a_body:
            self._header_bytes += len(data)
        if self._header_bytes > MOST_HEADER_BYTES:
            self.transport.write(TOO_LARGE)
            self._hang_up()
        elif self._deadline is None:
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _expect(self) -> None:
        self._deadline = self.loop.call_later(HEADER_TIMEOUT_S, self._hang_up)

    def _hang_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
