"""Embedded: an int8 model as a C array, the preprocessing in C, and a program that proves the model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kerasimg.deploy import litert_file
from kerasimg.deploy.bundle import Vector, read_vectors
from kerasimg.deploy.embedded import sources
from kerasimg.deploy.embedded.simulator import Simulator
from kerasimg.deploy.export_context import Exporting
from kerasimg.deploy.manifest import ModelFile
from kerasimg.deploy.targets import litert
from kerasimg.errors import CallError, GateError

MODEL = "model.tflite"
SIZES = "sizes.json"

MARGIN = 1.1
"""The arena is stated so many times larger than measured, and then in whole kibibytes."""


class Sizes(NamedTuple):
    """What a model takes on a microcontroller."""

    model_bytes: int
    """In flash: the model and the names of its classes. TensorFlow Lite Micro's own code comes on top."""
    arena_measured_bytes: int
    """In RAM: the working memory, on the reference kernels of a 64-bit machine, whose pointers take twice the bytes."""
    arena_bytes: int
    """The same with a margin: what `KERASIMG_ARENA_BYTES` is."""


def write(exporting: Exporting, folder: Path) -> list[ModelFile]:
    """`model.tflite`, `sizes.json`; `model_data`, `preprocess`, `classes`, `test_vectors` and `main` in C or C++.

    The input is int8, the pixels less 128: what microcontrollers compute in.

    GateError with the figures where the model does not fit `flash_bytes` or `arena_bytes`; CallError where TensorFlow
    Lite Micro has no kernel for it, or is not installed.
    """
    if exporting.batch != 1:
        raise CallError(f"a microcontroller takes one image at a time: expected a batch of 1, got {exporting.batch}")
    if exporting.options.allow_flex:
        raise CallError("a microcontroller has none of TensorFlow's own operations: leave out --allow-flex")
    exporting = replace(exporting, options=replace(exporting.options, input_dtype="int8"))
    _, activation = exporting.logits
    content = litert_file.with_activation(litert.convert(exporting, "int8", 1), activation)
    vectors = read_vectors(folder)
    sizes, probabilities, runtime = measure(content, exporting.classes, vectors)
    require(exporting, sizes)
    operations = litert_file.operations(content)
    written = {
        "model_data.h": sources.model_data_h(content, sizes.arena_bytes, sizes.arena_measured_bytes),
        "model_data.cc": sources.model_data_cc(content),
        "preprocess.h": sources.preprocess_h(exporting.name, exporting.image),
        "preprocess.c": sources.preprocess_c(),
        "classes.h": sources.classes_h(exporting.classes, exporting.task, exporting.classifier.thresholds),
        "test_vectors.h": sources.vectors_h(len(vectors)),
        "test_vectors.cc": sources.vectors_cc(vectors, probabilities),
        "main.cc": sources.main_cc(exporting.name, operations),
        SIZES: json.dumps(
            {
                **sizes._asdict(),
                "measured_with": runtime,
                "operations": dict(operations),
                "in_floats": dict(litert_file.in_floats(content)),
            },
            indent=2,
        )
        + "\n",
    }
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / MODEL).write_bytes(content)
    return [ModelFile(path=MODEL, runtime="tflite-micro", precision="int8", input_dtype="int8", batch=1)]


def measure(content: bytes, classes: tuple[str, ...], vectors: list[Vector]) -> tuple[Sizes, np.ndarray, str]:
    """What a model takes, what it says of the test vectors (N, K), and on which runtime.

    It is run once to measure, and once more in the arena that is stated.
    """
    inputs = [as_int8(vector.pixels) for vector in vectors]
    with Simulator(content) as roomy:
        roomy(inputs[0])
        measured = roomy.arena_bytes()
    stated = -(-int(measured * MARGIN) // 1024) * 1024
    with Simulator(content, stated) as exact:
        probabilities = np.stack([exact(one) for one in inputs])
        runtime = exact.name
    names = sum(len(name.encode()) + 1 for name in classes)
    return Sizes(len(content) + names, measured, stated), probabilities, runtime


def as_int8(pixels: np.ndarray) -> np.ndarray:
    """uint8 pixels as the model takes them: int8, less 128."""
    return (pixels.astype(np.int16) - 128).astype(np.int8)


def require(exporting: Exporting, sizes: Sizes) -> None:
    """GateError where a model is larger than was allowed."""
    options = exporting.options
    faults = []
    if options.flash_bytes is not None and sizes.model_bytes > options.flash_bytes:
        faults.append(
            f"flash: the model and its class names take {sizes.model_bytes:,} bytes, "
            f"{options.flash_bytes:,} were allowed"
        )
    if options.arena_bytes is not None and sizes.arena_bytes > options.arena_bytes:
        faults.append(
            f"arena: it needs {sizes.arena_bytes:,} bytes ({sizes.arena_measured_bytes:,} measured, and a margin), "
            f"{options.arena_bytes:,} were allowed"
        )
    if faults:
        parameters = exporting.classifier.model.count_params()
        faults.append(f"the model has {parameters:,} parameters; a smaller one, or a smaller image.size, takes less")
        raise GateError("\n".join(f"{exporting.name}: {fault}" for fault in faults))
