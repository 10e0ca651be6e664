"""Headers are limited; the rest of a refused body is not parsed as headers."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn

from kerasimg.deploy.serve import guard
from kerasimg.deploy.serve.guard import MAX_HEADER_BYTES, TOO_LARGE, GuardedProtocol

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"


async def at_once(scope: Any, receive: Any, send: Any) -> None:
    """Answers without reading the body."""
    await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})


def talk(say: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any], **options: Any) -> Any:
    """Runs a conversation with a guarded server."""

    async def run() -> Any:
        config = uvicorn.Config(
            at_once, http=GuardedProtocol, ws="none", lifespan="off", log_config=None, port=0, **options
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
