"""`kerasimg.verify`: check the outputs of a bundle on this machine, without Keras and TensorFlow."""

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
from kerasimg.data.readable import list_others
from kerasimg.data.source import Source
from kerasimg.data.sources import Data, open_source
from kerasimg.data.split import content_hashes, count_trained, trained_words
from kerasimg.deploy.bundle import Bundle, Vector
from kerasimg.deploy.manifest import ModelFile, Parity, Tolerance
from kerasimg.deploy.parity import Bounds, Reference, accuracy, compare, latency, line_of, require, tolerance_of
from kerasimg.deploy.runtimes import Runtime
from kerasimg.deploy.targets import open_here
from kerasimg.errors import CallError, Fault, GateError, counted
from kerasimg.evaluation.predictions import decide, read_predictions
from kerasimg.log import Verbose
from kerasimg.results import Result, accuracy_key, figure_words
from kerasimg.staleness import run_of_bundle, stale_bundle

LOADED = 64
"""Number of images decoded per batch."""

PIXEL_STEPS = 4
"""Largest allowed difference of a pixel from its expected value: JPEG decoders round differently."""


@dataclass(frozen=True, repr=False)
class Verified(Result):
    """The result of `verify`."""

    bundle: Bundle
    pixels: int
    """Largest difference of a decoded pixel of the test vectors from its expected value, in steps of 1/255."""
    vectors: list[Parity]
    """Each model, compared on the bundle's test vectors."""
    data: list[Parity]
    """Each model, compared on `data` with the predictions of the trained model; empty if there are none."""
    accuracy: dict[str, float]
    """Model -> accuracy on `data`."""


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
    """Check that an exported bundle gives the expected outputs on this machine, without Keras and TensorFlow.

    Args:
        bundle: a `Bundle` or its folder.
        data: further labelled images to compare on; their test split, or all.
        expected: the predictions.csv of the trained model on `data`. None: that of the bundle's run.
        tolerance: as for `kerasimg.export`; None: as exported.
        same: as for `kerasimg.export`; None: as exported.
        accuracy_drop: as for `kerasimg.export`; None: as exported.
        verbose: 0: silent. 1 or 2: messages.

    Returns:
        The comparisons, as `Verified`.

    Raises:
        GateError: if a model or the image decoder gives other results.
        WeightsError: if a file has changed.
        CallError: if the folder is not a bundle, or its runtime is not installed.

    Example:
        >>> [bundle] = kerasimg.export("runs/photos-1", "keras", verbose=0)
        >>> kerasimg.verify(bundle, verbose=0).pixels
        0
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    if stale := stale_bundle(opened.folder):
        raise GateError(str(stale))
    vectors = opened.vectors()
    pixels = _compare_pixels(vectors, opened)
    source = None if data is None else _test_split(open_source(data, opened.task, classes=opened.classes))
    reference = None if source is None else _expected(opened, source, expected)
    if source is not None and reference is None:
        _warn_of_trained(opened, source)
    result = Verified(opened, pixels, [], [], {})
    for model in opened.models:
        runtime = open_here(opened, model)
        try:
            _verify_model(result, model, runtime, vectors, (source, reference), Bounds(tolerance, same, accuracy_drop))
        finally:
            runtime.close()
    require(opened, [*result.vectors, *result.data])
    return result


def _verify_model(
    result: Verified,
    model: ModelFile,
    runtime: Runtime,
    vectors: list[Vector],
    others: tuple[Source | None, Reference | None],
    bounds: Bounds,
) -> None:
    """Adds the comparisons of one model to the result."""
    bundle = result.bundle
    before = {row.path: row for row in bundle.manifest.parity}.get(model.path)
    times = latency(runtime, bundle.shape, model.batch)
    p_values = [vector.p_value for vector in vectors if vector.p_value is not None]
    expected = Reference(
        [vector.name for vector in vectors],
        np.stack([vector.probabilities for vector in vectors]),
        None,
        np.array(p_values, np.float32) if len(p_values) == len(vectors) else None,
    )
    tolerance = _tolerance(bundle, model, before, bounds, len(vectors))
    answer = runtime.split(_predict_vectors(runtime, vectors))
    result.vectors.append(
        compare(bundle, model, expected, answer.probabilities, tolerance, runtime.name, times, p_values=answer.p_values)
    )
    row = result.vectors[-1]
    log.info(f"{line_of(row, bundle.task)}; {row.p50_ms:.2f} ms (p95 {row.p95_ms:.2f}), {row.runtime}")
    source, reference = others
    if source is None:
        return
    try:
        answers = np.concatenate([runtime(batch) for batch in _batches(source, bundle)])
    except ManyFaults as error:
        raise ManyFaults([*error.faults, Fault("", "", list_others(source.where))]) from None
    share = accuracy(decide(answers, bundle.task, bundle.thresholds)[0], source.label_ids())
    result.accuracy[model.path] = float(share or 0)
    if reference is None:
        figure = figure_words(accuracy_key(bundle.task))
        log.info(f"{model.path}: {figure} {share:.4f} on {counted(len(source), 'image')} of {source.where}")
        return
    tolerance = _tolerance(bundle, model, before, bounds, len(source))
    result.data.append(compare(bundle, model, reference, answers, tolerance, runtime.name, times))
    log.info(f"{source.where}: {line_of(result.data[-1], bundle.task)}")


def _tolerance(bundle: Bundle, model: ModelFile, before: Parity | None, bounds: Bounds, images: int) -> Tolerance:
    """Returns the caller's bounds, or those of the export, or the defaults for the number of images."""
    known = bundle.manifest.known
    if (
        before is None
        or bounds != Bounds()
        or before.tolerance == tolerance_of(model, images=before.images, known=known)
    ):
        return tolerance_of(model, bounds, images, known)
    return before.tolerance


def _predict_vectors(runtime: Runtime, vectors: list[Vector]) -> np.ndarray:
    """Returns the rows of the runtime."""
    if runtime.reads_files:
        return runtime.of_files([vector.file.read_bytes() for vector in vectors])
    return runtime.rows(np.stack([vector.pixels for vector in vectors]))


def _compare_pixels(vectors: list[Vector], bundle: Bundle) -> int:
    """Returns the largest difference of a decoded pixel; raises GateError if it exceeds PIXEL_STEPS."""
    faults, greatest = [], 0
    for vector in vectors:
        if vector.pixels.shape != bundle.shape or vector.pixels.dtype != np.uint8:
            actual = f"{vector.pixels.shape} {vector.pixels.dtype}"
            raise CallError(f"'{vector.file}': expected pixels {bundle.shape} uint8 beside it, found {actual}")
        if vector.probabilities.shape != (bundle.outputs,):
            raise CallError(
                f"'{vector.file}': expected {bundle.outputs} probabilities, found {vector.probabilities.size}"
            )
        try:
            decoded = decode(str(vector.file), bundle.image)
        except BadImage as error:
            raise ManyFaults([Fault(str(vector.file), "", error.reason)]) from None
        steps = int(np.abs(decoded.astype(int) - vector.pixels).max())
        greatest = max(greatest, steps)
        if steps > PIXEL_STEPS:
            faults.append(f"'{vector.file}' decodes differently here: a pixel differs by {steps}/255")
    if faults:
        raise GateError(
            "\n".join([*faults, f"expected at most {PIXEL_STEPS}/255; a different version of Pillow may be the cause"])
        )
    return greatest


def _test_split(source: Source) -> Source:
    """Returns the test split, or all images if there is none."""
    test = np.flatnonzero(source.parts == PART_NAMES.index("test"))
    return source.only(test) if len(test) else source


def _warn_of_trained(bundle: Bundle, source: Source) -> None:
    """Warns if the images on which an accuracy is measured were trained on, or says that this is not known."""
    run = run_of_bundle(bundle.folder)
    recorded = None if run is None else run.data()
    if recorded is None:
        log.once("a bundle has no list of the images that its model was trained on: use others than those")
    elif count := count_trained(recorded, content_hashes(source, np.arange(len(source)))):
        log.warning(trained_words(count, len(source)))


def _expected(bundle: Bundle, source: Source, expected: str | os.PathLike[str] | None) -> Reference | None:
    """Returns the predictions of the trained model for these images; None if there are none."""
    run = run_of_bundle(bundle.folder)
    own = None if run is None else run.evaluation.predictions_file
    path = own if expected is None else Path(expected)
    if path is None or (expected is None and not path.is_file()):
        return None
    try:
        predictions = read_predictions(path, bundle.task)
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise CallError(f"'{path}' is not a predictions.csv of kerasimg: {error}") from None
    if tuple(predictions.classes) != bundle.classes:
        raise CallError(f"'{path}': its classes differ from the bundle's")
    rows = dict(zip(predictions.ids, predictions.probabilities, strict=True))
    names = [item.id for item in source.items]
    missing = [name for name in names if name not in rows]
    if missing and expected is None:
        return None  # these are not the run's images
    if missing:
        raise CallError(f"'{path}' has no predictions for {len(missing):,} of the images, for example '{missing[0]}'")
    return Reference(names, np.stack([rows[name] for name in names]), source.label_ids())


def _batches(source: Source, bundle: Bundle) -> Iterator[np.ndarray]:
    loader: Any = Loader(source, np.arange(len(source)), bundle.image, None)
    for start in range(0, len(source), LOADED):
        yield loader.load(np.arange(start, min(start + LOADED, len(source))))
