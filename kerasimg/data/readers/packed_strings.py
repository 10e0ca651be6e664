"""Packed strings: millions of short texts in one buffer."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

import numpy as np

Blob = bytes | np.ndarray


class Texts:
    """Texts in one buffer, with a separator byte between them."""

    def __init__(self, blob: Blob, ends: np.ndarray):
        """blob: their bytes, UTF-8, perhaps memory-mapped.  ends: (N,) end of each text, ascending."""
        self.blob = memoryview(blob) if isinstance(blob, bytes) else blob.data
        self.ends = ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """Pack these texts."""
        growing = Growing()
        for text in texts:
            growing.add(text)
        return growing.texts()

    @classmethod
    def joined(cls, blob: Blob) -> Self:
        """The texts of a blob that is separated by zero bytes and not empty."""
        return cls(blob, np.append(np.flatnonzero(np.frombuffer(blob, np.uint8) == 0), len(blob)))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        return self.raw(index).decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def __reduce__(self) -> tuple[type[Texts], tuple[bytes, np.ndarray]]:
        # A memoryview cannot be pickled; its content can.
        return type(self), (bytes(self.blob), np.array(self.ends))

    def is_utf_8(self) -> bool:
        """Whether all bytes are valid UTF-8."""
        try:
            str(self.blob, "utf-8")
        except UnicodeDecodeError:
            return False
        return True

    def raws(self, indices: np.ndarray) -> Iterator[bytes]:
        """The bytes of these texts; faster than single calls of `raw`."""
        starts = np.where(indices > 0, self.ends[indices - 1] + 1, 0).tolist()
        for start, end in zip(starts, self.ends[indices].tolist(), strict=True):
            yield bytes(self.blob[start:end])

    def raw(self, index: int) -> bytes:
        """The bytes of the text at an index of 0 to N - 1."""
        start = int(self.ends[index - 1]) + 1 if index else 0
        return bytes(self.blob[start : int(self.ends[index])])


class Paths(Texts):
    """Paths of files, with forward slashes, in the encoding of the file system; returned as printable text."""

    def __getitem__(self, index: int) -> str:
        return readable(os.fsdecode(self.raw(index)))


class Extras:
    """Other columns of a manifest, a JSON object per image; parsed on access."""

    def __init__(self, texts: Texts):
        self.texts = texts

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return json.loads(self.texts[index])


class Growing:
    """Builds `Texts` by appending."""

    def __init__(self) -> None:
        self.blob = bytearray()
        self.ends = array("q")

    def add(self, text: str) -> None:
        """Append a text."""
        self.add_raw(text.encode("utf-8", "surrogatepass"))

    def add_raw(self, text: bytes) -> None:
        """Append a text as bytes."""
        self.blob += text
        self.ends.append(len(self.blob))
        self.blob.append(0)

    def texts(self) -> Texts:
        """All appended texts."""
        return Texts(bytes(self.blob), np.array(self.ends, np.int64))


def readable(name: str) -> str:
    """The name as printable text: bytes that are not UTF-8 are escaped."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode()
