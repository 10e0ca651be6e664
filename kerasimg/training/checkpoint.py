"""The file from which a training that was cut off goes on: whole, or the one before it.

A line that says what it is, a line of JSON (facts; names, types and shapes of the arrays; the CRC-32 of their bytes),
the bytes. It is written beside its place, brought to the disk, and then moved there: whenever the process dies, or
the machine, what stands there is one whole checkpoint.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kerasimg.errors import KerasimgError
from kerasimg.files import replacing

MAGIC = b"kerasimg checkpoint 1\n"
"""How every file begins; another number when the form changes."""


class Checkpoint(NamedTuple):
    """What a training stands at."""

    facts: dict[str, Any]
    """What JSON can say."""
    arrays: dict[str, np.ndarray]


def write(path: Path, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Put a checkpoint in the place of the one before; OSError leaves that one as it is."""
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    check = 0
    for array in whole.values():
        check = zlib.crc32(_bytes(array), check)
    described = [[name, array.dtype.name, list(array.shape)] for name, array in whole.items()]
    head = json.dumps({"facts": facts, "arrays": described, "crc32": check})
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(MAGIC + head.encode() + b"\n")
        for array in whole.values():
            file.write(_bytes(array))
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> Checkpoint | None:
    """The checkpoint of a file; None when there is none, KerasimgError when it is damaged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return _parsed(content)
    except (ValueError, KeyError, TypeError):
        raise KerasimgError(
            f"{path} is damaged, or of another version of kerasimg; remove it and the run begins anew when it is "
            "resumed, with the same data and the same seed"
        ) from None


def in_smaller_batches(found: Checkpoint | None, images: int, size: int) -> Checkpoint | None:
    """A checkpoint as it would be, had the training been in batches of `size` from the beginning of its stage.

    The order of the images does not depend on the size of batches, so the same have been seen. Schedules go by the
    optimizer's step count, which `facts["iterations"]` replaces.
    """
    if found is None or found.facts["done"] or found.facts.get("batch_size", size) == size:
        return found
    step = found.facts["step"] * found.facts["batch_size"] // size
    epochs = found.facts["epoch"] - found.facts["begin"]
    changed = {"step": step, "batch_size": size, "iterations": epochs * -(-images // size) + step}
    return Checkpoint({**found.facts, **changed}, found.arrays)


def facts(path: Path) -> dict[str, Any] | None:
    """The facts of a checkpoint alone; None where there is none that can be read."""
    try:
        with path.open("rb") as file:
            return json.loads(file.readline())["facts"] if file.readline() == MAGIC else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _parsed(content: bytes) -> Checkpoint:
    if not content.startswith(MAGIC):
        raise ValueError("another form")
    end = content.index(b"\n", len(MAGIC))
    head = json.loads(content[len(MAGIC) : end])
    body = memoryview(content)[end + 1 :]
    if zlib.crc32(body) != head["crc32"]:
        raise ValueError("damaged")
    arrays, start = {}, 0
    for name, dtype, shape in head["arrays"]:
        size = np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(body[start : start + size], np.dtype(dtype)).reshape(shape)
        start += size
    return Checkpoint(head["facts"], arrays)


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
