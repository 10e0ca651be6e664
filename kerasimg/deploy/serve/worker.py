"""A worker process of the server: decodes images and parses request bodies, each task within its CPU time.

It reads pickled tasks from standard input and writes pickled results to standard output; `workers.py` is the other end.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import pickle
import signal
from collections.abc import Callable, Mapping
from typing import IO, Any

import PIL.Image

from kerasimg.boundary import limit
from kerasimg.data.decode import decode
from kerasimg.data.image_files import BadImage, formats
from kerasimg.deploy.serve import protocol, requests
from kerasimg.deploy.serve.errors import Refused, TooManyPixels
from kerasimg.deploy.serve.workers import Setup, limit_memory
from kerasimg.spec.document import Image

BASE_BYTES = 2 * 2**30
"""Address space of a worker besides the memory of an image: libraries, a body and its parsed form."""

BYTES_PER_PIXEL = 5
"""Memory of an image at its limit of pixels; 4 of these are Pillow's."""
COSTLY = {"JPEG2000": 4, "AVIF": 2, "TIFF": 2, "WEBP": 2}
"""Format -> how many times a pixel counts, because its decoder takes up to 20 or 10 bytes for it."""


def main() -> None:
    """Runs tasks until the server closes the pipe."""
    stdin, stdout = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)  # libraries may print
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
    """Returns a function per task."""
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
