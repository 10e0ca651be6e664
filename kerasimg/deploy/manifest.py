"""What a bundle says of itself: `manifest.json`, a closed pydantic model that needs neither Keras nor TensorFlow."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from kerasimg.errors import CallError
from kerasimg.files import write_json
from kerasimg.spec.document import Task

FORMAT_VERSION = 1
FILE = "manifest.json"

Precision = Literal["float32", "float16", "dynamic", "int8"]
InputType = Literal["float32", "uint8", "int8"]

_PART = re.compile(r"[^\x00-\x1f\\/:*?\"<>|]+")


def _within(path: str) -> str:
    """A path that cannot lead out of the bundle, on any system."""
    parts = path.split("/")
    if not all(_PART.fullmatch(part) and part.strip(". ") for part in parts):
        raise ValueError("expected a path below the bundle's folder, with forward slashes")
    return path


PathWithin = Annotated[str, AfterValidator(_within)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Figure = Annotated[float, Field(ge=0)]


class Part(BaseModel):
    """What every part of a manifest is: closed and unchangeable."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class BundleFile(Part):
    """A file of the bundle."""

    path: PathWithin
    """Below the bundle's folder, with forward slashes."""
    bytes: Count
    """Its size."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of its content."""


class ModelFile(Part):
    """A model that the bundle holds: pixels of 0-255 in, probabilities out."""

    path: PathWithin
    """Of the file that the runtime opens; of a SavedModel, its folder."""
    runtime: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]
    """What runs it: the `kind` of a target's runtime, "litert"."""
    precision: Precision
    """Of the weights and the arithmetic. float16: weights. dynamic: weights int8, arithmetic as the runtime chooses.
    int8: both."""
    input_dtype: InputType
    """float32: 0-255 as numbers. uint8: the pixels as they are. int8: the pixels less 128."""
    batch: Annotated[int, Field(gt=0)] | None = None
    """Images that it takes at a time; null: any number."""


class Tolerance(Part):
    """How far an exported model may be from the one that was trained."""

    difference: Figure
    """Greatest difference of a probability, on any image."""
    decided: Share
    """Share of the images for which the same must be decided."""
    accuracy_drop: Share = 1.0
    """How much less accurate it may be, where that is known; 1: by anything."""


class Worst(Part):
    """An image on which an exported model is far from the one that was trained."""

    image: str
    """Its name in the data."""
    difference: Figure
    """Greatest difference of a probability."""
    before: str
    """What the trained model decides."""
    after: str
    """What the exported model decides."""


class Parity(Part):
    """How one exported model compares with the one that was trained, on the run's test images."""

    path: PathWithin
    """Of the model file."""
    passed: bool
    """Whether it is within the tolerance."""
    tolerance: Tolerance
    """What was asked."""
    images: Count
    """How many were compared, each from its file on."""
    greatest_difference: Figure | None
    """Of a probability; null where the model gave something that is no number."""
    mean_difference: Figure | None
    """Mean over the images of the greatest difference of a probability."""
    same_decision: Share
    """Share of the images for which the same was decided: the first class, the side of the threshold, all labels."""
    accuracy_before: Share | None = None
    """Of the trained model on these images; several labels: the share with all of them right."""
    accuracy_after: Share | None = None
    """Of the exported one."""
    p50_ms: Figure
    """Median time of one image, pixels to probabilities, in milliseconds, on the machine that exported."""
    p95_ms: Figure
    """What 95 % of the images stay below."""
    per_second: Figure
    """Images a second in batches of 32, or of the file's own size."""
    bytes: Count
    """Size of the model file, or files."""
    runtime: str
    """With its version: "ai-edge-litert 2.3.0"."""
    worst: list[Worst] = []
    """The images that differ most, the worst first."""


class Manifest(Part):
    """What a bundle holds and what it is known to do."""

    kerasimg_bundle: Literal[1] = 1
    """The version of the form."""
    name: str
    """Of the spec."""
    target: str
    """What it was exported for."""
    task: Task
    """What the outputs mean: shares of one, the probability of the second class, a probability for each label."""
    classes: Annotated[int, Field(gt=0)]
    """How many; their names stand in classes.json."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """At which the probabilities are told; it is inside the models already."""
    thresholds: list[float] | None = None
    """What a probability must exceed to be decided for: of the second class (binary) or of each label (multilabel).
    null: 0.5."""
    model: dict[str, Any] | None = None
    """Which model was exported: a hash of its weights, its temperature and its thresholds. null: not known."""
    run: Annotated[str, Field(max_length=4096)] | None = None
    """The path from the bundle's folder to the folder of its run, where the bundle was written. null: not known."""
    models: Annotated[list[ModelFile], Field(min_length=1)]
    """In the order in which they were asked for; the first is taken where none is named."""
    files: list[BundleFile]
    """Every file but this one."""
    spec: dict[str, Any] = {}
    """The spec, resolved."""
    versions: dict[str, str] = {}
    """Package -> the version that exported."""
    parity: list[Parity] = []
    """One row for each model that was compared; none where the run has no images to compare on."""
    notes: dict[str, Any] = {}
    """What a target has to tell besides."""
    created: str
    """When, ISO 8601."""


def read(path: Path) -> Manifest:
    """The manifest in a file; CallError says what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CallError(f"'{path.parent}' is not a bundle: it holds no {FILE}; `kerasimg export` writes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CallError(f"'{path}' cannot be read: {error}") from None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CallError(f"'{path}' is not JSON: {error}") from None
    version = content.get("kerasimg_bundle") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise CallError(
            f"'{path}': kerasimg_bundle: expected {FORMAT_VERSION}, found {version!r}; "
            "the bundle was written by another version of kerasimg, or is none"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise CallError("\n".join(_faults(path, error))) from None


def write(path: Path, manifest: Manifest) -> None:
    """Write a manifest, whole or not at all."""
    write_json(path, manifest.model_dump(mode="json"))


def _faults(path: Path, error: ValidationError) -> list[str]:
    return [
        f"'{path}': {'.'.join(map(str, fault['loc']))}: {fault['msg'].lower()}, found {str(fault['input'])[:80]!r}"
        for fault in error.errors(include_url=False)[:20]
    ]
