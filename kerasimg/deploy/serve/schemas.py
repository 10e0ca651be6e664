"""Request and response schemas for `/openapi.json`; responses are not validated against them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Schema(BaseModel):
    """A schema whose fields are described by the docstrings below them."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class ModelName(Schema):
    """The model that answered."""

    name: str
    version: str
    """The first 12 digits of the model file's SHA-256."""


class ClassProbability(Schema):
    """A class and its probability."""

    name: str
    probability: float
    threshold: float | None = None
    """Multilabel: the decision threshold."""
    holds: bool | None = None
    """Multilabel: whether the probability exceeds it."""


class Explanation(Schema):
    """Where the model sees the class."""

    method: str
    """occlusion: how much the probability falls if a square of the image is hidden."""
    class_: str = Field(alias="class")
    fall: float
    """The largest fall of the probability; 0 or less: no part alone supports the class."""
    note: str
    """How to read the map."""
    overlay: str
    """A PNG as a data: URL: the map over the model's input in grey."""


class Prediction(Schema):
    """The prediction for an image."""

    id: str
    """File name of the image, its id in the request, or its index: "[3]"."""
    label: str | None = None
    """The predicted class; absent for multilabel models."""
    labels: list[str] | None = None
    """Multilabel: the predicted labels, most likely first."""
    confidence: float
    """Probability of the decision; multilabel: of the least certain decision."""
    set: list[str] | None = None
    """The prediction set, most likely first; absent if the bundle has no rule for one."""
    known: bool | None = None
    """Whether the image is like the training images; absent if the model does not say."""
    p_value: float | None = None
    """The share of images like the training images that are at least as unlike them as this one."""
    classes: list[ClassProbability]
    """The most likely classes, as many as requested."""
    explanation: Explanation | None = None
    """Present if requested."""


class Answer(Schema):
    """Response of `POST /predict`."""

    id: str
    """X-Request-ID of the request, or a new id."""
    model: ModelName
    predictions: list[Prediction]


class Fault(Schema):
    """Why a request was refused."""

    reason: str
    """One word, as in the metric kerasimg_refused_total."""
    message: str
    id: str


class Refusal(Schema):
    """Error response of all routes except those below /v2."""

    error: Fault


class ProtocolRefusal(Schema):
    """Error response of the routes below /v2."""

    error: str


class ServerState(Schema):
    """Response of a health route; it has one of the fields."""

    live: bool | None = None
    ready: bool | None = None


class ModelState(Schema):
    """Response of `GET /v2/models/{name}/ready`."""

    name: str
    ready: bool


class Tensor(Schema):
    """A tensor in JSON, in row-major order."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any]


class TensorMetadata(Schema):
    """An input or output of the model."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None


class ModelMetadata(Schema):
    """Response of `GET /v2/models/{name}`."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, Any] | None = None


class InferAnswer(Schema):
    """Response of `POST /v2/models/{name}/infer`."""

    model_name: str
    model_version: str
    id: str
    outputs: list[Tensor]


_OPTIONS: dict[str, Any] = {
    "top": {"type": "integer", "minimum": 1, "description": "Number of classes to list."},
    "explain": {"type": "boolean", "description": "Return a map of where the model sees the class; for one image."},
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
"""OpenAPI description of `POST /predict`, whose body the route parses itself."""

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
                                "properties": {"name": {"enum": ["probabilities", "label", "known", "p_value"]}},
                            },
                        },
                    },
                }
            }
        },
    }
}
"""OpenAPI description of `POST /v2/models/{name}/infer`."""
