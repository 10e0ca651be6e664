"""`kerasimg serve` as a process: hostile clients, memory, shutdown."""

import io
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pytest

import kerasimg
from kerasimg.deploy.serve.guard import TOO_LARGE
from kerasimg.errors import CallError

COLOURS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}
LIMITS = ("--max-mb", 1, "--max-megapixels", 4, "--max-images", 8)


def encoded(colour: str = "red", kind: str = "PNG", size: tuple[int, int] = (40, 30), **how: Any) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", size, COLOURS[colour]).save(file, kind, **how)
    return file.getvalue()


def png(width: int, height: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with a header that says what it likes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(chunk(*one) for one in chunks)
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


def frames() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (300, 32, 32), dtype=np.uint8)  # grey, which needs no palette
    first, *rest = [PIL.Image.fromarray(frame) for frame in noise]
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=rest)
    return file.getvalue()


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.png", bytes(10**6))
    return file.getvalue()


def icon_of(image: bytes) -> bytes:
    """An icon that says it is of 16 x 16, with another image inside."""
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(image), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + image


ZEROS = zlib.compress(bytes(5000 * (5000 * 3 + 1)), 9)
HOSTILE: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "a bomb": (png(5000, 5000, ZEROS), (413,)),
    "a header of a billion pixels": (png(30_000, 30_000, zlib.compress(b"")), (413,)),
    "a header of more pixels than there are": (png(2**31 - 1, 2**31 - 1, b""), (413, 422)),
    "a small header over many rows": (png(10, 10, ZEROS), (200, 422)),
    "a bomb in an icon": (icon_of(png(5000, 5000, ZEROS)), (413, 415, 422)),
    "a bomb of text": (
        png(1, 1, zlib.compress(bytes(4)), (b"zTXt", b"a\0\0" + zlib.compress(bytes(10**7), 9))),
        (200, 422),
    ),
    "a cut JPEG": (encoded("red", "JPEG", (600, 600))[:2000], (422,)),
    "a cut PNG": (encoded("red", "PNG")[:60], (422,)),
    "a GIF of many frames": (frames(), (200,)),
    "text": (b"hello " * 100, (415,)),
    "a page": (b"<html><script>alert(1)</script>", (415,)),
    "a ZIP": (archive(), (415,)),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", (415,)),
    "nothing but a beginning": (b"\xff\xd8\xff", (415, 422)),
    "nothing": (b"", (400,)),
    "noise": (np.random.default_rng(1).bytes(5000), (415, 422)),
}


@pytest.fixture(scope="module")
def server(start: Callable[..., Any], bundles: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with start(tmp_path_factory.mktemp("log") / "log.jsonl", bundles(), *LIMITS) as running:
        yield running


def ask(server: Any, data: bytes) -> httpx.Response:
    answer: httpx.Response = server.http.post("/predict", content=data)
    return answer


def raw(server: Any, *sent: bytes, pause_s: float = 0.0, wait_s: float = 15.0) -> bytes:
    """What the server answers to bytes, until it closes the connection or says no more."""
    with socket.create_connection((server.host, server.port), timeout=wait_s) as connection:
        with suppress(ConnectionError):  # it may have heard enough
            for part in sent:
                connection.sendall(part)
                time.sleep(pause_s)
        found = b""
        while True:
            try:
                data = connection.recv(65536)
            except (TimeoutError, ConnectionResetError):
                return found
            if not data:
                return found
            found += data


def test_the_server_prints_its_address_and_answers(server: Any):
    assert re.search(r"serving .* at http://127\.0\.0\.1:\d+ ", server.lines[-1])
    assert ask(server, encoded("green")).json()["predictions"][0]["label"] == "green"


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_and_the_next_request_succeeds(server: Any, case: str):
    data, codes = HOSTILE[case]
    assert ask(server, data).status_code in codes
    assert ask(server, encoded("blue")).json()["predictions"][0]["label"] == "blue"


def test_the_first_frame_of_an_animation_is_classified(server: Any):
    first, other = (PIL.Image.new("RGB", (30, 30), COLOURS[name]) for name in ("green", "red"))
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=[other] * 50)
    assert ask(server, file.getvalue()).json()["predictions"][0]["label"] == "green"


def test_memory_stays_flat_over_hundreds_of_requests_and_none_is_lost(server: Any):
    good = [encoded(name, "JPEG", (400, 300)) for name in COLOURS]
    every = [(good[k % 3], (200,)) if k % 4 else list(HOSTILE.values())[k // 4 % len(HOSTILE)] for k in range(400)]

    def run(rounds: int) -> list[bool]:
        with ThreadPoolExecutor(8) as pool:
            return [
                right
                for _ in range(rounds)
                for right in pool.map(lambda one: ask(server, one[0]).status_code in one[1], every)
            ]

    assert all(run(1))
    before = server.rss_mb()
    assert all(run(2))
    assert server.rss_mb() - before < 20


def test_endless_headers_close_the_connection(server: Any):
    response = raw(server, b"GET / HTTP/1.1\r\nHost: x\r\n", *[b"x-%d: %s\r\n" % (k, b"y" * 8000) for k in range(9)])
    assert response in (b"", TOO_LARGE)
    assert ask(server, encoded()).status_code == 200


def test_a_request_that_is_not_http_gets_400(server: Any):
    head, _, body = raw(server, b"\x16\x03\x01 hello\r\n\r\n").partition(b"\r\n\r\n")
    assert (head.split()[1], json.loads(body)["error"]["reason"]) == (b"400", "body")


def test_a_content_length_beyond_the_limit_is_refused_before_the_body(server: Any):
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"
    with socket.create_connection((server.host, server.port), timeout=10) as connection:
        connection.sendall(head)
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")


def test_a_client_that_disconnects_within_its_body_releases_its_reservation(server: Any, until: Any):
    with socket.create_connection((server.host, server.port)) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
    until(lambda: any(line.get("status") == 499 for line in server.log()))
    assert "kerasimg_in_work_images 0.0" in server.http.get("/metrics").text


def test_the_log_has_one_json_line_per_request(server: Any, until: Any):
    ask(server, encoded())
    server.http.get("/v2/health/live", headers={"x-request-id": "the-last"})
    (line,) = until(lambda: [line for line in server.log() if line.get("id") == "the-last"])
    assert {"event": "request", "method": "GET", "status": 200, "client": "127.0.0.1"}.items() <= line.items()
    assert {line["event"] for line in server.log()} <= {"request", "log"}


def test_a_full_server_answers_429_and_a_slow_body_takes_no_place_and_times_out(
    start: Callable[..., Any], bundles: Any, tmp_path: Path
):
    options = ("--queue", 1, "--max-images", 1, "--timeout", 4)
    with start(tmp_path / "log", bundles(), *options) as server, ThreadPoolExecutor(1) as pool:
        slow = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc"
        answer = pool.submit(raw, server, slow)
        time.sleep(0.2)
        assert ask(server, encoded()).status_code == 200
        head, _, body = answer.result(20).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408")
        assert json.loads(body)["error"]["reason"] == "slow"
        large = pool.submit(ask, server, encoded(size=(4600, 4600)))  # takes 0.2 s or more to decode
        while (full := ask(server, encoded())).status_code == 200:
            assert not large.done()
        assert (full.status_code, full.headers["retry-after"], full.json()["error"]["reason"]) == (429, "1", "queue")
        assert server.http.get("/v2/health/ready").status_code == 200
        assert large.result(20).status_code == 200


def test_stopping_completes_requests_in_progress_and_exits_with_0(
    start: Callable[..., Any], bundles: Any, tmp_path: Path
):
    key = "a key of some length"
    with start(tmp_path / "log", bundles(), KERASIMG_API_KEY=key) as server:
        image = encoded("green")
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nContent-Length: {len(image)}\r\n\r\n".encode()
        assert ask(server, image).status_code == 401
        ended = threading.Timer(0.3, server.process.send_signal, [signal.SIGTERM])
        ended.start()
        response = raw(server, head, image[:20], image[20:], pause_s=0.6)
        assert response.startswith(b"HTTP/1.1 200")
        assert b'"label":"green"' in response
        assert server.process.wait(20) == 0


def test_server_processes_share_metrics_and_exit_with_0(
    start: Callable[..., Any], bundles: Any, tmp_path: Path, until: Any
):
    with start(tmp_path / "log", bundles(), "--workers", 2) as server:
        for _ in range(20):
            with httpx.Client(base_url=server.url, timeout=20) as client:
                assert client.post("/predict", content=encoded()).status_code == 200
        expected = 'kerasimg_requests_total{route="/predict",status="200"} 20.0'
        until(lambda: expected in server.http.get("/metrics").text)
        server.http.close()
        assert server.stop(signal.SIGINT) == 0


def test_a_signal_before_the_server_handles_signals_stops_it():
    code = (
        "import os, signal, uvicorn\n"
        "from kerasimg.deploy.serve.server import run_application\n"
        "from kerasimg.deploy.serve.settings import Settings\n"
        "run = uvicorn.Server.run\n"
        "def stopped_before(server, **options):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    run(server, **options)\n"
        "uvicorn.Server.run = stopped_before\n"
        "async def application(scope, receive, send):\n"
        "    if scope['type'] == 'lifespan':\n"
        "        await receive()\n"
        "        await send({'type': 'lifespan.startup.complete'})\n"
        "        await receive()\n"
        "        await send({'type': 'lifespan.shutdown.complete'})\n"
        "run_application(application, Settings(port=0), lambda address: None)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_a_server_process_ends_with_a_killed_parent(until: Any):
    child = (
        "import kerasimg.deploy.serve.server as server, time\n"
        "server.stop_with_parent()\n"
        "print('waits', flush=True)\n"
        "time.sleep(60)"
    )
    code = (
        "import multiprocessing\n"
        f"child = multiprocessing.get_context('spawn').Process(target=exec, args=({child!r},))\n"
        "child.start()\n"
        "print(child.pid, flush=True)\n"
        "child.join()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        number = int(parent.stdout.readline())
        assert parent.stdout.readline() == "waits\n"
        parent.kill()
    stat = Path(f"/proc/{number}/stat")
    until(lambda: not stat.exists() or stat.read_text().split()[2] == "Z")


def test_the_server_loads_neither_keras_nor_tensorflow(bundles: Any):
    code = (
        "import logging, os, signal, sys, threading, urllib.request\n"
        "from kerasimg.deploy.serve.server import serve\n"
        "def emit(record):\n"
        "    address = record.getMessage().split(' at ')[1].split()[0]\n"
        "    def ask():\n"
        "        request = urllib.request.Request(address + '/predict?explain=1', open(sys.argv[2], 'rb').read())\n"
        "        print(urllib.request.urlopen(request, timeout=20).status, file=sys.stderr)\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    threading.Thread(target=ask).start()\n"
        "handler = logging.Handler()\n"
        "handler.emit = emit\n"
        "logging.getLogger('kerasimg').addHandler(handler)\n"
        "logging.getLogger('kerasimg').setLevel('INFO')\n"
        "serve(sys.argv[1], port=0, log=False)\n"
        "heavy = {'keras', 'tensorflow', 'scipy', 'sklearn', 'matplotlib', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    image = bundles().parent / "image.png"
    image.write_bytes(encoded())
    done = subprocess.run(
        [sys.executable, "-c", code, bundles(), image], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "200\n[]\n")


def test_a_run_or_pack_without_an_export_is_exported_and_agrees_with_predict(
    start: Callable[..., Any], images: Any, tiny: Any, tmp_path: Path
):
    pytest.importorskip("ai_edge_litert")
    data = images(tmp_path / "colours", {"red": 10, "blue": 10})
    run = kerasimg.train(tiny(), data=data, out=tmp_path, report=False, verbose=0)
    file = data / "blue" / "03.png"
    (expected,) = kerasimg.predict(run, str(file))
    with start(tmp_path / "log", run.folder) as server:
        assert "making one: kerasimg export" in server.lines[0]
        assert any(line.startswith("model_float32.tflite: differs by") for line in server.lines)
        assert not any("Next: " in line for line in server.lines)  # the server runs: nothing comes next
        response = ask(server, file.read_bytes()).json()["predictions"][0]
    assert response["label"] == expected.label
    for one in response["classes"]:
        assert one["probability"] == pytest.approx(expected.probabilities[one["name"]], abs=1e-5)
    pack = kerasimg.pack(run, tmp_path / "sent.kerasimg")
    with start(tmp_path / "log2", pack) as server:
        assert server.lines[0].startswith(f"exporting {pack}; to start at once next time: ")
        assert ask(server, file.read_bytes()).json()["predictions"][0]["label"] == expected.label


def test_a_source_that_cannot_be_served_is_an_error(bundles: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("KERASIMG_API_KEY", raising=False)
    with pytest.raises(CallError, match="neither a bundle"):
        kerasimg.serve(tmp_path)
    with pytest.raises(CallError, match="no setting 'prot'; did you mean 'port'"):
        kerasimg.serve(bundles(), prot=1)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(CallError, match="choose one by --port"):
        kerasimg.serve(bundles(), port=taken.getsockname()[1])
    with pytest.raises(CallError, match="has no model 'int8'"):
        kerasimg.serve(bundles(), port=0, model="int8")
