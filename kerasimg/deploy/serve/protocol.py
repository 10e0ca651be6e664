"""The Open Inference Protocol, version 2: what it tells of the model, what it asks, what it is answered.

Numbers are told in row-major order. An input is one of

    image  UINT8 or FP32, [N, H, W, C], 0-255: pixels as the decoder gives them (FP32 is rounded)
    image  BYTES, [N]: encoded pictures (JPEG, PNG, ...), each in base64
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerasimg.deploy.serve import answers
from kerasimg.deploy.serve.bodies import from_base64, read_json
from kerasimg.deploy.serve.engine import Model, checked_pixels
from kerasimg.deploy.serve.refusals import Refused
from kerasimg.errors import listed, nearest

INPUT = "image"
OUTPUTS = ("probabilities", "label")


@dataclass(frozen=True)
class Wanted:
    """What a request for inference asks."""

    count: int
    """Of pictures."""
    pixels: np.ndarray | None
    """(N, H, W, C) uint8; None where encoded pictures were sent."""
    pictures: list[bytes]
    outputs: tuple[str, ...]
    id: str | None


def server() -> dict[str, Any]:
    """`GET /v2`."""
    from importlib.metadata import version

    return {"name": "kerasimg", "version": version("kerasimg"), "extensions": []}


def described(model: Model) -> dict[str, Any]:
    """`GET /v2/models/{name}`."""
    bundle = model.bundle
    count = len(bundle.classes)
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": f"{model.file.runtime}_{model.file.precision}",
        "inputs": [
            {
                "name": INPUT,
                "datatype": "UINT8",
                "shape": [-1, *bundle.shape],
                "parameters": {"also": "FP32 of the same shape; BYTES of the shape [-1], pictures in base64"},
            }
        ],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, count]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
        ],
        "parameters": {
            "task": bundle.task,
            "classes": list(bundle.classes),
            "thresholds": answers.thresholds(bundle),
        },
    }


def read(body: bytes, shape: tuple[int, int, int], most: int) -> Wanted:
    """What a request for inference asks.  shape: of a picture's pixels.  most: pictures that are taken."""
    document = read_json(body)
    if not isinstance(document, dict):
        raise Refused("body", f'expected an object with "inputs", got {type(document).__name__}')
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise Refused("tensor", f'inputs: expected a list of one tensor, "{INPUT}"')
    request_id = document.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise Refused("body", f"id: expected a text, got {type(request_id).__name__}")
    outputs = _outputs(document.get("outputs"))
    tensor = inputs[0]
    if tensor.get("name") != INPUT:
        raise Refused("tensor", f"inputs[0].name: expected '{INPUT}', got {str(tensor.get('name'))[:80]!r}")
    sizes = _sizes(tensor.get("shape"))
    if sizes[0] > most:
        raise Refused("pictures", f"more than {most} pictures in one request; send them in several")
    kind, data = tensor.get("datatype"), tensor.get("data")
    if not isinstance(data, list):
        raise Refused("tensor", f"inputs[0].data: expected a list, got {type(data).__name__}")
    if kind == "BYTES":
        if sizes != (len(data),):
            raise Refused(
                "tensor", f"inputs[0].shape: expected [{len(data)}], as there are pictures, got {list(sizes)}"
            )
        pictures = [from_base64(text, f"inputs[0].data[{place}]") for place, text in enumerate(data)]
        return Wanted(len(pictures), None, pictures, outputs, request_id)
    if kind not in ("UINT8", "FP32"):
        raise Refused("tensor", f"inputs[0].datatype: expected UINT8, FP32 or BYTES, got {str(kind)[:40]!r}")
    pixels = checked_pixels(_numbers(data, kind, sizes), shape)
    return Wanted(len(pixels), pixels, [], outputs, request_id)


def answer(model: Model, wanted: Wanted, rows: np.ndarray, request_id: str) -> dict[str, Any]:
    """The answer to a request.  rows: what the model gave, (N, K)."""
    tensors: dict[str, Any] = {}
    for name in wanted.outputs:
        if name == "probabilities":
            found = answers.columns(model.bundle, rows)
            tensors[name] = ("FP32", list(found.shape), found.ravel().tolist())
        else:
            tensors[name] = ("BYTES", [wanted.count], answers.labels(model.bundle, rows))
    return {
        "model_name": model.name,
        "model_version": model.version,
        "id": wanted.id or request_id,
        "outputs": [
            {"name": name, "datatype": kind, "shape": shape, "data": data}
            for name, (kind, shape, data) in tensors.items()
        ],
    }


def _outputs(given: Any) -> tuple[str, ...]:
    if given is None or given == []:
        return OUTPUTS
    if not isinstance(given, list) or not all(
        isinstance(one, dict) and isinstance(one.get("name"), str) for one in given
    ):
        raise Refused("body", 'outputs: expected a list of {"name": ...}')
    names = tuple(dict.fromkeys(one["name"] for one in given))
    for name in names:
        if name not in OUTPUTS:
            raise Refused("tensor", f"no output '{name[:80]}'{nearest(name, OUTPUTS)} (outputs: {listed(OUTPUTS)})")
    return names


def _sizes(given: Any) -> tuple[int, ...]:
    if not isinstance(given, list) or not 1 <= len(given) <= 4:
        raise Refused("tensor", "inputs[0].shape: expected a list of 4 sizes, or of 1 for BYTES")
    if not all(isinstance(size, int) and not isinstance(size, bool) and 0 < size < 2**31 for size in given):
        raise Refused("tensor", "inputs[0].shape: expected whole numbers of 1 or more")
    return tuple(given)


def _numbers(data: list[Any], kind: str, sizes: tuple[int, ...]) -> np.ndarray:
    """A list, flat or nested, as an array of the shape that was told."""
    try:
        found = np.array(data)
    except (ValueError, OverflowError):
        raise Refused("tensor", "inputs[0].data: the nested lists are not all of one length") from None
    if found.dtype.kind not in ("iu" if kind == "UINT8" else "iuf"):
        raise Refused("tensor", f"inputs[0].data: expected {kind}, got other values")
    if found.size != math.prod(sizes) or found.shape not in (sizes, (found.size,)):
        raise Refused("tensor", f"inputs[0].data: expected the shape {list(sizes)}, or flat, got {list(found.shape)}")
    return found.reshape(sizes)
