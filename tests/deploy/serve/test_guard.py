"""Headers are limited; the rest of a refused body is not parsed as headers."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn

from kerasimg.deploy.serve import guard
from kerasimg.deploy.serve.guard import MAX_HEADER_BYTES, TOO_LARGE, GuardedProtocol
from kerasimg.keras_internals import body_has_arrived

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"


async def at_once(scope: Any, receive: Any, send: Any) -> None:
    """Answers without reading the body."""
    await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})


def talk(say: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any], app: Any = at_once, **options: Any) -> Any:
    """Runs a conversation with a guarded server."""

    async def run() -> Any:
        config = uvicorn.Config(
            app, http=GuardedProtocol, ws="none", lifespan="off", log_config=None, port=0, **options
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            return await asyncio.wait_for(say(reader, writer), 10)
        finally:
            writer.close()
            server.should_exit = True
            await task

    return asyncio.run(run())


async def answer(reader: asyncio.StreamReader) -> Any:
    head = await reader.readuntil(b"\r\n\r\n")
    return head.split()[1], json.loads(await reader.readexactly(2))


def test_a_long_body_after_its_refusal_keeps_the_connection_open():
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> list[Any]:
        answers = []
        for _ in range(5):
            body = bytes(20 * MAX_HEADER_BYTES)
            writer.write(HEAD % len(body))
            answers.append(await answer(reader))
            for start in range(0, len(body), 50_000):
                writer.write(body[start : start + 50_000])
                await writer.drain()
        return answers

    assert talk(say) == [(b"413", {})] * 5


def test_headers_that_are_too_long_are_refused():
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"GET / HTTP/1.1\r\n")
        for k in range(8):
            writer.write(b"x-%d: %s\r\n" % (k, b"y" * 5000))
            await writer.drain()
            await asyncio.sleep(0.01)
        return await reader.read()

    assert talk(say) == TOO_LARGE


def test_silent_connections_give_way_to_new_ones():
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> list[Any]:
        port = writer.get_extra_info("peername")[1]
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        other, asking = await asyncio.open_connection("127.0.0.1", port)
        asking.write(HEAD % 0)
        answers = [await answer(other), await reader.read()]  # the first one was closed
        for _, opened in [*silent, (other, asking)]:
            opened.close()
        return answers

    assert talk(say, limit_concurrency=5) == [(b"413", {}), b""]


def test_a_request_is_refused_in_json_where_all_connections_are_in_work():
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(HEAD % 0)
        return await reader.read()

    head, _, body = talk(say, limit_concurrency=1).partition(b"\r\n\r\n")
    assert (head.split()[1], json.loads(body)["error"]["reason"]) == (b"429", "queue")


@pytest.mark.parametrize("beginning", [b"", b"GET / HT", b"\r\n", HEAD % 0])
def test_an_idle_connection_is_closed(beginning: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guard, "HEADER_TIMEOUT_S", 0.2)

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(beginning)
        if beginning.endswith(b"\r\n\r\n"):  # one is answered, the next is not whole
            await answer(reader)
            writer.write(b"GET ")
        return await reader.read()

    assert talk(say) == b""


class Writes:
    """A transport that lists what is written."""

    def __init__(self, transport: Any, writes: list[bytes]) -> None:
        self.transport, self.writes = transport, writes

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self.transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


def test_the_head_of_a_response_is_written_together_with_its_body(monkeypatch: pytest.MonkeyPatch):
    writes: list[bytes] = []
    made = GuardedProtocol.connection_made
    monkeypatch.setattr(
        GuardedProtocol, "connection_made", lambda self, transport: made(self, Writes(transport, writes))
    )

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for method, end in ((b"POST", b""), (b"HEAD", b""), (b"POST", b"Connection: close\r\n")):
            writer.write(method + (HEAD % 0)[4:-2] + end + b"\r\n")
            await reader.readuntil(b"\r\n\r\n")
            if method == b"POST":
                await reader.readexactly(2)

    talk(say)
    first, head, last = writes
    assert first == head + b"{}"
    assert last.endswith(b"connection: close\r\n\r\n{}")


@pytest.mark.parametrize("body", [[], [b""], [b"", b"a"], [b"ab"], [b"a", b"b"]])
def test_a_response_of_unknown_length_is_sent_in_chunks(body: list[bytes]):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in body:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(HEAD % 0)
        return await reader.readuntil(b"0\r\n\r\n")

    chunks = b"".join(b"1\r\n%b\r\n" % part if len(part) == 1 else b"2\r\n%b\r\n" % part for part in body if part)
    assert talk(say, app).partition(b"\r\n\r\n")[2] == chunks + b"0\r\n\r\n"


def test_100_continue_is_sent_before_the_response():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await at_once(scope, receive, send)

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Any:
        writer.write((HEAD % 1)[:-2] + b"Expect: 100-continue\r\n\r\n")
        first = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"a")
        return first, await answer(reader)

    assert talk(say, app) == (b"HTTP/1.1 100 Continue\r\n\r\n", (b"413", {}))


def test_a_body_that_came_with_the_head_needs_no_waiting():
    arrived = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        arrived.append(body_has_arrived(receive))
        await receive()
        await at_once(scope, receive, send)

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD % 1 + b"a")
        await answer(reader)
        writer.write(HEAD % 1)
        await asyncio.sleep(0.05)
        writer.write(b"a")
        await answer(reader)

    talk(say, app)
    assert arrived == [True, False]
