"""The images of each batch: a pure function of the seed, the epoch and the step, without state.

Each epoch of a shuffled run has its own uniform permutation of all images: they are sorted by random numbers of the
Philox generator (Salmon et al. 2011, doi:10.1145/2063384.2063405) for (seed, epoch). So an interrupted run resumes at
any batch, and workers share an epoch without communication.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np

from kerasimg.errors import CallError, counted

Shard = tuple[int, int]
"""(k, n): worker k of n, counted from 0."""


def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of `count` images in an epoch: (count,) int64, a pure function of the arguments.

    It uses the raw numbers of Philox, which NumPy guarantees never to change, unlike those of `shuffle`.
    """
    generator = np.random.Philox(key=np.array([seed % 2**64, epoch], np.uint64))
    return np.argsort(generator.random_raw(count), kind="stable")


def steps(count: int, batch_size: int, drop_remainder: bool = False, shard: Shard = (0, 1)) -> int:
    """Batches in an epoch of `count` images, the same for every worker.

    batch_size: the total of all workers. Raises a CallError if a worker would have no image.
    """
    worker, workers = shard
    if count < 1 or batch_size < 1:
        raise CallError(f"expected images and a batch size above 0, got {count} and {batch_size}")
    if not 0 <= worker < workers:
        raise CallError(f"shard: expected (k, n) with 0 <= k < n, got {shard}")
    if batch_size < workers:
        raise CallError(f"a batch of {batch_size} cannot be shared among {counted(workers, 'worker')}")
    full, rest = divmod(count, batch_size)
    if drop_remainder or not rest:
        if not full:
            raise CallError(f"{counted(count, 'image', 'make')} no full batch of {batch_size}; keep the remainder")
        return full
    if rest < workers:
        raise CallError(
            f"the last batch of {counted(count, 'image')} has {rest}, too few for {counted(workers, 'worker')}; drop "
            "the remainder, or take another batch size"
        )
    return full + 1


@dataclass
class Order:
    """The batches of a run by number: step s of epoch e, both counted from 0, is number e * steps + s."""

    count: int
    batch_size: int
    shuffle: bool = False
    seed: int = 0
    drop_remainder: bool = False
    shard: Shard = (0, 1)
    steps: int = field(init=False)
    """Batches in an epoch."""
    size: int = field(init=False)
    """Images in this worker's share of a full batch."""

    def __post_init__(self) -> None:
        self.steps = steps(self.count, self.batch_size, self.drop_remainder, self.shard)
        start, end = self._share(min(self.batch_size, self.count))
        self.size = end - start
        self._lock = threading.Lock()
        self._epochs: dict[int, np.ndarray] = {}

    def batch(self, number: int) -> tuple[int, np.ndarray]:
        """The epoch of a batch and the positions of its images: (n,) int64."""
        epoch, step = divmod(int(number), self.steps)
        first = step * self.batch_size
        start, end = self._share(min(self.batch_size, self.count - first))
        if not self.shuffle:
            return epoch, np.arange(first + start, first + end)
        return epoch, self._epoch(epoch)[first + start : first + end]

    def _share(self, size: int) -> tuple[int, int]:
        """Start and end of this worker's slice of a batch."""
        worker, workers = self.shard
        return worker * size // workers, (worker + 1) * size // workers

    def _epoch(self, epoch: int) -> np.ndarray:
        with self._lock:
            if epoch not in self._epochs:
                # Two epochs: batches are prefetched across the end of an epoch.
                self._epochs = {known: order for known, order in self._epochs.items() if known == epoch - 1}
                self._epochs[epoch] = permutation(self.count, self.seed, epoch).astype(np.int64, copy=False)
            return self._epochs[epoch]
