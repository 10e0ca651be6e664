"""Files of arrays that can be computed again: whole or absent, checked when they are read, shared by processes.

A file is a line that says what it is, a line of JSON with the names, types and shapes of its arrays and the CRC-32
of their bytes, and the bytes. It is written beside its place and moved there, so that a reader never sees half of
it. What is damaged, of another version or of another kind is taken for absent and removed; what cannot be written
(no room, no right) is not kept: nothing is lost but time.
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

MAGIC = b"kerasimg kept 1\n"
"""How every file begins; another number when the form changes."""
CHUNK = 1 << 24
"""Bytes that are checked at a time."""


def keep(path: Path, kind: str, arrays: Mapping[str, np.ndarray]) -> bool:
    """Write the arrays, of numbers or bytes, to a file of this kind; False where it cannot be written."""
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    check = 0
    for array in whole.values():
        check = _checked(array, check)
    head = {
        "kind": kind,
        "crc32": check,
        "arrays": [[name, array.dtype.str, list(array.shape)] for name, array in whole.items()],
    }
    beside = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            file.write(MAGIC + json.dumps(head).encode() + b"\n")
            for array in whole.values():
                file.write(_bytes(array))
        os.replace(beside, path)
    except OSError:
        remove(beside)
        return False
    return True


def kept(path: Path, kind: str) -> dict[str, np.ndarray] | None:
    """The arrays of a file of this kind, mapped into memory, read-only; None where there is none that is sound."""
    try:
        return _read(path, kind)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        remove(path)
        return None


def remove(path: Path) -> None:
    """Remove a file, if it is there and the system lets go of it."""
    with contextlib.suppress(OSError):
        path.unlink()


def remove_oldest(folder: Path, pattern: str, count: int) -> None:
    """Remove files of the folder until `count` are left, those first that were written longest ago."""
    dated = []
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):
            dated.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(dated)[: max(0, len(dated) - count)]:
        remove(path)


def _read(path: Path, kind: str) -> dict[str, np.ndarray]:
    with open(path, "rb") as file:
        if file.readline(len(MAGIC)) != MAGIC:
            raise ValueError("another form")
        head = json.loads(file.readline())
        start = file.tell()
    if head["kind"] != kind:
        raise ValueError("another kind")
    # An empty file, and an empty rest of one, cannot be mapped.
    size = path.stat().st_size - start
    body = np.memmap(path, np.uint8, "r", offset=start) if size else np.empty(0, np.uint8)
    arrays = {}
    end = 0
    for name, dtype, shape in head["arrays"]:
        begin, kind_of = end, np.dtype(dtype)
        end = begin + kind_of.itemsize * int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(body[begin:end], kind_of).reshape(shape)
    if end != len(body) or _checked(body, 0) != head["crc32"]:
        raise ValueError("damaged")
    return arrays


def _checked(array: np.ndarray, check: int) -> int:
    whole = _bytes(array)
    for start in range(0, len(whole), CHUNK):
        check = zlib.crc32(whole[start : start + CHUNK], check)
    return check


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
