"""The boundary: everything that a stranger may have written is read here, within `LIMITS`, and fails as one error.

Packs, JSON, safetensors, HDF5 weights, `.keras` files, names of files, compressed bodies. Sizes are checked against
the bytes that exist, never against what a header declares, before anything is allocated. `reading` turns whatever a
parser raises into one KerasimgError that names the member. Pure: the standard library, and h5py inside one function.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import math
import mmap
import os
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, NamedTuple, NoReturn

from kerasimg.errors import CallError, KerasimgError


class Limit(NamedTuple):
    """One bound on what comes from outside."""

    value: int
    unit: str
    of: str
    """The bound as text, as in docs/limits.md."""
    kind: str
    """size, count, depth or time."""


LIMITS: Final[Mapping[str, Limit]] = {
    "json_bytes": Limit(
        1_000_000, "bytes", "a spec, a manifest, a list of class names, or any other JSON file", "size"
    ),
    "json_depth": Limit(64, "levels", "lists and objects within one another in JSON", "depth"),
    "json_values": Limit(250_000, "values", "a JSON file", "count"),
    "text_bytes": Limit(1_000_000, "bytes", "a model card or a notice in a pack", "size"),
    "archive_directory_bytes": Limit(65_536, "bytes", "the list of members of a pack or a `.keras` file", "size"),
    "archive_members": Limit(64, "members", "a pack or a `.keras` file", "count"),
    "vectors_bytes": Limit(16_777_216, "bytes", "the test vectors in a pack", "size"),
    "known_bytes": Limit(
        16_777_216, "bytes", "the rule that finds unknown images, in a pack or a `.keras` file", "size"
    ),
    "examples_bytes": Limit(67_108_864, "bytes", "what an exported page has learned, in JSON", "size"),
    "config_bytes": Limit(16_777_216, "bytes", "the description of the layers in a `.keras` file", "size"),
    "config_depth": Limit(200, "levels", "the description of the layers in a `.keras` file", "depth"),
    "config_values": Limit(2_000_000, "values", "the description of the layers in a `.keras` file", "count"),
    "zip_members": Limit(2_000_000, "members", "a ZIP file of images", "count"),
    "zip_member_bytes": Limit(268_435_456, "bytes", "an image in a ZIP file, when it is inflated", "size"),
    "zip_ratio": Limit(1_000, "bytes for each one", "an image in a ZIP file, inflated by deflated", "size"),
    "name_characters": Limit(255, "characters", "each part of the name of a file", "size"),
    "safetensors_header_bytes": Limit(4_000_000, "bytes", "the header of a safetensors file", "size"),
    "arrays": Limit(20_000, "arrays", "a file of weights", "count"),
    "array_dimensions": Limit(8, "dimensions", "an array in a file of weights", "count"),
    "hdf5_objects": Limit(100_000, "groups and datasets", "an HDF5 file", "count"),
    "hdf5_compression": Limit(8, "times", "the bytes of a compressed HDF5 file", "count"),
    "hdf5_attribute_bytes": Limit(4_000_000, "bytes", "an attribute in an HDF5 file", "size"),
    "image_memory_bytes": Limit(
        90_000_000, "bytes", "memory to decode an image file of less than a million bytes", "size"
    ),
    "image_memory_ratio": Limit(200, "bytes for each one", "memory to decode a larger image file", "size"),
    "jpeg_scans": Limit(100, "scans", "a JPEG, whoever reads it", "count"),
    "form_parts": Limit(64, "parts", "a multipart form sent to a server", "count"),
    "image_side": Limit(65_535, "pixels", "the width and the height of an image sent to a server", "size"),
    "image_pixels": Limit(
        50_000_000, "pixels", "an image sent to the studio, or to a server that sets no other bound", "count"
    ),
    "jpeg_scan_pixels": Limit(
        1_000_000_000, "pixels", "the scans of a JPEG together, if it has more than 16, whoever reads it", "count"
    ),
    "request_pixels": Limit(150_000_000, "pixels", "the images of one request to a server, together", "count"),
    "form_headers": Limit(16, "headers", "one part of a form", "count"),
    "small_chunks": Limit(4_096, "chunks of fewer than 64 bytes", "a request body", "count"),
    "form_header_bytes": Limit(8_192, "bytes", "the headers of one part of a form", "size"),
    "download_bytes": Limit(33_554_432, "bytes", "an image that `predict --download` fetches", "size"),
    "request_header_bytes": Limit(32_768, "bytes", "the request line and the headers of a request", "size"),
    "grpc_message_bytes": Limit(
        4_194_304, "bytes", "a message over gRPC: to a server, between the machines of a search", "size"
    ),
}
"""The table of docs/limits.md. A server's own settings (`kerasimg serve --help`) come on top of it."""


def limit(name: str) -> int:
    """The value of a limit."""
    return LIMITS[name].value


def table() -> str:
    """The limits as the Markdown table of docs/limits.md."""
    rows = sorted(LIMITS.items(), key=lambda row: (list(KINDS).index(row[1].kind), row[0]))
    lines = ["| limit | kind | at most | of |", "| --- | --- | ---: | --- |"]
    lines += [f"| `{name}` | {row.kind} | {row.value:,} {row.unit} | {row.of} |" for name, row in rows]
    return "\n".join(lines)


KINDS: Final = ("size", "count", "depth", "time")


@contextmanager
def reading(place: str, error: type[KerasimgError] = CallError) -> Iterator[None]:
    """Turn whatever goes wrong inside into one error that says where.

    place: the file and the member, as the message begins: "'a.kerasimg' is not a valid pack: weights.safetensors".
    """
    try:
        yield
    except KerasimgError:
        raise
    except Exception as problem:
        raise error(f"{place}: {reason_of(problem)}") from None


def reason_of(problem: BaseException) -> str:
    """An exception of another library as one line for a person."""
    if isinstance(problem, MemoryError):
        return "it needs more memory than there is"
    if isinstance(problem, RecursionError):
        return "it is nested too deep"
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror[:1].lower() + problem.strerror[1:]
    text = str(problem.args[0] if isinstance(problem, KeyError) and problem.args else problem).strip()
    line = text.splitlines()[0].strip() if text else ""
    return line[:300] or type(problem).__name__


# Files and their names


def read_file(path: Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes; ValueError beyond."""
    if path.exists() and not path.is_file():  # a device or a named pipe may have no end
        raise ValueError("it is not a file")
    with path.open("rb") as stream:
        return bounded(stream, most)


def bounded(stream: IO[bytes], most: int) -> bytes:
    """The rest of a stream, at most `most` bytes; ValueError beyond."""
    content = stream.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it is larger than {most:,} bytes")
    return content


def file_inside(folder: Path, name: Any, suffix: str = "") -> Path:
    """The file in a folder that a name from outside means; ValueError for a name that means anything else."""
    shown = repr(name)[:80]
    if not isinstance(name, str) or not name or not name.isprintable() or not _encodable(name) or "\\" in name:
        raise ValueError(f"{shown} is not the name of a file")
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or ":" in parts[0] or not name.endswith(suffix):
        raise ValueError(f"{shown} is outside of its folder, or not the name of a {suffix or 'plain'} file")
    most = limit("name_characters")
    if len(parts) > 16 or any(len(part.encode()) > most for part in parts):
        raise ValueError(f"{shown} is too long for the name of a file")
    path = folder.joinpath(*parts)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{shown} is outside of its folder")
    return path


def _encodable(text: str) -> bool:
    return _LONE_SURROGATE.search(text) is None


# JSON


class JsonError(ValueError):
    """Errors in JSON: one or more of (path, message)."""

    def __init__(self, *faults: tuple[str, str]) -> None:
        self.faults = faults
        super().__init__("; ".join(": ".join(filter(None, fault)) for fault in faults))


def parse_json(content: bytes, *, most: int = 0, depth: int = 0, values: int = 0) -> Any:
    """The document that JSON is; JsonError for what no writer of ours writes and readers disagree on.

    A key given twice, NaN and Infinity, numbers too large for a double, half characters, other text than UTF-8, and
    whatever is beyond the limits. most, depth, values: other limits than those of `LIMITS`.
    """
    most, depth = most or limit("json_bytes"), depth or limit("json_depth")
    values = values or limit("json_values")
    if len(content) > most:
        raise JsonError(("", f"larger than {most:,} bytes"))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise JsonError(("", f"not UTF-8 text (byte {error.start})")) from None
    # Counted before any object is made. Commas and brackets in strings count, too: few strings have that many.
    if text.count(",") + text.count("[") + text.count("{") > values:
        raise JsonError(("", f"more than {values:,} values"))
    if _depth(text, depth) > depth:
        raise JsonError(("", f"nested deeper than {depth} levels"))
    try:
        document = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_int
        )
    except json.JSONDecodeError as error:
        line, column, message = error.lineno, error.colno, f"not JSON: {error.msg[0].lower()}{error.msg[1:]}"
        before = text[: error.pos + text[error.pos : error.pos + 1].count(",")].rstrip()
        if before.endswith(",") and text[len(before) :].lstrip()[:1] in ("}", "]"):
            line, column = before.count("\n") + 1, len(before) - before.rfind("\n") - 1
            message = "not JSON: a comma too many, after the last value; remove it"
        raise JsonError((f"line {line}, column {column}", message)) from None
    except ValueError as error:
        raise JsonError(("", str(error))) from None
    if "\\u" in text and (found := _LONE_SURROGATE.search(json.dumps(document, ensure_ascii=False))):
        raise JsonError(("", f"{json.dumps(found[0])} is half of a character"))
    twice = list(islice(_duplicates(document), _MAX_SHOWN_DUPLICATES))
    if twice:
        raise JsonError(*((path, "given twice in the same object") for path in twice))
    return document


# It matches at any quote, closed or not: one that failed at the end of the text would be tried again at the next quote.
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.?)*+"?|[\[\]{}]', re.DOTALL)
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
_MAX_SHOWN_DUPLICATES = 20


class _Object(dict):
    """A JSON object that remembers which of its keys were given twice."""

    twice: tuple[str, ...] = ()


def _depth(text: str, most: int) -> int:
    """The nesting depth of JSON, counted up to `most`."""
    if text.count("[") + text.count("{") <= most:
        return 0
    depth = deepest = 0
    for token in _TOKEN.finditer(text):
        match token[0]:
            case "[" | "{":
                depth += 1
                deepest = max(deepest, depth)
                if deepest > most:
                    break
            case "]" | "}":
                depth -= 1
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = _Object(pairs)
    if len(made) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        made.twice = tuple(sorted(key for key, count in counts.items() if count > 1 and not key.startswith("//")))
    return made if made.twice else dict(made)


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large for a number")
    return number


def _int(text: str) -> int:
    if len(text) > 18:
        raise ValueError(f"{text[:18]}... is too large for an integer")
    return int(text)


def _duplicates(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value, _Object):
            yield from (f"{path}.{key}" if path else key for key in value.twice)
        for key, item in value.items():
            if isinstance(item, dict | list):
                yield from _duplicates(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, dict | list):
                yield from _duplicates(item, f"{path}[{index}]")


def check_size(document: Any) -> None:
    """JsonError for a Python value that would be too large as JSON; a part that is shared counts each time.

    A dict made by a program can hold the same list a million times over, and is then small until it is written out.
    """
    most, depth = limit("json_bytes"), limit("json_depth")
    size, rest = 0, [(iter((document,)), 0)]
    while rest:
        items, level = rest[-1]
        for item in items:
            size += 2 + (len(item) if isinstance(item, str) else 0)
            if isinstance(item, Mapping | list | tuple):
                if level >= depth:
                    raise JsonError(("", f"nested deeper than {depth} levels"))
                inner: Iterator[Any] = iter(item)
                if isinstance(item, Mapping):
                    inner = itertools.chain.from_iterable(item.items())
                rest.append((inner, level + 1))
                break
            if size > most:  # no value takes less than a digit and a comma
                raise JsonError(("", f"larger than {most:,} bytes"))
        else:
            rest.pop()
        if size > most:
            raise JsonError(("", f"larger than {most:,} bytes"))


# ZIP archives


class Archive:
    """The members of a ZIP archive; each is stored as it is, so that none is larger than the file."""

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self._archive = archive
        infos = archive.infolist()
        if len(infos) > limit("archive_members"):
            raise ValueError(f"it has more than {limit('archive_members')} members")
        self.members = {info.filename: info for info in infos}
        if len(self.members) < len(infos):
            raise ValueError("two of its members have the same name")
        for name, info in self.members.items():
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{name} is compressed; it might become larger than memory")
            if info.flag_bits & 1:
                raise ValueError(f"{name} is encrypted")
            if info.file_size != info.compress_size or info.file_size > size:
                raise ValueError(f"{name} declares {info.file_size:,} bytes, and the whole file has {size:,}")

    def read(self, member: str, most: int | None = None) -> bytes:
        """The content of a member, at most `most` bytes."""
        if member not in self.members:
            raise ValueError(f"it has no {member}")
        with self._archive.open(self.members[member]) as stream:
            size = self.members[member].file_size
            if most is not None and size > most:
                raise ValueError(f"{member} has {size:,} bytes; at most {most:,} are read")
            content = bounded(stream, size)
        if len(content) != size:
            raise ValueError(f"{member} is cut short")
        return content

    def open(self, member: str) -> IO[bytes]:
        """A member as a stream that can seek."""
        return self._archive.open(self.members[member])


@contextmanager
def open_archive(path: Path, place: str, suffix: str) -> Iterator[Archive]:
    """The archive in a file; CallError, which begins with `place`, for whatever is wrong with it."""
    if not path.exists():
        raise CallError(f"no file '{path}'")
    if not path.is_file():  # a device may have no end
        raise CallError(f"'{path}' is not a file; expected a {suffix} file")
    with reading(place), path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        _check_directory(stream, size)
        with zipfile.ZipFile(stream) as archive:
            yield Archive(archive, size)


_END, _END_64, _LOCATOR_64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"


def _check_directory(stream: IO[bytes], size: int) -> None:
    """ValueError where the list of members is longer than one of ours: `zipfile` makes an object of each entry.

    Also where other bytes are before or after the archive: no hash covers them, and other programs may read those.
    """
    tail_size = min(size, 22 + 65_535)
    stream.seek(size - tail_size)
    tail = stream.read(tail_size)
    place = tail.rfind(_END)
    if place < 0 or len(tail) - place < 22:
        raise ValueError("it is not a ZIP archive, or cut short")
    declared, offset = struct.unpack_from("<LL", tail, place + 12)
    end = size - tail_size + place
    if place >= 20 and tail[place - 20 : place - 16] == _LOCATOR_64:
        (end,) = struct.unpack_from("<Q", tail, place - 12)
        stream.seek(min(end, size))
        record = stream.read(56)
        if not record.startswith(_END_64) or len(record) < 56:
            raise ValueError("its list of members is damaged")
        declared, offset = struct.unpack_from("<QQ", record, 40)
    stream.seek(0)
    if declared > limit("archive_directory_bytes"):
        raise ValueError(f"its list of members is larger than {limit('archive_directory_bytes'):,} bytes")
    if len(tail) - place > 22:
        raise ValueError(f"{len(tail) - place - 22:,} bytes follow the archive")
    if offset + declared != end:
        raise ValueError(f"{abs(end - declared - offset):,} bytes are before the archive, or missing in it")


# Weights


class Tensor(NamedTuple):
    """The position of an array in a safetensors file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


ITEM_BYTES: Final = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Data type of a safetensors array -> bytes of a number. Complex numbers and 8-bit floats are none that we read."""


Bytes = bytes | mmap.mmap
"""The content of a file, or the file itself, mapped: its parts are read when they are asked for."""


def safetensors_arrays(content: Bytes) -> dict[str, Tensor]:
    """The arrays in a safetensors file; ValueError where its header does not describe the bytes exactly."""
    if len(content) < 8:
        raise ValueError("it is cut short")
    (length,) = struct.unpack_from("<Q", content)
    if length > min(limit("safetensors_header_bytes"), len(content) - 8):
        raise ValueError(f"its header declares {length:,} bytes, and the file has {len(content):,}")
    header = parse_json(content[8 : 8 + length], most=limit("safetensors_header_bytes"), depth=4)
    if not isinstance(header, dict):
        raise ValueError("its header is not an object")
    header.pop("__metadata__", None)
    if len(header) > limit("arrays"):
        raise ValueError(f"it has more than {limit('arrays'):,} arrays")
    first, size = 8 + length, len(content) - 8 - length
    arrays = {name: _tensor(name, about, first, size) for name, about in header.items()}
    place = first
    for tensor in sorted(arrays.values(), key=lambda tensor: (tensor.start, tensor.end)):
        if tensor.start != place:
            raise ValueError("its arrays overlap, or leave gaps")
        place = tensor.end
    if place != len(content):
        raise ValueError(f"its arrays end at byte {place:,}, and the file has {len(content):,}")
    return arrays


def _tensor(name: str, about: Any, first: int, size: int) -> Tensor:
    if not isinstance(about, dict) or about.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name}: expected dtype, shape and data_offsets")
    dtype, shape, offsets = about["dtype"], about["shape"], about["data_offsets"]
    if dtype not in ITEM_BYTES if isinstance(dtype, str) else True:
        raise ValueError(f"{name}: numbers of type {str(dtype)[:20]} are not read (read: {', '.join(ITEM_BYTES)})")
    if not _whole(shape) or len(shape) > limit("array_dimensions"):
        raise ValueError(f"{name}: its shape is not a list of whole numbers")
    if not _whole(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= size:
        raise ValueError(f"{name}: its bytes are not in the file")
    if math.prod(shape) * ITEM_BYTES[dtype] != offsets[1] - offsets[0]:
        raise ValueError(f"{name}: {dtype} of shape {shape} does not take {offsets[1] - offsets[0]:,} bytes")
    return Tensor(dtype, tuple(shape), first + offsets[0], first + offsets[1])


def _whole(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values
    )


def hdf5_shapes(file: Any, size: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every dataset in an open HDF5 file; ValueError where reading one could cost more than its bytes.

    Compressed, external and virtual datasets, links to other files, and more declared than the `size` bytes of the
    file: Keras would allocate whatever a header declares.
    """
    import h5py

    shapes: dict[str, tuple[int, ...]] = {}
    declared = 0
    rest, objects = [file], 0
    known: set[Any] = set()
    while rest:
        group = rest.pop()
        for name in group:
            objects += 1
            if objects > limit("hdf5_objects"):
                raise ValueError(f"it has more than {limit('hdf5_objects'):,} groups and datasets")
            link = group.get(name, getlink=True)
            where = f"{group.name.rstrip('/')}/{name}"
            if not isinstance(link, h5py.HardLink):
                raise ValueError(f"{where[:200]} is a link")
            item = group[name]
            _check_attributes(item, where)
            if isinstance(item, h5py.Group):
                place = h5py.h5o.get_info(item.id).addr
                if place in known:
                    raise ValueError(f"{where[:200]} is a group that is within itself, or in two places")
                known.add(place)
                rest.append(item)
                continue
            declared += _check_dataset(item, where[:200], size)
            shapes[where] = item.shape
            if declared > size:
                raise ValueError(
                    f"{where[:200]}, of shape {item.shape}, declares more than the {size:,} bytes of the file"
                )
    _check_attributes(file, "the file")
    return shapes


def _check_dataset(item: Any, where: str, size: int) -> int:
    """The bytes that a dataset declares, of a compressed one its share of them; ValueError where it lacks them.

    size: of the whole file, in bytes.
    """
    import h5py

    if item.shape is None or item.dtype.kind not in "fiub" or item.dtype.hasobject:
        raise ValueError(f"{where} holds {item.dtype}, not real numbers")
    if len(item.shape) > limit("array_dimensions"):
        raise ValueError(f"{where} has {len(item.shape)} dimensions")
    properties = item.id.get_create_plist()
    filters = {properties.get_filter(index)[0] for index in range(properties.get_nfilters())}
    if filters - {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE}:
        raise ValueError(f"{where} is compressed by a filter other than gzip and shuffle")
    if item.is_virtual or item.external:
        raise ValueError(f"{where} refers to another file")
    declared = math.prod(item.shape) * item.dtype.itemsize
    chunk = math.prod(item.chunks or ()) * item.dtype.itemsize
    stored = item.id.get_storage_size()
    if filters:
        most = limit("hdf5_compression")
        if max(declared, chunk) > most * size:
            raise ValueError(f"{where} is compressed, and declares more than {most} times the bytes of the file")
        return -(-declared // most)
    if max(declared, chunk if declared else 0) > stored:
        raise ValueError(f"{where} declares the shape {item.shape}, {declared:,} bytes, and holds {stored:,}")
    return int(declared)


def _check_attributes(item: Any, where: str) -> None:
    for name in item.attrs:
        found = item.attrs.get_id(name)
        size = math.prod(found.shape or ()) * found.dtype.itemsize
        if size > limit("hdf5_attribute_bytes"):
            raise ValueError(f"an attribute of {where[:200]} declares {size:,} bytes")


# Compressed bodies


def inflate(content: bytes, most: int) -> bytes:
    """Decompresses gzip (also several members in a row), zlib, or the bare deflate that some clients send.

    Returns:
        At most `most` bytes.

    Raises:
        OverflowError: if there are more.
        ValueError: if the content is damaged, cut short, or followed by other bytes.
    """
    if content[:2] == b"\x1f\x8b":
        try:
            plain = gzip.GzipFile(fileobj=io.BytesIO(content)).read(most + 1)
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"not gzip: {error}") from None
        except EOFError:
            raise ValueError("the compressed body is cut short") from None
        complete, rest = True, b""
    else:
        zlib_header = len(content) > 1 and content[0] & 15 == 8 and int.from_bytes(content[:2]) % 31 == 0
        reader = zlib.decompressobj(zlib.MAX_WBITS if zlib_header else -zlib.MAX_WBITS)
        try:
            plain = reader.decompress(content, most + 1)
        except zlib.error as error:
            raise ValueError(f"neither gzip nor deflate: {error}") from None
        complete, rest = reader.eof, reader.unused_data
    if len(plain) > most:
        raise OverflowError(f"more than {most:,} bytes when decompressed")
    if not complete:
        raise ValueError("the compressed body is cut short")
    if rest:
        raise ValueError("other bytes follow the end of the compressed body")
    return plain


# Images


_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")
"""A marker of a JPEG with a segment behind it, or the end of the image; in compressed data 0 follows each 255."""


def jpeg_scans(content: bytes) -> int:
    """The number of scans of a JPEG: a decoder goes over the whole image once for each.

    Thumbnails in the metadata and whatever follows the image (the film of a motion photo) do not count.
    """
    scans, place = 0, 2
    if content[:2] != b"\xff\xd8":
        return 0
    while (marker := _JPEG_MARKER.search(content, place)) and marker[1] != b"\xd9":
        scans += marker[1] == b"\xda"
        place = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2])
    return scans
