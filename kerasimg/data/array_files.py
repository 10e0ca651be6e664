"""Cache files of arrays: written atomically, checked when they are read, shared by processes.

A file is a line that names the format, a line of JSON (the names, types and shapes of the arrays, the CRC-32 of their
bytes), and the bytes. It is written to a temporary file and renamed, so that a reader never sees half of it. A file
that is damaged, of another version or of another kind is removed, and reading it returns None. What cannot be written
(disk full, no permission) is not saved and is computed again next time.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

MAGIC = b"kerasimg arrays 1\n"
"""The first line of every file; the number changes with the format."""
CHUNK = 1 << 24
"""Bytes per step of the checksum."""


def save_arrays(path: Path, kind: str, arrays: Mapping[str, np.ndarray]) -> bool:
    """Write arrays of numbers or bytes to a file of this kind; returns False if it cannot be written."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    crc = 0
    for array in contiguous.values():
        crc = _crc(array, crc)
    head = {
        "kind": kind,
        "crc32": crc,
        "arrays": [[name, array.dtype.str, list(array.shape)] for name, array in contiguous.items()],
    }
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(MAGIC + json.dumps(head).encode() + b"\n")
            for array in contiguous.values():
                file.write(_bytes(array))
        os.replace(temporary, path)
    except OSError:
        remove(temporary)
        return False
    return True


def load_arrays(path: Path, kind: str) -> dict[str, np.ndarray] | None:
    """The arrays of a file of this kind, memory-mapped and read-only; None if there is no valid file."""
    try:
        return _read(path, kind)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        remove(path)
        return None


def remove(path: Path) -> None:
    """Remove a file if it exists and can be removed."""
    with contextlib.suppress(OSError):
        path.unlink()


def remove_oldest(folder: Path, pattern: str, count: int) -> None:
    """Remove the oldest files of a folder until `count` are left."""
    dated = []
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):
            dated.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(dated)[: max(0, len(dated) - count)]:
        remove(path)


def _read(path: Path, kind: str) -> dict[str, np.ndarray]:
    with open(path, "rb") as file:
        if file.readline(len(MAGIC)) != MAGIC:
            raise ValueError("another format")
        head = json.loads(file.readline())
        start = file.tell()
    if head["kind"] != kind:
        raise ValueError("another kind")
    # An empty file, or an empty remainder, cannot be memory-mapped.
    size = path.stat().st_size - start
    body = np.memmap(path, np.uint8, "r", offset=start) if size else np.empty(0, np.uint8)
    arrays = {}
    end = 0
    for name, dtype, shape in head["arrays"]:
        begin, kind_of = end, np.dtype(dtype)
        end = begin + kind_of.itemsize * int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(body[begin:end], kind_of).reshape(shape)
    if end != len(body) or _crc(body, 0) != head["crc32"]:
        raise ValueError("damaged")
    return arrays


def _crc(array: np.ndarray, crc: int) -> int:
    contiguous = _bytes(array)
    for start in range(0, len(contiguous), CHUNK):
        crc = zlib.crc32(contiguous[start : start + CHUNK], crc)
    return crc


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
