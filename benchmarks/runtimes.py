"""Throughput of `Runtime`, `Run.predict` and `kerasimg serve` against the bare runtimes in a loop, in turns.

    python benchmarks/runtimes.py RUN [--to litert onnx openvino] [--rounds 15] [--seconds 0.5]

Each target is exported in float32. The bare runtime is its own Python package, called as its documentation does, on one
image. In every round each way is called in turn for as long as `--seconds` says, and its images per second are divided
by those of the bare runtime of the same round, so that what else the machine does cancels out. Two comparisons:

- from pixels: the bundle's `Runtime`, and a server that gets a binary tensor of the Open Inference Protocol;
- from a file: the bare runtime after Pillow has decoded and resized the file; `Run.predict` of its path; and a server
  that gets the file.

The server has one client with one connection. The script prints the median and the quartiles of the ratios.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import PIL.Image
from serving import form, photo, server

import kerasimg
from kerasimg.data.parallel import cores
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.targets import open_runtime

Ask = Callable[[], Any]


def bare_litert(path: Path) -> Callable[[np.ndarray], Any]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=cores())
    interpreter.allocate_tensors()
    given, returned = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def ask(pixels: np.ndarray) -> Any:
        interpreter.set_tensor(given, pixels)
        interpreter.invoke()
        return interpreter.get_tensor(returned)

    return ask


def bare_onnx(path: Path) -> Callable[[np.ndarray], Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels})


def bare_openvino(path: Path) -> Callable[[np.ndarray], Any]:
    import openvino

    compiled = openvino.compile_model(path, "CPU")
    request = compiled.create_infer_request()
    return lambda pixels: request.infer([pixels])


BARE = {"litert": bare_litert, "onnx": bare_onnx, "openvino": bare_openvino}


def decoded(file: bytes, size: tuple[int, int]) -> np.ndarray:
    """Decodes and resizes a file as a tutorial does."""
    with PIL.Image.open(io.BytesIO(file)) as image:
        resized = image.convert("RGB").resize(size[::-1], PIL.Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32)[np.newaxis]


def posting(port: int, path: str, body: bytes, headers: dict[str, str]) -> Ask:
    """Returns a function that sends a request over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def ask() -> bytes:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {content[:300]!r}")
        return content

    return ask


def as_tensor(pixels: np.ndarray) -> tuple[bytes, dict[str, str]]:
    """Returns the body and the headers of a request with a binary tensor."""
    data = pixels.tobytes()
    about = {"name": "image", "datatype": "UINT8", "shape": list(pixels.shape)}
    head = json.dumps(
        {
            "inputs": [{**about, "parameters": {"binary_data_size": len(data)}}],
            "outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}],
        }
    ).encode()
    return head + data, {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"}


def rate(ask: Ask, seconds: float) -> float:
    """Returns calls per second."""
    ask()
    started, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - started) < seconds:
        ask()
        count += 1
    return count / spent


def ways(bundle: Bundle, run: Path, stack: ExitStack, scratch: Path) -> dict[str, dict[str, Ask]]:
    """Returns for each comparison the ways, the bare runtime first."""
    [model] = bundle.models
    height, width, channels = bundle.shape
    kind = "PNG" if width < 64 else "JPEG"
    file = photo(32, 32, kind) if width < 64 else photo(500, 375, kind)
    image = scratch / f"image.{kind.lower()}"
    image.write_bytes(file)
    pixels = np.random.default_rng(0).integers(0, 256, (1, height, width, channels)).astype(np.uint8)
    floats = pixels.astype(np.float32)
    bare, runtime = BARE[bundle.manifest.target](bundle.model_path(model)), open_runtime(bundle)
    body = form(file)
    multipart = {"content-type": "multipart/form-data; boundary=edge"}
    port, _, _ = stack.enter_context(server("-m", "kerasimg", "serve", bundle.folder, body=body))
    trained = kerasimg.Run(run)
    return {
        "from pixels": {
            "bare": lambda: bare(floats),
            "Runtime": lambda: runtime(pixels),
            "server, binary tensor": posting(port, f"/v2/models/{bundle.manifest.name}/infer", *as_tensor(pixels)),
        },
        "from a file": {
            "bare": lambda: bare(decoded(file, (height, width))),
            "Run.predict": lambda: trained.predict(image, verbose=0),
            "server, file": posting(port, "/predict", body, multipart),
        },
    }


def compared(ways_of: dict[str, Ask], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Returns the calls per second of each way in each round."""
    rates: dict[str, list[float]] = {way: [] for way in ways_of}
    for number in range(rounds + 1):
        for way, ask in ways_of.items():
            found = rate(ask, seconds if number else 0.1)
            if number:
                rates[way].append(found)
    return rates


def rows(run: Path, target: str, rounds: int, seconds: float) -> list[str]:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        # A run that has this one bundle, so that `Run.predict` uses it.
        alone = Path(shutil.copytree(run, Path(folder) / run.name, ignore=shutil.ignore_patterns("export")))
        [bundle] = kerasimg.export(alone, target, precision="float32", verbose=0)
        lines = []
        for comparison, asks in ways(bundle, alone, stack, Path(folder)).items():
            rates = compared(asks, rounds, seconds)
            for way, found in rates.items():
                low, middle, high = np.percentile(np.divide(found, rates["bare"]), (25, 50, 75))
                ratio = "1" if way == "bare" else f"{middle:.2f} ({low:.2f} to {high:.2f})"
                lines.append(f"| {run.name}, {target} | {comparison} | {way} | {np.median(found):,.0f} | {ratio} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of trained runs")
    parser.add_argument("--to", nargs="+", default=list(BARE), choices=BARE, help="targets; default: all three")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each way in a round")
    chosen = parser.parse_args()
    print("| run, runtime | input | way | images/s | of the bare runtime, median (quartiles) |")
    print("| --- | --- | --- | ---: | ---: |", flush=True)
    for run in chosen.runs:
        for target in chosen.to:
            print("\n".join(rows(run, target, chosen.rounds, chosen.seconds)), flush=True)
    print(f"{cores()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
