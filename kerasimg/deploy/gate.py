"""Every model of a bundle, on its own runtime, against the model that was trained, from the image files on."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from kerasimg.data.image_files import read_image
from kerasimg.data.items import ImageInput
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.export_context import LOADED, Exporting, Images
from kerasimg.deploy.manifest import ModelFile, Parity
from kerasimg.deploy.parity import Asked, Asks, compare, latency, tolerance_of
from kerasimg.deploy.runtimes import NotHere, Runtime, open_runtime, stand_in


class Gated(NamedTuple):
    """What came of it."""

    rows: list[Parity]
    """One for each model that was compared."""
    left: dict[str, str]
    """Path of a model that was not -> why."""


def gate(exporting: Exporting, bundle: Bundle, asks: Asks = Asks()) -> Gated:  # noqa: B008 - it cannot be changed
    """Compare each model of the bundle with the trained one."""
    test = exporting.test
    if not exporting.compared:
        return Gated([], {model.path: "there are no test images; name some (--data)" for model in bundle.models})
    left: dict[str, str] = {}
    opened: list[tuple[ModelFile, Runtime]] = []
    try:
        for model in bundle.models:
            try:
                opened.append((model, open_runtime(bundle, stand_in(model) or model)))
            except NotHere as error:
                left[model.path] = str(error)
        runtimes = [runtime for _, runtime in opened]
        if test is not None and len(test):
            trained, found = _answers(exporting, test, runtimes)
            asked = Asked(test.names, trained, test.truth)
        else:
            asked, found = _of_vectors(exporting, runtimes)
        rows = [
            compare(
                bundle,
                model,
                asked,
                probabilities,
                tolerance_of(model, asks, len(asked.names)),
                runtime.name,
                latency(runtime, bundle.shape, model.batch),
            )
            for (model, runtime), probabilities in zip(opened, found, strict=True)
        ]
        return Gated(rows, left)
    finally:
        for _, runtime in opened:
            runtime.close()


def _of_vectors(exporting: Exporting, runtimes: list[Runtime]) -> tuple[Asked, list[np.ndarray]]:
    """What the trained model and each runtime say of the test vectors of a pack."""
    pixels = exporting.vectors
    if pixels is None:
        raise ValueError("no test vectors")
    trained = exporting.classifier.probabilities(pixels.astype(np.float32))
    files = [as_file(image) for image in pixels]
    found = [runtime.of_files(files) if runtime.reads_files else runtime(pixels) for runtime in runtimes]
    return Asked([f"vector {number}" for number in range(len(pixels))], trained, None), found


def _answers(exporting: Exporting, test: Images, runtimes: list[Runtime]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Of the trained model and of each runtime: (N, K) float32."""
    trained: list[np.ndarray] = []
    found: list[list[np.ndarray]] = [[] for _ in runtimes]
    files = any(runtime.reads_files for runtime in runtimes)
    for number, pixels in enumerate(test.batches(exporting.image)):
        trained.append(exporting.classifier.probabilities(pixels.astype(np.float32)))
        raw = list(_files(test, number * LOADED, len(pixels))) if files else []
        for made, runtime in zip(found, runtimes, strict=True):
            made.append(runtime.of_files(raw) if runtime.reads_files else runtime(pixels))
    return np.concatenate(trained), [np.concatenate(one) for one in found]


def _files(test: Images, start: int, count: int) -> Iterator[bytes]:
    """The contents of some of the images' files."""
    for index in test.indices[start : start + count]:
        yield as_file(test.source.columns.image(int(index)))


def as_file(image: ImageInput) -> bytes:
    """An image as the content of a file: its own, or of pixels a PNG."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, np.ndarray):
        png = io.BytesIO()
        read_image(image).save(png, "PNG")
        return png.getvalue()
    with open(image, "rb") as file:
        return file.read()
