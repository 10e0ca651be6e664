"""`kerasimg.verify`: does a bundle still give the right answers, on this machine? Without Keras and TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kerasimg import log
from kerasimg.data.decode import decode
from kerasimg.data.image_files import BadImage
from kerasimg.data.items import PART_NAMES, ManyFaults
from kerasimg.data.loading import Loader
from kerasimg.data.source import Source
from kerasimg.data.sources import Data, open_source
from kerasimg.deploy.bundle import Bundle, Vector
from kerasimg.deploy.manifest import ModelFile, Parity, Tolerance
from kerasimg.deploy.parity import Asked, Asks, accuracy, compare, latency, line_of, require, tolerance_of
from kerasimg.deploy.runtimes import Runtime
from kerasimg.deploy.targets import open_here
from kerasimg.errors import CallError, Fault, GateError
from kerasimg.evaluation.predictions import decide, read_predictions
from kerasimg.log import Verbose
from kerasimg.results import Result
from kerasimg.run_folder import RunFolder
from kerasimg.staleness import stale_bundle

LOADED = 64
"""Images that are decoded at a time."""

PIXEL_STEPS = 4
"""How far a pixel of a test image may be from the one that was expected: JPEG decoders may round otherwise."""


@dataclass(frozen=True, repr=False)
class Verified(Result):
    """What `verify` found."""

    bundle: Bundle
    pixels: int
    """Greatest difference of a pixel of the test images, as decoded here, in steps of 1/255."""
    vectors: list[Parity]
    """Each model on the bundle's own test images."""
    data: list[Parity]
    """Each model on other images, against what the trained model said of them; none where that is not known."""
    accuracy: dict[str, float]
    """Model -> share of those other images that it decides right."""


@log.applies_verbose
def verify(
    bundle: str | os.PathLike[str] | Bundle,
    *,
    data: Data | None = None,
    expected: str | os.PathLike[str] | None = None,
    tolerance: float | None = None,
    same: float | None = None,
    accuracy_drop: float | None = None,
    verbose: Verbose = 1,
) -> Verified:
    """Check that an exported bundle still gives the right answers on this machine, without Keras and TensorFlow.

    Args:
        bundle: a `Bundle` or its folder.
        data: labelled images to compare on besides the bundle's own; their test part, or all.
        expected: the predictions.csv of the trained model on `data`. None: that of the run that the bundle belongs to.
        tolerance: as for `kerasimg.export`; None: as exported.
        same: as for `kerasimg.export`; None: as exported.
        accuracy_drop: as for `kerasimg.export`; None: as exported.
        verbose: 0: silent. 1 or 2: messages.

    Returns:
        What was compared, as `Verified`.

    Raises:
        GateError: if a model, or the decoder of images, gives other answers.
        WeightsError: if a file was changed.
        CallError: if there is no bundle, or its runtime is not installed.

    Example:
        >>> [bundle] = kerasimg.export("runs/photos-1", "keras", verbose=0)
        >>> kerasimg.verify(bundle, verbose=0).pixels
        0
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    if stale := stale_bundle(opened.folder):
        raise GateError(str(stale))
    vectors = opened.vectors()
    pixels = _pixels(vectors, opened)
    source = None if data is None else _part(open_source(data, opened.task, classes=opened.classes))
    asked = None if source is None else _expected(opened, source, expected)
    found = Verified(opened, pixels, [], [], {})
    for model in opened.models:
        runtime = open_here(opened, model)
        try:
            _verify_one(found, model, runtime, vectors, (source, asked), Asks(tolerance, same, accuracy_drop))
        finally:
            runtime.close()
    require(opened.folder, [*found.vectors, *found.data])
    return found


def _verify_one(
    found: Verified,
    model: ModelFile,
    runtime: Runtime,
    vectors: list[Vector],
    others: tuple[Source | None, Asked | None],
    asks: Asks,
) -> None:
    """Add one model's rows to what was found."""
    bundle = found.bundle
    before = {row.path: row for row in bundle.manifest.parity}.get(model.path)
    took = latency(runtime, bundle.shape, model.batch)
    own = Asked([one.name for one in vectors], np.stack([one.probabilities for one in vectors]), None)
    tolerance = _tolerance(model, before, asks, len(vectors))
    found.vectors.append(compare(bundle, model, own, _of_vectors(runtime, vectors), tolerance, runtime.name, took))
    row = found.vectors[-1]
    log.info(f"{line_of(row)}; {row.p50_ms:.2f} ms (p95 {row.p95_ms:.2f}), {row.runtime}")
    source, asked = others
    if source is None:
        return
    answers = np.concatenate([runtime(batch) for batch in _batches(source, bundle)])
    right = accuracy(decide(answers, bundle.task, bundle.thresholds)[0], source.label_ids())
    found.accuracy[model.path] = float(right or 0)
    if asked is None:
        log.info(f"{model.path}: accuracy {right:.4f} on {len(source):,} images of {source.where}")
        return
    tolerance = _tolerance(model, before, asks, len(source))
    found.data.append(compare(bundle, model, asked, answers, tolerance, runtime.name, took))
    log.info(f"{source.where}: {line_of(found.data[-1])}")


def _tolerance(model: ModelFile, before: Parity | None, asks: Asks, images: int) -> Tolerance:
    """The caller's bounds, else those that the export was asked for, else the default for so many images."""
    if before is None or asks != Asks() or before.tolerance == tolerance_of(model, images=before.images):
        return tolerance_of(model, asks, images)
    return before.tolerance


def _of_vectors(runtime: Runtime, vectors: list[Vector]) -> np.ndarray:
    if runtime.reads_files:
        return runtime.of_files([one.file.read_bytes() for one in vectors])
    return runtime(np.stack([one.pixels for one in vectors]))


def _pixels(vectors: list[Vector], bundle: Bundle) -> int:
    """Greatest difference of a pixel, decoded here, from what it was; GateError where that is too much."""
    faults, greatest = [], 0
    for one in vectors:
        if one.pixels.shape != bundle.shape or one.pixels.dtype != np.uint8:
            found = f"{one.pixels.shape} {one.pixels.dtype}"
            raise CallError(f"'{one.file}': expected pixels {bundle.shape} uint8 beside it, found {found}")
        if one.probabilities.shape != (bundle.outputs,):
            raise CallError(f"'{one.file}': expected {bundle.outputs} probabilities, found {one.probabilities.size}")
        try:
            decoded = decode(str(one.file), bundle.image)
        except BadImage as error:
            raise ManyFaults([Fault(str(one.file), "", error.reason)]) from None
        steps = int(np.abs(decoded.astype(int) - one.pixels).max())
        greatest = max(greatest, steps)
        if steps > PIXEL_STEPS:
            faults.append(f"'{one.file}' is decoded otherwise here: a pixel differs by {steps}/255")
    if faults:
        raise GateError(
            "\n".join([*faults, f"expected {PIXEL_STEPS}/255 at most; another version of Pillow may be why"])
        )
    return greatest


def _part(source: Source) -> Source:
    """The test part, or all images where there is none."""
    test = np.flatnonzero(source.parts == PART_NAMES.index("test"))
    return source.only(test) if len(test) else source


def _expected(bundle: Bundle, source: Source, expected: str | os.PathLike[str] | None) -> Asked | None:
    """What the trained model said of these images."""
    own = RunFolder(bundle.folder.resolve().parent.parent).evaluation.predictions_file
    if expected is None and not own.is_file():
        return None
    path = Path(own if expected is None else expected)
    try:
        told = read_predictions(path, bundle.task)
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise CallError(f"'{path}' is not a predictions.csv of kerasimg: {error}") from None
    if tuple(told.classes) != bundle.classes:
        raise CallError(f"'{path}': its classes are not the bundle's")
    rows = dict(zip(told.ids, told.probabilities, strict=True))
    names = [item.id for item in source.items]
    missing = [name for name in names if name not in rows]
    if missing and expected is None:
        return None  # they are other images than the run's
    if missing:
        raise CallError(f"'{path}' says nothing of {len(missing):,} of the images, among them '{missing[0]}'")
    return Asked(names, np.stack([rows[name] for name in names]), source.label_ids())


def _batches(source: Source, bundle: Bundle) -> Iterator[np.ndarray]:
    loader: Any = Loader(source, np.arange(len(source)), bundle.image, None)
    for start in range(0, len(source), LOADED):
        yield loader.load(np.arange(start, min(start + LOADED, len(source))))
