"""What only TensorFlow or Keras runs: a SavedModel, model.keras.

Apart from the other runtimes, so that those are there without TensorFlow.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.manifest import ModelFile
from kerasimg.deploy.runtimes import Runtime, readable

ENDPOINT = "serving_default"


def open_tensorflow(bundle: Bundle, model: ModelFile, threads: int | None) -> Runtime:
    """A SavedModel."""
    return SavedModel(bundle, model)


class SavedModel(Runtime):
    """TensorFlow's SavedModel, its endpoint `serving_default`; threads are TensorFlow's own."""

    def __init__(self, bundle: Bundle, model: ModelFile) -> None:
        super().__init__(bundle, model)
        import tensorflow as tf

        self.name = f"tensorflow {tf.__version__}"
        with readable(bundle.model_path(model)):
            self._loaded = tf.saved_model.load(str(bundle.model_path(model)))
            self._answer = self._loaded.signatures[ENDPOINT]
            (self._input,) = self._answer.structured_input_signature[1]

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """As `Runtime.run`."""
        import tensorflow as tf

        (found,) = self._answer(**{self._input: tf.convert_to_tensor(pixels)}).values()
        return np.asarray(found)


class KerasModel(Runtime):
    """The run's model.keras, with what kerasimg knows of it; threads are the backend's own."""

    def __init__(self, bundle: Bundle, model: ModelFile) -> None:
        super().__init__(bundle, model)
        import keras

        from kerasimg.models.classifier import Classifier

        self.name = f"keras {keras.__version__} ({keras.backend.backend()})"
        path: Path = bundle.model_path(model)
        with readable(path):
            self._classifier = Classifier.open(path)

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """As `Runtime.run`."""
        return self._classifier.probabilities(pixels)


def open_keras(bundle: Bundle, model: ModelFile, threads: int | None) -> Runtime:
    """A model.keras file."""
    return KerasModel(bundle, model)
