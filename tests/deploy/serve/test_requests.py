"""Images in a form, in JSON, or as the body; errors say what was expected."""

import base64
import gzip
import json
import zlib
from typing import Any
from urllib.parse import quote

import pytest

from kerasimg.deploy.serve.errors import Refused
from kerasimg.deploy.serve.requests import PredictRequest, read_images

MOST = 2**20
A, B = b"\x89PNG\r\n--edge-a", bytes(range(256))


def form(*parts: tuple[str, bytes], edge: bytes = b"edge", end: bytes = b"--\r\n") -> bytes:
    lines = b"".join(
        b"--" + edge + b"\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + data + b"\r\n"
        for head, data in parts
    )
    return lines + b"--" + edge + end


def read(
    body: bytes | Any, kind: str = "multipart/form-data; boundary=edge", most: int = 3, encoding: str = ""
) -> PredictRequest:
    return read_images(kind, encoding, body if isinstance(body, bytes) else json.dumps(body).encode(), most, MOST)


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_form_has_files_and_options():
    asked = read(
        form(
            ('name="file"; filename="a.png"', A),
            ('name="top"', b"2"),
            ('name="x"; filename="ü.jpg"', B),
            ('name="explain"', b"true"),
        )
    )
    assert (asked.images, asked.ids) == ([A, B], ["a.png", "ü.jpg"])
    assert asked.options == {"top": "2", "explain": "true"}


def test_spaces_may_follow_a_boundary():
    body = form(('name="f"; filename="a"', A), ('name="g"; filename="b"', B)).replace(b"--edge\r\n", b"--edge \t \r\n")
    assert read(body).images == [A, B]
    assert read(form(('name="f"; filename="a"', b"\r\n--edge  x\r\n" + A))).images == [b"\r\n--edge  x\r\n" + A]


def test_json_has_base64_images_with_or_without_ids():
    document = {"images": [base64_of(A), {"id": "b", "data": "data:image/png;base64," + base64_of(B)}], "top": 1}
    asked = read(document, "application/json; charset=utf-8")
    assert (asked.images, asked.ids, asked.options) == ([A, B], ["[0]", "b"], {"top": 1})
    assert read({"image": base64_of(A)}, "application/json").images == [A]


@pytest.mark.parametrize(
    "kind",
    [
        *("image/png", "application/octet-stream", "IMAGE/JPEG", "", "application/x-www-form-urlencoded"),
        "binary/octet-stream",
    ],
)
def test_a_body_can_be_the_image_itself(kind: str):
    assert read(B, kind).images == [B]


@pytest.mark.parametrize("kind", ["text/json", "application/vnd.api+json; charset=utf-8"])
def test_every_kind_of_json_is_json(kind: str):
    assert len(read({"images": ["aaaa"]}, kind).images) == 1


REFUSED: dict[str, tuple[Any, str, str, str]] = {
    "nothing": (b"", "image/png", "body", "the body is empty"),
    "a text": (b"hello", "text/plain", "type", "text/plain"),
    "no JSON": (b"{", "application/json", "body", "not JSON"),
    "deep JSON": (b"[" * 100_000, "application/json", "body", "more than 1,024"),
    "a list": ([], "application/json", "body", "expected an object"),
    "no images": ({"images": []}, "application/json", "body", "no images"),
    "images of a kind": ({"images": "abc"}, "application/json", "body", "expected a list"),
    "no base64": ({"images": ["%%%"]}, "application/json", "body", "images[0]: not base64"),
    "a number": ({"images": [3]}, "application/json", "body", "images[0]: expected an image in base64, got int"),
    "an unknown option": ({"images": ["aaaa"], "topp": 3}, "application/json", "body", "topp"),
    "an id of a kind": ({"images": [{"id": 3, "data": "aaaa"}]}, "application/json", "body", "images[0].id"),
    "an address": ({"images": ["http://x/a.png"]}, "application/json", "address", "not fetched"),
    "an address by name": ({"images": [{"url": "x"}]}, "application/json", "address", "not fetched"),
    "an address at the top": ({"url": "http://x"}, "application/json", "address", "not fetched"),
    "too many": ({"images": ["aaaa"] * 4}, "application/json", "images", "more than 3 images"),
    "a form cut short": (
        form(('name="f"; filename="a"', A), end=b""),
        "multipart/form-data; boundary=edge",
        "body",
        "truncated",
    ),
    "a form without a boundary": (form(), "multipart/form-data", "body", "boundary"),
    "a form of another boundary": (form(), "multipart/form-data; boundary=x", "body", "cannot be parsed"),
    "a form with a field": (form(('name="colour"', b"red")), "multipart/form-data; boundary=edge", "body", "'colour'"),
    "a form with an address": (
        form(('name="file"', b"https://x/a.png")),
        "multipart/form-data; boundary=edge",
        "address",
        "not fetched",
    ),
    "a form with too many": (
        form(*[('name="f"; filename="a"', A)] * 4),
        "multipart/form-data; boundary=edge",
        "images",
        "more than 3",
    ),
    "a bomb of empty lists": (
        b'{"images": [' + b"[]," * 200_000 + b"[]]}",
        "application/json",
        "body",
        "more than 1,024 lists and objects",
    ),
    "a bomb of numbers": (
        b'{"images": [' + b"1," * 200_000 + b"1]}",
        "application/json",
        "body",
        "more than 1,024 values",
    ),
    "a thousand parts": (
        form(*[('name="top"', b"1")] * 1000),
        "multipart/form-data; boundary=edge",
        "images",
        "more than 64 parts in one form",
    ),
    "many headers": (
        form(('name="f"; filename="a"' + "\r\na:" * 20, A)),
        "multipart/form-data; boundary=edge",
        "body",
        "no headers, or too many",
    ),
    "an encoded text": ({"image": "data:;base64,%41%41"}, "application/json", "body", "not base64"),
    "a part of headers": (
        form(('name="f"; filename="a"\r\nx: ' + "y" * 10_000, A)),
        "multipart/form-data; boundary=edge",
        "body",
        "too many",
    ),
    "a bare data: URL": (
        {"images": ["data:image/png,abc"]},
        "application/json",
        "body",
        "without ;base64",
    ),
    "another encoding": ({"images": ["aaaaa"]}, "application/json", "body", "not base64"),
    "letters of no alphabet": ({"images": ["aa\u00e4a"]}, "application/json", "body", "not base64"),
    "deep objects": (b'{"a":' * 100_000, "application/json", "body", "more than 1,024"),
    "deep, within the count": (b"[" * 210 + b"]" * 210, "application/json", "body", "not JSON"),
    "UTF-16": (json.dumps({"images": []}).encode("utf-16"), "application/json", "body", "send JSON as UTF-8"),
    "UTF-16 without a mark": ('{"images": []}'.encode("utf-16-le"), "application/json", "body", "send JSON as UTF-8"),
    "UTF-32": ('{"images": []}'.encode("utf-32-be"), "application/json", "body", "send JSON as UTF-8"),
    "half of a character": (b'{"images": ["\\ud800"]}', "application/json", "body", "not JSON"),
    "half of a character, encoded": (b'{"images": ["\xed\xa0\x80"]}', "application/json", "body", "not JSON"),
    "NaN": (b'{"images": [], "top": NaN}', "application/json", "body", "not JSON"),
    "two types": (b"{}", "application/json, image/png", "type", "application/json, image/png"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_invalid_body_is_refused_with_its_reason(case: str):
    body, kind, reason, message = REFUSED[case]
    with pytest.raises(Refused) as caught:
        read(body, kind)
    assert caught.value.reason == reason
    assert message in str(caught.value)


USUAL = {
    "plain": lambda text: text,
    "line breaks of MIME": lambda text: base64.encodebytes(base64.b64decode(text)).decode(),
    "line breaks of Windows": lambda text: "\r\n".join(text[k : k + 76] for k in range(0, len(text), 76)) + "\r\n",
    "URL-safe": lambda text: text.replace("+", "-").replace("/", "_"),
    "unpadded": lambda text: text.rstrip("="),
    "URL-safe and unpadded": lambda text: text.replace("+", "-").replace("/", "_").rstrip("="),
    "a data: URL": lambda text: "data:image/png;base64," + text,
    "one with parameters": lambda text: "data:image/jpeg;charset=utf-8;name=a.jpg;base64," + text,
    "one in upper case": lambda text: "DATA:IMAGE/PNG;BASE64," + text,
    "one without a type": lambda text: "data:;base64," + text,
    "one escaped for a URL": lambda text: "data:image/png;base64," + quote(text, safe=""),
    "one with line breaks": lambda text: " data:image/png;base64,\n" + text[:40] + "\n" + text[40:],
}


@pytest.mark.parametrize("form_of", USUAL)
@pytest.mark.parametrize("size", [256, 255, 254])
def test_all_usual_forms_of_base64_are_decoded(form_of: str, size: int):
    data = bytes(range(256))[::-1][:size]
    assert read({"images": [USUAL[form_of](base64_of(data))]}, "application/json").images == [data]


TEXT = json.dumps({"images": [base64_of(A)]}).encode()
PACKED = {
    "gzip": gzip.compress(TEXT),
    "GZIP": gzip.compress(TEXT),
    "x-gzip": gzip.compress(TEXT),
    "gzip, identity": gzip.compress(TEXT[:20]) + gzip.compress(TEXT[20:]),
    "deflate": zlib.compress(TEXT),
    "Deflate": zlib.compress(TEXT)[2:-4],  # without the header of zlib, as some clients send it
    "identity": b"\xef\xbb\xbf" + TEXT,
}


@pytest.mark.parametrize("encoding", PACKED)
def test_compressed_bodies_are_decompressed(encoding: str):
    asked = read(PACKED[encoding], "application/json", encoding=encoding)
    assert (asked.images, asked.ids) == ([A], ["[0]"])


def test_a_file_name_in_the_extended_notation_is_decoded():
    asked = read(form(("name=file; filename*=UTF-8''%e2%82%ac%20a.png", A)))
    assert (asked.images, asked.ids) == ([A], ["\u20ac a.png"])


PARAMETERS = {
    'name="f"; filename="a;b=c.png"': "a;b=c.png",
    'name="f"; filename="a\\"b.png"': 'a"b.png',
    "name=f; FileName = a.png ": "a.png",
    'filename="b.png"; name="f"': "b.png",
    "name=f; filename*=UTF-8'en'%e2%82%ac%20a.png": "\u20ac a.png",
    "name=f; filename=plain; filename*=UTF-8''%e2%82%ac": "plain",
}


@pytest.mark.parametrize("head", PARAMETERS)
def test_names_of_files_are_read_from_every_usual_header(head: str):
    assert read(form((head, A))).ids == [PARAMETERS[head]]


COMPRESSED = {
    "a bomb": (gzip.compress(bytes(50_000_000)), "gzip", "bytes"),
    "no gzip": (b"abc", "gzip", "body"),
    "cut short": (gzip.compress(b"abc")[:-4], "gzip", "body"),
    "more after it": (gzip.compress(b"abc") + b"x", "gzip", "body"),
    "Brotli": (b"abc", "br", "type"),
    "twice": (gzip.compress(gzip.compress(b"{}")), "gzip, gzip", "type"),
    "a bomb of deflate": (zlib.compress(bytes(50_000_000))[2:], "deflate", "bytes"),
    "a bomb in its second member": (gzip.compress(b" ") + gzip.compress(bytes(50_000_000)), "gzip", "bytes"),
    "deflate, cut short": (zlib.compress(b"abc")[:-6], "deflate", "body"),
    "no deflate": (b"\xff\xff\xff", "deflate", "body"),
}


@pytest.mark.parametrize("case", COMPRESSED)
def test_decompressed_size_is_limited(case: str):
    body, encoding, reason = COMPRESSED[case]
    with pytest.raises(Refused) as caught:
        read(body, "application/json", encoding=encoding)
    assert caught.value.reason == reason
