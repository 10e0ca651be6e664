"""The manifest of a bundle, `manifest.json`, as a pydantic model without unknown fields, Keras or TensorFlow."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from kerasimg.errors import CallError, listed
from kerasimg.files import write_json
from kerasimg.spec.document import Task
from kerasimg.spec.pack import Digest, KnownRule, SetRule
from kerasimg.staleness import bundles

FORMAT_VERSION = 1
FILE = "manifest.json"

Precision = Literal["float32", "float16", "int16", "dynamic", "int8", "int4"]
InputType = Literal["float32", "uint8", "int8"]
Output = Literal["probabilities", "p_value", "features"]

OUTPUTS: Final[tuple[Output, ...]] = get_args(Output)
"""The outputs of a model, in the order in which a file has them."""

_PART = re.compile(r"[^\x00-\x1f\\/:*?\"<>|]+")


def _within(path: str) -> str:
    """Checks that a path stays inside the bundle on every operating system."""
    parts = path.split("/")
    if not all(_PART.fullmatch(part) and part.strip(". ") for part in parts):
        raise ValueError("expected a path below the bundle's folder, with forward slashes")
    return path


PathWithin = Annotated[str, AfterValidator(_within)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Figure = Annotated[float, Field(ge=0)]


class Part(BaseModel):
    """Base class: immutable, unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class BundleFile(Part):
    """A file of the bundle."""

    path: PathWithin
    """Path relative to the bundle's folder, with forward slashes."""
    bytes: Count
    """Size of the file."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the content."""


class ModelFile(Part):
    """A model in the bundle: takes pixels, 0-255, and returns probabilities."""

    path: PathWithin
    """Path of the file that the runtime opens; for a SavedModel, of its folder."""
    runtime: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]
    """Kind of the runtime, such as "litert"."""
    precision: Precision
    """Numeric precision. float16: of the weights. dynamic: int8 weights, arithmetic as the runtime chooses. int8: of
    weights and arithmetic. int16: int8 weights, arithmetic in int16. int4: weights, of which some stay in int8 or
    float32."""
    input_dtype: InputType
    """Input type. float32 and uint8: pixels 0-255. int8: pixels minus 128."""
    batch: Annotated[int, Field(gt=0)] | None = None
    """Fixed batch size; null: any."""
    outputs: Annotated[list[Output], Field(min_length=1, max_length=3)] = ["probabilities"]
    """Names of the outputs, in their order in the file. "p_value", (N, 1): how usual an image is among images like the
    training images. "features", (N, D): what a page learns new classes by."""


class KnownOutput(Part):
    """The rule by which models with an output "p_value" find images that are unlike the training images."""

    rule: KnownRule
    """An image with a p-value up to `rule.share` is unknown."""
    images: Annotated[int, Field(gt=0)]
    """Number n of images that set the limit; p-values are multiples of 1 / (n + 1)."""
    sha256: Digest
    """SHA-256 of the arrays of the rule, by which a run knows the rule as its own."""

    @property
    def step(self) -> float:
        """The smallest difference of two p-values."""
        return 1 / (self.images + 1)


class Tolerance(Part):
    """The bounds for the difference between an exported and the trained model."""

    difference: Figure
    """Largest allowed difference of a probability on any image."""
    decided: Share
    """Minimum share of images with the same decision."""
    accuracy_drop: Share = 1.0
    """Largest allowed loss of accuracy, if labels are known; 1: any."""
    p_value: Share = 1.0
    """Largest allowed difference of a p-value; 1: any."""


class Worst(Part):
    """An image on which an exported model differs most from the trained model."""

    image: str
    """The image's name in the data."""
    difference: Figure
    """Largest difference of a probability."""
    before: str
    """Decision of the trained model."""
    after: str
    """Decision of the exported model."""


class Parity(Part):
    """The comparison of an exported model with the trained model on the run's test images."""

    path: PathWithin
    """Path of the model file."""
    passed: bool
    """Whether it is within the tolerance."""
    tolerance: Tolerance
    """The required bounds."""
    images: Count
    """Number of images compared, each decoded from its file."""
    greatest_difference: Figure | None
    """Largest difference of a probability; null if some are NaN or infinite."""
    mean_difference: Figure | None
    """Mean over the images of the largest difference of a probability."""
    same_decision: Share
    """Share of images with the same decision: top class, side of the threshold, or all labels."""
    accuracy_before: Share | None = None
    """Accuracy of the trained model on these images; multilabel: share with all labels correct."""
    accuracy_after: Share | None = None
    """Accuracy of the exported model."""
    p_value_difference: Share | None = None
    """Largest difference of a p-value; null if the model gives none."""
    same_known: Share | None = None
    """Share of images that both models call known, or both unknown; null if the model gives no p-values."""
    p50_ms: Figure
    """Median latency of one image, pixels to probabilities, in milliseconds, on the exporting machine."""
    p95_ms: Figure
    """95th percentile of that latency."""
    per_second: Figure
    """Images per second in batches of 32, or of the fixed batch size."""
    bytes: Count
    """Total size of the model's files."""
    runtime: str
    """Runtime with version, such as "ai-edge-litert 2.3.0"."""
    worst: list[Worst] = []
    """The images with the largest differences, worst first."""


class Manifest(Part):
    """The contents of a bundle and its comparison with the trained model."""

    kerasimg_bundle: Literal[1] = 1
    """Format version."""
    name: str
    """Name of the spec."""
    target: str
    """Name of the export target."""
    task: Task
    """Meaning of the outputs: class probabilities, the probability of the second class, or one per label."""
    classes: Annotated[int, Field(gt=0)]
    """Number of classes; classes.json has their names."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature of the probabilities; the models include it."""
    thresholds: list[float] | None = None
    """Decision thresholds, for the second class (binary) or each label (multilabel). null: 0.5."""
    flips: bool = False
    """Whether the probabilities are averaged over an image and its mirror image; the models include it."""
    sets: SetRule | None = None
    """Rule of prediction sets. null: there is none."""
    known: KnownOutput | None = None
    """Rule of the p-values that models with this output give. null: there is none."""
    model: dict[str, Any] | None = None
    """Identity of the exported model: hash of its weights, temperature, thresholds, flips. null: unknown."""
    run: Annotated[str, Field(max_length=4096)] | None = None
    """Relative path from the bundle's folder to its run's folder at the time of export. null: unknown."""
    models: Annotated[list[ModelFile], Field(min_length=1)]
    """The models, in the requested order; the first is the default."""
    files: list[BundleFile]
    """Every file except this one."""
    spec: dict[str, Any] = {}
    """The resolved spec."""
    versions: dict[str, str] = {}
    """Package -> version at the time of export."""
    parity: list[Parity] = []
    """One row per compared model; empty if there were no images to compare on."""
    notes: dict[str, Any] = {}
    """Further information, by target."""
    created: str
    """Time of the export, ISO 8601."""


def read(path: Path) -> Manifest:
    """Reads a manifest; raises CallError if it is missing or invalid."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        below = [f"'{folder}'" for folder in bundles(path.parent)]
        advice = f"these are: {listed(below)}" if below else "`kerasimg export` writes bundles"
        raise CallError(f"'{path.parent}' is not a bundle: it has no {FILE}; {advice}") from None
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
            "another version of kerasimg wrote the bundle, or it is not a bundle"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise CallError("\n".join(_faults(path, error))) from None


def write(path: Path, manifest: Manifest) -> None:
    """Writes a manifest atomically."""
    write_json(path, manifest.model_dump(mode="json"))


def _faults(path: Path, error: ValidationError) -> list[str]:
    return [
        f"'{path}': {'.'.join(map(str, fault['loc']))}: {fault['msg'].lower()}, found {str(fault['input'])[:80]!r}"
        for fault in error.errors(include_url=False)[:20]
    ]
