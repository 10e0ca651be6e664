"""Throughput and latency of `kerasimg serve` against FastAPI handlers and the bare runtime.

    python benchmarks/serving.py [--models simple_cnn mobilenet] [--seconds 3] [--rounds 3]
    python benchmarks/serving.py --against CHECKOUT [--models ...]
    python benchmarks/serving.py --soak 10000
    python benchmarks/serving.py --start

The handlers call `model.predict` or a SavedModel. Each server is a process; wrk (Debian package `wrk`) sends the same
multipart request to all of them in turn, starting each turn when the processors are idle. Figures are medians of the
rounds; the processor time of a request is that of the server and its processes, which depends less on what else runs.
Weights are random, which does not change the cost of a request. --against compares with the server of another checkout
instead of with handlers. --soak sends one hostile file in ten, and fails on a 5xx, a lost or a wrong response. --start
measures the time from process start to the first response.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SIZES = {"simple_cnn": 32, "mobilenet": 160}
CLIENTS = (1, 8, 64)
HANDLERS = ("model.predict", "SavedModel")
LUA = """
local file = io.open("{body}", "rb"); wrk.body = file:read("*a"); file:close()
wrk.method = "POST"; wrk.headers["content-type"] = "multipart/form-data; boundary=edge"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("FOUND %f %f %f %d\\n", summary.requests / summary.duration * 1e6,
    latency:percentile(50) / 1000, latency:percentile(95) / 1000, e.status + e.connect + e.read + e.write + e.timeout))
end
"""


def photo(width: int, height: int, kind: str) -> bytes:
    """Returns an image with the detail of a photo: a JPEG of 500 x 375 has 58 KB."""
    draws = np.random.default_rng(0)
    pixels = sum(
        np.asarray(
            PIL.Image.fromarray(
                draws.integers(0, 256, (max(2, height // by), max(2, width // by), 3), dtype=np.uint8)
            ).resize((width, height), PIL.Image.Resampling.BICUBIC),
            dtype=np.float32,
        )
        * share
        for by, share in ((64, 0.5), (16, 0.3), (4, 0.2))
    )
    file = io.BytesIO()
    PIL.Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(file, kind, quality=90)
    return file.getvalue()


def form(image: bytes) -> bytes:
    head = (
        b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    )
    return head + image + b"\r\n--edge--\r\n"


def write_models(name: str, folder: Path) -> None:
    """Writes model.keras, bundles for LiteRT and ONNX, and a SavedModel."""
    import kerasimg
    from kerasimg.models.build import construct
    from kerasimg.models.classifier import Classifier

    spec = kerasimg.load(name, num_classes=10, size=SIZES[name])
    classes = tuple(f"class {place}" for place in range(10))
    Classifier(construct(spec, weights=None).model, spec, classes).save(folder / "model.keras")
    kerasimg.export(
        folder / "model.keras", to=["litert", "onnx", "savedmodel"], out=folder / "export", allow_uncompared=True
    )


def handle(kind: str, folder: Path, size: int, port: int) -> None:
    """Runs the server that a tutorial shows."""
    import fastapi
    import keras
    import tensorflow
    import uvicorn

    app = fastapi.FastAPI()
    classes = [f"class {place}" for place in range(10)]
    if kind == "model.predict":
        model = keras.models.load_model(folder / "model.keras")

        def ask(pixels: np.ndarray) -> np.ndarray:
            return model.predict(pixels, verbose=0)
    else:
        path = next(path.parent for path in (folder / "export").rglob("saved_model.pb"))
        loaded = tensorflow.saved_model.load(str(path))
        signature = loaded.signatures["serving_default"]
        ((name, taken),) = signature.structured_input_signature[1].items()

        def ask(pixels: np.ndarray) -> np.ndarray:
            options = tensorflow.constant(pixels.astype(taken.dtype.as_numpy_dtype))
            return next(iter(signature(**{name: options}).values())).numpy()

    @app.post("/predict")
    async def predict(file: fastapi.UploadFile) -> dict[str, Any]:
        image = PIL.Image.open(io.BytesIO(await file.read())).convert("RGB")
        pixels = np.asarray(image.resize((size, size), PIL.Image.Resampling.BILINEAR), dtype="float32")
        probabilities = ask(pixels[np.newaxis])[0]
        best = int(probabilities.argmax())
        return {"class": classes[best], "probability": float(probabilities[best])}

    uvicorn.run(app, port=port, log_level="warning", access_log=False)


# Without __future__ annotations FastAPI would read the parameter's type; with them it looks it up among the globals.
if "--handle" in sys.argv:
    import fastapi


def bare(folder: Path, image: bytes, seconds: float) -> dict[str, float]:
    """Returns images per second of the runtime in a loop, from the encoded image and from pixels."""
    from kerasimg.data.decode import decode
    from kerasimg.deploy.bundle import Bundle
    from kerasimg.deploy.targets import open_runtime

    bundle = Bundle.open(folder)
    runtime = open_runtime(bundle)
    pixels = decode(image, bundle.image)[np.newaxis]

    def rate(ask: Any) -> float:
        for _ in range(20):
            ask()
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            ask()
            count += 1
        return count / (time.perf_counter() - started)

    return {
        "bare runtime, decoding too": rate(lambda: runtime(decode(image, bundle.image)[np.newaxis])),
        "bare runtime": rate(lambda: runtime(pixels)),
    }


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def server(*arguments: Any, body: bytes, checkout: Path | None = None) -> Iterator[tuple[int, subprocess.Popen, float]]:
    """Starts a server; yields its port, its process and the seconds to the first response."""
    port, started = free_port(), time.perf_counter()
    command = [sys.executable, *map(str, arguments), "--port", str(port)]
    environment = os.environ | ({"PYTHONPATH": str(checkout)} if checkout else {})
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=checkout, env=environment)
    kind = {"content-type": "multipart/form-data; boundary=edge"}
    try:
        while True:
            try:
                request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", body, kind)
                urllib.request.urlopen(request, timeout=60).read()
                break
            except urllib.error.URLError:
                if process.poll() is not None or time.perf_counter() - started > 120:
                    raise
                time.sleep(0.005)
        yield port, process, time.perf_counter() - started
    finally:
        process.terminate()
        process.wait(30)


def wrk(port: int, clients: int, seconds: float, script: Path) -> tuple[float, float, float, int]:
    """Returns requests per second, p50 and p95 in ms, and failures."""
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", "--timeout", "60s", "-s", str(script)]
    out = subprocess.run(
        [*command, f"http://127.0.0.1:{port}/predict"], capture_output=True, text=True, check=True
    ).stdout
    rate, p50, p95, failures = next(line for line in out.splitlines() if line.startswith("FOUND")).split()[1:]
    return float(rate), float(p50), float(p95), int(failures)


def cpu_s(pid: int) -> float:
    """Returns the processor seconds of a process and of the processes that it has started."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    children = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return own + sum(cpu_s(int(child)) for some in children for child in some)


def quiet(patience: float = 15) -> None:
    """Waits at most `patience` seconds for idle processors: a server still finishes requests that wrk has abandoned."""
    last = time.perf_counter() + patience
    while time.perf_counter() < last:
        before = _idle_s()
        time.sleep(0.25)
        if _idle_s() - before > 0.9 * 0.25 * (os.cpu_count() or 1):
            return


def _idle_s() -> float:
    """Returns the total idle seconds of all processors since boot."""
    return float(Path("/proc/uptime").read_text().split()[1])


def compare(name: str, seconds: float, rounds: int, against: Path | None) -> None:
    image = photo(32, 32, "PNG") if name == "simple_cnn" else photo(500, 375, "JPEG")
    with tempfile.TemporaryDirectory() as root, ExitStack() as stack:
        folder = Path(root)
        subprocess.run([sys.executable, __file__, "--write", name, root], check=True, stdout=subprocess.DEVNULL)
        body, script = folder / "body", folder / "post.lua"
        body.write_bytes(form(image))
        script.write_text(LUA.format(body=body))
        litert, onnx = folder / "export" / "litert", folder / "export" / "onnx"
        serving = ("-m", "kerasimg", "serve")
        commands = {
            "kerasimg serve, LiteRT": (*serving, litert),
            "the same, 2 workers": (*serving, litert, "--workers", 2),
            "kerasimg serve, ONNX Runtime": (*serving, onnx),
        }
        ports: dict[str, int] = {}
        pids: dict[str, int] = {}
        for kind, command, checkout in [
            *((kind, command, None) for kind, command in commands.items()),
            *((f"{kind} (before)", command, against) for kind, command in commands.items() if against),
            *((kind, (__file__, "--handle", kind, name, root), None) for kind in HANDLERS if not against),
        ]:
            ports[kind], process, _ = stack.enter_context(server(*command, body=form(image), checkout=checkout))
            pids[kind] = process.pid
        found: dict[tuple[str, int], list[tuple[float, float, float, int]]] = {}
        cpu: dict[tuple[str, int], list[float]] = {}
        loops: dict[str, list[float]] = {}
        for _ in range(rounds):
            (folder / "image").write_bytes(image)
            quiet()
            output = subprocess.check_output([sys.executable, __file__, "--bare", str(litert), str(folder / "image")])
            for kind, rate in json.loads(output).items():
                loops.setdefault(kind, []).append(rate)
            for clients in CLIENTS:
                for kind, port in ports.items():
                    quiet()
                    used = cpu_s(pids[kind])
                    row = wrk(port, clients, seconds, script)
                    cpu.setdefault((kind, clients), []).append((cpu_s(pids[kind]) - used) / (row[0] * seconds) * 1000)
                    found.setdefault((kind, clients), []).append(row)
    print(f"\n{name}, {SIZES[name]} px, an image of {len(image):,} bytes\n")
    print("| | " + " | ".join(f"{n} client{'s' * (n > 1)}: requests/s | p95, ms | CPU, ms" for n in CLIENTS) + " |")
    print("| --- |" + " ---: |" * 3 * len(CLIENTS))
    for kind in ports:
        cells = []
        for clients in CLIENTS:
            rows = found[kind, clients]
            if failures := sum(row[3] for row in rows):
                print(f"{kind}: {failures} failures at {clients} clients")
            cells += [
                f"{statistics.median(row[0] for row in rows):,.0f}",
                f"{statistics.median(row[2] for row in rows):,.1f}",
                f"{statistics.median(cpu[kind, clients]):.2f}",
            ]
        print(f"| {kind} | {' | '.join(cells)} |")
    for kind, rates in loops.items():
        print(f"| {kind} | {statistics.median(rates):,.0f} |" + " |" * (3 * len(CLIENTS) - 1))
    for clients in CLIENTS:
        ours = statistics.median(row[0] for row in found["kerasimg serve, LiteRT", clients])
        others = [kind for kind in ports if kind in HANDLERS or kind == "kerasimg serve, LiteRT (before)"]
        ratios = {kind: ours / statistics.median(row[0] for row in found[kind, clients]) for kind in others}
        shares = {kind: ours / statistics.median(rates) for kind, rates in loops.items()}
        print(
            f"{clients}: "
            + ", ".join(f"{ratio:.1f}x {kind}" for kind, ratio in ratios.items())
            + "; "
            + ", ".join(f"{share:.0%} of {kind}" for kind, share in shares.items())
        )


def hostile() -> list[tuple[bytes, tuple[int, ...]]]:
    """Returns files that must be refused, with the allowed status codes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    def png(width: int, height: int, rows: bytes) -> bytes:
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")

    bomb = zlib.compress(bytes(9000 * (9000 * 3 + 1)), 9)
    whole = photo(500, 375, "JPEG")
    return [
        (png(9000, 9000, bomb), (413,)),
        (png(60_000, 60_000, b""), (413,)),
        (png(20, 20, bomb), (200, 422)),
        (whole[: len(whole) // 2], (422,)),
        (b"GIF89a" + os.urandom(500), (413, 415, 422)),
        (b"<html>", (415,)),
        (b"PK\x03\x04" + bytes(1000), (415,)),
        (os.urandom(20_000), (415, 422)),
        (b"", (400,)),
        (bytes(17 * 2**20), (413,)),
    ]


async def send(port: int, requests: list[tuple[bytes, tuple[int, ...]]]) -> tuple[Counter, int, int]:
    """Sends requests on a persistent connection; returns status counts, wrong responses and lost ones."""
    statuses: Counter = Counter()
    wrong = lost = 0
    reader = writer = None
    for body, codes in requests:
        try:
            if writer is None or writer.is_closing():
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = (
                f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            output = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).decode().lower()
            length = int(output.split("content-length: ")[1].split("\r\n")[0])
            answer = json.loads(await reader.readexactly(length))
            status = int(output.split()[1])
            statuses[status] += 1
            right = status in codes and (status != 200 or len(answer["predictions"]) == 1)
            wrong += not right
            if "connection: close" in output:
                writer.close()
        except (OSError, EOFError, asyncio.IncompleteReadError, TimeoutError):
            lost += 1
            writer = None
    return statuses, wrong, lost


def soak(count: int, connections: int = 16) -> int:
    """Runs a long load with one hostile file in ten."""
    good, bad = (photo(500, 375, "JPEG"), (200,)), hostile()
    every = [bad[k // 10 % len(bad)] if k % 10 == 9 else good for k in range(count)]

    async def part(port: int, requests: list[Any]) -> list[Any]:
        return await asyncio.gather(*[send(port, requests[k::connections]) for k in range(connections)])

    statuses: Counter = Counter()
    wrong = lost = 0
    with tempfile.TemporaryDirectory() as root:
        subprocess.run([sys.executable, __file__, "--write", "mobilenet", root], check=True, stdout=subprocess.DEVNULL)
        litert = Path(root) / "export" / "litert"
        with server("-m", "kerasimg", "serve", litert, body=form(good[0])) as (port, process, _):
            started, memory = time.perf_counter(), [rss_mb(process)]
            for start in range(0, count, count // 10):
                for some, wrong_ones, lost_ones in asyncio.run(part(port, every[start : start + count // 10])):
                    statuses += some
                    wrong += wrong_ones
                    lost += lost_ones
                memory.append(rss_mb(process))
            seconds = time.perf_counter() - started
    print(f"{count:,} requests, {connections} connections, {count / seconds:,.0f} a second")
    print("status: " + ", ".join(f"{status} {times:,}" for status, times in sorted(statuses.items())))
    print(f"wrong answers {wrong}, lost {lost}, 5xx {sum(n for status, n in statuses.items() if status >= 500)}")
    print("memory, MB, at the start and after each tenth: " + " ".join(f"{one:.0f}" for one in memory))
    return int(bool(wrong or lost or any(status >= 500 for status in statuses)))


def rss_mb(process: subprocess.Popen) -> float:
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def starts(rounds: int = 5) -> None:
    """Measures the time from process start to the first response."""
    with tempfile.TemporaryDirectory() as root:
        subprocess.run([sys.executable, __file__, "--write", "mobilenet", root], check=True, stdout=subprocess.DEVNULL)
        body = form(photo(500, 375, "JPEG"))
        for target in ("litert", "onnx"):
            seconds, memory = [], []
            for _ in range(rounds):
                arguments = ("-m", "kerasimg", "serve", Path(root) / "export" / target)
                with server(*arguments, body=body) as (_, process, took):
                    seconds.append(took)
                    memory.append(rss_mb(process))
            output = ", ".join(f"{one:.2f}" for one in seconds)
            print(f"{target}: median {statistics.median(seconds):.2f} s ({output}); {statistics.median(memory):.0f} MB")
        seconds, memory = [], []
        for _ in range(3):
            with server(__file__, "--handle", "model.predict", "mobilenet", root, body=body) as (_, process, took):
                seconds.append(took)
                memory.append(rss_mb(process))
        print(f"model.predict: median {statistics.median(seconds):.2f} s; {statistics.median(memory):.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="a checkout of an earlier version")
    parser.add_argument("--soak", type=int, metavar="REQUESTS")
    parser.add_argument("--start", action="store_true")
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--bare", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--handle", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.write:
        write_models(asked.write[0], Path(asked.write[1]))
    elif asked.bare:
        print(json.dumps(bare(Path(asked.bare[0]), Path(asked.bare[1]).read_bytes(), asked.seconds / 2)))
    elif asked.handle:
        kind, name, folder = asked.handle
        handle(kind, Path(folder), SIZES[name], asked.port)
    elif asked.soak:
        sys.exit(soak(asked.soak))
    elif asked.start:
        starts()
    else:
        for name in asked.models:
            compare(name, asked.seconds, asked.rounds, asked.against)


if __name__ == "__main__":
    main()
