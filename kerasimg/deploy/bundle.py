"""A bundle: a folder with an exported model and all that its numbers mean. It is opened without Keras and TensorFlow.

manifest.json     what it holds, with sizes and hashes, and how it compares with the trained model
classes.json      names of the classes, in the order of the outputs
preprocess.json   the spec's `image` section: how an image becomes the model's input
vectors/          images, the pixels that the reference decoder makes of them, the probabilities expected
README.md         code to use it
model files       float or integer pixels of 0-255 in, probabilities out
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from kerasimg.deploy import manifest as manifests
from kerasimg.deploy.manifest import BundleFile, Manifest, ModelFile
from kerasimg.errors import CallError, WeightsError, listed, nearest
from kerasimg.results import Result
from kerasimg.run_folder import CLASSES as CLASSES
from kerasimg.spec.document import Image, Task

PREPROCESS = "preprocess.json"
VECTORS = "vectors"
EXPECTED = "vectors/expected.json"
README = "README.md"


@dataclass(frozen=True)
class Vector:
    """A test image and what the trained model says of it."""

    name: str
    """Of the image in the data."""
    file: Path
    """The image, as it was in the data; of a data set without files, a PNG."""
    pixels: np.ndarray
    """What the reference decoder makes of it: (H, W, C) uint8, 0-255."""
    probabilities: np.ndarray
    """(K,) float32; binary: (1,), the probability of the second class."""


@dataclass(frozen=True, repr=False)
class Bundle(Result):
    """An exported model."""

    folder: Path
    manifest: Manifest
    classes: tuple[str, ...]
    """Names, in the order of the outputs; where the task is binary, the second is the one of the output."""
    image: Image
    """How an image becomes the model's input; `kerasimg.data.decode.decode` does it."""

    def _shown(self) -> dict[str, Any]:
        sizes = {model.path: self.model_bytes(model) for model in self.models}
        return {"folder": self.folder, "target": self.manifest.target, "classes": self.classes, "bytes": sizes}

    def to_dict(self) -> dict[str, Any]:
        """The folder and the manifest.

        Returns:
            Plain dicts, lists, strings and numbers.
        """
        return {"bundle": str(self.folder), **self.manifest.model_dump(mode="json")}

    @staticmethod
    def open(folder: str | os.PathLike[str], *, check: bool = True) -> Bundle:
        """The bundle in a folder.

        check: compare every file with its hash. WeightsError names each that is missing or was altered; CallError when
        the folder holds no bundle.
        """
        path = Path(folder)
        manifest = manifests.read(path / manifests.FILE)
        if check:
            faults = list(_altered(path, manifest.files))
            if faults:
                raise WeightsError("\n".join([*faults, "the bundle is not as it was exported; export it again"]))
        return Bundle(path, manifest, _classes(path, manifest), _image(path))

    @property
    def task(self) -> Task:
        """What the outputs mean."""
        return self.manifest.task

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """What a probability must exceed to be decided for (binary, multilabel); None: 0.5."""
        found = self.manifest.thresholds
        return None if found is None else tuple(found)

    @property
    def models(self) -> tuple[ModelFile, ...]:
        """The models, in the order in which they were asked for."""
        return tuple(self.manifest.models)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image's pixels: (H, W, C)."""
        return (self.image.size[0], self.image.size[1], self.image.channels)

    @property
    def outputs(self) -> int:
        """How many probabilities an image gets: one where the task is binary, else one for each class."""
        return 1 if self.task == "binary" else len(self.classes)

    def model(self, name: str | None = None) -> ModelFile:
        """The model of a path or a precision; the first where none is named."""
        if name is None:
            return self.models[0]
        for by in ("path", "precision"):
            for one in self.models:
                if getattr(one, by) == name:
                    return one
        known = [one.path for one in self.models]
        raise CallError(f"'{self.folder}' has no model '{name}'{nearest(name, known)} (it has: {listed(known)})")

    def model_path(self, model: ModelFile) -> Path:
        """Where a model's file, or folder, is."""
        return self.folder / model.path

    def model_bytes(self, model: ModelFile) -> int:
        """Size of a model, in all its files."""
        return sum(file.bytes for file in self.manifest.files if belongs(file.path, model))

    def vectors(self) -> list[Vector]:
        """The test images; CallError where they cannot be read."""
        return read_vectors(self.folder)


def read_vectors(folder: Path) -> list[Vector]:
    """The test images of a bundle's folder; CallError where they cannot be read."""
    try:
        rows = json.loads((folder / EXPECTED).read_text(encoding="utf-8"))["vectors"]
        return [
            Vector(
                row["name"],
                folder / VECTORS / row["file"],
                np.load(folder / VECTORS / row["pixels"], allow_pickle=False),
                np.asarray(row["probabilities"], dtype=np.float32),
            )
            for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CallError(f"'{folder / EXPECTED}': the test vectors cannot be read: {error}") from None


def belongs(path: str, model: ModelFile) -> bool:
    """Whether a file is part of a model: it, what stands below it, or the weights beside an .xml."""
    beside = model.path.removesuffix(".xml") + ".bin" if model.path.endswith(".xml") else None
    return path in (model.path, beside) or path.startswith(f"{model.path}/")


def list_files(folder: Path) -> list[BundleFile]:
    """Returns every file below a folder except the manifest, in order of path."""
    return [
        BundleFile(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=sha256(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / manifests.FILE
    ]


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _altered(folder: Path, files: list[BundleFile]) -> Iterator[str]:
    root = folder.resolve()
    for file in files:
        path = folder / file.path
        if not path.is_file():
            yield f"'{path}' is missing"
        elif not path.resolve().is_relative_to(root):
            yield f"'{path}' is a link that leads out of the bundle"
        elif path.stat().st_size != file.bytes:
            yield f"'{path}' has {path.stat().st_size:,} bytes, expected {file.bytes:,}"
        elif sha256(path) != file.sha256:
            yield f"'{path}' was altered: its SHA-256 is not the manifest's"


def _classes(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    names = _read_json(folder / CLASSES)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CallError(f"'{folder / CLASSES}': expected a list of names, found {type(names).__name__}")
    if len(names) != manifest.classes:
        raise CallError(f"'{folder / CLASSES}': expected {manifest.classes} names, found {len(names)}")
    return tuple(names)


def _image(folder: Path) -> Image:
    content = _read_json(folder / PREPROCESS)
    try:
        return Image.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise CallError(f"'{folder / PREPROCESS}': {place}: {first['msg'].lower()}") from None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CallError(f"'{path}' is missing; the bundle is not complete") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CallError(f"'{path}' cannot be read: {error}") from None
