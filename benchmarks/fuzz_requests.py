"""Fuzzer for the server, and hostile requests with their cost.

    python benchmarks/fuzz_requests.py --minutes 10 [--seed 0]     mutated requests
    python benchmarks/fuzz_requests.py --hostile                   the table of docs/serve.md

Starts a server as a process. Prints the status codes, unexpected errors (5xx except 503, a closed connection, a server
that has died), CPU time and memory of the server with its workers, and the latency of the health route meanwhile. The
test suite runs a sample (tests/deploy/serve/test_hostile.py).
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import io
import json
import os
import random
import re
import runpy
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import PIL.Image

CONFTEST = Path(__file__).parents[1] / "tests" / "deploy" / "serve" / "conftest.py"
JSON = {"content-type": "application/json"}
EDGE = {"content-type": "multipart/form-data; boundary=edge"}
MEBIBYTES_16 = 16 * 2**20 - 200
INFER = "/v2/models/tiny/infer"


class Case(NamedTuple):
    """A hostile request, and how many are sent at once."""

    content: bytes
    headers: dict[str, str]
    path: str = "/predict"
    at_once: int = 1


def image(kind: str, size: tuple[int, int] = (40, 30), **options: Any) -> bytes:
    """Returns an image file of a single colour."""
    file = io.BytesIO()
    PIL.Image.new("RGB", size, (250, 10, 10)).save(file, kind, **options)
    return file.getvalue()


def many_scans(size: int = 7000, scans: int = 27_000) -> bytes:
    """Returns a progressive JPEG of about 1 MB whose last scan is repeated."""
    plain = image("JPEG", (size, size), progressive=True)
    last = plain[plain.rfind(b"\xff\xda") : -2]
    return plain[:-2] + last * scans + b"\xff\xd9"


def hostile_cases() -> dict[str, Case]:
    """Returns the cases of the table."""
    near = (b"--edge\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\n" + b"\r\n--edg" * 2_300_000)[
        :MEBIBYTES_16
    ]
    parts = (b'--edge\r\nContent-Disposition: form-data; name="top"\r\n\r\n1\r\n' * 300_000)[:MEBIBYTES_16]
    lists = b'{"images": [' + b"[]," * (MEBIBYTES_16 // 3 - 20) + b"[]]}"
    numbers = b'{"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 24, 24, 3], "data": ['
    numbers += b"1," * (MEBIBYTES_16 // 2 - 100) + b"1]}]}"
    scans = many_scans()
    return {
        "progressive JPEG, 7000x7000, 27,000 scans": Case(scans, {}),
        "two of them at once": Case(scans, {}, at_once=2),
        "the same in base64": Case(json.dumps({"image": base64.b64encode(scans).decode()}).encode(), JSON),
        "16 MB of empty lists": Case(lists, JSON),
        "six of them at once": Case(lists, JSON, at_once=6),
        "16 MB of nested lists": Case(b"[" * MEBIBYTES_16, JSON),
        "16 MB of keys": Case(b"{" + b'"a":1,' * (MEBIBYTES_16 // 6 - 10) + b'"b":1}', JSON),
        "16 MB of a string with escapes": Case(b'{"image": "' + b"\\u0041" * (MEBIBYTES_16 // 6 - 10) + b'"}', JSON),
        "16 MB of bad base64": Case(b'{"image": "' + b"A-_ " * (MEBIBYTES_16 // 4 - 10) + b'%"}', JSON),
        "16 MB of numbers as a tensor": Case(numbers, JSON, INFER),
        "16 MB of nearly a boundary": Case(near, EDGE),
        "16 MB of parts": Case(parts, EDGE),
        "a gzip bomb, 1 GB": Case(gzip.compress(bytes(2**30), 9), {**JSON, "content-encoding": "gzip"}),
        "a PNG of 16384x16384": Case(_png_bomb(16_384), {}),
        "a PNG of 7000x7000": Case(_png_bomb(7_000), {}),
        "a TIFF that is cut short": Case(image("TIFF", (500, 500))[:-1000], {}),
        "a binary tensor that lies": Case(
            b'{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 4}}]}'
            b"\xff\xff\xff\xff",
            {"inference-header-content-length": "106"},
            INFER,
        ),
    }


def _png_bomb(size: int) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("1", (size, size)).save(file, "PNG")
    return file.getvalue()


class Server:
    """`kerasimg serve` for a tiny bundle, with the cost of its processes."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "bundle").exists():
            runpy.run_path(str(CONFTEST))["write_bundle"](folder / "bundle")
        command = [sys.executable, "-m", "kerasimg", "serve", str(folder / "bundle"), "--port", "0", "--no-log"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        lines = []
        for line in self.process.stderr or ():
            lines.append(line)
            if found := re.search(r"at (http://\S+) ", line):
                self.url = found[1]
                break
        else:
            raise RuntimeError("".join(lines))

    def cost(self) -> tuple[float, float]:
        """Returns CPU seconds, including ended processes, and current memory in MiB."""
        seconds, pages = 0.0, 0
        for process in self._family():
            with contextlib.suppress(OSError, IndexError):
                output = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
                seconds += sum(map(int, output[11:15])) / os.sysconf("SC_CLK_TCK")
                pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
        return seconds, pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def _family(self) -> list[str]:
        family = [str(self.process.pid)]
        for task in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                family += task.read_text().split()
        return family

    def close(self) -> None:
        """Stops it."""
        self.process.kill()
        self.process.wait()
        if self.process.stderr:
            self.process.stderr.close()


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """Starts a server and stops it at the end."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            yield server
        finally:
            server.close()


class Watch:
    """Polls the health route from another process; records the longest latency and the peak memory."""

    def __init__(self, server: Server) -> None:
        self.server, self.longest_ms, self.most_mb = server, 0.0, 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WATCH, server.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._process.stdout.readline()  # type: ignore[union-attr]
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self.most_mb = max(self.most_mb, self.server.cost()[1])

    def close(self) -> None:
        """End it."""
        self._over.set()
        self._thread.join()
        output, _ = self._process.communicate("")
        self.longest_ms = float(output)


_WATCH = """
import http.client, select, sys, time
host = sys.argv[1].removeprefix("http://")
longest = 0.0
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.01)[0]:
    began = time.perf_counter()
    try:
        client = http.client.HTTPConnection(host, timeout=120)
        client.request("GET", "/v2/health/live")
        assert client.getresponse().status == 200
        client.close()
        longest = max(longest, time.perf_counter() - began)
    except OSError:
        longest = float("inf")
print(longest * 1000)
"""


def send(server: Server, case: Case) -> str:
    """Sends a case; returns the status, or the name of the connection error."""
    try:
        with httpx.Client(base_url=server.url, timeout=120) as client:
            answer = client.post(case.path, content=case.content, headers=case.headers)
            return str(answer.status_code)
    except httpx.HTTPError as error:
        return type(error).__name__


def cost_of(server: Server, case: Case) -> dict[str, Any]:
    """Returns the status and the cost of a hostile case."""
    before, began = server.cost(), time.perf_counter()
    watch = Watch(server)
    statuses: list[str] = []
    threads = [threading.Thread(target=lambda: statuses.append(send(server, case))) for _ in range(case.at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    while (cost := server.cost()[0]) and not _idle(server, cost):  # work may continue after the response
        pass
    watch.close()
    return {
        "status": " ".join(sorted(statuses)),
        "seconds": round(took, 2),
        "cpu_s": round(server.cost()[0] - before[0], 2),
        "mb": round(watch.most_mb - before[1]),
        "health_ms": round(watch.longest_ms),
    }


def _idle(server: Server, cost: float) -> bool:
    time.sleep(0.3)
    return server.cost()[0] - cost < 0.2


def hostile_table() -> str:
    """Prints the table; the server has answered one image before."""
    lines = [
        "| request | status | seconds | CPU, s | memory, MB | health route, ms |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    with running() as server:
        send(server, Case(image("PNG"), {}))
        for name, case in hostile_cases().items():
            row = cost_of(server, case)
            lines.append(
                f"| {name} | {row['status']} | {row['seconds']} | {row['cpu_s']} | {row['mb']} | {row['health_ms']} |"
            )
            print(lines[-1], flush=True)
    return "\n".join(lines)


def mutated(draw: random.Random) -> Case:
    """Returns a mutation of a valid request."""
    file = image(draw.choice(("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP")), (draw.randint(1, 60), draw.randint(1, 60)))
    text = base64.b64encode(file).decode()
    words = [
        None,
        True,
        -1,
        1e300,
        "",
        "a",
        "data:",
        "http://x",
        [],
        {},
        [text],
        {"data": text},
        {"id": 3},
        text,
        "image",
        "UINT8",
        *map("@{}".format, range(len(RAW_VALUES))),
    ]
    headers, path = {}, "/predict"
    match draw.randrange(5):
        case 0:
            content = file
        case 1:
            document = {"images": [text, {"id": "a", "data": text}], "top": 2}
            content, headers = _json(_replaced(document, draw, words)), JSON
        case 2:
            content = (
                b'--edge\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n' + file + b"\r\n--edge--\r\n"
            )
            headers = EDGE
        case 3:
            tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]}
            document = {"inputs": [tensor], "outputs": [{"name": "label"}]}
            content, headers, path = _json(_replaced(document, draw, words)), JSON, INFER
        case _:
            data = len(file).to_bytes(4, "little") + file
            tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(data)}}
            head = _json(_replaced({"inputs": [tensor]}, draw, words))
            content, headers, path = head + data, {"inference-header-content-length": str(len(head))}, INFER
    if draw.random() < 0.7:
        content = _changed(content, draw)
    if draw.random() < 0.2:
        kind = draw.choice(("gzip", "deflate", "gzip, identity"))
        pack = zlib.compress if kind == "deflate" else gzip.compress
        content, headers = pack(content), {**headers, "content-encoding": kind}
        content = _changed(content, draw) if draw.random() < 0.5 else content
    if draw.random() < 0.1:
        name = draw.choice(("content-type", "content-encoding", "inference-header-content-length", "x-request-id"))
        headers = {
            **headers,
            name: draw.choice(("", "x", "-1", "9" * 30, "image/png", "a" * 3000, "multipart/form-data", "gzip, gzip")),
        }
    if draw.random() < 0.1:
        path += draw.choice(("?top=x", "?top=-1", "?explain=1", "?explain=x", "/x", "?top=" + "9" * 300))
    return Case(content, headers, path)


RAW_VALUES = (
    *("1e999", "-1e999", "NaN", "Infinity", "-0", "9" * 4000, "1." + "0" * 4000, "1e-400", "tru", "'a'"),
    *(
        '"\\ud800"',
        '"\\udc00\\ud800"',
        '"\\u0000"',
        '"\\x"',
        '"\n"',
        "[" * 300 + "]" * 300,
        '{"a":' * 300 + "1" + "}" * 300,
    ),
    *('{"a": 1, "a": 2}', "[1,]", "/**/1"),
)
"""JSON values that `json.dumps` does not write; "@3" in a document represents the fourth."""


def _json(document: Any) -> bytes:
    text = re.sub(r'"@(\d+)"', lambda match: RAW_VALUES[int(match[1])], json.dumps(document))
    return text.encode()


def _replaced(document: Any, draw: random.Random, words: list[Any]) -> Any:
    document = deepcopy(document)
    for _ in range(draw.randint(0, 2)):
        inner = document
        while isinstance(inner, dict | list) and inner:
            key = draw.choice(list(inner) if isinstance(inner, dict) else list(range(len(inner))))
            if draw.random() < 0.5:
                inner[key] = deepcopy(draw.choice(words))
                break
            inner = inner[key]
    return document


def _changed(content: bytes, draw: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 3, 10))):
        place = draw.randrange(len(data) or 1)
        match draw.randrange(3):
            case 0:
                data[place : place + 1] = bytes([draw.randrange(256)])
            case 1:
                del data[place : place + draw.choice((1, 4, 64))]
            case _:
                data[place:place] = data[place : place + draw.choice((1, 16, 256))]
    return bytes(data)


def run(seconds: float, first: int = 0, most: int = 10**9) -> dict[str, Any]:
    """Sends mutated requests for a number of seconds; returns the outcomes."""
    statuses: Counter[str] = Counter()
    foreign: list[str] = []
    slowest = (0.0, -1)
    with running() as server, httpx.Client(base_url=server.url, timeout=60) as client:
        watch: Watch | None = None
        began, case, base = time.monotonic(), 0, 0.0
        while case < most and time.monotonic() - began < seconds:
            seed = first + case
            asked = mutated(random.Random(seed))
            sent = time.perf_counter()
            try:
                answer = client.post(asked.path, content=asked.content, headers=asked.headers)
                statuses[str(answer.status_code)] += 1
                if answer.status_code >= 500:
                    foreign.append(f"seed {seed}: {answer.status_code} {answer.text[:200]}")
                elif answer.status_code >= 400 and "error" not in answer.json():
                    foreign.append(f"seed {seed}: an answer that is not ours: {answer.text[:200]}")
            except (httpx.HTTPError, ValueError) as error:
                foreign.append(f"seed {seed}: {type(error).__name__}: {error}")
            slowest = max(slowest, (time.perf_counter() - sent, seed))
            case += 1
            if case == 200:
                base = server.cost()[1]
                watch = Watch(server)
        if watch:
            watch.close()
        gone = server.process.poll()
        return {
            "cases": case,
            "seconds": round(time.monotonic() - began, 1),
            "statuses": dict(sorted(statuses.items())),
            "foreign": foreign,
            "slowest": {"seconds": round(slowest[0], 2), "seed": slowest[1]},
            "server ended": gone,
            "mb": {
                "after 200": round(base),
                "at the end": round(server.cost()[1]),
                "most": round(watch.most_mb) if watch else 0,
            },
            "health_ms": round(watch.longest_ms) if watch else None,
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hostile", action="store_true")
    given = parser.parse_args()
    if given.hostile:
        hostile_table()
    else:
        print(json.dumps(run(given.minutes * 60, given.seed), indent=1))
