"""Parses the body of a predict request: files of a form, base64 in JSON, or the image itself; all within limits."""

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
from kerasimg.deploy.serve.errors import Refused, shown
from kerasimg.deploy.serve.limits import Reservation
from kerasimg.deploy.serve.settings import Settings
from kerasimg.errors import counted
from kerasimg.keras_internals import body_has_arrived

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

FORM, JSON, BYTES = "multipart/form-data", "application/json", "application/octet-stream"
UNSPECIFIED = (BYTES, "binary/octet-stream", "application/x-www-form-urlencoded", "")
"""Content types of a body that is an image itself: the defaults of S3, curl and urllib."""

_ADDRESS = re.compile(r"\s*(https?|ftp|file|data:text)\b", re.IGNORECASE)
LONGEST_ID = 200
"""Maximum characters of an id in a response."""
LARGE = 2**20
"""A body of at least this many bytes is joined outside of the event loop."""


class ClientDisconnected(Exception):
    """The client closed the connection before the request was complete."""


@dataclass
class PredictRequest:
    """A parsed predict request."""

    images: list[bytes] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    """Name of each image: its file name, its id in the request, or its index: "[3]"."""
    options: dict[str, Any] = field(default_factory=dict)
    """`top` and `explain`, if given."""

    def add(self, data: bytes, name: str | None, max_images: int) -> None:
        """Adds an image; raises Refused beyond `max_images`."""
        if len(self.images) >= max_images:
            raise Refused("images", f"more than {counted(max_images, 'image')} in one request; send several requests")
        self.ids.append(name[:LONGEST_ID] if name else f"[{len(self.images)}]")
        self.images.append(data)


async def read_body(
    receive: Receive, content_length: str | None, place: Reservation, settings: Settings, deadline: float
) -> bytes:
    """Reads the whole body.

    Args:
        receive: the ASGI channel.
        content_length: the header's value, if given.
        place: the request's reservation.
        settings: the server's settings.
        deadline: time of the event loop by which the body must be complete.

    Raises:
        Refused: if the body is too long, by its header or in fact, or too slow.
    """
    if content_length is not None:
        if not content_length.isdecimal():
            raise Refused("body", "Content-Length is not a number")
        if int(content_length) > settings.max_bytes:
            raise _too_long(settings)
        place.check(size=int(content_length))
    parts: list[bytes] = []
    size = 0
    while True:
        if body_has_arrived(receive):  # most requests arrive whole; a timer would cost more than the rest of this
            message = await receive()
        else:
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise Refused("slow", f"the body did not arrive within {settings.timeout_s:g} s") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > settings.max_bytes:
            raise _too_long(settings)
        place.take(size=len(chunk))  # not what the header declares: a slow client would hold it for long
        parts.append(chunk)
        if not message.get("more_body", False):
            # From 1 MB on, `join` releases the interpreter lock, so that the event loop continues.
            return await asyncio.to_thread(b"".join, parts) if size >= LARGE else b"".join(parts)


def read_images(content_type: str, encoding: str, body: bytes, max_images: int, max_bytes: int) -> PredictRequest:
    """Parses a body.

    Args:
        content_type: the Content-Type header.
        encoding: the Content-Encoding header.
        body: the body as it was sent.
        max_images: maximum number of images.
        max_bytes: maximum size of a compressed body after decompression.
    """
    media_type = _media_type(content_type)
    if not body:
        raise Refused("body", "the body is empty; send an image")
    body = decompressed(encoding, body, max_bytes)
    if media_type == FORM:
        request = _form(content_type, body, max_images)
    elif media_type == JSON:
        request = _json(read_json(body, 8 * max_images + MORE_VALUES, 8 * max_images + MORE_VALUES), max_images)
    elif media_type.startswith("image/") or media_type in UNSPECIFIED:
        request = PredictRequest()
        request.add(body, None, max_images)
    else:
        raise Refused(
            "type", f"a body of type '{media_type[:80]}' is not supported; send {FORM}, {JSON}, {BYTES} or image/*"
        )
    if not request.images:
        raise Refused("body", "no images in the request")
    return request


def _media_type(content_type: str) -> str:
    """Returns the type without parameters; every kind of JSON is JSON."""
    media_type = content_type.partition(";")[0].strip().lower()
    return JSON if media_type == "text/json" or media_type.endswith("+json") else media_type


def is_costly(content_type: str, size: int, long_json: int, long_form: int) -> bool:
    """Whether a body of this type and size takes long to parse."""
    media_type = _media_type(content_type)
    return (media_type == JSON and size >= long_json) or (media_type == FORM and size >= long_form)


def decompressed(encoding: str, body: bytes, max_bytes: int) -> bytes:
    """Decodes a body by its Content-Encoding."""
    names = [name for part in encoding.lower().split(",") if (name := part.strip()) not in ("", "identity")]
    if not names:
        return body
    name = ", ".join(names)
    if name not in ("gzip", "x-gzip", "deflate"):
        raise Refused("type", f"Content-Encoding: '{name[:40]}' is not supported; send gzip, deflate or no encoding")
    try:
        return inflate(body, max_bytes)
    except OverflowError:
        raise Refused("bytes", f"the body has more than {max_bytes:,} bytes when decompressed, the limit") from None
    except ValueError as error:
        raise Refused("body", f"Content-Encoding: {error}") from None


MORE_VALUES = 1_000
"""Allowed values in a JSON body besides those of the images."""


def read_json(body: bytes, values: int, lists: int) -> Any:
    """Parses JSON that is nested at most 200 levels deep.

    Args:
        body: UTF-8, with or without a byte order mark.
        values: maximum number of values, counted before any is created.
        lists: maximum number of lists and objects, likewise.
    """
    body = body.removeprefix(b"\xef\xbb\xbf")
    if body[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in body[:4]:
        raise Refused("body", "the body is UTF-16 or UTF-32; send JSON as UTF-8")
    for max_images, count, what in (
        (lists, body.count(b"[") + body.count(b"{"), "lists and objects"),
        (values, body.count(b","), "values"),
    ):
        if count > max_images:
            raise Refused("body", f"the JSON body has more than {max_images:,} {what}")
    try:
        return from_json(body, allow_inf_nan=False, cache_strings="none")
    except ValueError as error:
        raise Refused("body", f"the body is not JSON: {str(error)[:200]}") from None


def as_number(name: str, value: Any, max_images: int) -> int:
    """Parses an option that is an integer of at least 1; a value above the maximum becomes the maximum."""
    if type(value) is int and value >= 1:
        return min(value, max_images)
    with contextlib.suppress(ValueError):
        digits = isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10
        # `int` takes more: "1_0", " 5", digits of other scripts
        if digits and (number := int(value)) >= 1:
            return min(number, max_images)
    raise Refused("body", f"{name}: expected a positive integer, got {shown(value)}")


def as_flag(name: str, value: Any) -> bool:
    """Parses a boolean option."""
    if isinstance(value, bool):
        return value
    known = {"1": True, "0": False, "true": True, "false": False, "on": True, "off": False}
    if isinstance(value, str) and value in known:
        return known[value]
    raise Refused("body", f"{name}: expected true or false, got {shown(value)}")


def from_base64(text: Any, where: str) -> bytes:
    """Decodes an image in base64 (RFC 4648, RFC 2045) or in a data: URL.

    Line breaks, missing padding and the URL-safe alphabet are accepted.
    """
    if not isinstance(text, str):
        raise Refused("body", f"{where}: expected an image in base64, got {type(text).__name__}")
    if (start := text[:_LONGEST_HEAD].lstrip()[:5].lower()) == "data:" and not _ADDRESS.match(text):
        head, comma, text = text.partition(",")
        if not comma or len(head) > _LONGEST_HEAD or head.rstrip()[-6:].lower() != "base64":
            raise Refused("body", f"{where}: a data: URL without ;base64")
        for code, character in _PERCENT_ENCODED.items() if "%" in text else ():
            text = text.replace(code, character)
    elif start and _ADDRESS.match(text):
        raise Refused("address", f"{where}: images are not fetched from URLs; send their bytes in base64")
    try:
        plain = text.encode("ascii")
        with contextlib.suppress(binascii.Error):
            return base64.b64decode(plain, validate=True)
        plain = plain.translate(_URL_SAFE, b" \t\r\n\f\v").rstrip(b"=")
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise Refused("body", f"{where}: not base64") from None


_PERCENT_ENCODED = {
    code: character for character in "+/=\r\n " for code in (f"%{ord(character):02X}", f"%{ord(character):02x}")
}
"""What a data: URL may encode of base64; `unquote` would take 60 bytes for each character of any other text."""
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_LONGEST_HEAD = 400
"""Maximum characters of a data: URL before its comma."""


def _too_long(settings: Settings) -> Refused:
    return Refused("bytes", f"the body has more than {settings.max_bytes:,} bytes, the limit; send less per request")


def _json(document: Any, max_images: int) -> PredictRequest:
    if not isinstance(document, dict):
        raise Refused("body", f'expected an object with "images", got {type(document).__name__}')
    images = document.get("images", [document["image"]] if "image" in document else None)
    known = {"images", "image", "top", "explain"}
    unknown = sorted(str(name)[:40] for name in document.keys() - known)
    if {"url", "urls", "image_url"} & document.keys():
        raise Refused("address", "images are not fetched from URLs; send their bytes in base64")
    if unknown:
        raise Refused("body", f"unknown option: {', '.join(unknown[:5])} (options: {', '.join(sorted(known))})")
    if not isinstance(images, list):
        raise Refused("body", 'images: expected a list of base64 strings, or of {"id", "data"}')
    request = PredictRequest(options={name: document[name] for name in ("top", "explain") if name in document})
    for place, image in enumerate(images):
        where, name, data = f"images[{place}]", None, image
        if isinstance(image, dict):
            if {"url", "uri", "image_url"} & image.keys():
                raise Refused("address", f"{where}: images are not fetched from URLs; send their bytes")
            name, data = image.get("id"), image.get("data")
            if name is not None and not isinstance(name, str):
                raise Refused("body", f"{where}.id: expected a string, got {type(name).__name__}")
        request.add(from_base64(data, where), name, max_images)
    return request


def _form(content_type: str, body: bytes, max_images: int) -> PredictRequest:
    boundary = _parameters(content_type[:1000]).get("boundary", "").encode("latin-1", "replace")
    if not boundary or len(boundary) > 200:
        raise Refused("body", "multipart/form-data without a boundary, or with one that is too long")
    # These run in C; a parser in Python takes seconds for bytes that almost match the boundary. Spaces may follow it.
    start, most_parts = b"\r\n--" + boundary, max(max_images, limit("form_parts"))
    whole = b"\r\n" + body
    end = whole.find(start + b"--")
    delimiter = re.compile(re.escape(start) + rb"[ \t]*+\r\n")
    _, *parts = delimiter.split(whole[: end if end >= 0 else len(whole)], most_parts + 1)
    if not parts:
        raise Refused("body", "the form cannot be parsed: its boundary does not occur in it")
    if len(parts) > most_parts:
        raise Refused("images", f"more than {most_parts} parts in one form")
    if end < 0:
        raise Refused("body", "the form is truncated")
    request = PredictRequest()
    for part in parts:
        _part(request, part, max_images)
    return request


_PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;]*))')
"""A parameter of a header. Its time is linear: the standard library's parser takes seconds for many quotes."""


def _parameters(header: str) -> dict[str, str]:
    """Returns the parameters of a Content-Type or Content-Disposition header."""
    parameters = {}
    for match in _PARAMETER.finditer(header):
        name, quoted, plain = match.groups()
        quoted = plain.strip() if quoted is None else quoted.replace("\\\\", "\\").replace('\\"', '"')
        parameters[name.lower()] = quoted
    return parameters


def _part(request: PredictRequest, part: bytes, max_images: int) -> None:
    """Parses one part of a form: an image or an option."""
    end = part.find(b"\r\n\r\n", 0, limit("form_header_bytes"))
    lines = part[: max(end, 0)].split(b"\r\n", limit("form_headers"))
    if end < 0 or len(lines) > limit("form_headers"):
        raise Refused("body", "the form cannot be parsed: a part has no headers, or too many")
    headers = {}
    for line in lines:
        field, _, value = line.partition(b":")
        headers[field.strip().lower()] = value.strip().decode("latin-1")
    data = part[end + 4 :]
    disposition = headers.get(b"content-disposition", "")
    parameters = _parameters(disposition)
    if extended := parameters.get("filename*", ""):
        _, _, encoded = extended.partition("'")  # utf-8'language'name
        parameters.setdefault("filename", unquote(encoded.partition("'")[2]).encode().decode("latin-1"))
    name = _text(parameters.get("name", ""))
    if "filename" in parameters or headers.get(b"content-type", "").lower().startswith("image/"):
        request.add(data, _text(parameters.get("filename", "")) or None, max_images)
    elif name in ("top", "explain"):
        request.options[name] = data[:40].decode("utf-8", "replace")
    elif name in ("url", "image_url") or _ADDRESS.match(data[:20].decode("latin-1")):
        raise Refused("address", "images are not fetched from URLs; send their files")
    else:
        raise Refused("body", f"the form's field '{name[:40]}' is neither a file nor one of: top, explain")


def _text(latin: str) -> str:
    """Returns a parameter as UTF-8, which clients send in headers."""
    return latin.encode("latin-1", "replace").decode("utf-8", "replace")
