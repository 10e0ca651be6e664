"""Export bundles: a folder with a model and its metadata, opened without Keras and TensorFlow.

manifest.json     contents with sizes and hashes, and the comparison with the trained model
classes.json      class names, in the order of the outputs
preprocess.json   the spec's `image` section: how an image becomes the model's input
vectors/          test images, their pixels from the reference decoder, and the expected probabilities
README.md         code that runs the model
model files       input: float or integer pixels, 0-255; output: probabilities
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from kerasimg.deploy import manifest as manifests
from kerasimg.deploy.manifest import BundleFile, Manifest, ModelFile
from kerasimg.errors import CallError, WeightsError, counted, listed, nearest
from kerasimg.results import Result
from kerasimg.run_folder import CLASSES as CLASSES
from kerasimg.spec.document import Image, Task

PREPROCESS = "preprocess.json"
VECTORS = "vectors"
EXPECTED = "vectors/expected.json"
README = "README.md"
PAGE = "demo.html"
"""Of a web bundle: the page with everything in it."""


@dataclass(frozen=True)
class Vector:
    """A test image with its pixels and the probabilities from the trained model."""

    name: str
    """The image's name in the data."""
    file: Path
    """The original image file; a PNG if the data set has no files."""
    pixels: np.ndarray
    """Pixels from the reference decoder: (H, W, C) uint8, 0-255."""
    probabilities: np.ndarray
    """(K,) float32; binary: (1,), the probability of the second class."""
    p_value: float | None = None
    """From the rule that finds unknown images; None without a rule."""


@dataclass(frozen=True, repr=False)
class Bundle(Result):
    """An exported model."""

    folder: Path
    manifest: Manifest
    classes: tuple[str, ...]
    """Class names, in the order of the outputs; a binary model outputs the probability of the second."""
    image: Image
    """The preprocessing, which `kerasimg.data.decode.decode` applies."""

    def _shown(self) -> dict[str, Any]:
        sizes = {model.path: self.model_bytes(model) for model in self.models}
        return {"folder": self.folder, "target": self.manifest.target, "classes": self.classes, "bytes": sizes}

    def to_dict(self) -> dict[str, Any]:
        """Returns the folder and the manifest as plain dicts, lists, strings and numbers."""
        return {"bundle": str(self.folder), **self.manifest.model_dump(mode="json")}

    @staticmethod
    def open(folder: str | os.PathLike[str], *, check: bool = True) -> Bundle:
        """Opens the bundle in a folder.

        Args:
            folder: the bundle's folder.
            check: compare every file with its hash.

        Raises:
            CallError: if the folder is not a bundle.
            WeightsError: if files are missing or changed; names each.
        """
        path = Path(folder)
        manifest = manifests.read(path / manifests.FILE)
        if check:
            faults = list(_changed_files(path, manifest.files))
            if faults:
                raise WeightsError("\n".join([*faults, "the bundle has changed since its export; export it again"]))
        return Bundle(path, manifest, _classes(path, manifest), _image(path))

    @property
    def task(self) -> Task:
        """The task, which defines the meaning of the outputs."""
        return self.manifest.task

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """Decision thresholds (binary, multilabel); None: 0.5."""
        thresholds = self.manifest.thresholds
        return None if thresholds is None else tuple(thresholds)

    @property
    def models(self) -> tuple[ModelFile, ...]:
        """The models, in the order of the requested precisions."""
        return tuple(self.manifest.models)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the pixels of one image: (H, W, C)."""
        return (self.image.size[0], self.image.size[1], self.image.channels)

    @property
    def outputs(self) -> int:
        """Number of probabilities per image: one for a binary task, otherwise one per class."""
        return 1 if self.task == "binary" else len(self.classes)

    def model(self, name: str | None = None) -> ModelFile:
        """Returns the model with a path or a precision; the first if `name` is None.

        Raises:
            CallError: if there is no such model.
        """
        if name is None:
            return self.models[0]
        for key in ("path", "precision"):
            for model in self.models:
                if getattr(model, key) == name:
                    return model
        known = [model.path for model in self.models]
        raise CallError(f"'{self.folder}' has no model '{name}'{nearest(name, known)} (available: {listed(known)})")

    def model_path(self, model: ModelFile) -> Path:
        """Returns the path of a model's file or folder."""
        return self.folder / model.path

    def model_bytes(self, model: ModelFile) -> int:
        """Returns the total size of a model's files."""
        return sum(file.bytes for file in self.manifest.files if belongs(file.path, model))

    def copy_model(self, model: ModelFile, folder: Path) -> Bundle:
        """Copies the files of a model to a folder and returns the bundle as if it were there.

        Raises:
            WeightsError: if a file is missing or has changed since the bundle was written; names each.
        """
        files = [file for file in self.manifest.files if belongs(file.path, model)]
        for file in files:
            with suppress(FileNotFoundError):
                (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.folder / file.path, folder / file.path)
        if faults := list(_changed_files(folder, files)):
            raise WeightsError("\n".join([*faults, f"'{self.folder}' has changed while it was read"]))
        return replace(self, folder=folder)

    def vectors(self) -> list[Vector]:
        """Returns the test vectors; raises CallError if they cannot be read."""
        return read_vectors(self.folder)


def read_vectors(folder: Path) -> list[Vector]:
    """Returns the test vectors in a bundle's folder; raises CallError if they cannot be read."""
    try:
        rows = json.loads((folder / EXPECTED).read_text(encoding="utf-8"))["vectors"]
        return [
            Vector(
                row["name"],
                folder / VECTORS / row["file"],
                np.load(folder / VECTORS / row["pixels"], allow_pickle=False),
                np.asarray(row["probabilities"], dtype=np.float32),
                None if row.get("p_value") is None else float(row["p_value"]),
            )
            for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CallError(f"'{folder / EXPECTED}': the test vectors cannot be read: {error}") from None


def belongs(path: str, model: ModelFile) -> bool:
    """Returns whether a file is part of a model: itself, a file in its folder, or the weights of an .xml or .param."""
    name, _, suffix = model.path.rpartition(".")
    weights = f"{name}.bin" if suffix in ("xml", "param") else None
    return path in (model.path, weights) or path.startswith(f"{model.path}/")


def list_files(folder: Path) -> list[BundleFile]:
    """Returns every file below a folder except the manifest, in order of path."""
    return [
        BundleFile(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=sha256(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / manifests.FILE
    ]


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def changed_files(bundle: Bundle, model: ModelFile) -> list[str]:
    """Returns a sentence for each file of a model that is missing or has changed."""
    return list(_changed_files(bundle.folder, [file for file in bundle.manifest.files if belongs(file.path, model)]))


def _changed_files(folder: Path, files: list[BundleFile]) -> Iterator[str]:
    root = folder.resolve()
    for file in files:
        path = folder / file.path
        if not path.is_file():
            yield f"'{path}' is missing"
        elif not path.resolve().is_relative_to(root):
            yield f"'{path}' is a link to a place outside the bundle"
        elif path.stat().st_size != file.bytes:
            yield f"'{path}' has {path.stat().st_size:,} bytes, expected {file.bytes:,}"
        elif sha256(path) != file.sha256:
            yield f"'{path}' has changed: its SHA-256 is not the one in the manifest"


def _classes(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    names = _read_json(folder / CLASSES)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CallError(f"'{folder / CLASSES}': expected a list of names, found {type(names).__name__}")
    if len(names) != manifest.classes:
        raise CallError(f"'{folder / CLASSES}': expected {counted(manifest.classes, 'name')}, found {len(names)}")
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
        raise CallError(f"'{path}' is missing; the bundle is incomplete") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CallError(f"'{path}' cannot be read: {error}") from None
