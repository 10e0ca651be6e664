"""Worker processes that decode images and parse request bodies. The system kills one that takes too long.

A thread cannot be stopped inside a decoder, and the memory that a hostile body takes is freed with its process.
A worker (`worker.py`) reads pickled tasks from standard input and writes pickled results to standard output; only the
server and its workers write to these pipes.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import wait
from typing import Any, NamedTuple

from kerasimg.data.image_files import BadImage, TooCostly
from kerasimg.deploy.serve.errors import Refused
from kerasimg.deploy.serve.settings import Settings

NICE = 10
"""Added to the niceness of a worker, so that the event loop gets a CPU first."""
GROWN_MB = 400
"""A worker that has grown beyond this is replaced after its task: Python does not return all memory."""


POLL_S = 0.05
"""How often the CPU time of a request is compared with its limit while its images are decoded."""


class Setup(NamedTuple):
    """The first message to a worker."""

    max_pixels: int


class Budget:
    """The CPU time that the tasks of one request may take together, in whichever workers they run."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._spent = 0.0
        self._running: dict[int, float] = {}
        """Process id -> its CPU time before the task."""
        self._lock = threading.Lock()

    def left(self) -> float:
        """Returns the remaining CPU time in seconds."""
        with self._lock:
            running = sum(max(0.0, _cpu_s(process) - before) for process, before in self._running.items())
            return self.seconds - self._spent - running

    @contextlib.contextmanager
    def charged(self, process: int) -> Iterator[None]:
        """Counts the CPU time of a process while it works for the request."""
        before = _cpu_s(process)
        with self._lock:
            self._running[process] = before
        try:
            yield
        finally:
            with self._lock:
                self._spent += max(0.0, _cpu_s(process) - before)
                del self._running[process]


class Workers:
    """A pool of processes, each driven by a thread."""

    def __init__(self, settings: Settings) -> None:
        self._setup = Setup(settings.max_pixels)
        # The others start on demand.
        self._idle: list[_Process | None] = [None] * (settings.own_threads - 1) + [_Process(self._setup)]
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(settings.own_threads, "worker")

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future:
        """Runs a function in one of the threads; it may call `ask`."""
        return self._pool.submit(work, *arguments)

    def ask(self, task: str, budget: Budget, *arguments: Any) -> Any:
        """Runs a task in a worker process; called only by a submitted function.

        Returns:
            The result of the task.

        Raises:
            TooCostly: if the tasks of the budget took too long.
            Exception: whatever the task raised.
        """
        if budget.left() <= 0:
            raise _too_costly(budget)
        with self._lock:
            process = self._idle.pop()
        try:
            process = process or _Process(self._setup)
            return process.ask(task, budget, arguments)
        finally:
            if process is not None and process.ended():
                process.close()
                process = None
            with self._lock:
                self._idle.append(process)

    def read(self, task: str, budget: Budget, *arguments: Any) -> Future:
        """Parses a body in a worker process; the future raises Refused for a bad one."""
        return self.submit(self._read, task, budget, *arguments)

    def _read(self, task: str, budget: Budget, *arguments: Any) -> Any:
        try:
            return self.ask(task, budget, *arguments)
        except TooCostly:
            raise Refused("costly", "the body takes too long to parse; send less per request") from None
        except BadImage:
            raise Refused("body", "the body cannot be parsed: it crashed the process that parsed it") from None

    def close(self) -> None:
        """Completes the work in progress and ends the processes."""
        self._pool.shutdown()
        for process in self._idle:
            if process is not None:
                process.close()


class _Process:
    def __init__(self, setup: Setup) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._ready = False
        if self._process.stdin is not None:
            pickle.dump(tuple(setup), self._process.stdin)
            self._process.stdin.flush()

    def ask(self, task: str, budget: Budget, arguments: tuple[Any, ...]) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("a worker without pipes")
        try:
            if not self._ready:  # its start does not count as time of the request
                self._ready = pickle.load(stdout)
            with budget.charged(self._process.pid):
                pickle.dump((task, max(0.01, budget.left()), arguments), stdin, protocol=5)
                stdin.flush()
                # The system ends a task that takes all that is left; other images of the request may take it meanwhile.
                while os.name == "posix" and not wait([stdout.fileno()], POLL_S):
                    if budget.left() <= 0:
                        self._process.kill()
                ok, result = pickle.load(stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            code = self._process.wait()
            if code == -getattr(signal, "SIGPROF", 0) or budget.left() <= 0:
                raise _too_costly(budget) from None
            raise BadImage("is damaged (it crashed the process that decoded it)") from None
        if not ok:
            raise result
        return result

    def ended(self) -> bool:
        """Whether the process must be replaced: it has ended or uses too much memory."""
        with contextlib.suppress(OSError, IndexError, ValueError):
            pages = int(_read(f"/proc/{self._process.pid}/statm").split()[1])
            if pages * os.sysconf("SC_PAGE_SIZE") > GROWN_MB * 2**20:
                return True
        return self._process.poll() is not None

    def close(self) -> None:
        """Kills the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _too_costly(budget: Budget) -> TooCostly:
    return TooCostly(f"takes more than {budget.seconds:g} s to decode, the limit")


def _cpu_s(process: int) -> float:
    """Returns the CPU time of a process in seconds; 0 where the system does not report it."""
    try:
        user, system = _read(f"/proc/{process}/stat").rpartition(")")[2].split()[11:13]
    except (OSError, ValueError):
        return 0.0
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


_PROGRAM = f"""
import os, signal
signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server handles Ctrl-C and lets its workers finish
if hasattr(os, "nice"):
    os.nice({NICE})
if hasattr(os, "SCHED_BATCH"):  # Linux: a worker that gets work does not interrupt the event loop
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError:
        pass
from kerasimg.deploy.serve.worker import main
main()
"""
"""Takes a low priority before anything is imported: that alone takes 0.4 s of CPU."""


def limit_memory(max_pixels: int) -> None:
    """Makes Pillow refuse larger images, and the C library return large buffers to the system at once.

    Both apply to the whole process. Only Pillow sees the size of images inside of images (ICO). By default the C
    library keeps freed buffers of up to 32 MB in a heap per thread.
    """
    import ctypes

    import PIL.Image

    PIL.Image.MAX_IMAGE_PIXELS = max(1, max_pixels // 2)  # Pillow raises at twice this value
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libc.so.6").mallopt(_M_MMAP_THRESHOLD, _MMAP_FROM)
        except (OSError, AttributeError):  # another C library
            return


_M_MMAP_THRESHOLD = -3
_MMAP_FROM = 2**20
