"""What a request brings: pictures as a form's files, as base64 in JSON, or as the body itself; all of it bounded."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json

from kerasimg.deploy.serve.refusals import Refused
from kerasimg.deploy.serve.room import Place
from kerasimg.deploy.serve.settings import Settings

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

FORM, JSON, BYTES = "multipart/form-data", "application/json", "application/octet-stream"
UNTOLD = (BYTES, "application/x-www-form-urlencoded", "")
"""Types of a body that is a picture itself: curl and urllib call so what they are told nothing of."""

_ADDRESS = re.compile(r"\s*(https?|ftp|file|data:text)\b", re.IGNORECASE)
_DATA_ADDRESS = re.compile(r"data:[\w.+/-]*;base64,")
_LONGEST_ID = 200


class Gone(Exception):
    """Whoever asked has closed the connection before the request was whole."""


@dataclass
class Asked:
    """What a request asks for."""

    pictures: list[bytes] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    """Of each picture: its file's name, what the request calls it, or its place: "[3]"."""
    options: dict[str, Any] = field(default_factory=dict)
    """`top` and `explain`, where they are given."""

    def add(self, data: bytes, name: str | None, most: int) -> None:
        """One more picture; Refused beyond the most."""
        if len(self.pictures) >= most:
            raise Refused("pictures", f"more than {most} pictures in one request; send them in several")
        self.ids.append(name[:_LONGEST_ID] if name else f"[{len(self.pictures)}]")
        self.pictures.append(data)


async def read_body(receive: Receive, declared: str | None, place: Place, settings: Settings, until: float) -> bytes:
    """The whole body.

    declared: its Content-Length, if given.  until: the loop's time by which it must have come.
    Refused where it is too long, by what it declares or in fact, or too slow.
    """
    if declared is not None:
        if not declared.isdecimal():
            raise Refused("body", "Content-Length is no number")
        if int(declared) > settings.max_bytes:
            raise _too_long(settings)
        place.take(size=int(declared))
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout_at(until):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > settings.max_bytes:
                    raise _too_long(settings)
                if declared is None:
                    place.take(size=len(chunk))
                parts.append(chunk)
                if not message.get("more_body", False):
                    return parts[0] if len(parts) == 1 else b"".join(parts)
    except TimeoutError:
        raise Refused("slow", f"the body did not come within {settings.timeout_s:g} s") from None


def read_pictures(content_type: str, body: bytes, most: int) -> Asked:
    """The pictures of a body and what else it asks.  most: how many pictures are taken."""
    kind = content_type.partition(";")[0].strip().lower()
    if not body:
        raise Refused("body", "the body is empty; send a picture")
    if kind == FORM:
        asked = _form(content_type, body, most)
    elif kind == JSON:
        asked = _json(read_json(body), most)
    elif kind.startswith("image/") or kind in UNTOLD:
        asked = Asked()
        asked.add(body, None, most)
    else:
        raise Refused("type", f"a body of type '{kind[:80]}' is not read; send {FORM}, {JSON}, {BYTES} or image/*")
    if not asked.pictures:
        raise Refused("body", "no pictures in the request")
    return asked


def read_json(body: bytes) -> Any:
    """The document in a body, which is not nested deeper than 200."""
    try:
        return from_json(body, allow_inf_nan=False, cache_strings="none")
    except ValueError as error:
        raise Refused("body", f"the body is not JSON: {str(error)[:200]}") from None


def as_number(name: str, value: Any, most: int) -> int:
    """An option that is a whole number of 1 to `most`; more counts as `most`."""
    with contextlib.suppress(ValueError):
        number = int(value) if isinstance(value, str) and len(value) < 10 else value
        if isinstance(number, int) and not isinstance(number, bool) and number >= 1:
            return min(number, most)
    raise Refused("body", f"{name}: expected a whole number of 1 or more, got {str(value)[:40]!r}")


def as_flag(name: str, value: Any) -> bool:
    """An option that is true or false."""
    known = {True: True, False: False, "1": True, "0": False, "true": True, "false": False, "on": True, "off": False}
    if isinstance(value, bool | str) and value in known:
        return known[value]
    raise Refused("body", f"{name}: expected true or false, got {str(value)[:40]!r}")


def from_base64(text: Any, where: str) -> bytes:
    """The bytes of a picture in base64, with or without the "data:image/png;base64," of a browser before it."""
    if not isinstance(text, str):
        raise Refused("body", f"{where}: expected a picture in base64, got {type(text).__name__}")
    if _ADDRESS.match(text):
        raise Refused("address", f"{where}: pictures are not fetched from addresses; send their bytes in base64")
    if text.startswith("data:") and (found := _DATA_ADDRESS.match(text)):
        text = text[found.end() :]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("body", f"{where}: not base64") from None


def _too_long(settings: Settings) -> Refused:
    return Refused("bytes", f"the body has more than {settings.max_bytes:,} bytes, the limit; send less at once")


def _json(document: Any, most: int) -> Asked:
    if not isinstance(document, dict):
        raise Refused("body", f'expected an object with "images", got {type(document).__name__}')
    images = document.get("images", [document["image"]] if "image" in document else None)
    known = {"images", "image", "top", "explain"}
    unknown = sorted(str(name)[:40] for name in document.keys() - known)
    if {"url", "urls", "image_url"} & document.keys():
        raise Refused("address", "pictures are not fetched from addresses; send their bytes in base64")
    if unknown:
        raise Refused("body", f"no such option: {', '.join(unknown[:5])} (there are: {', '.join(sorted(known))})")
    if not isinstance(images, list):
        raise Refused("body", 'images: expected a list of base64 texts, or of {"id", "data"}')
    asked = Asked(options={name: document[name] for name in ("top", "explain") if name in document})
    for place, image in enumerate(images):
        where, name, data = f"images[{place}]", None, image
        if isinstance(image, dict):
            if {"url", "uri", "image_url"} & image.keys():
                raise Refused("address", f"{where}: pictures are not fetched from addresses; send their bytes")
            name, data = image.get("id"), image.get("data")
            if name is not None and not isinstance(name, str):
                raise Refused("body", f"{where}.id: expected a text, got {type(name).__name__}")
        asked.add(from_base64(data, where), name, most)
    return asked


def _form(content_type: str, body: bytes, most: int) -> Asked:
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    _, options = parse_options_header(content_type)
    reader = _FormReader(most, parse_options_header)
    try:
        # One write, for the body is whole: every position that is told lies in it.
        parser = MultipartParser(options.get(b"boundary", b""), reader.callbacks())
        if not options.get(b"boundary"):
            raise Refused("body", "multipart/form-data without a boundary")
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise Refused("body", f"the form cannot be read: {str(error)[:200]}") from None
    if not reader.ended:
        raise Refused("body", "the form is cut short")
    return reader.asked


class _FormReader:
    """What python-multipart tells of a form, as pictures and options."""

    def __init__(self, most: int, parse: Callable[[str], tuple[bytes, dict[bytes, bytes]]]) -> None:
        self.asked = Asked()
        self.ended = False
        self._most = most
        self._parse = parse

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._field.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header,
            "on_part_data": lambda data, start, end: self._data.append(data[start:end]),
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._field, self._value = bytearray(), bytearray()
        self._headers: dict[bytes, str] = {}
        self._data: list[bytes] = []

    def _header(self) -> None:
        self._headers[bytes(self._field).lower()] = self._value.decode("latin-1")
        self._field, self._value = bytearray(), bytearray()

    def _end(self) -> None:
        _, options = self._parse(self._headers.get(b"content-disposition", ""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        data = self._data[0] if len(self._data) == 1 else b"".join(self._data)
        if b"filename" in options or self._headers.get(b"content-type", "").lower().startswith("image/"):
            self.asked.add(data, options.get(b"filename", b"").decode("utf-8", "replace") or None, self._most)
        elif name in ("top", "explain"):
            self.asked.options[name] = data[:40].decode("utf-8", "replace")
        elif name in ("url", "image_url") or _ADDRESS.match(data[:20].decode("latin-1")):
            raise Refused("address", "pictures are not fetched from addresses; send their files")
        else:
            raise Refused("body", f"the form's field '{name[:40]}' is neither a file nor one of: top, explain")

    def _finish(self) -> None:
        self.ended = True
