"""Fuzzer for the server, and hostile requests with their cost.

    python benchmarks/fuzz_requests.py --minutes 10 [--seed 0]     mutated requests
    python benchmarks/fuzz_requests.py --hostile                   the table of docs/serve.md
    python benchmarks/fuzz_requests.py --grpc                      the same for the gRPC port

Starts a server as a process. Prints the status codes, unexpected errors (5xx except 503, a closed connection, a server
that has died), CPU time and memory of the server with its workers, and the longest latency of the health route beside
that of a bare asyncio server. The test suite runs a sample (tests/deploy/serve/test_hostile.py).
"""

from __future__ import annotations

import argparse
import asyncio
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
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import partial
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
    option = b'{"image": "", "top": ["' + "é".encode() * (MEBIBYTES_16 // 2 - 20) + b'"]}'
    quotes = (b'--edge\r\nContent-Disposition: form-data; name="top"; x="' + b';"' * 3900 + b"\r\n\r\n1\r\n") * 64
    files = b'--edge\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n%s\r\n' % _png_bomb(7_000) * 32
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
        "16 MB of a list as an option": Case(option, JSON),
        "16 MB of percent signs in a data: URL": Case(
            b'{"image": "data:;base64,' + b"%41" * (MEBIBYTES_16 // 3 - 20) + b'"}', JSON
        ),
        "64 parts with 8 KB of quotes": Case(quotes + b"--edge--", EDGE),
        "32 PNGs of 7000x7000 in a form": Case(files + b"--edge--", EDGE),
        "a PNG of 49,000,000x1": Case(_png_bomb(49_000_000, 1), {}),
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


def _png_bomb(width: int, height: int | None = None) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("1", (width, width if height is None else height)).save(file, "PNG")
    return file.getvalue()


class Server:
    """`kerasimg serve` for a tiny bundle, with the cost of its processes."""

    def __init__(self, folder: Path, grpc: bool) -> None:
        if not (folder / "bundle").exists():
            runpy.run_path(str(CONFTEST))["write_bundle"](folder / "bundle")
        command = [sys.executable, "-m", "kerasimg", "serve", str(folder / "bundle"), "--port", "0", "--no-log"]
        command += ["--grpc-port", "0"] if grpc else []
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        lines = []
        for line in self.process.stderr or ():
            lines.append(line)
            if found := re.search(r"at (http://\S+) ", line):
                self.url = found[1]
            if found := re.search(r"gRPC at (\S+)", line):  # logged after the address
                self.grpc = found[1]
            if hasattr(self, "grpc" if grpc else "url"):
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
def running(grpc: bool = False) -> Iterator[Server]:
    """Starts a server and stops it at the end."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), grpc)
        try:
            yield server
        finally:
            server.close()


class Watch:
    """Polls the health route from another process; records latencies and the peak memory.

    On a shared machine a request waits for a processor, whatever the server does. The control is a bare asyncio server,
    in a process of its own, polled by a third in the same way: what the health route takes beyond it is the server's.
    """

    def __init__(self, server: Server) -> None:
        self.server, self.most_mb = server, 0.0
        self.longest_ms = self.control_ms = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._control, control_url = _started(_CONTROL)
        self._pollers = [_started(_POLL, url)[0] for url in (server.url, control_url)]
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self.most_mb = max(self.most_mb, self.server.cost()[1])

    def close(self) -> None:
        """Ends it."""
        self._over.set()
        self._thread.join()
        self.longest_ms, self.control_ms = (float(poller.communicate("")[0]) for poller in self._pollers)
        self._control.communicate("")


def _started(program: str, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    """Starts a program; returns its process and the first line that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return process, process.stdout.readline().strip()  # type: ignore[union-attr]


_CONTROL = """
import asyncio, sys
async def answer(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{}")
    writer.close()
async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print("http://127.0.0.1:%d" % server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
asyncio.run(main())
"""

_POLL = """
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

    def ask() -> list[str]:
        with ThreadPoolExecutor(case.at_once) as pool:
            return list(pool.map(lambda _: send(server, case), range(case.at_once)))

    return cost_of_work(server, ask)


def cost_of_work(server: Server, ask: Callable[[], list[str]]) -> dict[str, Any]:
    """Returns the statuses that `ask` gets, and the cost of the server meanwhile."""
    before, began = server.cost(), time.perf_counter()
    watch = Watch(server)
    statuses = ask()
    took = time.perf_counter() - began
    while (cost := server.cost()[0]) and not _idle(server, cost):  # work may continue after the response
        pass
    watch.close()
    counted = Counter(sorted(statuses))
    return {
        "status": ", ".join(f"{count} {status}" if count > 1 else status for status, count in counted.items()),
        "seconds": round(took, 2),
        "cpu_s": round(server.cost()[0] - before[0], 2),
        "mb": round(watch.most_mb - before[1]),
        "health_ms": round(watch.longest_ms),
        "control_ms": round(watch.control_ms),
    }


def _idle(server: Server, cost: float) -> bool:
    time.sleep(0.3)
    return server.cost()[0] - cost < 0.2


def hostile_table() -> str:
    """Prints the table; the server has answered one image before."""
    with running() as server:
        send(server, Case(image("PNG"), {}))
        return print_table((name, cost_of(server, case)) for name, case in hostile_cases().items())


def print_table(rows: Iterable[tuple[str, dict[str, Any]]]) -> str:
    """Prints a row as soon as it is there; returns them all."""
    lines = [
        "| request | status | seconds | CPU, s | memory, MB | health route, ms | bare loop, ms |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    print(*lines, sep="\n", flush=True)
    for name, row in rows:
        lines.append(
            f"| {name} | {row['status']} | {row['seconds']} | {row['cpu_s']} | {row['mb']} | {row['health_ms']} "
            f"| {row['control_ms']} |"
        )
        print(lines[-1], flush=True)
    return "\n".join(lines)


class GrpcCase(NamedTuple):
    """A hostile call over gRPC: the bytes of its message, how many are sent at once, and how."""

    data: bytes
    at_once: int = 1
    method: str = "inference.GRPCInferenceService/ModelInfer"
    metadata: tuple[tuple[str, str], ...] = ()
    gzip: bool = False
    hold_s: float | None = None
    """Seconds to wait before the message is sent, once the call has begun."""
    meanwhile: int = 0
    """Good calls while the hostile ones are held."""


def grpc_cases() -> dict[str, GrpcCase]:
    """Returns the cases of the table over gRPC."""
    from kerasimg.deploy.serve.inference_grpc import message_classes

    messages = message_classes()
    size, pixels = 24, bytes(24 * 24 * 3)

    def infer(shape: list[int], raw: bytes | None = pixels, datatype: str = "UINT8", **fields: Any) -> bytes:
        tensor = {"name": "image", "datatype": datatype, "shape": shape, **fields.pop("tensor", {})}
        more = {} if raw is None else {"raw_input_contents": [raw]}
        fields = {"model_name": "tiny", "inputs": [tensor]} | more | fields
        return messages["ModelInferRequest"](**fields).SerializeToString()

    def lengths(tag: int, content: bytes) -> bytes:
        size, head = len(content), bytes([tag])
        while size > 127:
            head, size = head + bytes([size & 127 | 128]), size >> 7
        return head + bytes([size]) + content

    right = infer([1, size, size, 3])
    most = 4 * 2**20 - 100
    scans = many_scans()
    named = lengths(0x0A, b"tiny")

    def nested(content: bytes) -> bytes:  # in the contents of the tensor of an otherwise right call
        tensor = lengths(0x0A, b"image") + lengths(0x12, b"BYTES") + lengths(0x1A, b"\1") + lengths(0x2A, content)
        return named + lengths(0x2A, tensor)

    jpeg = len(scans).to_bytes(4, "little") + scans
    return {
        "a right call": GrpcCase(right),
        "a shape of 2 dimensions": GrpcCase(infer([1, 1728])),
        "a shape of 2^31 - 1 in each dimension": GrpcCase(infer([2**31 - 1] * 4)),
        "one image of 2^30 x 2^30": GrpcCase(infer([1, 2**30, 2**30, 3])),
        "a negative shape": GrpcCase(infer([-1, size, size, 3])),
        "a shape of 2^62": GrpcCase(infer([1, 2**62])),
        "4 MB of dimensions": GrpcCase(named + lengths(0x2A, lengths(0x1A, b"\1" * most))),
        "contents of a byte less": GrpcCase(infer([1, size, size, 3], pixels[1:])),
        "FP32 with the bytes of UINT8": GrpcCase(infer([1, size, size, 3], datatype="FP32")),
        "FP32 of NaN": GrpcCase(infer([1, size, size, 3], b"\xff" * 4 * len(pixels), "FP32")),
        "a BYTES tensor whose lengths lie": GrpcCase(infer([1], b"\xff\xff\xff\x7f" + pixels, "BYTES")),
        "4 MB of empty images": GrpcCase(infer([32], bytes(most), "BYTES")),
        "4 MB of empty images as contents": GrpcCase(nested(b"\x42\0" * (most // 2))),
        "64 of them at once": GrpcCase(nested(b"\x42\0" * (most // 2)), at_once=64),
        "4 MB of empty tensors": GrpcCase(named + b"\x2a\0" * (most // 2)),
        "4 MB of parameters": GrpcCase(named + b"\x22\0" * (most // 2)),
        "4 MB of parameters in the tensor": GrpcCase(named + lengths(0x2A, b"\x22\0" * (most // 2))),
        "4 MB of small numbers": GrpcCase(nested(lengths(0x22, b"\1" * most))),
        "groups within groups": GrpcCase(named + b"\x7b" * (most // 4)),
        "4 MB of random bytes": GrpcCase(random.Random(0).randbytes(most)),
        "a message of 16 MB": GrpcCase(infer([1], bytes(2**24), "BYTES")),
        "4 of them at once": GrpcCase(infer([1], bytes(2**24), "BYTES"), at_once=4),
        "300 MB in gzip": GrpcCase(infer([1], bytes(300 * 2**20), "BYTES"), gzip=True),
        "an unknown model": GrpcCase(infer([1, size, size, 3], model_name="\x1b[31m\u202e")),
        "an unknown model of 1 MB": GrpcCase(infer([1, size, size, 3], model_name="a" * 2**20)),
        "an unknown version": GrpcCase(infer([1, size, size, 3], model_version="\n")),
        "an unknown method": GrpcCase(right, method="inference.GRPCInferenceService/ModelStreamInfer"),
        "an unknown service": GrpcCase(right, method="x.Y/Z"),
        "a name that is not UTF-8": GrpcCase(lengths(0x0A, b"\xff\xfe") + right),
        "64 KB of metadata": GrpcCase(right, metadata=(("x-a", "a" * 2**16),)),
        "progressive JPEG, 7000x7000, 27,000 scans": GrpcCase(infer([1], jpeg, "BYTES")),
        "a PNG of 16384x16384": GrpcCase(infer([1], None, "BYTES", tensor=_contents(_png_bomb(16_384)))),
        "32 PNGs of 7000x7000": GrpcCase(infer([32], None, "BYTES", tensor=_contents(*[_png_bomb(7_000)] * 32))),
        "1,000 right calls at once": GrpcCase(right, at_once=1_000),
        "300 calls that send nothing for 3 s, and 20 right ones": GrpcCase(right, 300, hold_s=3, meanwhile=20),
    }


def _contents(*images: bytes) -> dict[str, Any]:
    return {"contents": {"bytes_contents": list(images)}}


def call_grpc(server: Server, case: GrpcCase) -> list[str]:
    """Sends a case; returns the status of each call, right ones in parentheses."""
    import grpc

    async def run() -> list[str]:
        options = [("grpc.max_metadata_size", 2**20), ("grpc.max_send_message_length", -1)]
        compression = grpc.Compression.Gzip if case.gzip else None
        async with grpc.aio.insecure_channel(server.grpc, options=options, compression=compression) as channel:

            async def status(data: bytes, hold_s: float | None = None) -> str:
                async def messages() -> AsyncIterator[bytes]:
                    await asyncio.sleep(hold_s or 0)
                    yield data

                try:
                    if hold_s is None:
                        await channel.unary_unary(f"/{case.method}")(data, metadata=case.metadata, timeout=60)
                    else:
                        await channel.stream_unary(f"/{case.method}")(messages(), timeout=60)
                except grpc.aio.AioRpcError as error:
                    return error.code().name
                return "OK"

            async def right() -> str:
                await asyncio.sleep(1)
                return f"({await status(case.data)})"

            calls = [status(case.data, case.hold_s) for _ in range(case.at_once)]
            return await asyncio.gather(*calls, *(right() for _ in range(case.meanwhile)))

    return asyncio.run(run())


def grpc_table() -> str:
    """Prints the table of calls over gRPC."""
    with running(grpc=True) as server:
        cases = grpc_cases()
        call_grpc(server, cases["a right call"])
        return print_table(
            (name, cost_of_work(server, partial(call_grpc, server, case))) for name, case in cases.items()
        )


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
            "control_ms": round(watch.control_ms) if watch else None,
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hostile", action="store_true")
    parser.add_argument("--grpc", action="store_true")
    given = parser.parse_args()
    if given.hostile:
        hostile_table()
    elif given.grpc:
        grpc_table()
    else:
        print(json.dumps(run(given.minutes * 60, given.seed), indent=1))
