"""Decides which requests the studio answers: those of its own page, which knows the token.

The token is the first part of every path, so a page of another site cannot guess an address. What a browser says about
the origin of a request is checked all the same, on every route, and so is the host, against names that another site
lets point to this machine. Responses may not be framed, read or stored by others.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_BODY_BYTES = 32 * 2**20
"""Of a request with an image, or with the numbers of a million images."""
MAX_TEXT_BYTES = 4 * 2**20
"""Of every other request: the largest is that of a spec."""
LARGE = ("/api/labels", "/api/files", "/predict", "/explain", "/nearest")
"""How the paths of large requests end."""
CHANGES = ("POST", "PUT", "PATCH", "DELETE")

POLICY = "; ".join(
    (
        *("default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "frame-src 'self'"),
        *("img-src 'self' blob: data:", "media-src 'self' blob:", "base-uri 'none'", "form-action 'none'"),
        "frame-ancestors 'self'",
    )
)
"""Of the page: its own files and nothing else. No address of another host can be reached from it."""
SANDBOX = "sandbox; default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; frame-ancestors 'self'"
"""Of documents that a run brings, such as its report: they are shown, and cannot run scripts."""

HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-frame-options": "SAMEORIGIN",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}


class Guard:
    """The outermost ASGI application.

    Args:
        app: the application; it sees the path without the token.
        token: what the first part of a path must be.
        host: the address that the server listens on.
    """

    def __init__(self, app: Any, token: str, host: str) -> None:
        self.app = app
        self._token = token.encode()
        self._host = host

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page opens no WebSocket, so nobody else may
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = dict(scope["headers"])
        if reason := self._refusal(scope, headers):
            await _refuse(send, *reason)
            return
        _, _, path = scope["path"].removeprefix("/").partition("/")
        inner = {**scope, "path": f"/{path}", "raw_path": f"/{path}".encode(), "root_path": ""}
        received, most = 0, _most_bytes(scope["path"])

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                return {"type": "http.disconnect"}
            return message

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message.get("headers", ())}
                own = {"content-security-policy": POLICY, "cache-control": "no-store", **HEADERS}
                message["headers"] = [
                    *message.get("headers", ()),
                    *((name.encode(), value.encode()) for name, value in own.items() if name.encode() not in present),
                ]
            await send(message)

        await self.app(inner, limited, marked)

    def _refusal(self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        token, slash, _ = scope["path"].removeprefix("/").partition("/")
        # In constant time: the time must not reveal how much of a guess is right.
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self._token) or not slash:
            return 403, "open the address that `kerasimg studio` printed: it holds a token"
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._is_own_host(host):
            return 403, "unexpected host"
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1") != f"{scope['scheme']}://{host}":
            return 403, "requests of other sites are refused"
        if scope["method"] in CHANGES and origin is None:
            return 403, "changes need the header Origin"
        if headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            return 403, "requests of other sites are refused"
        length = headers.get(b"content-length", b"0")
        most = _most_bytes(scope["path"])
        if not length.isdigit() or int(length) > most:
            return 413, f"larger than {most // 2**20} MiB"
        return None

    def _is_own_host(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        name = name.strip("[]").lower()
        if name in ("localhost", self._host.lower()):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        # An address cannot be made to point elsewhere, as a name can.
        return address.is_loopback or not _is_loopback(self._host)


def _most_bytes(path: str) -> int:
    return MAX_BODY_BYTES if path.endswith(LARGE) else MAX_TEXT_BYTES


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = reason.encode()
    headers = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(body)), **HEADERS}
    headers |= {"connection": "close", "content-security-policy": "default-src 'none'"}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
