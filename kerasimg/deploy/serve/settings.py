"""What a server allows and how it works; one closed object, which worker processes get as JSON."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields

from kerasimg.data.parallel import cores
from kerasimg.errors import CallError

KEY_VARIABLE = "KERASIMG_API_KEY"
"""The environment variable with the key that requests must bring."""

LEAST_KEY = 16
"""Characters that a key must have at least."""

MEBIBYTE = 2**20


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting of a server, with the default that suits two cores and images from phones."""

    host: str = "127.0.0.1"
    """The address that is listened at; 127.0.0.1 is this machine alone."""
    port: int = 8000
    """0: any that is free."""
    workers: int = 1
    """Processes, each with the model of its own."""
    threads: int | None = None
    """Of each process: that the runtime computes with, and processes that decode images. None: cores / workers."""
    model: str | None = None
    """Of a bundle with several models, the path or the precision of one. None: the first."""
    name: str | None = None
    """By which the model is asked for. None: the bundle's."""
    top: int = 5
    """Classes that an answer lists, unless it is asked for another number."""
    max_bytes: int = 16 * MEBIBYTE
    """Of a request's body."""
    max_pixels: int = 50_000_000
    """Of an image, by its header; what is decoded takes up to 10 bytes for each, in every thread."""
    max_decode_s: float = 1.5
    """Processor time to read a body, or to decode an image; the process that takes longer is ended."""
    max_images: int = 32
    """Of a request."""
    timeout_s: float = 30.0
    """From a request's first byte to its answer."""
    max_batch: int = 8
    """Images that the model is asked for at once."""
    max_wait_ms: float = 2.0
    """That an image waits for others that are being decoded; alone it does not wait."""
    queue: int = 128
    """Images that are read, decoded or waited for at a time; more are refused with 429."""
    connections: int = 1000
    """That are open at a time."""
    explain: bool = True
    """Whether a request may ask where the model sees a class."""
    log: bool = True
    """Whether each request is told, as a line of JSON."""

    def __post_init__(self) -> None:
        """CallError for a number that is too small."""
        for field, least in LEAST.items():
            found = getattr(self, field)
            if found is not None and not found >= least:
                raise CallError(f"{field}: expected {least} or more, got {found}")
        if self.port > 65535:
            raise CallError(f"port: expected 0 to 65535, got {self.port}")
        if self.queue < self.max_images:
            raise CallError(f"queue: expected at least max_images, {self.max_images}, got {self.queue}")

    @property
    def own_threads(self) -> int:
        """Threads of each process."""
        return self.threads or max(1, cores() // self.workers)

    @property
    def held_bytes(self) -> int:
        """Bytes of bodies that are held at a time; more are refused with 429."""
        return 16 * self.max_bytes

    def to_json(self) -> str:
        """As text, for `from_json`."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Settings:
        """What `to_json` wrote."""
        return Settings(**json.loads(text))


LEAST: dict[str, float] = {
    "port": 0,
    "workers": 1,
    "threads": 1,
    "top": 1,
    "max_bytes": 1024,
    "max_pixels": 1,
    "max_decode_s": 0.1,
    "max_images": 1,
    "timeout_s": 0.1,
    "max_batch": 1,
    "max_wait_ms": 0,
    "queue": 1,
    "connections": 1,
}
"""Setting -> its least value."""

NAMES = frozenset(field.name for field in fields(Settings))


def key_from_environment() -> str | None:
    """The key that requests must bring, or None; CallError for one that is easily guessed."""
    key = os.environ.get(KEY_VARIABLE) or None
    if key is not None and (len(key) < LEAST_KEY or not key.isascii() or not key.isprintable()):
        raise CallError(f"{KEY_VARIABLE}: expected {LEAST_KEY} or more printable ASCII characters, got {len(key)}")
    return key
