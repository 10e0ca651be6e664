"""Images of a source as pixels, a batch at a time, decoded by all cores or taken from the cache."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from kerasimg.data.cache import Cache, Rows
from kerasimg.data.decode import decode
from kerasimg.data.fast_decode import decode_fast
from kerasimg.data.image_files import BadImage
from kerasimg.data.items import ImageInput, fault
from kerasimg.data.parallel import cores
from kerasimg.data.source import Source
from kerasimg.spec.document import Image

Decode = Callable[[ImageInput, Image], np.ndarray]

ALIGNMENT = 64
"""Bytes: TensorFlow takes an array that begins at a multiple of it as it is, and copies any other."""
TASKS_PER_THREAD = 4
"""Parts that a batch is cut into for each thread: more even the load out, and cost more to hand over."""
AT_ONCE = 2**20
"""Bytes of a batch up to which to copy it from the cache takes less than to hand its parts over."""


class Loader:
    """Images at `indices` of a source as uint8 pixels."""

    def __init__(
        self,
        source: Source,
        indices: np.ndarray,
        image: Image,
        cache: Cache | None,
        exact: bool = True,
        threads: int | None = None,
    ):
        """exact: by the reference decoder, not the fast one.  threads: None is one per core."""
        self.source, self.indices, self.image = source, indices, image
        self.shape = (*image.size, image.channels)
        self.decode: Decode = decode if exact else decode_fast
        self.rows: Rows | None = None
        if cache is not None:
            self.rows = cache.rows(source.keys(indices), image, exact)
        self.threads = threads or cores()
        self.pool = ThreadPoolExecutor(self.threads, thread_name_prefix="kerasimg-decode")

    def load(self, positions: np.ndarray) -> np.ndarray:
        """The images at these positions of `indices`: uint8, (N, H, W, C).

        A ManyFaults names an image that cannot be read.
        """
        pixels = aligned((len(positions), *self.shape))
        if self.rows is not None and pixels.nbytes <= AT_ONCE and self.rows.read(positions, pixels).all():
            return pixels
        part = max(1, -(-len(positions) // (self.threads * TASKS_PER_THREAD)))

        def fill(start: int) -> None:
            self._fill(positions[start : start + part], pixels[start : start + part])

        # `map` hands all parts over at once; the threads work on two batches where two are asked for.
        for _ in self.pool.map(fill, range(0, len(positions), part)):
            pass
        return pixels

    def _fill(self, positions: np.ndarray, pixels: np.ndarray) -> None:
        if self.rows is None:
            for row, position in enumerate(positions.tolist()):
                pixels[row] = self._decoded(position)
            return
        there = self.rows.read(positions, pixels)
        for row in np.flatnonzero(~there).tolist():
            position = int(positions[row])
            pixels[row] = self._decoded(position)
            self.rows.write(position, pixels[row])

    def _decoded(self, position: int) -> np.ndarray:
        index = int(self.indices[position])
        try:
            return self.decode(self.source.columns.image(index), self.image)
        except BadImage as error:
            raise fault(self.source.where, self.source.columns.id(index), error.reason) from error


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """An empty uint8 array that TensorFlow need not copy."""
    size = int(np.prod(shape, dtype=np.int64))
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].reshape(shape)
