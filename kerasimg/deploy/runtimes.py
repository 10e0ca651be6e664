"""Exported models, run by the runtimes they were exported for: uint8 pixels in, float32 probabilities out.

Nothing here imports TensorFlow or Keras, but where a bundle's model is one of theirs.
"""

from __future__ import annotations

import io
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL.Image

from kerasimg.data.parallel import cores
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.manifest import ModelFile, RuntimeName
from kerasimg.deploy.quiet import silence
from kerasimg.errors import CallError, WeightsError


class NotHere(CallError):
    """A model cannot be run on this machine, sound as it may be."""


class Runtime(ABC):
    """A model that can be asked, from any number of threads."""

    name: str
    """With its version: "ai-edge-litert 2.3.0"."""
    parallel: ClassVar[bool] = True
    """Whether calls from several threads run side by side; where not, they wait for one another at `lock`."""
    reads_files: ClassVar[bool] = False
    """Whether it decodes and resizes images by itself, so that `of_files` is the way to judge it."""

    def __init__(self, bundle: Bundle, model: ModelFile) -> None:
        self.model = model
        self.shape = bundle.shape
        self.outputs = bundle.outputs
        self.lock = threading.Lock()

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Probabilities (N, K) float32 of pixels (N, H, W, C) uint8, 0-255; K is 1 where the task is binary.

        N is any number: what the model takes at a time is filled up or repeated. CallError for pixels of another shape
        or type; WeightsError where the model gives another number of outputs than there are classes.
        """
        pixels = np.asarray(pixels)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != self.shape:
            wanted = ", ".join(map(str, self.shape))
            raise CallError(f"expected pixels (N, {wanted}) uint8, got {pixels.shape} {pixels.dtype}")
        if not len(pixels):
            return np.empty((0, self.outputs), np.float32)
        if self.parallel:
            return self._all(pixels)
        with self.lock:
            return self._all(pixels)

    @abstractmethod
    def run(self, pixels: np.ndarray) -> np.ndarray:
        """The model's own outputs (N, K) of pixels in the type it wants, N being what it takes at a time."""

    def of_files(self, contents: Sequence[bytes]) -> np.ndarray:
        """Probabilities (N, K) float32 of image files' contents, decoded by the runtime itself."""
        raise CallError(f"{self.name} takes pixels, not files")

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Let go of what the model holds; it cannot be asked again."""

    def _all(self, pixels: np.ndarray) -> np.ndarray:
        size = self.model.batch
        if size is None or size == len(pixels):
            return self._checked(self.run(self._typed(pixels)), len(pixels))
        found = []
        for start in range(0, len(pixels), size):
            part = pixels[start : start + size]
            filled = (
                part if len(part) == size else np.concatenate([part, np.zeros((size - len(part), *self.shape), "u1")])
            )
            found.append(self._checked(self.run(self._typed(filled)), size)[: len(part)])
        return np.concatenate(found)

    def _typed(self, pixels: np.ndarray) -> np.ndarray:
        return TYPED[self.model.input_dtype](pixels)

    def _checked(self, found: np.ndarray, count: int) -> np.ndarray:
        if found.shape != (count, self.outputs):
            raise WeightsError(
                f"'{self.model.path}': expected outputs ({count}, {self.outputs}), found {found.shape}; "
                "it is not a model of these classes"
            )
        return np.ascontiguousarray(found, dtype=np.float32)


TYPED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "float32": lambda pixels: pixels.astype(np.float32),
    "uint8": np.ascontiguousarray,
    "int8": lambda pixels: (np.ascontiguousarray(pixels) ^ 0x80).view(np.int8),
}
"""`input_dtype` -> pixels of 0-255 uint8 as the model takes them."""


class LiteRT(Runtime):
    """A .tflite file in LiteRT; an interpreter answers one call at a time."""

    parallel = False

    def __init__(self, bundle: Bundle, model: ModelFile, threads: int | None = None) -> None:
        super().__init__(bundle, model)
        with needs("litert", "ai_edge_litert"):
            from ai_edge_litert.interpreter import Interpreter
        self.name = f"ai-edge-litert {version('ai-edge-litert')}"
        self._open(bundle, lambda path: Interpreter(path, num_threads=threads or cores()))

    def _open(self, bundle: Bundle, interpreter: Callable[[str], Any]) -> None:
        path = bundle.model_path(self.model)
        # LiteRT tells from C++ which delegate it made.
        with readable(path), silence(lambda error: True):
            self._interpreter = interpreter(str(path))
            (self._input,) = self._interpreter.get_input_details()
            (self._output,) = self._interpreter.get_output_details()
            self._size = self.model.batch or 1
            self._resize(self._size)

    def _resize(self, size: int) -> None:
        self._interpreter.resize_tensor_input(self._input["index"], [size, *self.shape])
        self._interpreter.allocate_tensors()
        self._size = size

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """As `Runtime.run`; a size that is not the last one's costs a tenth of a millisecond more."""
        if len(pixels) != self._size:
            self._resize(len(pixels))
        self._interpreter.set_tensor(self._input["index"], pixels)
        self._interpreter.invoke()
        found: np.ndarray = self._interpreter.get_tensor(self._output["index"])
        if found.dtype == np.float32:
            return found
        scale, zero = self._output["quantization"]
        return np.asarray((found.astype(np.float32) - zero) * np.float32(scale))


class OnnxRuntime(Runtime):
    """A .onnx file in ONNX Runtime, on the CPU."""

    def __init__(self, bundle: Bundle, model: ModelFile, threads: int | None = None) -> None:
        super().__init__(bundle, model)
        with needs("onnx", "onnxruntime"):
            import onnxruntime
        self.name = f"onnxruntime {onnxruntime.__version__}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or cores()
        options.log_severity_level = 3
        path = bundle.model_path(model)
        with readable(path):
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            (self._input,) = (one.name for one in self._session.get_inputs())

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """As `Runtime.run`."""
        return self._session.run(None, {self._input: pixels})[0]


class OpenVINO(Runtime):
    """An .xml file, with its .bin beside it, in OpenVINO, on the CPU."""

    def __init__(self, bundle: Bundle, model: ModelFile, threads: int | None = None) -> None:
        super().__init__(bundle, model)
        with needs("openvino", "openvino"):
            import openvino
        self.name = f"openvino {version('openvino')}"
        how = {
            "PERFORMANCE_HINT": "LATENCY",
            # Left to itself it computes in bfloat16 where the processor can, and then differs by some 0.01.
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads or cores(),
        }
        path = bundle.model_path(model)
        with readable(path):
            self._compiled = openvino.Core().compile_model(str(path), "CPU", how)
        self._requests = threading.local()

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """As `Runtime.run`."""
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        found = self._requests.own.infer([pixels], share_inputs=True)
        return np.array(found[self._compiled.output(0)])


class Page(Runtime):
    """A bundle's page in a headless browser without network."""

    parallel = False
    reads_files = True

    def __init__(self, bundle: Bundle, model: ModelFile, threads: int | None = None) -> None:
        super().__init__(bundle, model)
        from kerasimg.deploy.web.browser import Browser

        self._page = Browser((bundle.folder / "demo.html").resolve().as_uri())
        about = self._page.driver.capabilities
        self.name = f"LiteRT.js in {about.get('browserName', 'a browser')} {about.get('browserVersion', '')}".strip()

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """As `Runtime.run`; the page reads the pixels from a PNG of the model's own size."""
        return np.stack([self._page.probabilities(_png(one)) for one in pixels])

    def of_files(self, contents: Sequence[bytes]) -> np.ndarray:
        """As `Runtime.of_files`."""
        with self.lock:
            return np.stack([self._page.probabilities(one) for one in contents])

    def close(self) -> None:
        """Close the browser."""
        self._page.__exit__(None, None, None)

    def _typed(self, pixels: np.ndarray) -> np.ndarray:
        return pixels


def stand_in(model: ModelFile) -> ModelFile | None:
    """What runs a page's model where there is no browser: LiteRT, on the same file; None where nothing need."""
    if model.runtime != "browser":
        return None
    from kerasimg.deploy.web.browser import available

    return model.model_copy(update={"runtime": "litert"}) if available() else None


def open_runtime(bundle: Bundle, model: ModelFile | str | None = None, *, threads: int | None = None) -> Runtime:
    """A model of a bundle, ready to be asked.

    model: one of the bundle's, its path or its precision; None: the first.
    threads: that one call may use; None: one per core.
    CallError names the package to install where the runtime is missing; WeightsError says that the file is damaged.
    """
    chosen = model if isinstance(model, ModelFile) else bundle.model(model)
    return OPENERS[chosen.runtime](bundle, chosen, threads)


def _with_tensorflow(bundle: Bundle, model: ModelFile, threads: int | None) -> Runtime:
    from kerasimg.deploy.tensorflow_runtimes import open_tensorflow

    return open_tensorflow(bundle, model, threads)


def _with_keras(bundle: Bundle, model: ModelFile, threads: int | None) -> Runtime:
    from kerasimg.deploy.tensorflow_runtimes import open_keras

    return open_keras(bundle, model, threads)


def _with_micro(bundle: Bundle, model: ModelFile, threads: int | None) -> Runtime:
    from kerasimg.deploy.embedded.runtime import Micro

    return Micro(bundle, model, threads)


OPENERS: dict[RuntimeName, Callable[[Bundle, ModelFile, int | None], Runtime]] = {
    "litert": LiteRT,
    "onnx": OnnxRuntime,
    "openvino": OpenVINO,
    "tensorflow": _with_tensorflow,
    "keras": _with_keras,
    "browser": Page,
    "tflite-micro": _with_micro,
}
"""`runtime` of a model file -> what opens it."""


def _png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    PIL.Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0]).save(content, "PNG")
    return content.getvalue()


@contextmanager
def needs(extra: str, package: str) -> Iterator[None]:
    """Say what to install where a package is missing."""
    try:
        yield
    except ImportError as error:
        raise CallError(f'{package} is not installed ({error}): pip install "kerasimg[{extra}]"') from None


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Say which file is damaged, in place of what the runtime stumbles on."""
    try:
        yield
    except (CallError, WeightsError, MemoryError):
        raise
    except Exception as error:  # each runtime has errors of its own, from C++ as RuntimeError
        if "Select TensorFlow op" in str(error):
            raise NotHere(
                f"'{path}' holds operations of TensorFlow (Flex), which neither ai-edge-litert nor TensorFlow's own "
                "interpreter runs; an app with the Flex delegate does"
            ) from None
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise WeightsError(f"'{path}' cannot be opened: {said[0][:300]}; export it again") from error
