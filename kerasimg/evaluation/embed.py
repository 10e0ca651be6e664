"""`kerasimg.embed` and `kerasimg.similar`: the last features of images, and the images nearest to one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from kerasimg.data.decode import decode
from kerasimg.data.image_files import BadImage
from kerasimg.data.images import Images, named_images
from kerasimg.data.readable import OnBadImage, leave_out
from kerasimg.data.sources import Data
from kerasimg.errors import CallError, Fault, check_choice, needs
from kerasimg.evaluation.evaluate import choose_images, image_batches
from kerasimg.files import replacing
from kerasimg.models.classifier import Classifier, ClassifierReference
from kerasimg.results import Result, Results

BATCH_SIZE = 64
MAPPED = 400
"""Most images that the map of a report shows."""
SUFFIXES = (".npz", ".parquet")


@dataclass(frozen=True, repr=False, eq=False)
class Embeddings(Result):
    """Images and their features."""

    files: list[str]
    """The name of each image, as `predict` has it."""
    features: np.ndarray
    """(N, d) float32: what the last layer with weights takes, averaged over positions."""


@dataclass(frozen=True, repr=False)
class Neighbour(Result):
    """An image that is similar to another."""

    file: str
    """Its name in the data."""
    label: str | tuple[str, ...]
    similarity: float
    """The cosine of the angle between the features, less the mean of the data: 1 for equal directions."""


def embed(
    run: ClassifierReference,
    images: Images,
    *,
    out: str | os.PathLike[str] | None = None,
    on_bad_image: OnBadImage = "fail",
) -> Embeddings:
    """Compute the features of images: the values that the last layer with weights takes.

    Args:
        run: a `Run`, its folder, a `model.keras` or `.kerasimg` file, or a zoo spec that brings its weights.
        images: as for `kerasimg.predict`.
        out: a file to write them to: `.npz` (arrays `files` and `features`) or `.parquet` (columns `file` and
            `features`; needs pyarrow). None: they are only returned.
        on_bad_image: "fail" reports every unreadable image; "skip" leaves them out.

    Returns:
        The `Embeddings`.

    Raises:
        DataError: if an image cannot be read.
        CallError: if the model has no single last layer with weights, or `out` has another ending.

    Example:
        >>> kerasimg.embed("runs/photos-1", "photo.jpg").files
        ['photo.jpg']
    """
    path = None if out is None else Path(out)
    if path is not None and path.suffix not in SUFFIXES:
        raise CallError(f"out: expected a file that ends in {' or '.join(SUFFIXES)}, got '{path}'")
    check_choice("on_bad_image", on_bad_image, get_args(OnBadImage))
    classifier = Classifier.open(run)
    chosen = named_images(images, classifier.spec.image.channels)
    if not chosen:
        raise CallError("no images to embed")
    names: list[str] = []
    rows, faults = [], []
    for start in range(0, len(chosen), BATCH_SIZE):
        pixels = []
        for image in chosen[start : start + BATCH_SIZE]:
            try:
                pixels.append(decode(image.read(), classifier.spec.image))
                names.append(image.name)
            except BadImage as error:
                faults.append(Fault(image.name, "", error.reason))
        if pixels and (on_bad_image == "skip" or not faults):
            rows.append(classifier.values(np.stack(pixels).astype(np.float32)).required_features())
    leave_out(faults, len(chosen), on_bad_image)
    result = Embeddings(names, np.concatenate(rows))
    if path is not None:
        _write(path, result)
    return result


def similar(run: ClassifierReference, image: Images, count: int = 5, *, data: Data | None = None) -> Results[Neighbour]:
    """Find the labelled images that are most similar to an image, by the features of the model.

    Args:
        run: as for `embed`.
        image: one image, as for `kerasimg.predict`.
        count: number of images to return.
        data: the images to search. None: the training images of the run.

    Returns:
        A `Neighbour` for each, the most similar first.

    Raises:
        CallError: if `image` is not one image, or the model has no single last layer with weights.

    Example:
        >>> kerasimg.similar("runs/photos-1", "photo.jpg", 3)[0].label in ("cat", "dog")
        True
    """
    if count < 1:
        raise CallError(f"count: expected 1 or more, got {count}")
    classifier = Classifier.open(run)
    own = embed(classifier, image).features
    if len(own) != 1:
        raise CallError(f"expected one image, got {len(own)}")
    source, indices, _ = choose_images(classifier, data, "train" if data is None else "all")
    features = classifier.values(image_batches(classifier, source, indices)).required_features()
    best, cosines = most_similar(features, own[0], count)
    items = [source.items[index] for index in indices[best]]
    labels = [names[0] if len(names := tuple(item.labels)) == 1 else names for item in items]
    return Results(
        Neighbour(item.id, label, float(cosine)) for item, label, cosine in zip(items, labels, cosines, strict=True)
    )


def most_similar(features: np.ndarray, own: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The places of the rows of features (N, d) most similar to one (d,), the most similar first, and their cosines."""
    mean = features.mean(axis=0)
    cosines = directions(features - mean) @ directions(own - mean)
    best = np.argsort(-cosines, kind="stable")[:count]
    return best, cosines[best]


def directions(features: np.ndarray) -> np.ndarray:
    """Features of length 1."""
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12))


def _write(path: Path, result: Embeddings) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        if path.suffix == ".npz":
            with partial.open("wb") as file:
                np.savez(file, files=np.array(result.files), features=result.features)
            return
        with needs("parquet", "pyarrow"):
            import pyarrow as pa
            from pyarrow import parquet
        parquet.write_table(pa.table({"file": result.files, "features": list(result.features)}), partial)
