"""OpenVINO: an .xml file with its weights in a .bin file beside it, read from TensorFlow's SavedModel."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kerasimg.data.parallel import cores
from kerasimg.deploy.manifest import ModelFile, Precision
from kerasimg.deploy.runtimes import Runtime, readable
from kerasimg.deploy.targets import Images, Target
from kerasimg.errors import needs

if TYPE_CHECKING:
    import keras

    from kerasimg.deploy.export_context import Options


class OpenVINORuntime(Runtime):
    """An .xml file, with its .bin beside it, in OpenVINO, on the CPU."""

    kind, package = "openvino", "openvino"

    def __init__(self, path: Path, model: ModelFile, threads: int | None = None) -> None:
        super().__init__(path, model, threads)
        with needs("openvino", "openvino"):
            import openvino
        self.name = f"openvino {version('openvino')}"
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            # The default is bfloat16 on processors that support it, which differs by about 0.01.
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads or cores(),
        }
        with readable(path):
            self._compiled = openvino.Core().compile_model(str(path), "CPU", settings)
        self._requests = threading.local()

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """As `Runtime.run`."""
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        outputs = self._requests.own.infer([pixels], share_inputs=True)
        return np.array(outputs[self._compiled.output(0)])


class OpenVINO(Target):
    """OpenVINO, for processors of Intel and others."""

    name, about = "openvino", "an .xml and a .bin file, for OpenVINO"
    runtime, file = OpenVINORuntime, "model_{precision}.xml"
    precisions = ("float32", "float16")
    packages, extra = ("openvino",), "openvino"
    snippets: ClassVar = {"Python": "openvino.py.j2", "C++": "openvino.cpp.j2"}
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
        """As `Target.convert`; float16 applies to the weights. OpenVINO's CPU plugin compiles the model."""
        import openvino

        from kerasimg.keras_internals import exportable_operations

        with TemporaryDirectory() as scratch:
            with exportable_operations():
                model.export(scratch, format="tf_saved_model", input_signature=signature, verbose=False)
            # `openvino.convert_model` reads the same, but first reports to its makers over the network, for seconds.
            converted = openvino.Core().read_model(scratch)
            sizes = [[options.batch or -1, *tensor.shape[1:]] for tensor in model.inputs]
            if len(sizes) == 1:
                converted.reshape(sizes[0])
            openvino.Core().compile_model(converted, "CPU")
            openvino.save_model(converted, path, compress_to_fp16=precision == "float16")
