"""Requests that are meant to stop a server get a 4xx quickly, and others are answered meanwhile."""

import asyncio
import contextlib
import gzip
import os
import runpy
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kerasimg.deploy.serve.middleware import LineWriter

FUZZ = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "fuzz_requests.py")))
MOST_CPU_S = 15
MOST_HEALTH_MS = 5000
"""Not performance targets: without its limits the server exceeds these many times."""

SOME = (
    *("progressive JPEG, 7000x7000, 27,000 scans", "two of them at once", "16 MB of empty lists", "a gzip bomb, 1 GB"),
    *("16 MB of nearly a boundary", "16 MB of parts", "a PNG of 16384x16384", "a binary tensor that lies"),
)


def test_hostile_requests_are_refused_quickly_while_others_are_answered():
    cases = FUZZ.hostile_cases()
    with FUZZ.running() as server:
        FUZZ.send(server, FUZZ.Case(FUZZ.image("PNG"), {}))
        for name in SOME:
            cost = FUZZ.cost_of(server, cases[name])
            assert all(status.split()[-1].startswith("4") for status in cost["status"].split(", ")), (name, cost)
            assert cost["cpu_s"] < MOST_CPU_S, (name, cost)
            assert cost["health_ms"] < MOST_HEALTH_MS, (name, cost)
        assert FUZZ.send(server, FUZZ.Case(FUZZ.image("PNG"), {})) == "200"


def test_a_decoder_that_takes_too_long_is_killed_and_replaced(within: Any):
    server = within(max_decode_s=0.1, max_pixels=60_000_000)
    slow = FUZZ.image("PNG", (4600, 4600))  # takes several times as long
    for _ in range(2):
        answer = server.post("/predict", content=slow)
        assert (answer.status_code, answer.json()["error"]["reason"]) == (413, "costly")
        assert "takes more than 0.1 s to decode" in answer.json()["error"]["message"]
    assert server.post("/predict", content=FUZZ.image("PNG")).status_code == 200


def test_a_jpeg_with_many_scans_is_refused_as_costly(within: Any):
    answer = within().post("/predict", content=FUZZ.many_scans(200, 200))
    assert (answer.status_code, answer.json()["error"]["reason"]) == (413, "costly")
    assert "scans; the limit is 100" in answer.json()["error"]["message"]


def test_the_images_of_a_request_share_its_cpu_time(within: Any):
    server = within(max_decode_s=0.2, max_images=8)
    image = ("a", FUZZ.image("GIF", (2500, 2500)))
    answer = server.post("/predict", files=[("file", image)] * 8)
    assert (answer.status_code, answer.json()["error"]["reason"]) == (413, "costly")
    assert "the images take more than 0.2 s to decode, the limit; send fewer" in answer.json()["error"]["message"]


@pytest.mark.parametrize("format", ["PNG", "JPEG2000"])
def test_the_pixels_of_a_request_are_counted_before_any_is_decoded(within: Any, format: str):
    side = {"PNG": 6800, "JPEG2000": 3400}[format]  # a pixel of JPEG 2000 counts four times
    hostile = FUZZ.image(format, (side, side)) if format == "JPEG2000" else FUZZ._png_bomb(side)
    answer = within().post("/predict", files=[("file", (f"{k}", hostile)) for k in range(4)])
    assert (answer.status_code, answer.json()["error"]["reason"]) == (413, "pixels")
    assert "185 million pixels together; the limit is 150 million" in answer.json()["error"]["message"]


def test_an_image_with_a_very_long_side_is_refused(within: Any):
    answer = within().post("/predict", content=FUZZ.image("PNG", (65_536, 2)))
    assert (answer.status_code, answer.json()["error"]["reason"]) == (413, "pixels")
    assert "has 65536 x 2 pixels; the limit is 65,535 a side" in answer.json()["error"]["message"]


def test_a_log_that_nobody_reads_does_not_stop_the_server(monkeypatch: pytest.MonkeyPatch):
    reading, writing = os.pipe()
    writer = LineWriter(most=2000)
    with open(reading, encoding="ascii"), open(writing, "w", encoding="ascii") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        for k in range(1500):
            writer.write(f"{k:099}")  # more than a pipe holds
        first = os.read(reading, 1000)
        writer.write("end")
        while not first.endswith(b"end\n"):
            first += os.read(reading, 2**16)
            writer.write("end")
    assert [int(line) for line in first.split(b"\n")[:1500]] == list(range(1500))


def test_a_slow_image_does_not_block_other_routes(within: Any):
    server = within(max_decode_s=0.2, threads=1)
    slow = FUZZ.image("PNG", (4600, 4600))

    async def ask(client: Any) -> tuple[int, int]:
        hostile = asyncio.create_task(client.post("/predict", content=slow))
        answered = 0
        while not hostile.done():
            assert (await client.get("/v2/health/live")).status_code == 200
            answered += not hostile.done()
            await asyncio.sleep(0.01)
        return answered, (await hostile).status_code

    answered, status = server.together(ask)
    assert status in (200, 413)
    assert answered > 1


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", "/v2", "/about", "/"])
def test_head_is_answered_like_get_without_the_body(within: Any, path: str):
    server = within()
    answer, whole = server.request("HEAD", path), server.get(path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == whole.headers["content-type"]
    assert server.request("HEAD", "/nope").status_code == 404


def test_a_compressed_body_is_classified(within: Any):
    server, file = within(), FUZZ.image("PNG")
    answer = server.post("/predict", content=gzip.compress(file), headers={"content-encoding": "gzip"})
    assert answer.json()["predictions"][0]["label"] == "red"
    answer = server.post("/predict", content=file, headers={"content-encoding": "br"})
    assert (answer.status_code, answer.json()["error"]["reason"]) == (415, "type")


def test_headers_in_a_single_read_are_limited_too():
    with FUZZ.running() as server:
        host, port = server.url.removeprefix("http://").split(":")
        for head in (b"x: " + b"a" * 40_000 + b"\r\n", b"x: a\r\n" * 9_000, b""):
            target = b"/v2" if head else b"/v2?" + b"a" * 40_000
            with socket.create_connection((host, int(port)), 10) as client:
                client.sendall(b"GET " + target + b" HTTP/1.1\r\nhost: a\r\n" + head + b"\r\n")
                assert client.recv(100).startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))


FILE = FUZZ.image("PNG")
LENGTH = b"Content-Length: %d\r\n" % len(FILE)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"%x\r\n%s\r\n0\r\n" % (len(FILE), FILE)
BOMB = gzip.compress(bytes(2**28), 9)
RAW: dict[str, tuple[bytes, int]] = {
    "as it should be": (b"POST /predict HTTP/1.1\r\nHost: a\r\n" + LENGTH + b"\r\n" + FILE, 200),
    "HTTP/1.0": (b"POST /predict HTTP/1.0\r\n" + LENGTH + b"\r\n" + FILE, 200),
    "names of headers in another case": (
        b"POST /predict HTTP/1.1\r\nhOST: a\r\n" + LENGTH.swapcase() + b"\r\n" + FILE,
        200,
    ),
    "in chunks": (b"POST /predict HTTP/1.1\r\nHost: a\r\n" + CHUNKED + b"\r\n" + CHUNKS + b"\r\n", 200),
    "a trailer": (b"POST /predict HTTP/1.1\r\nHost: a\r\n" + CHUNKED + b"\r\n" + CHUNKS + b"x: y\r\n\r\n", 200),
    "endless trailers": (
        b"POST /predict HTTP/1.1\r\nHost: a\r\n" + CHUNKED + b"\r\n" + CHUNKS + b"x: y\r\n" * 100_000,
        431,
    ),
    "many small chunks": (
        b"POST /predict HTTP/1.1\r\nHost: a\r\n" + CHUNKED + b"\r\n" + b"1\r\na\r\n" * 200_000,
        400,
    ),
    "a chunk of no size": (b"POST /predict HTTP/1.1\r\nHost: a\r\n" + CHUNKED + b"\r\nzz\r\nabc\r\n", 400),
    "a gzip bomb in chunks": (
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\n"
        + CHUNKED
        + b"\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(BOMB), BOMB),
        413,
    ),
    "chunks and a length": (b"POST /predict HTTP/1.1\r\nHost: a\r\n" + CHUNKED + LENGTH + b"\r\n" + CHUNKS, 400),
    "two lengths": (b"POST /predict HTTP/1.1\r\nHost: a\r\n" + LENGTH + b"Content-Length: 9\r\n\r\n" + FILE, 400),
    "a negative length": (b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
    "a length of text": (b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: abc\r\n\r\n", 400),
    "a length beyond 64 bits": (b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 1%s\r\n\r\n" % (b"0" * 30), 400),
    "5 GB, by its length": (b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000000\r\n\r\n", 413),
    "5 GB, with Expect": (
        b"POST /predict HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5000000000\r\n\r\n",
        413,
    ),
    "Expect": (b"POST /predict HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n" + LENGTH + b"\r\n" + FILE, 100),
    "OPTIONS": (b"OPTIONS /predict HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\n\r\n", 405),
    "an unknown method": (b"BREW /predict HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "two slashes": (b"POST //predict HTTP/1.1\r\nHost: a\r\n" + LENGTH + b"\r\n" + FILE, 404),
    "a slash at the end": (b"POST /predict/ HTTP/1.1\r\nHost: a\r\n" + LENGTH + b"\r\n" + FILE, 404),
    "a percent-encoded path": (b"POST /%70redict HTTP/1.1\r\nHost: a\r\n" + LENGTH + b"\r\n" + FILE, 200),
    "a whole URL": (b"POST http://a/predict HTTP/1.1\r\nHost: a\r\n" + LENGTH + b"\r\n" + FILE, 200),
    "the model by its name": (b"GET /v2/models/tiny HTTP/1.1\r\nHost: a\r\n\r\n", 200),
    "a path that is no text": (b"GET /v2/models/%ff HTTP/1.1\r\nHost: a\r\n\r\n", 404),
    "a space in the path": (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
}


def test_unusual_http_gets_the_expected_status():
    statuses = {}
    with FUZZ.running() as server:
        host, port = server.url.removeprefix("http://").split(":")
        for name, (request, _) in RAW.items():
            with socket.create_connection((host, int(port)), 20) as client:
                with contextlib.suppress(OSError):  # the server may hang up before all is sent
                    client.sendall(request)
                statuses[name] = int(client.recv(4096).split()[1])
        assert server.process.poll() is None
    assert statuses == {name: status for name, (_, status) in RAW.items()}


def test_a_sample_of_the_fuzzer_finds_no_errors():
    result = FUZZ.run(seconds=15, first=5_000, most=400)
    assert (result["foreign"], result["server ended"]) == ([], None)
    assert result["cases"] >= 50
