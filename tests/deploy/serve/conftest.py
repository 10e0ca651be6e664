"""A tiny exported model, and servers for it in this process and in a separate process."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kerasimg.deploy import manifest as manifests
from kerasimg.deploy.bundle import Bundle, list_files
from kerasimg.deploy.serve.app import create_app
from kerasimg.deploy.serve.service import Service
from kerasimg.deploy.serve.session import Model
from kerasimg.deploy.serve.settings import Settings

SIZE = 24
CLASSES = ("red", "green", "blue")


def write_bundle(
    folder: Path, task: str = "multiclass", thresholds: list[float] | None = None, channels: int = 3
) -> Path:
    """A bundle whose model looks at the mean colour: softmax, or a sigmoid for each class, or for the second of two."""
    folder.mkdir(parents=True)
    weights, shift = np.eye(channels, 3, dtype=np.float32) * 0.04, np.full(3, -5, np.float32)
    names: tuple[str, ...] = CLASSES
    if task == "binary":
        weights, shift, names = weights[:, 1:2], shift[:1], ("other", "green")
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["mean", "w"], ["scaled"]),
        helper.make_node("Add", ["scaled", "b"], ["logits"]),
        helper.make_node("Softmax" if task == "multiclass" else "Sigmoid", ["logits"], ["p"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", SIZE, SIZE, channels])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", weights.shape[1]])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(shift, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    (folder / "classes.json").write_text(json.dumps(names))
    (folder / "preprocess.json").write_text(json.dumps({"size": [SIZE, SIZE], "channels": channels}))
    file = manifests.ModelFile(path="model.onnx", runtime="onnx", precision="float32", input_dtype="float32")
    manifest = manifests.Manifest(
        name="tiny",
        target="onnx",
        task=task,
        classes=len(names),
        thresholds=thresholds,
        models=[file],
        files=list_files(folder),
        created="2026-11-01T00:00:00+00:00",
    )
    manifests.write(folder / manifests.FILE, manifest)
    return folder


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """bundles("binary") is a bundle's folder."""
    root, made = tmp_path_factory.mktemp("bundles"), {}

    def folder(task: str = "multiclass", thresholds: tuple[float, ...] | None = None) -> Path:
        if (task, thresholds) not in made:
            given = None if thresholds is None else list(thresholds)
            made[task, thresholds] = write_bundle(root / f"{task}-{len(made)}", task, given)
        return made[task, thresholds]

    return folder


class Within:
    """A server in this process, without a socket."""

    def __init__(
        self, folder: Path, key: str | None, change: Callable[[Model], Model], settings: dict[str, Any]
    ) -> None:
        chosen = Settings(**{"log": False, "threads": 2, **settings})
        self.service = Service([change(Model.open(Bundle.open(folder), chosen))], chosen)
        self.app = create_app(self.service, key=key)

    def together(self, ask: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
        """Runs requests in one event loop."""

        async def run() -> Any:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
                return await ask(client)

        return asyncio.run(run())

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.together(lambda client: client.request(method, path, **options))

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)


@pytest.fixture
def within(bundles: Callable[..., Path]) -> Iterator[Callable[..., Within]]:
    """within(task, key=..., max_images=...) is a server in this process."""
    opened: list[Within] = []

    def start(
        task: str = "multiclass",
        thresholds: tuple[float, ...] | None = None,
        *,
        key: str | None = None,
        change: Callable[[Model], Model] = lambda model: model,
        **settings: Any,
    ) -> Within:
        opened.append(Within(bundles(task, thresholds), key, change, settings))
        return opened[-1]

    yield start
    for server in opened:
        server.service.close()


@pytest.fixture(scope="module")
def shared(bundles: Callable[..., Path]) -> Iterator[Callable[..., Within]]:
    """shared(task) is such a server, too: one for all tests of a module, since each starts processes."""
    opened: dict[Any, Within] = {}

    def start(task: str = "multiclass", thresholds: tuple[float, ...] | None = None) -> Within:
        if (task, thresholds) not in opened:
            opened[task, thresholds] = Within(bundles(task, thresholds), None, lambda model: model, {})
        return opened[task, thresholds]

    yield start
    for server in opened.values():
        server.service.close()


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    """until(look) is the first true value of `look()`: what a server does after its answer is seen a little later."""

    def wait(look: Callable[[], Any], seconds: float = 30) -> Any:
        end = time.monotonic() + seconds
        while not (found := look()):
            assert time.monotonic() < end, f"not within {seconds:g} s"
            time.sleep(0.02)
        return found

    return wait


class Running:
    """A server as a process."""

    def __init__(self, process: subprocess.Popen, log: Path) -> None:
        self.process = process
        self._log = log
        self.lines: list[str] = []
        assert process.stderr is not None
        for line in process.stderr:
            self.lines.append(line)
            if match := re.search(r"at (http://[^ ]+) ", line):
                self.url = match[1]
                break
        else:
            raise RuntimeError("".join(self.lines))
        self.host, port = re.fullmatch(r"http://(.+):(\d+)", self.url).groups()  # type: ignore[union-attr]
        self.port = int(port)
        self.http = httpx.Client(base_url=self.url, timeout=20)

    def rss_mb(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@pytest.fixture(scope="session")
def start() -> Callable[..., Any]:
    """start(log, bundle, "--queue", 9, KERASIMG_API_KEY=...) is a server as a process, as a context."""
    return running


@contextmanager
def running(log: Path, *arguments: Any, **environment: str) -> Iterator[Running]:
    """`kerasimg serve ...` at a free port."""
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "kerasimg", "serve", *map(str, arguments), "--port", "0"],
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
    try:
        server = Running(process, log)
        yield server
        server.http.close()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stderr.close()  # type: ignore[union-attr]
