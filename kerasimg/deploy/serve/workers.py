"""Worker processes that decode images and parse request bodies. The system kills one that takes too long.

A thread cannot be stopped inside a decoder, and the memory that a hostile body takes is freed with its process.
A worker (`main`) reads pickled tasks from standard input and writes pickled results to standard output; only the server
and its workers write to these pipes.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import wait
from typing import IO, Any, NamedTuple

from kerasimg.boundary import limit
from kerasimg.data.image_files import BadImage, TooCostly
from kerasimg.deploy.serve.errors import Refused, TooManyPixels
from kerasimg.deploy.serve.settings import Settings
from kerasimg.spec.document import Image

BASE_BYTES = 2 * 2**30
"""Address space of a worker besides the memory of an image: libraries, a body and its parsed form."""

BYTES_PER_PIXEL = 5
"""Memory of an image at its limit of pixels; 4 of these are Pillow's."""
COSTLY = {"JPEG2000": 4, "AVIF": 2, "TIFF": 2, "WEBP": 2}
"""Format -> how many times a pixel counts, because its decoder takes up to 20 or 10 bytes for it."""
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


# In the worker process

_PROGRAM = f"""
import os
if hasattr(os, "nice"):
    os.nice({NICE})
if hasattr(os, "SCHED_BATCH"):  # Linux: a worker that gets work does not interrupt the event loop
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError:
        pass
from kerasimg.deploy.serve.workers import main
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


def main() -> None:
    """Runs tasks until the server closes the pipe."""
    stdin, stdout = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)  # libraries may print
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server handles Ctrl-C and lets its workers finish
    try:
        setup = Setup(*pickle.load(stdin))
    except EOFError:
        return
    tasks = _tasks(setup)
    _send(True, stdout)
    while True:
        try:
            task, seconds, arguments = pickle.load(stdin)
        except EOFError:
            return
        _send(_answer(tasks[task], arguments, seconds), stdout)


def _send(answer: Any, stdout: IO[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError):
        pickle.dump(answer, stdout, protocol=5)
        stdout.flush()


def _answer(work: Callable[..., Any], arguments: tuple[Any, ...], seconds: float) -> tuple[bool, Any]:
    try:
        with _bounded(seconds):
            return True, work(*arguments)
    except (Refused, BadImage) as error:
        return False, error
    except MemoryError:
        return False, TooManyPixels("needs more memory than is available")
    except RecursionError:
        return False, Refused("body", "the body is nested too deep")
    except Exception as error:
        return False, RuntimeError(f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def _bounded(seconds: float) -> Any:
    """Makes the system kill this process after `seconds` of CPU time, even inside a decoder."""
    if not hasattr(signal, "setitimer"):  # Windows
        yield
        return
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _tasks(setup: Setup) -> Mapping[str, Callable[..., Any]]:
    """Returns a function per task; imports happen here so that they do not count as time of a task."""
    import PIL.Image

    from kerasimg.data.decode import decode
    from kerasimg.data.image_files import formats
    from kerasimg.deploy.serve import protocol, requests

    limit_memory(setup.max_pixels)
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        limit_bytes = BASE_BYTES + 2 * BYTES_PER_PIXEL * setup.max_pixels  # of addresses; not all are used
        resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
    section = functools.lru_cache(Image.model_validate_json)

    def look(opened: PIL.Image.Image) -> None:
        if max(opened.size) > limit("image_side"):
            raise TooManyPixels(
                f"has {opened.width} x {opened.height} pixels; the limit is {limit('image_side'):,} a side"
            )
        most = setup.max_pixels / COSTLY.get(opened.format or "", 1)
        if opened.width * opened.height > most:
            reason = f"has {opened.width} x {opened.height} pixels; the limit is {most / 1e6:g} million"
            if opened.format in COSTLY:
                reason += f" for {opened.format}, whose decoder takes more memory"
            raise TooManyPixels(reason)

    def pixels(files: list[bytes]) -> int:
        """Returns the pixels of several images, by their headers; a bad image, which is refused later, has none."""
        count = 0
        for data in files:
            with contextlib.suppress(Exception), PIL.Image.open(io.BytesIO(data), formats=formats()) as opened:
                look(opened)
                count += opened.width * opened.height * COSTLY.get(opened.format or "", 1)
        return count

    return {
        "decode": lambda data, image: decode(data, section(image), look),
        "pixels": pixels,
        "read_images": requests.read_images,
        "read_tensors": protocol.read,
    }
