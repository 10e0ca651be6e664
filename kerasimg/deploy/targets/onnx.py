"""ONNX: one .onnx file, written by tf2onnx, checked by ONNX's own checker."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kerasimg.data.parallel import cores
from kerasimg.deploy.manifest import ModelFile, Precision
from kerasimg.deploy.runtimes import Runtime, readable
from kerasimg.deploy.targets import Images, Target
from kerasimg.errors import needs

if TYPE_CHECKING:
    import keras

    from kerasimg.deploy.export_context import Exporting, Options

OPSET = 18
"""Operator set; supported by ONNX Runtime 1.14 (2023) and later, and by its version for browsers."""


class OnnxRuntime(Runtime):
    """A .onnx file in ONNX Runtime, on the CPU."""

    kind, package = "onnx", "onnxruntime"

    def __init__(self, path: Path, model: ModelFile, threads: int | None = None) -> None:
        super().__init__(path, model, threads)
        with needs("onnx", "onnxruntime"):
            import onnxruntime
        self.name = f"onnxruntime {onnxruntime.__version__}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or cores()
        options.log_severity_level = 3
        # By default the threads wait in a loop for more work, and take the processors from whoever decodes images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with readable(path):
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            (self._input,) = (each.name for each in self._session.get_inputs())

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """As `Runtime.run`."""
        return self._session.run(None, {self._input: pixels})[0]


class Onnx(Target):
    """ONNX, for ONNX Runtime on any system."""

    name, about = "onnx", "an .onnx file, for ONNX Runtime"
    runtime, file = OnnxRuntime, "model.onnx"
    packages, extra = ("onnx", "tf2onnx", "onnxruntime"), "onnx"
    snippets: ClassVar = {"Python": "onnx.py.j2", "C++": "onnx.cpp.j2"}
    files: ClassVar = {"preprocess.py": "preprocess.py.j2"}

    def convert(
        self,
        model: keras.Model,
        signature: Sequence[Any],
        path: Path,
        precision: Precision,
        options: Options,
        images: Images,
    ) -> None:
        """As `Target.convert`; ONNX's checker and ONNX Runtime accept the file."""
        import onnx
        import onnxruntime

        from kerasimg.keras_internals import exportable_operations

        with exportable_operations():
            model.export(path, format="onnx", input_signature=signature, opset_version=OPSET, verbose=False)
        onnx.checker.check_model(onnx.load(path), full_check=True)
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def write(self, exporting: Exporting, folder: Path, precision: Precision) -> ModelFile:
        """As `Target.write`, with the names of the classes in the file's metadata."""
        import onnx

        described = super().write(exporting, folder, precision)
        model = onnx.load(folder / described.path)
        about = {"name": exporting.name, "task": exporting.task, "classes": json.dumps(exporting.classes)}
        onnx.helper.set_model_props(model, about)
        onnx.save(model, folder / described.path)
        return described
