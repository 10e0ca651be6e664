"""The documents that go over the wire, as `/openapi.json` tells them; answers are not checked against them again."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Form(BaseModel):
    """Documents itself by the sentence under each field."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class ModelName(Form):
    """Which model answered."""

    name: str
    version: str
    """The first 12 digits of the model file's SHA-256."""


class ClassShare(Form):
    """A class and its probability."""

    name: str
    probability: float
    threshold: float | None = None
    """Several labels: what the probability must exceed."""
    holds: bool | None = None
    """Several labels: whether it does."""


class Explanation(Form):
    """Where the model sees the class."""

    method: str
    """occlusion: how far the probability falls where a square of the image is hidden."""
    class_: str = Field(alias="class")
    fall: float
    """How far the probability falls at most; 0 or less: no part alone speaks for the class."""
    note: str
    """What the map shows, for a person."""
    overlay: str
    """A PNG as a data: address: the image as the network sees it, in grey, and the map over it."""


class Prediction(Form):
    """What the model says of an image."""

    id: str
    """Of the image: its file's name, what the request calls it, or its place: "[3]"."""
    label: str | None = None
    """The class that is decided for; not where an image has several labels."""
    labels: list[str] | None = None
    """Several labels: those that hold, the likeliest first."""
    confidence: float
    """Probability of what is decided; several labels: of the least sure decision."""
    classes: list[ClassShare]
    """The likeliest, as many as asked for."""
    explanation: Explanation | None = None
    """Where it was asked for."""


class Answer(Form):
    """Of `POST /predict`."""

    id: str
    """Of the request: its X-Request-ID, or a new one."""
    model: ModelName
    predictions: list[Prediction]


class Fault(Form):
    """Why a request was refused."""

    reason: str
    """One word, as in the metric kerasimg_refused."""
    message: str
    id: str


class Refusal(Form):
    """Of every route but those of the protocol."""

    error: Fault


class ProtocolRefusal(Form):
    """Of the routes below /v2."""

    error: str


class ServerState(Form):
    """Of the health routes: one of them."""

    live: bool | None = None
    ready: bool | None = None


class ModelState(Form):
    """Of `GET /v2/models/{name}/ready`."""

    name: str
    ready: bool


class Tensor(Form):
    """A tensor in JSON, row-major."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any]


class TensorMetadata(Form):
    """A tensor that the model takes or gives."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None


class ModelMetadata(Form):
    """Of `GET /v2/models/{name}`."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, Any] | None = None


class InferAnswer(Form):
    """Of `POST /v2/models/{name}/infer`."""

    model_name: str
    model_version: str
    id: str
    outputs: list[Tensor]


_OPTIONS: dict[str, Any] = {
    "top": {"type": "integer", "minimum": 1, "description": "How many classes to list."},
    "explain": {"type": "boolean", "description": "Also a map of where the model sees the class; one image."},
}
_BASE64 = {"type": "string", "contentEncoding": "base64", "description": "An encoded image: JPEG, PNG, WebP, ..."}

PREDICT: dict[str, Any] = {
    "parameters": [{"name": name, "in": "query", "schema": schema} for name, schema in _OPTIONS.items()],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        **_OPTIONS,
                    },
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "properties": {
                        "images": {
                            "type": "array",
                            "items": {
                                "anyOf": [
                                    _BASE64,
                                    {
                                        "type": "object",
                                        "required": ["data"],
                                        "properties": {"id": {"type": "string"}, "data": _BASE64},
                                    },
                                ]
                            },
                        },
                        **_OPTIONS,
                    },
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    },
}
"""What `POST /predict` takes, in the words of OpenAPI: the route reads its body itself."""

INFER: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "inputs": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": 1,
                            "items": {
                                "type": "object",
                                "required": ["name", "datatype", "shape", "data"],
                                "properties": {
                                    "name": {"const": "image"},
                                    "datatype": {"enum": ["UINT8", "FP32", "BYTES"]},
                                    "shape": {"type": "array", "items": {"type": "integer"}},
                                    "data": {"type": "array"},
                                },
                            },
                        },
                        "outputs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["name"],
                                "properties": {"name": {"enum": ["probabilities", "label"]}},
                            },
                        },
                    },
                }
            }
        },
    }
}
"""What `POST /v2/models/{name}/infer` takes."""
