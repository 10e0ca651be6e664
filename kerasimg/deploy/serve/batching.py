"""Dynamic batching: one thread asks the model for whatever images are there, up to so many at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import NamedTuple

import numpy as np


class Job(NamedTuple):
    """An image that the model is to be asked about."""

    pixels: np.ndarray
    """(H, W, C) uint8, 0-255."""
    answer: Future
    """Gets the model's row, (K,) float32."""


class Batcher:
    """Gathers images that come one by one, and asks about them together.

    An image waits for others only while some are on their way (`expecting` says how many are being decoded), and for
    `max_wait_s` at most; while the model works the next ones gather by themselves.
    """

    def __init__(
        self,
        ask: Callable[[np.ndarray], np.ndarray],
        *,
        max_batch: int,
        max_wait_s: float,
        expecting: Callable[[], int] = int,
        told: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        """ask: pixels (N, H, W, C) uint8 -> (N, K).  told: called after each batch, with its size and its seconds."""
        self._ask = ask
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._expecting = expecting
        self._told = told
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    def put(self, pixels: np.ndarray, answer: Future | None = None) -> Future:
        """Ask about an image, (H, W, C) uint8; the future gets the row, (K,) float32."""
        answer = Future() if answer is None else answer
        self._jobs.put(Job(pixels, answer))
        return answer

    def waiting(self) -> int:
        """Images that the model has not been asked about yet."""
        return self._jobs.qsize()

    def close(self) -> None:
        """Answer what has been put, and end."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._jobs.get()) is not None:
            batch = [job for job in self._gathered(first) if job.answer.set_running_or_notify_cancel()]
            if batch:
                self._run(batch)

    def _gathered(self, first: Job) -> list[Job]:
        batch = [first]
        until: float | None = None
        while len(batch) < self._max_batch:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                if not self._max_wait_s or not self._expecting():
                    break
                now = time.monotonic()
                until = now + self._max_wait_s if until is None else until
                if now >= until:
                    break
                try:
                    job = self._jobs.get(timeout=until - now)
                except Empty:
                    break
            if job is None:
                self._jobs.put(None)  # for the loop around: it ends once this batch is answered
                break
            batch.append(job)
        return batch

    def _run(self, batch: list[Job]) -> None:
        begun = time.perf_counter()
        try:
            pixels = batch[0].pixels[np.newaxis] if len(batch) == 1 else np.stack([job.pixels for job in batch])
            rows = self._ask(pixels)
        except Exception as error:  # what a runtime raises is told to those who asked
            for job in batch:
                job.answer.set_exception(error)
            return
        for job, row in zip(batch, rows, strict=True):
            job.answer.set_result(row)
        self._told(len(batch), time.perf_counter() - begun)
