"""The settings of a server."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields

from kerasimg.boundary import limit
from kerasimg.data.parallel import cores
from kerasimg.errors import CallError

KEY_VARIABLE = "KERASIMG_API_KEY"
"""Environment variable with the API key."""

MIN_KEY_CHARACTERS = 16
"""Minimum length of a key."""

MEBIBYTE = 2**20

DEVICES = ("cpu", "gpu")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a server; the defaults suit two cores and photos from phones."""

    host: str = "127.0.0.1"
    """Address to listen on; 127.0.0.1 accepts connections from this machine only."""
    port: int = 8000
    """0: any free port."""
    workers: int = 1
    """Server processes, each with its own copy of the model."""
    threads: int | None = None
    """Per server process: threads of the runtime, and processes that decode images. None: cores / workers."""
    model: str | None = None
    """Path or precision of the model to serve if the bundle has several. None: the first."""
    names: tuple[str, ...] = ()
    """Names of the models in requests, in the order of the sources. (): the names in the bundles."""
    device: str = "cpu"
    """cpu or gpu; a GPU runs ONNX exports, by ONNX Runtime's execution providers."""
    reload_s: float = 1.0
    """Seconds between looks at the bundles; one that was replaced on disk is opened again. 0: never."""
    grpc_port: int | None = None
    """Port of the Open Inference Protocol over gRPC; 0: any free port. None: no gRPC."""
    top: int = 5
    """Number of classes to list; a request can override it."""
    max_bytes: int = 16 * MEBIBYTE
    """Maximum size of a request body."""
    max_pixels: int = limit("image_pixels")
    """Maximum pixels of an image, by its header; decoding takes up to 5 bytes per pixel and process."""
    max_decode_s: float = 1.2
    """CPU time to parse the body of a request and to decode its images; a process that takes longer is killed."""
    max_images: int = 32
    """Maximum images in a request."""
    timeout_s: float = 30.0
    """Time limit of a request, including its body."""
    max_batch: int = 8
    """Maximum images per model call."""
    max_wait_ms: float = 2.0
    """How long an image waits for others that are being decoded; a single image does not wait."""
    queue: int = 128
    """Maximum images in progress; requests beyond it get status 429."""
    connections: int = 1000
    """Maximum open connections."""
    explain: bool = True
    """Whether requests may ask for an explanation."""
    log: bool = True
    """Whether to log each request as a JSON line."""

    def __post_init__(self) -> None:
        """Checks the numbers; raises CallError."""
        for field, minimum in MINIMUM.items():
            value = getattr(self, field)
            if value is not None and not value >= minimum:
                raise CallError(f"{field}: expected {minimum} or more, got {value}")
        for field in ("port", "grpc_port"):
            if (getattr(self, field) or 0) > 65535:
                raise CallError(f"{field}: expected 0 to 65535, got {getattr(self, field)}")
        if self.device not in DEVICES:
            raise CallError(f"device: expected {' or '.join(DEVICES)}, got '{self.device}'")
        if self.workers > 1 and self.grpc_port == 0:
            raise CallError("grpc_port: several workers need the same port, so that 0 is not possible")
        if self.queue < self.max_images:
            raise CallError(f"queue: expected at least max_images, {self.max_images}, got {self.queue}")

    @property
    def own_threads(self) -> int:
        """Threads of each server process."""
        return self.threads or max(1, cores() // self.workers)

    @property
    def held_bytes(self) -> int:
        """Maximum bytes of all bodies in progress; requests beyond it get status 429."""
        return 16 * self.max_bytes

    def to_json(self) -> str:
        """Serializes the settings."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Settings:
        """Deserializes the settings."""
        fields = json.loads(text)
        return Settings(**(fields | {"names": tuple(fields["names"])}))


MINIMUM: dict[str, float] = {
    "port": 0,
    "grpc_port": 0,
    "reload_s": 0,
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
"""Setting -> minimum value."""

NAMES = frozenset(field.name for field in fields(Settings))


def key_from_environment() -> str | None:
    """Returns the API key, or None; raises CallError if it is easy to guess."""
    key = os.environ.get(KEY_VARIABLE) or None
    if key is not None and (len(key) < MIN_KEY_CHARACTERS or not key.isascii() or not key.isprintable()):
        raise CallError(
            f"the API key (--api-key-file or {KEY_VARIABLE}): expected {MIN_KEY_CHARACTERS} or more printable ASCII "
            f"characters, got {len(key)}"
        )
    return key
