"""The runtime interface: takes uint8 pixels, returns float32 probabilities. Each target has its own `Runtime`."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.manifest import ModelFile
from kerasimg.errors import CallError, WeightsError
from kerasimg.models.keras_file import Answer


class NotHere(CallError):
    """The model is valid, but this machine cannot run it."""


class Runtime(ABC):
    """An exported model that can be called from any number of threads.

    Args:
        path: the model's file, or folder.
        model: its entry in the manifest.
        threads: number of threads per call; None: one per core.
    """

    kind: ClassVar[str]
    """Name of the runtime in a manifest, such as "litert"."""
    package: ClassVar[str | None] = None
    """Package that runs the model without TensorFlow; None: not possible, so it cannot be served."""
    name: str
    """Name with version, such as "ai-edge-litert 2.3.0"."""
    parallel: ClassVar[bool] = True
    """Whether calls from several threads run in parallel; otherwise `lock` serializes them."""
    in_batches: ClassVar[bool] = True
    """Whether it computes several images at once; a server prefers such a runtime."""
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    """Where it can run models. One that knows another device than the CPU takes it as its fourth argument."""
    reads_files: ClassVar[bool] = False
    """Whether it decodes and resizes images itself, so that comparisons use `of_files`."""
    share: float = 0.0
    """Images with a p-value up to this are unknown."""

    def __init__(self, path: Path, model: ModelFile, threads: int | None = None) -> None:
        self.path = path
        self.model = model
        self.lock = threading.Lock()

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Returns probabilities (N, K) float32 of pixels (N, H, W, C) uint8, 0-255; as `rows`, without p-values."""
        return self.rows(pixels)[:, : self.outputs]

    def answer(self, pixels: np.ndarray) -> Answer:
        """As `rows`, with the p-values apart; they are None if the model gives none."""
        return self.split(self.rows(pixels))

    def split(self, rows: np.ndarray) -> Answer:
        """Returns probabilities and p-values of rows, as `rows` returns them."""
        p_values = rows[:, self.outputs] if self.gives_p_values else None
        return Answer(rows[:, : self.outputs], p_values, self.share)

    @property
    def gives_p_values(self) -> bool:
        """Whether the model gives the p-value of an image."""
        return "p_value" in self.model.outputs

    def rows(self, pixels: np.ndarray) -> np.ndarray:
        """Returns probabilities (N, K) float32 of pixels (N, H, W, C) uint8, 0-255; K is 1 if the task is binary.

        Of a model that gives p-values, they are one more column. N is arbitrary: a model with a fixed batch size is
        called several times, with the last batch padded.

        Raises:
            CallError: if the pixels have another shape or type.
            WeightsError: if the model returns another number of outputs than there are classes.
        """
        pixels = np.asarray(pixels)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != self.shape:
            wanted = ", ".join(map(str, self.shape))
            raise CallError(f"expected pixels (N, {wanted}) uint8, got {pixels.shape} {pixels.dtype}")
        if not len(pixels):
            return np.empty((0, self.outputs + self.gives_p_values), np.float32)
        if self.parallel:
            return self._run_batches(pixels)
        with self.lock:
            return self._run_batches(pixels)

    @abstractmethod
    def run(self, pixels: np.ndarray) -> Any:
        """Returns the model's outputs for pixels in its input type, N being its batch size.

        They are (N, K); of a model with several outputs a list, in the order of `ModelFile.outputs`.
        """

    def of_files(self, contents: Sequence[bytes]) -> np.ndarray:
        """As `rows`, of image files' contents, decoded by the runtime itself."""
        raise CallError(f"{self.name} takes pixels, not files")

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Releases the model; it cannot be called again."""

    def for_bundle(self, bundle: Bundle) -> Runtime:
        """Sets the input shape and the number of outputs that calls are checked against."""
        self.shape, self.outputs = bundle.shape, bundle.outputs
        self.share = 0.0 if bundle.manifest.known is None else bundle.manifest.known.rule.share
        return self

    def _run_batches(self, pixels: np.ndarray) -> np.ndarray:
        size = self.model.batch
        if size is None or size == len(pixels):
            return self._check_outputs(self.run(self._convert_pixels(pixels)), len(pixels))
        rows = []
        for start in range(0, len(pixels), size):
            part = pixels[start : start + size]
            filled = (
                part if len(part) == size else np.concatenate([part, np.zeros((size - len(part), *self.shape), "u1")])
            )
            rows.append(self._check_outputs(self.run(self._convert_pixels(filled)), size)[: len(part)])
        return np.concatenate(rows)

    def _convert_pixels(self, pixels: np.ndarray) -> np.ndarray:
        return CONVERT_PIXELS[self.model.input_dtype](pixels)

    def _check_outputs(self, outputs: Any, count: int) -> np.ndarray:
        """Returns the rows of `rows`; raises WeightsError if the outputs have other shapes than the manifest says."""
        arrays = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
        widths = {"probabilities": self.outputs, "p_value": 1}  # features, the last output, are not returned
        names = [name for name in self.model.outputs if name in widths]
        columns = [np.asarray(array) for array in arrays[: len(names)]]
        expected = [(count, widths[name]) for name in names]
        more = len(arrays) - len(names)
        if [column.shape for column in columns] != expected or (more and "features" not in self.model.outputs):
            found = ", ".join(str(np.shape(array)) for array in arrays)
            raise WeightsError(
                f"'{self.model.path}': expected outputs {', '.join(map(str, expected))}, found {found}; "
                "it is not a model of these classes"
            )
        rows = columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)
        return np.ascontiguousarray(rows, dtype=np.float32)


CONVERT_PIXELS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "float32": lambda pixels: pixels.astype(np.float32),
    "uint8": np.ascontiguousarray,
    "int8": lambda pixels: (np.ascontiguousarray(pixels) ^ 0x80).view(np.int8),
}
"""`input_dtype` -> conversion of uint8 pixels to that type."""


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns an exception of a runtime that opens a file into a WeightsError that names the file."""
    try:
        yield
    except (CallError, WeightsError, MemoryError):
        raise
    except Exception as error:  # each runtime has its own exceptions; C++ raises RuntimeError
        if "Select TensorFlow op" in str(error):
            raise NotHere(
                f"'{path}' contains operations of TensorFlow (Flex), which neither ai-edge-litert nor TensorFlow's own "
                "interpreter runs; an app with the Flex delegate does"
            ) from None
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise WeightsError(f"'{path}' cannot be opened: {lines[0][:300]}; export it again") from error
