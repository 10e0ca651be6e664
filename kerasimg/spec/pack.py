"""A trained classifier in one file that cannot run code: a ZIP archive of JSON, Markdown and safetensors.

Members: `pack.json` (see `Manifest`), `spec.json`, `beside.json` (specs that serve it as backbones), the weights in
`weights.safetensors` (https://github.com/huggingface/safetensors), `vectors.json`, `known.safetensors` where the run
has a rule for unknown images, `MODEL_CARD.md`, and `NOTICE` where others' weights went into it. Nothing else is read,
nothing is unpacked under a name from the file, and each member has its SHA-256 in `pack.json`.
"""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from kerasimg.boundary import Archive, file_inside, limit, open_archive, parse_json, reading
from kerasimg.errors import CallError
from kerasimg.files import replacing, write_json
from kerasimg.spec.document import Section, Task

SUFFIX = ".kerasimg"
MANIFEST, SPEC, BESIDE, WEIGHTS = "pack.json", "spec.json", "beside.json", "weights.safetensors"
KNOWN = "known.safetensors"
"""The arrays of the rule that finds unknown images, in a pack and in a `.keras` file."""
CARD, NOTICE = "MODEL_CARD.md", "NOTICE"
VECTORS = "vectors.json"
MOST_BYTES = {
    MANIFEST: limit("json_bytes"),
    SPEC: limit("json_bytes"),
    BESIDE: limit("json_bytes"),
    VECTORS: limit("vectors_bytes"),
    KNOWN: limit("known_bytes"),
    CARD: limit("text_bytes"),
    NOTICE: limit("text_bytes"),
}
"""Member -> its most bytes; the weights may be as large as the file."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Probability = Annotated[float, Field(ge=0, le=1)]
Temperature = Annotated[float, Field(ge=1e-3, le=1e3)]


class SetRule(Section):
    """How probabilities become prediction sets, see `kerasimg.evaluation.prediction_sets`."""

    method: Literal["lac", "aps", "raps"]
    coverage: Annotated[float, Field(gt=0, lt=1)]
    """The share of sets that hold the true class."""
    limits: Annotated[list[Annotated[float, Field(ge=0, le=1e6)]], Field(min_length=1)]
    """The largest score of a class in the set: one for all classes, or one for each."""


class KnownRule(Section):
    """How an image is found to be like the training images or not, see `kerasimg.evaluation.known`."""

    method: Literal["mahalanobis", "distance", "energy"]
    share: Annotated[float, Field(gt=0, le=0.5)]
    """The largest share of images like the training images that is flagged as unknown."""
    neighbour: Annotated[int, Field(ge=1, le=100)] = 1
    """Of the centres, the one whose distance counts: 1 is the nearest."""


class Manifest(Section):
    """The content of `pack.json`."""

    kerasimg_pack: Literal[1]
    """Version of the form."""
    name: str
    """The spec's name."""
    task: Task
    classes: Annotated[list[str], Field(min_length=1)]
    """In the order of the outputs."""
    weights: Digest | None = None
    """The digest of the weights, by which a run knows the pack as its own; None in a pack of an earlier version."""
    temperature: Temperature = 1.0
    thresholds: list[Probability] | None = None
    flips: bool = False
    """Whether the probabilities are averaged over an image and its mirror image."""
    sets: SetRule | None = None
    """The rule of prediction sets."""
    known: KnownRule | None = None
    """The rule that finds unknown images; its arrays are in `known.safetensors`."""
    license: str | None = None
    """As the spec's card has it, an SPDX identifier where there is one."""
    figures: dict[str, float | int | str] = Field(default={})
    """Its metrics on the images that its run held out."""
    versions: dict[str, str] = Field(default={})
    """Versions of the libraries that wrote it."""
    files: dict[str, Digest]
    """Member -> its SHA-256."""


class Pack:
    """A pack that has been opened: its manifest is valid, every member exists and is what the manifest says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._opened() as archive:
            self.manifest = self._manifest(archive)
            self._check(archive)

    def read(self, member: str) -> bytes:
        """The content of a member, checked against the manifest; nothing where the pack has no such member."""
        if member not in self.manifest.files:
            return b""
        with self._opened() as archive:
            content = archive.read(member, MOST_BYTES.get(member))
        if hashlib.sha256(content).hexdigest() != self.manifest.files[member]:
            raise self._refused(f"{member} is not what it was when it was packed: its SHA-256 differs")
        return content

    def text(self, member: str) -> str:
        """The content of a member that is text."""
        with self.reading(member):
            return self.read(member).decode()

    def reading(self, member: str) -> AbstractContextManager[None]:
        """Whatever goes wrong inside becomes one error that names this file and the member."""
        return reading(f"{self._refused(member)}")

    def write_specs(self, folder: Path) -> Path:
        """Write the spec, and those that it names, into a folder; the path of the spec."""
        with self.reading(BESIDE):
            beside = parse_json(self.read(BESIDE) or b"{}")
            if not isinstance(beside, dict):
                raise ValueError("expected an object of specs by file")
            write_beside(beside, folder)
        with self.reading(SPEC):
            (folder / SPEC).write_bytes(self.read(SPEC))
        return folder / SPEC

    def _opened(self) -> AbstractContextManager[Archive]:
        """The archive; what is wrong with it becomes an error that names it."""
        return open_archive(self.path, str(self._refused("")).rstrip(": "), SUFFIX)

    def _manifest(self, archive: Archive) -> Manifest:
        with self.reading(MANIFEST):
            document = parse_json(archive.read(MANIFEST, MOST_BYTES[MANIFEST]))
            try:
                return Manifest.model_validate(document)
            except ValidationError as error:
                first = error.errors()[0]
                place = ".".join(map(str, first["loc"])) or "the whole"
                raise ValueError(f"{place}: {first['msg']}") from None

    def _check(self, archive: Archive) -> None:
        for member in (SPEC, WEIGHTS):
            if member not in self.manifest.files:
                raise self._refused(f"it has no {member}")
        for member in self.manifest.files.keys() - {*MOST_BYTES, WEIGHTS}:
            raise self._refused(f"{member!r} is no member of a pack")
        for member in self.manifest.files.keys() - archive.members.keys():
            raise self._refused(f"it has no {member}")
        for member in self.manifest.files.keys() & MOST_BYTES.keys():
            size, most = archive.members[member].file_size, MOST_BYTES[member]
            if size > most:
                raise self._refused(f"{member} has {size:,} bytes; at most {most:,} are read")

    def _refused(self, reason: str) -> CallError:
        return CallError(f"'{self.path}' is not a valid kerasimg pack: {reason}")


def write_beside(specs: Mapping[str, Any], folder: Path) -> None:
    """Write specs into a folder, by their names below it; ValueError for a name that is none of a spec there."""
    for name, document in specs.items():
        path = file_inside(folder, name, ".json")
        if path.name == SPEC and path.parent == folder:
            raise ValueError(f"{name!r} is the name of the spec itself")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, document)


def is_pack(ref: Any) -> bool:
    """Whether a reference is the path of a pack, by its ending."""
    return isinstance(ref, str | Path) and str(ref).endswith(SUFFIX)


def spec_file(path: Path) -> Path:
    """The spec of a pack as a file, in a folder that is removed when this process ends."""
    stat = path.stat()
    return _unpacked(path.resolve(), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=64)
def _unpacked(path: Path, _changed: int, _size: int) -> Path:
    opened = Pack(path)
    folder = Path(tempfile.mkdtemp(prefix="kerasimg-pack-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        return opened.write_specs(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def write(path: Path, facts: Mapping[str, Any], members: Mapping[str, bytes]) -> None:
    """Write a pack, whole or not at all. The same content gives the same bytes.

    facts: the manifest without its files.  members: name -> content.
    """
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    manifest = Manifest(kerasimg_pack=1, **facts, files=digests)
    with replacing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())
        for name, content in members.items():
            _add(archive, name, content)


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
