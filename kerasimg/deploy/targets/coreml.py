"""Core ML: an .mlpackage for Apple's systems, written by coremltools on Linux or macOS, run on macOS."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kerasimg.deploy.manifest import ModelFile, Precision
from kerasimg.deploy.runtimes import NotHere, Runtime, readable
from kerasimg.deploy.targets import Images, Target
from kerasimg.errors import KerasimgError, needs
from kerasimg.files import to_json

if TYPE_CHECKING:
    import keras

    from kerasimg.deploy.export_context import Exporting, Options

INPUT = "pixels"
RECURSION_LIMIT = 5000
"""Python's recursion limit that coremltools needs."""


@contextmanager
def coremltools_with_its_limit() -> Iterator[Any]:
    """Yields coremltools, which sets the recursion limit of the whole process when it is imported; it is restored."""
    before = sys.getrecursionlimit()
    try:
        with needs("coreml", "coremltools"):
            import coremltools
        sys.setrecursionlimit(max(before, RECURSION_LIMIT))
        yield coremltools
    finally:
        sys.setrecursionlimit(before)


class CoreMLRuntime(Runtime):
    """An .mlpackage in Core ML, on macOS."""

    kind = "coreml"

    def __init__(self, path: Path, model: ModelFile, threads: int | None = None) -> None:
        super().__init__(path, model, threads)
        if sys.platform != "darwin":
            raise NotHere("Core ML only runs on macOS; run `kerasimg run verify` on the bundle there")
        self.name = f"coremltools {version('coremltools')}"
        with coremltools_with_its_limit() as coremltools, readable(path):
            self._model: Any = coremltools.models.MLModel(str(path))

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """As `Runtime.run`."""
        (outputs,) = self._model.predict({INPUT: pixels}).values()
        return np.asarray(outputs)


class CoreML(Target):
    """Core ML, for iOS 16, macOS 13 and later."""

    name, about = "coreml", "an .mlpackage, for Core ML on iPhones and Macs"
    runtime, file, batch = CoreMLRuntime, "model_{precision}.mlpackage", 1
    precisions = ("float32", "float16")
    packages, extra, measured = ("coremltools",), "coreml", False
    snippets: ClassVar = {"Swift": "coreml.swift.j2"}

    def convert(
        self,
        model: keras.Model,
        signature: Sequence[Any],
        path: Path,
        precision: Precision,
        options: Options,
        images: Images,
    ) -> None:
        """As `Target.convert`; float16 includes the arithmetic. The file is read back to check its inputs."""
        import tensorflow as tf

        from kerasimg.keras_internals import exportable_operations

        shapes = [(options.batch or 1, *tensor.shape[1:]) for tensor in model.inputs]
        names = [INPUT] if len(shapes) == 1 else [f"{INPUT}_{number}" for number in range(len(shapes))]
        specs = [tf.TensorSpec(shape, tf.float32, name) for shape, name in zip(shapes, names, strict=True)]

        def forward(*inputs: Any) -> Any:
            return model(inputs[0] if len(inputs) == 1 else list(inputs), training=False)

        with exportable_operations(), coremltools_with_its_limit() as coremltools:
            graph = tf.function(tf.autograph.experimental.do_not_convert(forward)).get_concrete_function(*specs)
            converted = coremltools.convert(
                [graph],
                source="tensorflow",
                convert_to="mlprogram",
                inputs=[
                    coremltools.TensorType(name=name, shape=shape) for name, shape in zip(names, shapes, strict=True)
                ],
                compute_precision=coremltools.precision.FLOAT16
                if precision == "float16"
                else coremltools.precision.FLOAT32,
                minimum_deployment_target=coremltools.target.iOS16,
                skip_model_load=True,
            )
            converted.save(str(path))
        written = input_shapes(path)
        if written != dict(zip(names, shapes, strict=True)):
            raise KerasimgError(f"coreml: expected inputs {dict(zip(names, shapes, strict=True))}, found {written}")

    def write(self, exporting: Exporting, folder: Path, precision: Precision) -> ModelFile:
        """As `Target.write`, with class names, preprocessing and thresholds in the package's metadata."""
        described = super().write(exporting, folder, precision)
        path = folder / described.path
        named = path.with_name(f"named_{path.name}")
        with coremltools_with_its_limit() as coremltools:
            model = coremltools.models.MLModel(str(path), skip_model_load=True)
            model.short_description = f"{exporting.name}: {', '.join(exporting.classes)}"
            for name, value in _metadata(exporting).items():
                model.user_defined_metadata[name] = value
            # The weights are read from the package during saving, so it is saved under another name first.
            model.save(str(named))
        shutil.rmtree(path)
        named.rename(path)
        return described


def _metadata(exporting: Exporting) -> dict[str, str]:
    """Returns what an app reads from `MLModel.modelDescription.metadata[.creatorDefinedKey]`: JSON texts by name."""
    image, thresholds = exporting.image.model_dump(mode="json"), exporting.classifier.thresholds
    about = {"name": exporting.name, "task": exporting.task, "image": image, "thresholds": thresholds}
    return {"classes": to_json(list(exporting.classes)), "kerasimg": to_json(about)}


def input_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Returns the name and the shape of each input of an .mlpackage."""
    with coremltools_with_its_limit() as coremltools:
        spec = coremltools.models.MLModel(str(path), skip_model_load=True).get_spec()
    return {each.name: tuple(each.type.multiArrayType.shape) for each in spec.description.input}
