"""The Open Inference Protocol, version 2: what it tells of the model, what it asks, what it is answered.

Numbers are told in row-major order. An input is one of

    image  UINT8 or FP32, [N, H, W, C], 0-255: pixels as the decoder gives them (FP32 is rounded)
    image  BYTES, [N]: encoded images (JPEG, PNG, ...), each in base64

In the binary tensor extension, which tritonclient speaks unless told otherwise, tensors follow the JSON as bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic_core import to_json

from kerasimg.deploy.serve import answers
from kerasimg.deploy.serve.errors import Refused
from kerasimg.deploy.serve.requests import MORE_VALUES, decompressed, from_base64, read_json
from kerasimg.deploy.serve.session import Model, checked_pixels
from kerasimg.errors import listed, nearest

INPUT = "image"
OUTPUTS = ("probabilities", "label")
HEADER_LENGTH = "inference-header-content-length"
"""The header of a request or an answer that says how many of its bytes are JSON; binary tensors follow."""


@dataclass(frozen=True)
class Wanted:
    """What a request for inference asks."""

    count: int
    """Of images."""
    pixels: np.ndarray | None
    """(N, H, W, C) uint8; None where encoded images were sent."""
    images: list[bytes]
    outputs: tuple[str, ...]
    id: str | None
    binary: frozenset[str] = frozenset()
    """Outputs that are to follow the JSON as bytes."""


def server() -> dict[str, Any]:
    """`GET /v2`."""
    from importlib.metadata import version

    return {"name": "kerasimg", "version": version("kerasimg"), "extensions": ["binary_tensor_data"]}


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
                "parameters": {"also": "FP32 of the same shape; BYTES of the shape [-1], images in base64"},
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


def read(
    body: bytes, encoding: str, header_bytes: int | None, shape: tuple[int, int, int], most: int, max_bytes: int
) -> Wanted:
    """What a request for inference asks.

    encoding: the Content-Encoding.  header_bytes: of the JSON, where binary tensors follow it; None: all is JSON.
    shape: of an image's pixels.  most: images that are taken.  max_bytes: of a body that was compressed.
    """
    body = decompressed(encoding, body, max_bytes)
    height, width = shape[:2]
    values, lists = most * math.prod(shape), most * (height * width + height + 1)
    if header_bytes is not None and header_bytes > len(body):
        raise Refused("body", f"{HEADER_LENGTH}: {header_bytes:,}, and the body has {len(body):,} bytes")
    head, binary = (body, b"") if header_bytes is None else (body[:header_bytes], body[header_bytes:])
    document = read_json(head, values + MORE_VALUES, lists + MORE_VALUES)
    if not isinstance(document, dict):
        raise Refused("body", f'expected an object with "inputs", got {type(document).__name__}')
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise Refused("tensor", f'inputs: expected a list of one tensor, "{INPUT}"')
    request_id = document.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise Refused("body", f"id: expected a text, got {type(request_id).__name__}")
    by_default = _flag(document, "binary_data_output")
    outputs, in_binary = _outputs(document.get("outputs"), by_default)
    tensor = inputs[0]
    if tensor.get("name") != INPUT:
        raise Refused("tensor", f"inputs[0].name: expected '{INPUT}', got {str(tensor.get('name'))[:80]!r}")
    sizes = _sizes(tensor.get("shape"))
    if sizes[0] > most:
        raise Refused("images", f"more than {most} images in one request; send them in several")
    kind = tensor.get("datatype")
    if kind not in ("UINT8", "FP32", "BYTES"):
        raise Refused("tensor", f"inputs[0].datatype: expected UINT8, FP32 or BYTES, got {str(kind)[:40]!r}")
    size = _parameters(tensor).get("binary_data_size")
    if size is None and binary:
        raise Refused("tensor", "inputs[0].parameters.binary_data_size: missing, and binary data follows the JSON")
    if size is not None and (isinstance(size, bool) or size != len(binary)):
        raise Refused("tensor", f"inputs[0].parameters.binary_data_size: {len(binary):,} bytes follow the JSON")
    if kind == "BYTES":
        images = _elements(binary) if size is not None else _encoded(tensor.get("data"))
        if sizes != (len(images),):
            raise Refused(
                "tensor", f"inputs[0].shape: expected [{len(images)}], as there are images, got {list(sizes)}"
            )
        return Wanted(len(images), None, images, outputs, request_id, in_binary)
    found = _numbers(_list(tensor.get("data")), kind, sizes) if size is None else _raw(binary, kind, sizes)
    pixels = checked_pixels(found, shape)
    return Wanted(len(pixels), pixels, [], outputs, request_id, in_binary)


def _list(data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise Refused("tensor", f"inputs[0].data: expected a list, got {type(data).__name__}")
    return data


def _encoded(data: Any) -> list[bytes]:
    return [from_base64(text, f"inputs[0].data[{place}]") for place, text in enumerate(_list(data))]


def _elements(binary: bytes) -> list[bytes]:
    """The elements of a BYTES tensor: each has its length before it, 4 bytes, the least first."""
    elements: list[bytes] = []
    place = 0
    while place < len(binary):
        size = int.from_bytes(binary[place : place + 4], "little")
        place += 4 + size
        if place > len(binary) or len(elements) > MORE_VALUES:
            raise Refused("tensor", "inputs[0]: the lengths before its elements do not fit the binary data")
        elements.append(binary[place - size : place])
    return elements


def _raw(binary: bytes, kind: str, sizes: tuple[int, ...]) -> np.ndarray:
    dtype = np.dtype("u1" if kind == "UINT8" else "<f4")
    if math.prod(sizes) * dtype.itemsize != len(binary):
        raise Refused("tensor", f"inputs[0]: {kind} of {list(sizes)} does not take {len(binary):,} bytes")
    return np.frombuffer(binary, dtype).reshape(sizes)


def _parameters(holder: dict[str, Any]) -> dict[str, Any]:
    found = holder.get("parameters")
    return found if isinstance(found, dict) else {}


def _flag(holder: dict[str, Any], name: str, default: bool = False) -> bool:
    value = _parameters(holder).get(name, default)
    if not isinstance(value, bool):
        raise Refused("body", f"parameters.{name}: expected true or false, got {str(value)[:40]!r}")
    return value


def answer(model: Model, wanted: Wanted, rows: np.ndarray, request_id: str) -> tuple[bytes, dict[str, str]]:
    """The body of the answer to a request, and its headers.  rows: what the model gave, (N, K)."""
    outputs: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for name in wanted.outputs:
        if name == "probabilities":
            found = np.ascontiguousarray(answers.columns(model.bundle, rows), "<f4")
            kind, shape, data = "FP32", list(found.shape), found.ravel().tolist()
            raw = found.tobytes()
        else:
            kind, shape, data = "BYTES", [wanted.count], answers.labels(model.bundle, rows)
            raw = b"".join(len(text).to_bytes(4, "little") + text for text in (label.encode() for label in data))
        output = {"name": name, "datatype": kind, "shape": shape}
        if name in wanted.binary:
            binary.append(raw)
            outputs.append(output | {"parameters": {"binary_data_size": len(raw)}})
        else:
            outputs.append(output | {"data": data})
    document = {
        "model_name": model.name,
        "model_version": model.version,
        "id": wanted.id or request_id,
        "outputs": outputs,
    }
    head = to_json(document)
    if not binary:
        return head, {"content-type": "application/json"}
    return b"".join([head, *binary]), {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(head))}


def _outputs(given: Any, by_default: bool) -> tuple[tuple[str, ...], frozenset[str]]:
    """The outputs that are asked for, and those of them that are to be binary."""
    if given is None or given == []:
        return OUTPUTS, frozenset(OUTPUTS if by_default else ())
    if (
        not isinstance(given, list)
        or len(given) > MORE_VALUES
        or not all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in given)
    ):
        raise Refused("body", 'outputs: expected a list of {"name": ...}')
    names = tuple(dict.fromkeys(one["name"] for one in given))
    for name in names:
        if name not in OUTPUTS:
            raise Refused("tensor", f"no output '{name[:80]}'{nearest(name, OUTPUTS)} (outputs: {listed(OUTPUTS)})")
    return names, frozenset(one["name"] for one in given if _flag(one, "binary_data", by_default))


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
