"""What a request brings: images as a form's files, as base64 in JSON, or as the body itself; all of it bounded."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from pydantic_core import from_json

from kerasimg.boundary import inflate, limit
from kerasimg.deploy.serve.errors import Refused
from kerasimg.deploy.serve.limits import Place
from kerasimg.deploy.serve.settings import Settings

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

FORM, JSON, BYTES = "multipart/form-data", "application/json", "application/octet-stream"
UNTOLD = (BYTES, "application/x-www-form-urlencoded", "")
"""Types of a body that is an image itself: curl and urllib call so what they are told nothing of."""

_ADDRESS = re.compile(r"\s*(https?|ftp|file|data:text)\b", re.IGNORECASE)
_LONGEST_ID = 200
LARGE = 2**20
"""Bytes from which on a body is joined outside of the event loop."""


class Gone(Exception):
    """Whoever asked has closed the connection before the request was whole."""


@dataclass
class Asked:
    """What a request asks for."""

    images: list[bytes] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    """Of each image: its file's name, what the request calls it, or its place: "[3]"."""
    options: dict[str, Any] = field(default_factory=dict)
    """`top` and `explain`, where they are given."""

    def add(self, data: bytes, name: str | None, most: int) -> None:
        """One more image; Refused beyond the most."""
        if len(self.images) >= most:
            raise Refused("images", f"more than {most} images in one request; send them in several")
        self.ids.append(name[:_LONGEST_ID] if name else f"[{len(self.images)}]")
        self.images.append(data)


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
                    # `join` holds the interpreter only below 1 MB; above, the event loop serves others meanwhile.
                    return await asyncio.to_thread(b"".join, parts) if size >= LARGE else b"".join(parts)
    except TimeoutError:
        raise Refused("slow", f"the body did not come within {settings.timeout_s:g} s") from None


def read_images(content_type: str, encoding: str, body: bytes, most: int, max_bytes: int) -> Asked:
    """The images of a body and what else it asks.

    encoding: the Content-Encoding.  most: how many images are taken.  max_bytes: of a body that was compressed.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if not body:
        raise Refused("body", "the body is empty; send an image")
    body = decompressed(encoding, body, max_bytes)
    if kind == FORM:
        asked = _form(content_type, body, most)
    elif kind == JSON:
        asked = _json(read_json(body, 8 * most + MORE_VALUES, 8 * most + MORE_VALUES), most)
    elif kind.startswith("image/") or kind in UNTOLD:
        asked = Asked()
        asked.add(body, None, most)
    else:
        raise Refused("type", f"a body of type '{kind[:80]}' is not read; send {FORM}, {JSON}, {BYTES} or image/*")
    if not asked.images:
        raise Refused("body", "no images in the request")
    return asked


def is_costly(content_type: str, size: int, long_json: int, long_form: int) -> bool:
    """Whether a body of so many bytes takes long to read, beside those that are an image themselves."""
    kind = content_type.partition(";")[0].strip().lower()
    return (kind == JSON and size >= long_json) or (kind == FORM and size >= long_form)


def decompressed(encoding: str, body: bytes, max_bytes: int) -> bytes:
    """A body as its Content-Encoding says."""
    names = [name for part in encoding.lower().split(",") if (name := part.strip()) not in ("", "identity")]
    if not names:
        return body
    name = ", ".join(names)
    if name not in ("gzip", "x-gzip", "deflate"):
        raise Refused("type", f"Content-Encoding: '{name[:40]}' is not read; send gzip, deflate, or the body as it is")
    try:
        return inflate(body, max_bytes)
    except OverflowError:
        raise Refused("bytes", f"the body has more than {max_bytes:,} bytes when decompressed, the limit") from None
    except ValueError as error:
        raise Refused("body", f"Content-Encoding: {error}") from None


MORE_VALUES = 1_000
"""Values in a JSON body besides those of the images."""


def read_json(body: bytes, values: int, lists: int) -> Any:
    """The document in a body, which is not nested deeper than 200.

    values, lists: how many it may have, counted before any is made.
    """
    body = body.removeprefix(b"\xef\xbb\xbf")
    if body[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in body[:4]:
        raise Refused("body", "the body is UTF-16 or UTF-32; send JSON as UTF-8")
    for most, found, what in (
        (lists, body.count(b"[") + body.count(b"{"), "lists and objects"),
        (values, body.count(b","), "values"),
    ):
        if found > most:
            raise Refused("body", f"the body is not JSON that is read here: it has more than {most:,} {what}")
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
    """The bytes of an image in base64, as RFC 4648 and RFC 2045 have it, or in a data: address.

    With or without line breaks and padding, in the usual or the URL-safe alphabet.
    """
    if not isinstance(text, str):
        raise Refused("body", f"{where}: expected an image in base64, got {type(text).__name__}")
    if (start := text[:_LONGEST_HEAD].lstrip()[:5].lower()) == "data:" and not _ADDRESS.match(text):
        head, comma, text = text.partition(",")
        if not comma or len(head) > _LONGEST_HEAD or head.rstrip()[-6:].lower() != "base64":
            raise Refused("body", f"{where}: a data: address without ;base64")
        text = unquote(text) if "%" in text else text
    elif start and _ADDRESS.match(text):
        raise Refused("address", f"{where}: images are not fetched from addresses; send their bytes in base64")
    try:
        plain = text.encode("ascii")
        with contextlib.suppress(binascii.Error):
            return base64.b64decode(plain, validate=True)
        plain = plain.translate(_URL_SAFE, b" \t\r\n\f\v").rstrip(b"=")
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise Refused("body", f"{where}: not base64") from None


_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_LONGEST_HEAD = 400
"""Characters of a data: address before its comma."""


def _too_long(settings: Settings) -> Refused:
    return Refused("bytes", f"the body has more than {settings.max_bytes:,} bytes, the limit; send less at once")


def _json(document: Any, most: int) -> Asked:
    if not isinstance(document, dict):
        raise Refused("body", f'expected an object with "images", got {type(document).__name__}')
    images = document.get("images", [document["image"]] if "image" in document else None)
    known = {"images", "image", "top", "explain"}
    unknown = sorted(str(name)[:40] for name in document.keys() - known)
    if {"url", "urls", "image_url"} & document.keys():
        raise Refused("address", "images are not fetched from addresses; send their bytes in base64")
    if unknown:
        raise Refused("body", f"no such option: {', '.join(unknown[:5])} (there are: {', '.join(sorted(known))})")
    if not isinstance(images, list):
        raise Refused("body", 'images: expected a list of base64 texts, or of {"id", "data"}')
    asked = Asked(options={name: document[name] for name in ("top", "explain") if name in document})
    for place, image in enumerate(images):
        where, name, data = f"images[{place}]", None, image
        if isinstance(image, dict):
            if {"url", "uri", "image_url"} & image.keys():
                raise Refused("address", f"{where}: images are not fetched from addresses; send their bytes")
            name, data = image.get("id"), image.get("data")
            if name is not None and not isinstance(name, str):
                raise Refused("body", f"{where}.id: expected a text, got {type(name).__name__}")
        asked.add(from_base64(data, where), name, most)
    return asked


def _form(content_type: str, body: bytes, most: int) -> Asked:
    from python_multipart.multipart import parse_options_header

    _, options = parse_options_header(content_type[:1000])
    boundary = options.get(b"boundary", b"")
    if not boundary or len(boundary) > 200:
        raise Refused("body", "multipart/form-data without a boundary, or with one that is too long")
    # Found by the C library, whatever is in between; a parser in Python takes seconds for bytes that nearly match.
    start, most_parts = b"\r\n--" + boundary, max(most, limit("form_parts"))
    whole = b"\r\n" + body
    end = whole.find(start + b"--")
    _, *parts = whole[: end if end >= 0 else len(whole)].split(start + b"\r\n", most_parts + 1)
    if not parts:
        raise Refused("body", "the form cannot be read: its boundary is not in it")
    if len(parts) > most_parts:
        raise Refused("images", f"more than {most_parts} parts in one form")
    if end < 0:
        raise Refused("body", "the form is cut short")
    asked = Asked()
    for part in parts:
        _part(asked, part, most, parse_options_header)
    return asked


_EXTENDED_NAME = re.compile(r";\s*filename\*\s*=\s*utf-8'[^';]*'([^;\s]+)", re.IGNORECASE)
"""`filename*`, as older clients (urllib3 1) send a name that is not ASCII; the parser leaves it out."""


def _part(asked: Asked, part: bytes, most: int, parse: Callable[[str], tuple[bytes, dict[bytes, bytes]]]) -> None:
    """One part of a form, as an image or an option."""
    end = part.find(b"\r\n\r\n", 0, limit("form_header_bytes"))
    if end < 0:
        raise Refused("body", "the form cannot be read: a part without headers, or with too many")
    headers = {}
    for line in part[:end].split(b"\r\n"):
        field, _, value = line.partition(b":")
        headers[field.strip().lower()] = value.strip().decode("latin-1")
    data = part[end + 4 :]
    disposition = headers.get(b"content-disposition", "")
    _, options = parse(disposition)
    if extended := _EXTENDED_NAME.search(disposition):
        options.setdefault(b"filename", unquote(extended[1]).encode())
    name = options.get(b"name", b"").decode("utf-8", "replace")
    if b"filename" in options or headers.get(b"content-type", "").lower().startswith("image/"):
        asked.add(data, options.get(b"filename", b"").decode("utf-8", "replace") or None, most)
    elif name in ("top", "explain"):
        asked.options[name] = data[:40].decode("utf-8", "replace")
    elif name in ("url", "image_url") or _ADDRESS.match(data[:20].decode("latin-1")):
        raise Refused("address", "images are not fetched from addresses; send their files")
    else:
        raise Refused("body", f"the form's field '{name[:40]}' is neither a file nor one of: top, explain")
