"""From the bytes of a picture to the model's probabilities: a bounded pool of decoders before a batcher."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image

from kerasimg.data.decode import decode
from kerasimg.data.picture import BadImage
from kerasimg.data.pixels import type_fault, value_fault
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.manifest import ModelFile
from kerasimg.deploy.runtimes import Runtime, open_runtime
from kerasimg.deploy.serve.batching import Batcher
from kerasimg.deploy.serve.refusals import Refused, TooManyPixels
from kerasimg.deploy.serve.settings import Settings
from kerasimg.errors import CallError

RUNTIMES = ("litert", "onnx", "openvino")
"""That a server runs: those that need no TensorFlow."""


@dataclass(frozen=True)
class Model:
    """What is served, and how it is named."""

    bundle: Bundle
    file: ModelFile
    name: str
    version: str
    """The first 12 digits of the model file's SHA-256: another model never has the same."""
    runtime: Runtime

    @staticmethod
    def open(bundle: Bundle, settings: Settings) -> Model:
        """The model of a bundle that the settings name; it has answered once already."""
        file = bundle.model(settings.model)
        if file.runtime not in RUNTIMES:
            raise CallError(
                f"'{bundle.model_path(file)}' runs in {file.runtime}; a server runs {', '.join(RUNTIMES)}: "
                "kerasimg export RUN --to litert"
            )
        digests = [one.sha256 for one in bundle.manifest.files if one.path == file.path]
        runtime = open_runtime(bundle, file, threads=settings.own_threads)
        # The first calls load and allocate; nobody shall wait for it.
        blank = np.zeros((32, 32, 3), np.uint8)
        picture = io.BytesIO()
        PIL.Image.fromarray(blank).save(picture, "JPEG")
        runtime(decode(picture.getvalue(), bundle.image)[np.newaxis])
        return Model(bundle, file, settings.name or bundle.manifest.name, (digests or ["0" * 12])[0][:12], runtime)


class Engine:
    """Decodes and asks; any number of requests at a time, on so many threads."""

    def __init__(
        self,
        model: Model,
        settings: Settings,
        *,
        batched: Callable[[int, float], None] = lambda size, seconds: None,
        decoded: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """batched, decoded: called with the size and the seconds of a batch, and the seconds of a decoding."""
        self.model = model
        self._image = model.bundle.image
        self._max_pixels = settings.max_pixels
        self._decoded = decoded
        self._decoding = 0
        self._counter = threading.Lock()
        self._pool = ThreadPoolExecutor(settings.own_threads, "decode")
        self.batcher = Batcher(
            model.runtime,
            max_batch=settings.max_batch,
            max_wait_s=settings.max_wait_ms / 1000,
            expecting=lambda: self._decoding,
            told=batched,
        )

    def ask(self, data: bytes) -> tuple[Future, Future]:
        """Decode a picture and ask about it: the row, (K,) float32, and the work on it in a thread.

        The row's future raises BadImage for what is no picture, or too large a one. Cancelled, nothing is begun.
        """
        row: Future = Future()
        with self._counter:
            self._decoding += 1
        return row, self._pool.submit(self._decode, data, row)

    def pixels(self, data: bytes) -> Future:
        """Decode a picture: (H, W, C) uint8."""
        return self._pool.submit(decode, data, self._image, self._look)

    def run(self, work: Callable[..., Any], *arguments: Any) -> Future:
        """Do other work in the threads that decode."""
        return self._pool.submit(work, *arguments)

    def close(self) -> None:
        """Answer what is in work, and end the threads."""
        self._pool.shutdown()
        self.batcher.close()
        self.model.runtime.close()

    def _decode(self, data: bytes, row: Future) -> None:
        begun = time.perf_counter()
        pixels = None
        try:
            if not row.cancelled():
                pixels = decode(data, self._image, self._look)
        except BadImage as error:
            _fail(row, error)
        except MemoryError:
            _fail(row, TooManyPixels("needs more memory than there is"))
        except Exception as error:  # whatever it is, the request that waits must hear of it
            _fail(row, error)
        finally:
            with self._counter:
                self._decoding -= 1
        # Not before: the batcher would wait for a picture that it has.
        if pixels is not None:
            self.batcher.put(pixels, row)
            self._decoded(time.perf_counter() - begun)

    def _look(self, opened: PIL.Image.Image) -> None:
        """Refuse a picture for its size, by its header."""
        if opened.width * opened.height > self._max_pixels:
            raise TooManyPixels(
                f"has {opened.width} x {opened.height} pixels; the limit is {self._max_pixels / 1e6:g} million"
            )


def checked_pixels(pixels: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Numbers as pixels (N, H, W, C) uint8, rounded; Refused where they are none."""
    if pixels.shape[1:] != shape:
        raise Refused("tensor", f"expected the shape [N, {', '.join(map(str, shape))}], got {list(pixels.shape)}")
    if not len(pixels):
        raise Refused("tensor", "expected at least one picture, got none")
    if reason := type_fault(pixels) or value_fault(pixels):
        raise Refused("tensor", reason)
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels).astype(np.uint8)


def _fail(row: Future, error: Exception) -> None:
    if row.set_running_or_notify_cancel():
        row.set_exception(error)
