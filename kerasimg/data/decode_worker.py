"""A process that decodes images for `worker_pool.py`, into memory that it shares with its parent.

It loads NumPy, Pillow, simplejpeg and OpenCV, not Keras, TensorFlow or pydantic: 0.2 s after its start it can work. It
ends when its parent ends, in whatever way, and when it has had no task for `IDLE_S`; the parent starts another one when
it needs one.

A message is its length and a pickle, over a Unix socket. The first task for a piece of memory brings its file
descriptor along.
"""

from __future__ import annotations

import array
import functools
import hashlib
import json
import mmap
import os
import pickle
import select
import signal
import socket
import struct
import time
from collections.abc import Sequence
from io import BufferedReader
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from kerasimg.data.decode import decode
from kerasimg.data.fast_decode import decode_fast
from kerasimg.data.image_files import open_image, read_pixels
from kerasimg.data.items import ImageInput

if TYPE_CHECKING:
    from kerasimg.spec.document import Image

IDLE_S = 60.0
"""Seconds without a task after which a worker ends."""
POLL_S = 2.0
"""Seconds between two looks at whether the parent still lives. Its end is seen at once by the closed socket, unless a
process that it forked holds a copy of that."""
LENGTH = struct.Struct("<Q")
"""The length of a message."""
AT_ONCE, MORE = 1 << 14, 1 << 20
"""Bytes that are received by the first call, and by each further one."""


class Task(NamedTuple):
    """Images to decode."""

    image: str
    """The `image` section as JSON; empty: images are read at their own size, and nothing is returned."""
    exact: bool
    """Use the reference decoder."""
    images: list[str | bytes]
    """Paths, or the bytes of files."""
    memory: int
    """The number of the shared memory, rows of uint8 pixels; -1: the pixels are not returned."""
    rows: list[int]
    """The row of each image there."""
    digest: bool = False
    """Return the SHA-256 of each file."""
    forgotten: tuple[int, ...] = ()
    """Numbers of memory that is not used any more."""


Result = bytes | Exception
"""What became of an image: the SHA-256 of its bytes, if asked for, else nothing; or why it was not decoded."""

LARGEST_READ = 256 * 1024**2
"""Bytes of the largest file that is read as a whole."""


def send(channel: socket.socket, content: Any, files: Sequence[int] = ()) -> None:
    """Sends an object and file descriptors."""
    message = pickle.dumps(content, protocol=5)
    message = LENGTH.pack(len(message)) + message
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
    sent = channel.sendmsg([message], rights)
    if sent < len(message):
        channel.sendall(memoryview(message)[sent:])


def receive(channel: socket.socket) -> tuple[Any, list[int]]:
    """Receives an object and file descriptors; EOFError if the other side has ended."""
    # Most messages come whole, in one call. None follows before this one is answered.
    content, rights, _, _ = channel.recvmsg(AT_ONCE, socket.CMSG_LEN(4))
    message = bytearray(content)
    while len(message) < LENGTH.size or len(message) < LENGTH.size + LENGTH.unpack_from(message)[0]:
        content = channel.recv(MORE)
        if not content:
            raise EOFError
        message += content
    files = array.array("i")
    for _, _, numbers in rights:
        files.frombytes(numbers)
    return pickle.loads(memoryview(message)[LENGTH.size :]), files.tolist()


def main(number: int) -> None:
    """Decodes until the parent ends.  number: the file descriptor of the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    parent, last = os.getppid(), time.monotonic()
    shared: dict[int, mmap.mmap] = {}
    with socket.socket(fileno=number) as channel:
        while True:
            if not select.select([channel], [], [], POLL_S)[0]:
                if os.getppid() != parent or time.monotonic() - last > IDLE_S:
                    return
                continue
            try:
                task, files = receive(channel)
                for file in files:
                    shared[task.memory] = mmap.mmap(file, 0)
                    os.close(file)
                for memory in task.forgotten:
                    shared.pop(memory, None)
                send(channel, decode_task(task, shared.get(task.memory)))
            except (EOFError, ConnectionError):
                return
            last = time.monotonic()


def decode_task(task: Task, memory: mmap.mmap | None) -> list[Result]:
    """Decodes the images of a task to their rows."""
    image: Any = section(task.image) if task.image else None
    pixels = np.frombuffer(b"" if memory is None else memory, np.uint8)
    results: list[Result] = []
    for img, row in zip(task.images, task.rows, strict=True):
        try:
            if task.digest:
                decoded, digest = decode_and_hash(img, image)
            else:
                decoded, digest = (decode if task.exact else decode_fast)(img, image), b""
            if memory is not None and decoded is not None:
                pixels[row * decoded.size : (row + 1) * decoded.size] = decoded.reshape(-1)
            results.append(digest)
        except Exception as error:
            results.append(_portable(error))
    return results


def decode_and_hash(img: ImageInput, image: Image | None) -> tuple[np.ndarray | None, bytes]:
    """An image by the fast decoder, and the SHA-256 of its bytes.

    image: None: it is only read, at its own size, and no pixels are returned.
    """
    content, digest = _read(img)
    if image is None:
        read_pixels(content)
        return None, digest
    return decode_fast(content, image), digest


def _read(image: ImageInput) -> tuple[ImageInput, bytes]:
    """The image, read from its file unless that is huge, and the SHA-256 of its bytes."""
    if isinstance(image, np.ndarray):
        return image, hashlib.sha256(np.ascontiguousarray(image).data).digest()
    if isinstance(image, bytes):
        return image, hashlib.sha256(image).digest()
    with open_image(image) as file:
        if os.fstat(file.fileno()).st_size > LARGEST_READ:
            return image, hashlib.file_digest(cast(BufferedReader, file), "sha256").digest()
        content = file.read()
    return content, hashlib.sha256(content).digest()


def _portable(error: Exception) -> Exception:
    """The error, or one with its text if it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def section_text(image: Any) -> str:
    """The `image` section of a spec, and what it computes, as `section` reads it."""
    return json.dumps({**image.model_dump(mode="json"), "resized": image.resized})


@functools.lru_cache(maxsize=64)
def section(text: str) -> Any:
    """The `image` section, without the library that checks it."""
    values = json.loads(text)
    return SimpleNamespace(**{**values, "resized": tuple(values["resized"])})
