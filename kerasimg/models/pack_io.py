"""A classifier as a pack, and a pack as a classifier: the model is built from its spec, and only numbers are read.

The numbers stand in the order in which Keras lists a model's weights, each with its path as a name for people. The same
spec gives the same order on every backend.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import PIL.Image

from kerasimg.boundary import limit, parse_json
from kerasimg.catalog import ZOO, find
from kerasimg.errors import CallError
from kerasimg.files import to_json
from kerasimg.models.backbones import specs_beside
from kerasimg.models.build import construct
from kerasimg.models.classifier import Classifier, check_facts
from kerasimg.models.weights import load_pack
from kerasimg.spec import pack
from kerasimg.spec.document import Image
from kerasimg.spec.formatting import dumps
from kerasimg.spec.inheritance import Found
from kerasimg.spec.load import load_file

PACKAGES = ("kerasimg", "keras")


def write(classifier: Classifier, path: Path, *, card: str = "", figures: Mapping[str, Any] | None = None) -> None:
    """Write a classifier as a pack.  card: its model card, Markdown.  figures: what it reached."""
    from safetensors.numpy import save

    spec = classifier.spec
    arrays = {_key(place, variable): _array(variable) for place, variable in enumerate(classifier.model.weights)}
    members = {pack.SPEC: dumps(spec.resolved).encode()}
    if beside := specs_beside(spec):
        members[pack.BESIDE] = to_json(beside).encode()
    if card:
        members[pack.CARD] = card.encode()
    if any(Path(inner.folder).is_relative_to(ZOO) for inner in spec.within.opened.values()):
        members[pack.NOTICE] = (ZOO / "NOTICE").read_bytes()
    members[pack.VECTORS] = _vectors(classifier)
    members[pack.WEIGHTS] = save(arrays, {"format": "keras"})
    facts = {
        "name": spec.name,
        "task": spec.task,
        "classes": list(classifier.classes),
        **classifier.identity(),
        "sets": None if classifier.sets is None else classifier.sets.model_dump(),
        "license": spec.card.license,
        "figures": dict(figures or {}),
        "versions": {name: version(name) for name in PACKAGES},
    }
    pack.write(path, facts, members)


def read(path: Path) -> Classifier:
    """The classifier in a pack; CallError when it is none, WeightsError when its parts do not go together."""
    opened = pack.Pack(path)
    spec = load_file(Found(pack.spec_file(path), str(path)), find)
    manifest = opened.manifest
    if manifest.task != spec.task:
        raise CallError(f"'{path}': {pack.MANIFEST}: task: '{manifest.task}', and its spec has '{spec.task}'")
    thresholds = None if manifest.thresholds is None else tuple(manifest.thresholds)
    model = construct(spec, weights=None).model
    load_pack(model, path)
    check_facts(f"'{path}': {pack.MANIFEST}", model, spec, tuple(manifest.classes), thresholds, manifest.sets)
    return Classifier(model, spec, tuple(manifest.classes), None, manifest.temperature, thresholds, manifest.sets)


class Vectors(NamedTuple):
    """Drawn images, and what the model answered where it was packed: no image of the author's is in a pack."""

    pixels: np.ndarray
    """(N, H, W, C) uint8, 0-255."""
    probabilities: np.ndarray
    """(N, K) float32."""


def vectors(path: Path) -> Vectors | None:
    """The test vectors in a pack; None in one that was written without."""
    opened = pack.Pack(path)
    if pack.VECTORS not in opened.manifest.files:
        return None
    spec = load_file(Found(pack.spec_file(path), str(path)), find)
    with opened.reading(pack.VECTORS):
        document = parse_json(opened.read(pack.VECTORS), most=limit("vectors_bytes"))
        rows, files = np.asarray(document["probabilities"], np.float32), document["images"]
        if not 0 < len(files) <= MOST_VECTORS or rows.ndim != 2 or len(rows) != len(files):
            raise ValueError(f"expected 1 to {MOST_VECTORS} images, and probabilities of each")
        if not np.isfinite(rows).all():
            raise ValueError("its probabilities are not all finite")
        return Vectors(np.stack([_pixels(text, spec.image) for text in files]), rows)


def drawn(number: int, height: int, width: int) -> PIL.Image.Image:
    """An image of smooth colours, the same for the same number."""
    coarse = np.random.default_rng(number).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    return PIL.Image.fromarray(coarse).resize((width, height), PIL.Image.Resampling.BICUBIC)


VECTORS, MOST_VECTORS = 5, 64


def _vectors(classifier: Classifier) -> bytes:
    image = classifier.spec.image
    height, width = image.size
    files, rows = [], []
    for number in range(VECTORS):
        img = drawn(number, height, _width(image)).convert("RGB" if image.channels == 3 else "L")
        file = io.BytesIO()
        img.save(file, "PNG")
        files.append(base64.b64encode(file.getvalue()).decode())
        rows.append(np.asarray(img, np.float32).reshape(height, width, image.channels))
    probabilities = classifier.probabilities(np.stack(rows)).astype(float).tolist()
    return json.dumps({"images": files, "probabilities": probabilities}).encode()


def _width(image: Image) -> int:
    """The width of the PNG of a test vector: more than three channels are stored as grey pixels, side by side."""
    return image.size[1] * (image.channels if image.channels > 3 else 1)


def _pixels(text: Any, image: Image) -> np.ndarray:
    with PIL.Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=("PNG",)) as opened:
        if [opened.height, opened.width] != [image.size[0], _width(image)]:
            raise ValueError(f"an image has {opened.height}x{opened.width} pixels, and the model takes {image.size}")
        return np.asarray(opened.convert("RGB" if image.channels == 3 else "L")).reshape(*image.size, image.channels)


def _key(place: int, variable: Any) -> str:
    return f"{place:05d} {variable.path}"


def _array(variable: Any) -> np.ndarray:
    array = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
    if array.dtype not in (np.float32, np.float16, np.float64, np.int32, np.int64, np.uint8, np.int8, np.bool_):
        raise CallError(f"{variable.path}: weights of type {array.dtype} cannot be packed")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise CallError(f"{variable.path}: its numbers are not all finite; such weights cannot be packed")
    return array
