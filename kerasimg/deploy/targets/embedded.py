"""Embedded: an int8 model as a C array, preprocessing in C, and a test program."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from kerasimg.deploy.bundle import Vector, read_vectors
from kerasimg.deploy.embedded.simulator import Simulator
from kerasimg.deploy.manifest import ModelFile, Precision
from kerasimg.deploy.runtimes import Runtime
from kerasimg.deploy.targets.litert import LiteRT
from kerasimg.errors import CallError, GateError, counted

if TYPE_CHECKING:
    from kerasimg.deploy.export_context import Exporting, Options

SIZES = "sizes.json"

MARGIN = 1.1
"""Safety factor for the measured arena size, which is then rounded up to kibibytes."""


class Sizes(NamedTuple):
    """Memory requirements of a model on a microcontroller."""

    model_bytes: int
    """Flash: the model and its class names, without the code of TensorFlow Lite Micro."""
    arena_measured_bytes: int
    """RAM: working memory with the reference kernels on a 64-bit machine, where pointers are twice as large."""
    arena_bytes: int
    """The same with a margin: the value of `KERASIMG_ARENA_BYTES`."""


class MicroRuntime(Runtime):
    """A .tflite file on tflite-micro in another process, with batch size 1; latencies do not apply to boards."""

    kind, parallel = "tflite-micro", False

    def __init__(self, path: Path, model: ModelFile, threads: int | None = None) -> None:
        super().__init__(path, model, threads)
        self._simulator = Simulator(path.read_bytes())
        self.name = self._simulator.name

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """As `Runtime.run`."""
        return np.stack([self._simulator(image) for image in pixels])

    def close(self) -> None:
        """Ends the process."""
        self._simulator.close()


class Embedded(LiteRT):
    """C sources with an int8 model, for TensorFlow Lite Micro."""

    name, about = "embedded", "C sources with an int8 model, for microcontrollers"
    runtime, file, batch = MicroRuntime, "model.tflite", 1
    precisions, integers_only = ("int8",), True
    packages, extra, measured = ("tflite_micro", *LiteRT.packages), "embedded", False
    snippets: ClassVar = {"C++": "embedded.cpp.j2"}
    files: ClassVar = {}

    def require(self) -> None:
        """As `Target.require`; on other systems than Linux on x86-64 nothing can be installed."""
        if self.missing() and (sys.platform, platform.machine()) != ("linux", "x86_64"):
            raise CallError("embedded needs tflite-micro, which exists for Linux on x86-64 only; export there")
        super().require()

    def fit(self, options: Options) -> Options:
        """As `Target.fit`; the input is int8, pixels minus 128, as microcontrollers compute in int8."""
        if options.batch not in (None, 1):
            raise CallError(f"a microcontroller model has batch size 1, got {options.batch}")
        if options.allow_flex:
            raise CallError("a microcontroller cannot run TensorFlow operations: remove --allow-flex")
        return super().fit(replace(options, input_dtype="int8"))

    def write(self, exporting: Exporting, folder: Path, precision: Precision) -> ModelFile:
        """As `Target.write`: `model.tflite`, `sizes.json`; in C or C++ the model, the preprocessing, a program.

        Raises:
            GateError: if the model does not fit `flash_bytes` or `arena_bytes`; gives the figures.
            CallError: if TensorFlow Lite Micro has no kernel for it, or is not installed.
        """
        from kerasimg.deploy import litert_file
        from kerasimg.deploy.embedded import sources

        content = self.content(exporting, precision)
        vectors = read_vectors(folder)
        sizes, probabilities, runtime = measure(content, exporting.classes, vectors)
        require(exporting, sizes)
        operations = litert_file.operations(content)
        texts = {
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
                    "in_floats": dict(litert_file.float_operations(content)),
                },
                indent=2,
            )
            + "\n",
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        (folder / self.file).write_bytes(content)
        return self.describe(self.file, precision, exporting)


def measure(content: bytes, classes: tuple[str, ...], vectors: list[Vector]) -> tuple[Sizes, np.ndarray, str]:
    """Measures the sizes of a model; returns them with its outputs (N, K) for the test vectors, and the runtime.

    The model runs once to measure, and again in an arena of the resulting size.
    """
    inputs = [as_int8(vector.pixels) for vector in vectors]
    with Simulator(content) as large:
        large(inputs[0])
        measured = large.arena_bytes()
    arena_bytes = -(-int(measured * MARGIN) // 1024) * 1024
    with Simulator(content, arena_bytes) as simulator:
        probabilities = np.stack([simulator(pixels) for pixels in inputs])
        runtime = simulator.name
    names = sum(len(name.encode()) + 1 for name in classes)
    return Sizes(len(content) + names, measured, arena_bytes), probabilities, runtime


def as_int8(pixels: np.ndarray) -> np.ndarray:
    """Converts uint8 pixels to int8 by subtracting 128."""
    return (pixels.astype(np.int16) - 128).astype(np.int8)


def require(exporting: Exporting, sizes: Sizes) -> None:
    """Raises a GateError if a model exceeds the size limits."""
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
        faults.append(
            f"the model has {counted(parameters, 'parameter')}; a smaller one, or a smaller image.size, takes less"
        )
        raise GateError("\n".join(f"{exporting.name}: {fault}" for fault in faults))
