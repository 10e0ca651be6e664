"""Serving session: decodes images in worker processes, batches them, and runs the model."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from typing import NamedTuple, cast

import numpy as np
import PIL.Image

from kerasimg.data.decode import decode, fit
from kerasimg.data.image_files import RGB, BadImage, Pixels
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.manifest import ModelFile
from kerasimg.deploy.runtimes import Runtime
from kerasimg.deploy.serve.plain import is_plain
from kerasimg.deploy.serve.settings import Settings
from kerasimg.deploy.serve.workers import Budget, Workers
from kerasimg.deploy.targets import open_runtime, served, target_of
from kerasimg.errors import CallError
from kerasimg.spec.document import Image

plain_pixels: Callable[[bytes], np.ndarray | None] | None
try:
    from kerasimg.data.fast_png import plain_pixels
except ImportError:  # in the container of a server
    plain_pixels = None

QUICK_S = 0.0003
"""A model that takes less for one image runs in one thread: handing the image to others takes about as long."""


@dataclass(frozen=True)
class Model:
    """The served model and its name."""

    bundle: Bundle
    file: ModelFile
    name: str
    version: str
    """The first 12 digits of the model file's SHA-256."""
    runtime: Runtime
    quick: bool = False
    """Whether one image takes less than `QUICK_S`, so that the event loop itself may run the model on it."""

    @staticmethod
    def open(bundle: Bundle, settings: Settings, name: str | None = None) -> Model:
        """Opens and warms up the model that the settings name; requests call it `name`, by default as the bundle does.

        It is opened from a copy of its files: whoever replaces a bundle may write into them.
        """
        file = bundle.model(settings.model)
        runtime_class = target_of(file).runtime
        if runtime_class.package is None:
            raise CallError(
                f"'{bundle.model_path(file)}' runs in {file.runtime}; a server runs {', '.join(served())}: "
                "kerasimg export RUN --to litert"
            )
        digests = [entry.sha256 for entry in bundle.manifest.files if entry.path == file.path]
        name, version = name or bundle.manifest.name, (digests or ["0" * 12])[0][:12]
        with TemporaryDirectory(prefix="kerasimg-serve-", ignore_cleanup_errors=True) as scratch:
            copied = bundle.copy_model(file, Path(scratch))
            runtime = open_runtime(copied, file, threads=1, device=settings.device)
            quick = _seconds(runtime, bundle) < QUICK_S
            if not quick and settings.own_threads > 1:
                runtime.close()
                runtime = open_runtime(copied, file, threads=settings.own_threads, device=settings.device)
                _seconds(runtime, bundle)
        return Model(bundle, file, name, version, runtime, quick)


def _seconds(runtime: Runtime, bundle: Bundle) -> float:
    """Runs a model for the first time, which loads and allocates, then measures the time of one image."""
    pixels = np.zeros((1, *bundle.shape), np.uint8)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        runtime.rows(pixels)
        seconds.append(time.perf_counter() - started)
        if len(seconds) > 1 and seconds[-1] > 10 * QUICK_S:
            break
    return min(seconds[1:])


def blank_image() -> bytes:
    """Returns a small JPEG."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (32, 32)).save(file, "JPEG")
    return file.getvalue()


class Job(NamedTuple):
    """An image that waits for the model."""

    pixels: np.ndarray
    """(H, W, C) uint8, 0-255."""
    result: Future
    """Receives a row of `Runtime.rows`: the probabilities and, if there is one, the p-value, float32."""


class Batcher:
    """Dynamic batching: a thread runs the model on all waiting images, up to `max_batch` per call.

    An image waits for others only while some are being decoded (`arriving`), and at most `max_wait_s`. While the model
    runs, the next batch accumulates.
    """

    def __init__(
        self,
        predict: Callable[[np.ndarray], np.ndarray],
        *,
        max_batch: int,
        max_wait_s: float,
        arriving: Callable[[], int] = int,
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        """Starts the thread.

        Args:
            predict: maps pixels, (N, H, W, C) uint8, to probabilities, (N, K).
            max_batch: maximum images per call.
            max_wait_s: how long an image waits for others.
            arriving: returns the number of images that are being decoded.
            on_batch: called with the size and the seconds of each batch.
        """
        self._predict = predict
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._arriving = arriving
        self._on_batch = on_batch
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._busy = False
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    def submit(self, pixels: np.ndarray, result: Future | None = None) -> Future:
        """Queues an image, (H, W, C) uint8; the future receives its probabilities, (K,) float32."""
        result = Future() if result is None else result
        self._jobs.put(Job(pixels, result))
        return result

    def run_now(self, pixels: np.ndarray) -> np.ndarray | None:
        """Runs the model on one image in the caller's thread; returns None if other images are before it."""
        if self._busy or not self._jobs.empty():
            return None
        started = time.perf_counter()
        row = self._predict(pixels[np.newaxis])[0]
        self._on_batch(1, time.perf_counter() - started)
        return row

    def waiting(self) -> int:
        """Returns the number of images that wait for the model."""
        return self._jobs.qsize()

    def close(self) -> None:
        """Completes the queued images and ends the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._jobs.get()) is not None:
            self._busy = True
            batch = [job for job in self._collect(first) if job.result.set_running_or_notify_cancel()]
            if batch:
                self._run(batch)
            self._busy = False

    def _collect(self, first: Job) -> list[Job]:
        batch = [first]
        deadline: float | None = None
        while len(batch) < self._max_batch:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                if not self._max_wait_s or not self._arriving():
                    break
                now = time.monotonic()
                deadline = now + self._max_wait_s if deadline is None else deadline
                if now >= deadline:
                    break
                try:
                    job = self._jobs.get(timeout=deadline - now)
                except Empty:
                    break
            if job is None:
                self._jobs.put(None)  # ends the loop in `_work` after this batch
                break
            batch.append(job)
        return batch

    def _run(self, batch: list[Job]) -> None:
        started = time.perf_counter()
        try:
            pixels = batch[0].pixels[np.newaxis] if len(batch) == 1 else np.stack([job.pixels for job in batch])
            rows = self._predict(pixels)
        except Exception as error:  # passed on to the waiting requests
            for job in batch:
                job.result.set_exception(error)
            return
        for job, row in zip(batch, rows, strict=True):
            job.result.set_result(row)
        self._on_batch(len(batch), time.perf_counter() - started)


class InferenceSession:
    """Decodes images and runs the model for any number of concurrent requests."""

    def __init__(
        self,
        model: Model,
        workers: Workers,
        settings: Settings,
        *,
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
        on_decode: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """Starts the batcher.

        Args:
            model: the model to run.
            workers: decode the images.
            settings: the server's settings.
            on_batch: called with the size and the seconds of each batch.
            on_decode: called with the seconds that each image took to decode.
        """
        self.model = model
        self._on_decode = on_decode
        self._decoding = 0
        self._max_pixels = settings.max_pixels
        self._counter = threading.Lock()
        self._workers = workers
        self._image = model.bundle.image.model_dump_json()
        self.batcher = Batcher(
            model.runtime.rows,
            max_batch=settings.max_batch,
            max_wait_s=settings.max_wait_ms / 1000,
            arriving=lambda: self._decoding,
            on_batch=on_batch,
        )

    def predict(self, data: bytes, budget: Budget) -> tuple[Future, Future]:
        """Decodes an image and runs the model on it.

        Args:
            data: the image file.
            budget: the CPU time of its request.

        Returns:
            A future of the probabilities, (K,) float32, and the future of the work in a thread. The first raises
            BadImage for a bad image; if it is cancelled in time, no work starts.
        """
        row: Future = Future()
        with self._counter:
            self._decoding += 1
        return row, self._workers.submit(self._decode, data, budget, row)

    def predict_now(self, data: bytes) -> np.ndarray | Future | None:
        """Decodes a plain image in the caller's thread and runs the model on it, or queues it for the model.

        Returns:
            The probabilities, (K,) float32, or a future of them; None if the image is for a worker process.

        Raises:
            BadImage: for a bad image.
        """
        if not is_plain(data, self._max_pixels):
            return None
        started = time.perf_counter()
        pixels = decode_plain(data, self.model.bundle.image)
        self._on_decode(time.perf_counter() - started)
        return self.run(pixels)

    def run(self, pixels: np.ndarray) -> np.ndarray | Future:
        """Returns the probabilities of one image, (H, W, C) uint8, or a future of them if the model is not quick."""
        row = self.batcher.run_now(pixels) if self.model.quick else None
        return self.batcher.submit(pixels) if row is None else row

    def pixels(self, data: bytes, budget: Budget) -> Future:
        """Decodes an image to (H, W, C) uint8."""
        return self._workers.submit(self._workers.ask, "decode", budget, data, self._image)

    def close(self) -> None:
        """Completes the work in progress and releases the model."""
        self.batcher.close()
        self.model.runtime.close()

    def _decode(self, data: bytes, budget: Budget, row: Future) -> None:
        started = time.perf_counter()
        pixels = None
        try:
            if not row.cancelled():
                pixels = self._workers.ask("decode", budget, data, self._image)
        except BadImage as error:
            _fail(row, error)
        except Exception as error:  # passed on to the waiting request
            _fail(row, error)
        finally:
            with self._counter:
                self._decoding -= 1
        # Only now: the batcher would wait for an image that it already has.
        if pixels is not None:
            self.batcher.submit(pixels, row)
            self._on_decode(time.perf_counter() - started)


def decode_plain(data: bytes, image: Image) -> np.ndarray:
    """Decodes a plain image; a small PNG by OpenCV, if it is installed: the same pixels in less time."""
    if plain_pixels is not None and image.channels <= 3 and (pixels := plain_pixels(data)) is not None:
        return fit(Pixels(pixels, None, cast(RGB, tuple(image.background))), image)
    return decode(data, image, lambda opened: None)


def _fail(row: Future, error: Exception) -> None:
    if row.set_running_or_notify_cancel():
        row.set_exception(error)
