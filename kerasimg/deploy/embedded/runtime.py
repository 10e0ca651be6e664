"""An embedded bundle's model, run as on a microcontroller: one image at a time, on the reference kernels."""

from __future__ import annotations

import numpy as np

from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.embedded.simulator import Simulator
from kerasimg.deploy.manifest import ModelFile
from kerasimg.deploy.runtimes import Runtime


class Micro(Runtime):
    """A .tflite file on tflite-micro, in another process. Its times say nothing of a microcontroller's."""

    parallel = False

    def __init__(self, bundle: Bundle, model: ModelFile, threads: int | None = None) -> None:
        super().__init__(bundle, model)
        self._simulator = Simulator(bundle.model_path(model).read_bytes())
        self.name = self._simulator.name

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """As `Runtime.run`."""
        return np.stack([self._simulator(one) for one in pixels])

    def close(self) -> None:
        """End the process."""
        self._simulator.close()
