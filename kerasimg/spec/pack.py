"""A trained classifier in one file that cannot run code: a ZIP archive of JSON, Markdown and safetensors.

Members: `pack.json` (see `Manifest`), `spec.json`, `beside.json` (specs that serve it as backbones), the weights in
`weights.safetensors` (https://github.com/huggingface/safetensors), `MODEL_CARD.md`, and `NOTICE` where others' weights
went into it. Nothing else is looked at, nothing is unpacked by a name that stands in the file, and each member has its
SHA-256 in `pack.json`.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from kerasimg.errors import CallError
from kerasimg.files import replacing
from kerasimg.spec.document import PositiveFloat, Section, Task
from kerasimg.spec.reader import MAX_BYTES

SUFFIX = ".kerasimg"
MANIFEST, SPEC, BESIDE, WEIGHTS = "pack.json", "spec.json", "beside.json", "weights.safetensors"
CARD, NOTICE = "MODEL_CARD.md", "NOTICE"
TEXTS = (SPEC, BESIDE, CARD, NOTICE)

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Probability = Annotated[float, Field(ge=0, le=1)]


class Manifest(Section):
    """What `pack.json` says."""

    kerasimg_pack: Literal[1]
    """Version of the form."""
    name: str
    """Of the spec."""
    task: Task
    classes: Annotated[list[str], Field(min_length=1)]
    """In the order of the outputs."""
    temperature: PositiveFloat = 1.0
    thresholds: list[Probability] | None = None
    license: str | None = None
    """As the spec's card has it, an SPDX identifier where there is one."""
    figures: dict[str, float | int | str] = Field(default={})
    """What it reached on the pictures that its run held out."""
    versions: dict[str, str] = Field(default={})
    """Of the libraries that it was written with."""
    files: dict[str, Digest]
    """Member -> its SHA-256."""


class Pack:
    """A pack that has been opened: its manifest is sound, every member is there and is what the manifest says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._opened() as archive:
            self.manifest = self._manifest(_text(archive, MANIFEST))
            self._check(archive)

    def read(self, member: str) -> bytes:
        """The content of a member, checked against the manifest; nothing where it is none of the pack's."""
        if member not in self.manifest.files:
            return b""
        with self._opened() as archive:
            content = archive.read(member)
        if hashlib.sha256(content).hexdigest() != self.manifest.files[member]:
            raise self._refused(f"{member} is not what it was when it was packed: its SHA-256 differs")
        return content

    def write_specs(self, folder: Path) -> Path:
        """Write the spec, and those that it names, into a folder; the path of the spec."""
        beside = json.loads(self.read(BESIDE) or b"{}")
        if not isinstance(beside, dict):
            raise self._refused(f"{BESIDE}: expected an object of specs by file")
        for name, document in {**beside, SPEC: None}.items():
            path = folder / name
            if not path.resolve().is_relative_to(folder.resolve()) or path.suffix != ".json":
                raise self._refused(f"{BESIDE}: {name!r} is not the name of a spec beside this one")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.read(SPEC) if name == SPEC else json.dumps(document).encode())
        return folder / SPEC

    @contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        """The archive; what is wrong with it becomes an error that names it."""
        if not self.path.exists():
            raise CallError(f"no file '{self.path}'")
        if not self.path.is_file():  # a device may have no end
            raise CallError(f"'{self.path}' is no file; expected a {SUFFIX} file")
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield archive
        except (zipfile.BadZipFile, KeyError, OSError, NotImplementedError, RuntimeError, EOFError) as error:
            raise self._refused(str(error).strip("'\"") or type(error).__name__) from None

    def _manifest(self, content: bytes) -> Manifest:
        try:
            return Manifest.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the whole"
            raise self._refused(f"{MANIFEST}: {place}: {first['msg']}") from None

    def _check(self, archive: zipfile.ZipFile) -> None:
        for member in (SPEC, WEIGHTS):
            if member not in self.manifest.files:
                raise self._refused(f"it has no {member}")
        for member in self.manifest.files.keys() - {*TEXTS, WEIGHTS}:
            raise self._refused(f"{member!r} is no member of a pack")
        for member in self.manifest.files:
            entry = archive.getinfo(member)
            if member == WEIGHTS and entry.compress_type != zipfile.ZIP_STORED:
                raise self._refused(f"{member} is compressed; it might become larger than memory")
            if member in TEXTS and entry.file_size > MAX_BYTES:
                raise self._refused(f"{member} has {entry.file_size:,} bytes; at most {MAX_BYTES:,} are read")

    def _refused(self, reason: str) -> CallError:
        return CallError(f"'{self.path}' is no sound pack of kerasimg: {reason}")


def is_pack(ref: Any) -> bool:
    """Whether a reference is the path of a pack, by its ending."""
    return isinstance(ref, str | Path) and str(ref).endswith(SUFFIX)


def spec_file(path: Path) -> Path:
    """The spec of a pack as a file, in a folder that is there as long as this process."""
    stat = path.stat()
    return _unpacked(path.resolve(), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=64)
def _unpacked(path: Path, _changed: int, _size: int) -> Path:
    opened = Pack(path)
    folder = Path(tempfile.mkdtemp(prefix="kerasimg-pack-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return opened.write_specs(folder)


def write(path: Path, facts: Mapping[str, Any], members: Mapping[str, bytes]) -> None:
    """Write a pack, whole or not at all. The same content gives the same bytes.

    facts: the manifest but for its files.  members: name -> content.
    """
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    manifest = Manifest(kerasimg_pack=1, **facts, files=digests)
    with replacing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())
        for name, content in members.items():
            _add(archive, name, content)


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)


def _text(archive: zipfile.ZipFile, member: str) -> bytes:
    with archive.open(member) as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise zipfile.BadZipFile(f"{member} is larger than {MAX_BYTES:,} bytes")
    return content
