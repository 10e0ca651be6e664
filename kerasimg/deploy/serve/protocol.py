"""The Open Inference Protocol, version 2: metadata, requests and responses.

Tensors are in row-major order. The input is one of

    image  UINT8 or FP32, [N, H, W, C], 0-255: decoded pixels (FP32 is rounded)
    image  BYTES, [N]: encoded images (JPEG, PNG, ...), each in base64

In the binary tensor extension, the default of tritonclient, tensors follow the JSON as bytes. `inference_grpc.py` has
the same protocol over gRPC.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic_core import to_json

from kerasimg.data.pixels import type_fault, value_fault
from kerasimg.deploy.serve import answers
from kerasimg.deploy.serve.errors import Refused, shown
from kerasimg.deploy.serve.requests import LONGEST_ID, MORE_VALUES, decompressed, from_base64, read_json
from kerasimg.errors import counted, listed, nearest
from kerasimg.evaluation.conformal import are_known
from kerasimg.models.keras_file import Answer

if TYPE_CHECKING:
    from kerasimg.deploy.serve.session import Model

INPUT = "image"
OUTPUTS = ("probabilities", "label")
KNOWN_OUTPUTS = ("known", "p_value")
"""Further outputs of a model that finds unknown images."""
DATATYPES = {"known": "BOOL", "p_value": "FP32"}
HEADER_LENGTH = "inference-header-content-length"
"""Header with the number of JSON bytes at the beginning of a body; binary tensors follow."""


@dataclass(frozen=True)
class InferRequest:
    """A parsed inference request."""

    count: int
    """Number of images."""
    pixels: np.ndarray | None
    """(N, H, W, C) uint8; None if encoded images were sent."""
    images: list[bytes]
    outputs: tuple[str, ...]
    id: str | None
    binary: frozenset[str] = frozenset()
    """Outputs to send as bytes after the JSON."""


def server_metadata() -> dict[str, Any]:
    """`GET /v2`."""
    from importlib.metadata import version

    return {"name": "kerasimg", "version": version("kerasimg"), "extensions": ["binary_tensor_data"]}


def outputs_of(model: Model) -> tuple[str, ...]:
    """Returns the names of the outputs that a request may ask for; without a choice it gets all."""
    return OUTPUTS + (KNOWN_OUTPUTS if model.runtime.gives_p_values else ())


def model_metadata(model: Model) -> dict[str, Any]:
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
            *(
                {"name": name, "datatype": DATATYPES[name], "shape": [-1]}
                for name in outputs_of(model)
                if name in DATATYPES
            ),
        ],
        "parameters": {
            "task": bundle.task,
            "classes": list(bundle.classes),
            "thresholds": answers.thresholds(bundle),
        },
    }


def read(
    body: bytes,
    encoding: str,
    header_bytes: int | None,
    shape: tuple[int, int, int],
    max_images: int,
    max_bytes: int,
    available: tuple[str, ...] = OUTPUTS,
) -> InferRequest:
    """Parses an inference request.

    Args:
        body: the body as it was sent.
        encoding: the Content-Encoding header.
        header_bytes: number of JSON bytes before binary tensors; None: the whole body is JSON.
        shape: (H, W, C) of the model's input.
        max_images: maximum number of images.
        max_bytes: maximum size of a compressed body after decompression.
        available: names of the outputs that the model has.
    """
    body = decompressed(encoding, body, max_bytes)
    height, width = shape[:2]
    values, lists = max_images * math.prod(shape), max_images * (height * width + height + 1)
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
    if request_id is not None and not (isinstance(request_id, str) and len(request_id) <= LONGEST_ID):
        raise Refused("body", f"id: expected a string of at most {LONGEST_ID} characters")
    binary_by_default = _flag(document, "binary_data_output")
    outputs, binary_outputs = requested_outputs(document.get("outputs"), binary_by_default, available)
    tensor = inputs[0]
    datatype: Any = tensor.get("datatype")
    sizes = checked_tensor(tensor.get("name"), datatype, tensor.get("shape"), max_images)
    size = _parameters(tensor).get("binary_data_size")
    if size is None and binary:
        raise Refused("tensor", "inputs[0].parameters.binary_data_size: missing, and binary data follows the JSON")
    if size is not None and (isinstance(size, bool) or size != len(binary)):
        raise Refused("tensor", f"inputs[0].parameters.binary_data_size: {len(binary):,} bytes follow the JSON")
    if datatype == "BYTES":
        images = split_elements(binary) if size is not None else _encoded(tensor.get("data"))
        if sizes != (len(images),):
            raise Refused(
                "tensor", f"inputs[0].shape: expected [{len(images)}], as there are images, got {list(sizes)}"
            )
        return InferRequest(len(images), None, images, outputs, request_id, binary_outputs)
    array = _numbers(_list(tensor.get("data")), datatype, sizes) if size is None else from_raw(binary, datatype, sizes)
    pixels = checked_pixels(array, shape)
    return InferRequest(len(pixels), pixels, [], outputs, request_id, binary_outputs)


def checked_tensor(name: Any, datatype: Any, shape: Any, max_images: int) -> tuple[int, ...]:
    """Returns the sizes of an input tensor; raises Refused if its name, type or shape is not one of the input's."""
    if name != INPUT:
        raise Refused("tensor", f"inputs[0].name: expected '{INPUT}', got {shown(name)}")
    sizes = _sizes(shape)
    if sizes[0] > max_images:
        raise Refused("images", f"more than {counted(max_images, 'image')} in one request; send several requests")
    if datatype not in ("UINT8", "FP32", "BYTES"):
        raise Refused("tensor", f"inputs[0].datatype: expected UINT8, FP32 or BYTES, got {shown(datatype)}")
    return sizes


def _list(data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise Refused("tensor", f"inputs[0].data: expected a list, got {type(data).__name__}")
    return data


def _encoded(data: Any) -> list[bytes]:
    return [from_base64(text, f"inputs[0].data[{position}]") for position, text in enumerate(_list(data))]


def split_elements(binary: bytes) -> list[bytes]:
    """Splits a binary BYTES tensor: each element follows its length, a 4-byte little-endian integer."""
    elements: list[bytes] = []
    position = 0
    while position < len(binary):
        size = int.from_bytes(binary[position : position + 4], "little")
        position += 4 + size
        if position > len(binary) or len(elements) > MORE_VALUES:
            raise Refused("tensor", "inputs[0]: the lengths of its elements do not match the binary data")
        elements.append(binary[position - size : position])
    return elements


def from_raw(binary: bytes, datatype: str, sizes: tuple[int, ...]) -> np.ndarray:
    """Returns the array of a binary tensor, UINT8 or FP32."""
    dtype = np.dtype("u1" if datatype == "UINT8" else "<f4")
    if math.prod(sizes) * dtype.itemsize != len(binary):
        raise Refused("tensor", f"inputs[0]: {datatype} of {list(sizes)} does not have {len(binary):,} bytes")
    return np.frombuffer(binary, dtype).reshape(sizes)


def _parameters(holder: dict[str, Any]) -> dict[str, Any]:
    array = holder.get("parameters")
    return array if isinstance(array, dict) else {}


def _flag(holder: dict[str, Any], name: str, default: bool = False) -> bool:
    value = _parameters(holder).get(name, default)
    if not isinstance(value, bool):
        raise Refused("body", f"parameters.{name}: expected true or false, got {shown(value)}")
    return value


class Output(NamedTuple):
    """An output tensor."""

    datatype: str
    shape: list[int]
    data: list[Any]
    raw: bytes


def output(model: Model, name: str, given: Answer) -> Output:
    """Returns one of the outputs from what the model says."""
    rows, p_values, share, _ = given
    if name == "probabilities":
        array = np.ascontiguousarray(answers.columns(model.bundle, rows), "<f4")
        return Output("FP32", list(array.shape), array.ravel().tolist(), array.tobytes())
    if p_values is not None and name in DATATYPES:
        array = are_known(p_values, share) if name == "known" else np.ascontiguousarray(p_values, "<f4")
        return Output(DATATYPES[name], [len(rows)], array.tolist(), array.tobytes())
    labels = answers.labels(model.bundle, rows)
    raw = b"".join(len(text).to_bytes(4, "little") + text for text in (label.encode() for label in labels))
    return Output("BYTES", [len(labels)], labels, raw)


def answer(model: Model, request: InferRequest, given: Answer, request_id: str) -> tuple[bytes, dict[str, str]]:
    """Builds the body and the headers of a response from what the model says."""
    outputs: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for name in request.outputs:
        tensor = output(model, name, given)
        fields = {"name": name, "datatype": tensor.datatype, "shape": tensor.shape}
        if name in request.binary:
            binary.append(tensor.raw)
            outputs.append(fields | {"parameters": {"binary_data_size": len(tensor.raw)}})
        else:
            outputs.append(fields | {"data": tensor.data})
    document = {
        "model_name": model.name,
        "model_version": model.version,
        "id": request.id or request_id,
        "outputs": outputs,
    }
    head = to_json(document)
    if not binary:
        return head, {"content-type": "application/json"}
    return b"".join([head, *binary]), {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(head))}


def requested_outputs(
    value: Any, binary_by_default: bool, available: tuple[str, ...]
) -> tuple[tuple[str, ...], frozenset[str]]:
    """Returns the requested outputs, and which of them are binary."""
    if value is None or value == []:
        return available, frozenset(available if binary_by_default else ())
    if (
        not isinstance(value, list)
        or len(value) > MORE_VALUES
        or not all(isinstance(output, dict) and isinstance(output.get("name"), str) for output in value)
    ):
        raise Refused("body", 'outputs: expected a list of {"name": ...}')
    names = tuple(dict.fromkeys(output["name"] for output in value))
    for name in names:
        if name not in available:
            raise Refused("tensor", f"no output '{name[:80]}'{nearest(name, available)} (outputs: {listed(available)})")
    return names, frozenset(output["name"] for output in value if _flag(output, "binary_data", binary_by_default))


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= 4:
        raise Refused("tensor", "inputs[0].shape: expected a list of 4 sizes, or of 1 for BYTES")
    if not all(isinstance(size, int) and not isinstance(size, bool) and 0 < size < 2**31 for size in value):
        raise Refused("tensor", "inputs[0].shape: expected positive integers")
    return tuple(value)


def _numbers(data: list[Any], datatype: str, sizes: tuple[int, ...]) -> np.ndarray:
    """Converts a flat or nested list to an array of the declared shape."""
    try:
        array = np.array(data)
    except (ValueError, OverflowError):
        raise Refused("tensor", "inputs[0].data: the nested lists differ in length") from None
    if array.dtype.kind not in ("iu" if datatype == "UINT8" else "iuf"):
        raise Refused("tensor", f"inputs[0].data: expected {datatype} numbers, got other values")
    if array.size != math.prod(sizes) or array.shape not in (sizes, (array.size,)):
        raise Refused("tensor", f"inputs[0].data: expected the shape {list(sizes)}, or flat, got {list(array.shape)}")
    return array.reshape(sizes)


def checked_pixels(pixels: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Converts numbers to pixels (N, H, W, C) uint8 by rounding; raises Refused if they are not pixels."""
    if pixels.shape[1:] != shape:
        raise Refused("tensor", f"expected the shape [N, {', '.join(map(str, shape))}], got {list(pixels.shape)}")
    if not len(pixels):
        raise Refused("tensor", "expected at least one image, got none")
    if reason := type_fault(pixels) or value_fault(pixels):
        raise Refused("tensor", reason)
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels).astype(np.uint8)
