"""TensorFlow's SavedModel, as TensorFlow Serving takes it: the endpoint `serving_default`, float32 pixels of 0-255."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kerasimg.deploy.manifest import ModelFile, Precision
from kerasimg.deploy.runtimes import Runtime, readable
from kerasimg.deploy.targets import Images, Target

if TYPE_CHECKING:
    import keras

    from kerasimg.deploy.export_context import Options

ENDPOINT = "serving_default"


class SavedModelRuntime(Runtime):
    """A SavedModel's endpoint `serving_default`; the number of threads is TensorFlow's own."""

    kind = "tensorflow"

    def __init__(self, path: Path, model: ModelFile, threads: int | None = None) -> None:
        super().__init__(path, model, threads)
        import tensorflow as tf

        self.name = f"tensorflow {tf.__version__}"
        with readable(path):
            self._loaded = tf.saved_model.load(str(path))
            self._answer = self._loaded.signatures[ENDPOINT]
            (self._input,) = self._answer.structured_input_signature[1]

    def run(self, pixels: np.ndarray) -> list[np.ndarray]:
        """As `Runtime.run`."""
        import tensorflow as tf

        outputs = self._answer(**{self._input: tf.convert_to_tensor(pixels)})
        if len(outputs) > 1:
            return [np.asarray(outputs[name]) for name in self.model.outputs]
        return [np.asarray(*outputs.values())]


class SavedModel(Target):
    """TensorFlow's own format."""

    name, about = "savedmodel", "TensorFlow's SavedModel, for TensorFlow Serving"
    runtime, file = SavedModelRuntime, "saved_model"
    p_values = ("float32",)
    snippets: ClassVar = {"Python": "savedmodel.py.j2"}
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
        """As `Target.convert`."""
        model.export(path, format="tf_saved_model", input_signature=signature, verbose=False)
