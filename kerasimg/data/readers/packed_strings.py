"""Millions of short texts in one piece of memory, and what is read from such a piece."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

import numpy as np

Blob = bytes | np.ndarray


class Texts:
    """Texts one after the other in one piece of memory, a byte between each and the next."""

    def __init__(self, blob: Blob, ends: np.ndarray):
        """blob: their bytes, UTF-8, maybe mapped from a file.  ends: (N,) where each text ends, ascending."""
        self.blob = memoryview(blob) if isinstance(blob, bytes) else blob.data
        self.ends = ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """These texts."""
        growing = Growing()
        for text in texts:
            growing.add(text)
        return growing.texts()

    @classmethod
    def joined(cls, blob: Blob) -> Self:
        """The texts that zero bytes separate in a blob, which is not empty; none of them holds one."""
        return cls(blob, np.append(np.flatnonzero(np.frombuffer(blob, np.uint8) == 0), len(blob)))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        return self.raw(index).decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def __reduce__(self) -> tuple[type[Texts], tuple[bytes, np.ndarray]]:
        # A view of memory cannot be sent to another process; what it shows can.
        return type(self), (bytes(self.blob), np.array(self.ends))

    def is_utf_8(self) -> bool:
        """Whether their bytes are UTF-8 and nothing else, so that those of a text are the text."""
        try:
            str(self.blob, "utf-8")
        except UnicodeDecodeError:
            return False
        return True

    def raws(self, indices: np.ndarray) -> Iterator[bytes]:
        """The bytes of these texts, one after the other; faster for many than one by one."""
        starts = np.where(indices > 0, self.ends[indices - 1] + 1, 0).tolist()
        for start, end in zip(starts, self.ends[indices].tolist(), strict=True):
            yield bytes(self.blob[start:end])

    def raw(self, index: int) -> bytes:
        """The bytes of a text, at an index of 0 to N - 1."""
        start = int(self.ends[index - 1]) + 1 if index else 0
        return bytes(self.blob[start : int(self.ends[index])])


class Paths(Texts):
    """Paths of files, with forward slashes, in the bytes of the file system; read as text that can be printed."""

    def __getitem__(self, index: int) -> str:
        return readable(os.fsdecode(self.raw(index)))


class Extras:
    """What a manifest says besides, a JSON object for each image; parsed when it is asked for."""

    def __init__(self, texts: Texts):
        self.texts = texts

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return json.loads(self.texts[index])


class Growing:
    """Texts that are added one by one."""

    def __init__(self) -> None:
        self.blob = bytearray()
        self.ends = array("q")

    def add(self, text: str) -> None:
        """One more text."""
        self.add_raw(text.encode("utf-8", "surrogatepass"))

    def add_raw(self, text: bytes) -> None:
        """One more text, in its bytes."""
        self.blob += text
        self.ends.append(len(self.blob))
        self.blob.append(0)

    def texts(self) -> Texts:
        """All that were added."""
        return Texts(bytes(self.blob), np.array(self.ends, np.int64))


def readable(name: str) -> str:
    """The name as text that can be printed: bytes of it that are no UTF-8 are written as escapes."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode()
