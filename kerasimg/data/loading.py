"""Loads batches of pixels from a source, decoded on all cores or taken from the cache."""

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
"""Bytes: TensorFlow uses an array aligned to this without a copy."""
TASKS_PER_THREAD = 4
"""Tasks per thread and batch: more of them balance the load, but cost more overhead."""
AT_ONCE = 2**20
"""Bytes of a batch up to which copying it from the cache is faster than handing out tasks."""


class Loader:
    """Loads the images at `indices` of a source as uint8 pixels."""

    def __init__(
        self,
        source: Source,
        indices: np.ndarray,
        image: Image,
        cache: Cache | None,
        exact: bool = True,
        threads: int | None = None,
    ):
        """exact: use the reference decoder, not the fast one.  threads: None: one per core."""
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

        Raises a DataError for an image that cannot be read.
        """
        pixels = empty_aligned((len(positions), *self.shape))
        if self.rows is not None and pixels.nbytes <= AT_ONCE and self.rows.read(positions, pixels).all():
            return pixels
        part = max(1, -(-len(positions) // (self.threads * TASKS_PER_THREAD)))

        def fill(start: int) -> None:
            self._fill(positions[start : start + part], pixels[start : start + part])

        # `map` submits all tasks at once; two batches may be in progress together.
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

    def _decode_image(self, position: int) -> np.ndarray:
        index = int(self.indices[position])
        try:
            return self.decode(self.source.columns.image(index), self.image)
        except BadImage as error:
            raise fault(self.source.where, self.source.columns.id(index), error.reason) from error


def empty_aligned(shape: tuple[int, ...]) -> np.ndarray:
    """An uninitialised uint8 array that TensorFlow does not copy."""
    size = int(np.prod(shape, dtype=np.int64))
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].reshape(shape)
