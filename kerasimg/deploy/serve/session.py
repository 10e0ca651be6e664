"""From the bytes of an image to the model's probabilities: processes that decode before a batcher."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image

from kerasimg.data.decode import decode
from kerasimg.data.image_files import BadImage, TooCostly
from kerasimg.data.pixels import type_fault, value_fault
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.manifest import ModelFile
from kerasimg.deploy.runtimes import Runtime, open_runtime
from kerasimg.deploy.serve.batching import Batcher
from kerasimg.deploy.serve.errors import Refused
from kerasimg.deploy.serve.settings import Settings
from kerasimg.deploy.serve.workers import Workers
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
        runtime(decode(_blank(), bundle.image)[np.newaxis])
        return Model(bundle, file, settings.name or bundle.manifest.name, (digests or ["0" * 12])[0][:12], runtime)


def _blank() -> bytes:
    """A small JPEG."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (32, 32)).save(file, "JPEG")
    return file.getvalue()


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
        self._decoded = decoded
        self._decoding = 0
        self._counter = threading.Lock()
        self._workers = Workers(model.bundle.image, settings)
        self.batcher = Batcher(
            model.runtime,
            max_batch=settings.max_batch,
            max_wait_s=settings.max_wait_ms / 1000,
            expecting=lambda: self._decoding,
            told=batched,
        )
        self.pixels(_blank()).result()  # its process has started

    def ask(self, data: bytes) -> tuple[Future, Future]:
        """Decode an image and ask about it: the row, (K,) float32, and the work on it in a thread.

        The row's future raises BadImage for what is no image, or too large a one. Cancelled, nothing is begun.
        """
        row: Future = Future()
        with self._counter:
            self._decoding += 1
        return row, self._workers.submit(self._decode, data, row)

    def pixels(self, data: bytes) -> Future:
        """Decode an image: (H, W, C) uint8."""
        return self._workers.submit(self._workers.ask, "decode", data)

    def read(self, task: str, *arguments: Any) -> Future:
        """Read a body in one of the processes that decode."""
        return self._workers.submit(self._read, task, *arguments)

    def close(self) -> None:
        """Answer what is in work, and end the processes."""
        self._workers.close()
        self.batcher.close()
        self.model.runtime.close()

    def _decode(self, data: bytes, row: Future) -> None:
        begun = time.perf_counter()
        pixels = None
        try:
            if not row.cancelled():
                pixels = self._workers.ask("decode", data)
        except BadImage as error:
            _fail(row, error)
        except Exception as error:  # whatever it is, the request that waits must hear of it
            _fail(row, error)
        finally:
            with self._counter:
                self._decoding -= 1
        # Not before: the batcher would wait for an image that it has.
        if pixels is not None:
            self.batcher.put(pixels, row)
            self._decoded(time.perf_counter() - begun)

    def _read(self, task: str, *arguments: Any) -> Any:
        try:
            return self._workers.ask(task, *arguments)
        except TooCostly:
            raise Refused("costly", "the body takes too long to read; send less at once") from None
        except BadImage:
            raise Refused("body", "the body cannot be read: it ended the process that read it") from None


def checked_pixels(pixels: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Numbers as pixels (N, H, W, C) uint8, rounded; Refused where they are none."""
    if pixels.shape[1:] != shape:
        raise Refused("tensor", f"expected the shape [N, {', '.join(map(str, shape))}], got {list(pixels.shape)}")
    if not len(pixels):
        raise Refused("tensor", "expected at least one image, got none")
    if reason := type_fault(pixels) or value_fault(pixels):
        raise Refused("tensor", reason)
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels).astype(np.uint8)


def _fail(row: Future, error: Exception) -> None:
    if row.set_running_or_notify_cancel():
        row.set_exception(error)
