"""Loads batches of pixels from a source, decoded on all cores or taken from the cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from kerasimg.data.cache import Cache, Rows
from kerasimg.data.decode import decode
from kerasimg.data.decode_worker import Task, section_text
from kerasimg.data.fast_decode import decode_fast
from kerasimg.data.image_files import BadImage
from kerasimg.data.items import ImageInput, ManyFaults, fault
from kerasimg.data.parallel import cores
from kerasimg.data.readers.image_store import Images, Stacked
from kerasimg.data.source import Source
from kerasimg.data.worker_pool import (
    IMAGES_PER_TASK,
    Memories,
    Memory,
    worker_count,
    worker_pool,
)
from kerasimg.spec.document import Image

Decode = Callable[[ImageInput, Image], np.ndarray]

ALIGNMENT = 64
"""Bytes: TensorFlow uses an array aligned to this without a copy."""
TASKS_PER_THREAD = 4
"""Tasks per thread and batch: more of them balance the load, but cost more overhead."""
AT_ONCE = 2**20
"""Bytes of a batch up to which copying it from the cache is faster than handing out tasks."""


class Loader:
    """Loads the images at `indices` of a source as uint8 pixels, by threads or by worker processes (`worker_pool.py`).

    Any number of threads may call `load`; `batches_at_once` says how many batches keep all workers busy. There is
    nothing to close: workers are shared by all loaders of a process and end when they are idle for a minute.
    """

    def __init__(
        self,
        source: Source,
        indices: np.ndarray,
        image: Image,
        cache: Cache | None,
        exact: bool = True,
        threads: int | None = None,
        workers: int | None = None,
    ):
        """exact: use the reference decoder, not the fast one.

        threads: None: one per core.  workers: processes that decode; 0: threads; None: see `worker_count`.
        """
        source.require_channels(image)
        self.source, self.indices, self.image, self.exact = source, indices, image, exact
        self.shape = (*image.size, image.channels)
        self.decode: Decode = decode if exact else decode_fast
        self.rows: Rows | None = None
        if cache is not None:
            self.rows = cache.rows(source.keys(indices), image, exact)
        self.workers = 0 if in_memory(source.columns.images) else worker_count(workers, len(indices))
        self.threads = max(self.workers, threads or cores())
        self.pool = ThreadPoolExecutor(self.threads, thread_name_prefix="kerasimg-decode")
        self.section = section_text(image)
        self.memories = Memories(2 * self.workers + 4)

    def batches_at_once(self, batch_size: int) -> int:
        """The number of batches that should be loaded at the same time."""
        return max(2, math.ceil(1.5 * self.workers * IMAGES_PER_TASK / batch_size))

    def load(self, positions: np.ndarray) -> np.ndarray:
        """The images at these positions of `indices`: uint8, (N, H, W, C).

        Raises a DataError for an image that cannot be read.
        """
        shape = (len(positions), *self.shape)
        if self.rows is not None and math.prod(shape) <= AT_ONCE:
            pixels = empty_aligned(shape)
            if self.rows.read(positions, pixels).all():
                return pixels
        if self.workers and not (self.rows is not None and self.rows.has(positions).all()):
            return self._load_by_workers(positions, *self.memories.take(shape))
        pixels = empty_aligned(shape)
        part = max(1, -(-len(positions) // (self.threads * TASKS_PER_THREAD)))

        def fill(start: int) -> None:
            self._fill(positions[start : start + part], pixels[start : start + part])

        # `map` submits all tasks at once; two batches may be in progress together.
        for _ in self.pool.map(fill, range(0, len(positions), part)):
            pass
        return pixels

    def _load_by_workers(self, positions: np.ndarray, pixels: np.ndarray, memory: Memory) -> np.ndarray:
        """As `load`, into shared memory."""
        pool = worker_pool(self.workers)
        part = pool.images_per_task(len(positions))

        def fill(start: int) -> None:
            chosen = slice(start, start + part)
            rows = np.arange(len(positions))[chosen]
            if self.rows is not None:
                rows = rows[~self.rows.read(positions[chosen], pixels[chosen])]
            sent: dict[int, str | bytes] = {}
            for row in rows.tolist():
                img = self._image(int(positions[row]))
                if isinstance(img, np.ndarray):
                    pixels[row] = self._decode_image(int(positions[row]))
                else:
                    sent[row] = img
            task = Task(self.section, self.exact, list(sent.values()), memory.number, list(sent))
            for row, problem in zip(sent, pool.run(task, memory) if sent else (), strict=True):
                if isinstance(problem, BadImage):
                    raise self._fault(int(positions[row]), problem.reason) from problem
                if isinstance(problem, Exception):
                    raise problem
            if self.rows is not None:
                for row in rows.tolist():
                    self.rows.write(int(positions[row]), pixels[row])

        for _ in self.pool.map(fill, range(0, len(positions), part)):
            pass
        return pixels

    def _fill(self, positions: np.ndarray, pixels: np.ndarray) -> None:
        if self.rows is None:
            for row, position in enumerate(positions.tolist()):
                pixels[row] = self._decode_image(position)
            return
        cached = self.rows.read(positions, pixels)
        for row in np.flatnonzero(~cached).tolist():
            position = int(positions[row])
            pixels[row] = self._decode_image(position)
            self.rows.write(position, pixels[row])

    def _image(self, position: int) -> ImageInput:
        try:
            return self.source.columns.image(int(self.indices[position]))
        except BadImage as error:
            raise self._fault(position, error.reason) from error

    def _decode_image(self, position: int) -> np.ndarray:
        try:
            return self.decode(self._image(position), self.image)
        except BadImage as error:
            raise self._fault(position, error.reason) from error

    def _fault(self, position: int, reason: str) -> ManyFaults:
        return fault(self.source.where, self.source.columns.id(int(self.indices[position])), reason)


def in_memory(images: Images) -> bool:
    """Whether all images are arrays: at most they are resized, which threads do faster than they could be sent."""
    return isinstance(images, Stacked)


def empty_aligned(shape: tuple[int, ...]) -> np.ndarray:
    """An uninitialised uint8 array that TensorFlow does not copy."""
    size = int(np.prod(shape, dtype=np.int64))
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].reshape(shape)
