"""Worker processes that decode images and parse bodies for a server: the system ends one that takes too long.

No thread can be stopped within a decoder, and whatever a parser makes of a hostile body is gone with its process.
`python -c "from kerasimg.deploy.serve.workers import main; main()"` is one: it reads tasks from its standard input and
writes results to its standard output, both pickled; only the server and its own workers write there.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from kerasimg.data.image_files import BadImage, TooCostly
from kerasimg.deploy.serve.errors import Refused, TooManyPixels
from kerasimg.deploy.serve.settings import Settings
from kerasimg.spec.document import Image

BASE_BYTES = 2 * 2**30
"""Address space that a worker has besides what an image takes: its libraries, a body and what is made of it."""

BYTES_PER_PIXEL = 16
NICE = 10
"""Added to the niceness of a worker, so that the event loop gets a processor first."""
GROWN_MB = 400
"""Memory from which on a worker is replaced after its task: Python keeps what it once had."""


class Setup(NamedTuple):
    """What a worker is told first."""

    image: dict[str, Any]
    max_pixels: int
    seconds: float


class Workers:
    """So many processes, each asked by a thread of its own."""

    def __init__(self, image: Image, settings: Settings) -> None:
        self._setup = Setup(image.model_dump(), settings.max_pixels, settings.max_decode_s)
        # The others start when there is work for them.
        self._idle: list[_Process | None] = [None] * (settings.own_threads - 1) + [_Process(self._setup)]
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(settings.own_threads, "worker")

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future:
        """Run a function in one of the threads; it may `ask`."""
        return self._pool.submit(work, *arguments)

    def ask(self, task: str, *arguments: Any) -> Any:
        """The result of a task in a process; what it raises, and TooCostly where it took too long.

        To be called by a function that was submitted.
        """
        with self._lock:
            process = self._idle.pop()
        try:
            process = process or _Process(self._setup)
            return process.ask(task, arguments)
        finally:
            if process is not None and process.ended():
                process.close()
                process = None
            with self._lock:
                self._idle.append(process)

    def close(self) -> None:
        """Finish what is in work, and end the processes."""
        self._pool.shutdown()
        for process in self._idle:
            if process is not None:
                process.close()


class _Process:
    def __init__(self, setup: Setup) -> None:
        command = [sys.executable, "-c", "from kerasimg.deploy.serve.workers import main; main()"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._seconds = setup.seconds
        if self._process.stdin is not None:
            pickle.dump(tuple(setup), self._process.stdin)
            self._process.stdin.flush()

    def ask(self, task: str, arguments: tuple[Any, ...]) -> Any:
        into, out = self._process.stdin, self._process.stdout
        if into is None or out is None:
            raise RuntimeError("a worker without pipes")
        try:
            pickle.dump((task, arguments), into, protocol=5)
            into.flush()
            right, result = pickle.load(out)
        except (EOFError, OSError, pickle.UnpicklingError):
            code = self._process.wait()
            if code == -getattr(signal, "SIGPROF", 0):
                raise TooCostly(f"takes more than {self._seconds:g} s to decode; the limit") from None
            raise BadImage("is damaged (it ended the process that decoded it)") from None
        if not right:
            raise result
        return result

    def ended(self) -> bool:
        """Whether it is of no further use."""
        with contextlib.suppress(OSError, IndexError, ValueError):
            pages = int(_read(f"/proc/{self._process.pid}/statm").split()[1])
            if pages * os.sysconf("SC_PAGE_SIZE") > GROWN_MB * 2**20:
                return True
        return self._process.poll() is not None

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


# In the process


def main() -> None:
    """Do tasks until the server has gone."""
    into, out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)  # what a library prints is no result
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which lets its workers finish
    try:
        setup = Setup(*pickle.load(into))
    except EOFError:
        return
    tasks = _tasks(setup)
    while True:
        try:
            task, arguments = pickle.load(into)
        except EOFError:
            return
        answer = _answer(tasks[task], arguments, setup.seconds)
        with contextlib.suppress(BrokenPipeError):
            pickle.dump(answer, out, protocol=5)
            out.flush()


def _answer(work: Callable[..., Any], arguments: tuple[Any, ...], seconds: float) -> tuple[bool, Any]:
    try:
        with _bounded(seconds):
            return True, work(*arguments)
    except (Refused, BadImage) as error:
        return False, error
    except MemoryError:
        return False, TooManyPixels("needs more memory than there is")
    except RecursionError:
        return False, Refused("body", "the body is nested too deep")
    except Exception as error:
        return False, RuntimeError(f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def _bounded(seconds: float) -> Any:
    """Let the system end this process after so much time of the processor, also within a decoder."""
    if not hasattr(signal, "setitimer"):  # Windows
        yield
        return
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _tasks(setup: Setup) -> Mapping[str, Callable[..., Any]]:
    """Task -> function; the libraries are imported before the first, and do not count as its time."""
    import PIL.Image

    from kerasimg.data.decode import decode
    from kerasimg.deploy.serve import protocol, requests
    from kerasimg.deploy.serve.server import limit_memory

    limit_memory(setup.max_pixels)
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        most = BASE_BYTES + BYTES_PER_PIXEL * setup.max_pixels
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        os.nice(NICE)
    if hasattr(os, "SCHED_BATCH"):  # Linux: a worker that gets work does not interrupt the event loop
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    image = Image.model_validate(setup.image)

    def look(opened: PIL.Image.Image) -> None:
        if opened.width * opened.height > setup.max_pixels:
            told = f"has {opened.width} x {opened.height} pixels; the limit is {setup.max_pixels / 1e6:g} million"
            raise TooManyPixels(told)

    PIL.Image.init()
    return {
        "decode": lambda data: decode(data, image, look),
        "read_images": requests.read_images,
        "read_tensors": protocol.read,
    }
