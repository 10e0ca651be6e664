"""Processes that decode images into shared memory, for machines with more than `MANY_CORES` cores.

Threads decode as fast on a few cores, but each image takes the interpreter lock several times, and on 16 cores the
hand-overs of the lock bound a process to about 600 images a second. A worker decodes up to `IMAGES_PER_TASK` images per
message. Its parent sends paths, or the bytes of files where images are members of larger ones (ZIP, tar, TFRecord,
Parquet, Hugging Face). Arrays stay with the threads. The parent writes the cache, so it works as with threads.

KERASIMG_WORKERS sets the number of processes; 0: threads. Windows has threads only: this module needs Unix sockets that
pass file descriptors.

Nothing outlives the parent. A worker is no fork, so it shares neither locks nor a GPU with its parent, and does not
import the caller's `__main__`. Shared memory has no name: its file descriptor is passed to the workers, and the system
frees it with the last process that has it.

Other loaders were measured before this one was written, on batches of 32 images of 224x224 and two workers on two busy
cores (`benchmarks/pipeline.py --workers`). CPU time of the parent for an image, of which 16 workers leave 45
microseconds: this module 19 to 23 microseconds; `grain` 36 to 42; Keras' `PyDataset(use_multiprocessing=True)` 270 to
415, since it pickles whole batches. `grain` also imports the caller's `__main__` in each worker, and a worker that ends
ends the run; `PyDataset` forks a process that runs TensorFlow's threads.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import math
import mmap
import os
import queue
import socket
import subprocess
import sys
import tempfile
import weakref
from collections import deque

import numpy as np

from kerasimg.data.decode_worker import Result, Task, receive, send
from kerasimg.data.image_files import BadImage
from kerasimg.data.parallel import cores
from kerasimg.errors import CallError

VARIABLE = "KERASIMG_WORKERS"
"""The environment variable that sets the number of worker processes; 0: threads."""
MANY_CORES = 4
"""Up to this number of cores, threads decode."""
MANY_IMAGES = 1000
"""Fewer images are decoded by threads: they are done in the time in which the workers start."""
IMAGES_PER_TASK = 32
"""Images of a task at most: more of them would not lower the cost per image, but the load would be less balanced."""
FEWEST_PER_TASK = 4
"""Images of a task, at least, where workers would be idle."""
ATTEMPTS = 3
"""Workers that may end before a task is parted, or its only image is given up."""
START = "import sys; sys.path[:] = sys.argv[2:]; from kerasimg.data.decode_worker import main; main(int(sys.argv[1]))"
"""The program of a worker."""
SINGLE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Environment of a worker: its libraries start no threads."""


class WorkerEnded(Exception):
    """A worker ended while it had a task."""


def worker_count(workers: int | None, images: int) -> int:
    """The number of worker processes; 0: threads decode.

    Args:
        workers: the caller's number; None: `KERASIMG_WORKERS`, else one per core if there are more than `MANY_CORES`
            and at least `MANY_IMAGES` to load.
        images: the number of images.

    Raises:
        CallError: if the variable holds no number.
    """
    if not hasattr(socket, "SCM_RIGHTS") or not sys.executable:
        return 0
    if workers is not None:
        return workers
    if value := os.environ.get(VARIABLE):
        if not value.isdecimal():
            raise CallError(f"{VARIABLE}: expected a number of processes, or 0 for threads, got '{value}'")
        return int(value)
    return cores() if cores() > MANY_CORES and images >= MANY_IMAGES else 0


class Memory:
    """A piece of memory that workers can map."""

    numbers = itertools.count()

    def __init__(self, size: int):
        self.number = next(Memory.numbers)
        self.size = size
        if hasattr(os, "memfd_create"):
            self.file = os.memfd_create("kerasimg", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile() as file:  # has no name either
                self.file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self.file)
        os.ftruncate(self.file, size)
        self.map = mmap.mmap(self.file, size)


class Memories:
    """Shared memory for batches, which is used again after a batch is no longer referenced."""

    def __init__(self, kept: int):
        """kept: the largest number of unused pieces."""
        # Appending and popping are atomic: a batch may be freed by any thread, at any time.
        self.free: deque[Memory] = deque(maxlen=kept)

    def take(self, shape: tuple[int, ...]) -> tuple[np.ndarray, Memory]:
        """An uninitialised uint8 array in shared memory."""
        size = math.prod(shape)
        memory = None
        with contextlib.suppress(IndexError):
            while memory is None or memory.size < size:
                memory = self.free.pop()
        if memory is None or memory.size < size:
            memory = Memory(size)
        whole = np.frombuffer(memory.map, np.uint8, size)
        # All views of the batch refer to `whole`.
        weakref.finalize(whole, self.free.append, memory).atexit = False
        return whole.reshape(shape), memory


class Worker:
    """One process."""

    def __init__(self) -> None:
        self.channel, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            self.process = subprocess.Popen(
                [sys.executable, "-c", START, str(number), *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[number],
                process_group=0,  # Ctrl-C is for the parent
                env={**os.environ, **SINGLE},
            )
        self.known: weakref.WeakValueDictionary[int, Memory] = weakref.WeakValueDictionary()
        self.numbers: set[int] = set()

    def run(self, task: Task, memory: Memory | None) -> list[Result]:
        """Sends a task and waits for the answer; EOFError or ConnectionError if the process ends."""
        forgotten = tuple(number for number in self.numbers if number not in self.known)
        self.numbers.difference_update(forgotten)
        files = []
        if memory is not None and memory.number not in self.numbers:
            files = [memory.file]
            self.known[memory.number] = memory
            self.numbers.add(memory.number)
        send(self.channel, task._replace(forgotten=forgotten), files)
        results: list[Result] = receive(self.channel)[0]
        return results

    def end(self) -> int:
        """Ends the process; returns its exit status."""
        self.channel.close()
        self.process.kill()
        return self.process.wait()


class WorkerPool:
    """Worker processes, started when they are needed."""

    def __init__(self, count: int):
        self.count = count
        # Last in, first out: workers that are not needed end after a while.
        self.idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        for _ in range(count):
            self.idle.put(None)

    def images_per_task(self, images: int) -> int:
        """The size of the tasks that a batch is parted into."""
        each = -(-images // max(1, self.idle.qsize()))
        return max(FEWEST_PER_TASK, min(IMAGES_PER_TASK, each))

    def run(self, task: Task, memory: Memory | None) -> list[Result]:
        """Runs a task by the next worker that is idle; returns a result for each image.

        If the worker ends meanwhile (killed, out of memory, a decoder that crashes), another one gets the task, and if
        that ends too, the images are sent alone. One that still ends every worker is unreadable.
        """
        for attempt in range(ATTEMPTS):
            try:
                return self._run(task, memory)
            except WorkerEnded as error:
                if attempt == ATTEMPTS - 1 and len(task.images) == 1:
                    return [BadImage(f"cannot be decoded: each process that tried it ended ({error})")]
        results = []
        for img, row in zip(task.images, task.rows, strict=True):
            results += self.run(task._replace(images=[img], rows=[row]), memory)
        return results

    def _run(self, task: Task, memory: Memory | None) -> list[Result]:
        worker = self.idle.get()
        try:
            if worker is None:
                worker = Worker()
            return worker.run(task, memory)
        except (EOFError, ConnectionError) as error:
            status = worker.end() if worker is not None else 0
            worker = None
            raise WorkerEnded(f"signal {-status}" if status < 0 else f"status {status}") from error
        except BaseException:
            if worker is not None:
                worker.end()  # the rest of a message may be on its way
            worker = None
            raise
        finally:
            self.idle.put(worker)

    def end(self) -> None:
        """Ends the workers that are idle."""
        with contextlib.suppress(queue.Empty):
            while True:
                worker = self.idle.get_nowait()
                if worker is not None:
                    worker.end()


_pools: dict[int, WorkerPool] = {}


def worker_pool(count: int) -> WorkerPool:
    """The pool of this many workers, which all loaders of the process share."""
    return _pools.setdefault(count, WorkerPool(count))


@atexit.register
def end_workers() -> None:
    """Ends all idle workers."""
    while _pools:
        _pools.popitem()[1].end()


if hasattr(os, "register_at_fork"):
    # A forked process must not talk to the workers of its parent.
    os.register_at_fork(after_in_child=_pools.clear)
