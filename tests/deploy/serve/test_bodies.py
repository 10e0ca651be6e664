"""Pictures in a form, in JSON, or as the body itself; anything else is refused with what was expected."""

import base64
import json
from typing import Any

import pytest

from kerasimg.deploy.serve.bodies import Asked, read_pictures
from kerasimg.deploy.serve.refusals import Refused

A, B = b"\x89PNG\r\n--edge-a", bytes(range(256))


def form(*parts: tuple[str, bytes], edge: bytes = b"edge", end: bytes = b"--\r\n") -> bytes:
    lines = b"".join(
        b"--" + edge + b"\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + data + b"\r\n"
        for head, data in parts
    )
    return lines + b"--" + edge + end


def read(body: bytes | Any, kind: str = "multipart/form-data; boundary=edge", most: int = 3) -> Asked:
    return read_pictures(kind, body if isinstance(body, bytes) else json.dumps(body).encode(), most)


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_form_brings_files_and_options():
    asked = read(
        form(
            ('name="file"; filename="a.png"', A),
            ('name="top"', b"2"),
            ('name="x"; filename="ü.jpg"', B),
            ('name="explain"', b"true"),
        )
    )
    assert (asked.pictures, asked.ids) == ([A, B], ["a.png", "ü.jpg"])
    assert asked.options == {"top": "2", "explain": "true"}


def test_json_brings_pictures_in_base64_with_or_without_ids():
    document = {"images": [base64_of(A), {"id": "b", "data": "data:image/png;base64," + base64_of(B)}], "top": 1}
    asked = read(document, "application/json; charset=utf-8")
    assert (asked.pictures, asked.ids, asked.options) == ([A, B], ["[0]", "b"], {"top": 1})
    assert read({"image": base64_of(A)}, "application/json").pictures == [A]


@pytest.mark.parametrize(
    "kind", ["image/png", "application/octet-stream", "IMAGE/JPEG", "", "application/x-www-form-urlencoded"]
)
def test_a_body_may_be_the_picture_itself(kind: str):
    assert read(B, kind).pictures == [B]


REFUSED: dict[str, tuple[Any, str, str, str]] = {
    "nothing": (b"", "image/png", "body", "the body is empty"),
    "a text": (b"hello", "text/plain", "type", "text/plain"),
    "no JSON": (b"{", "application/json", "body", "not JSON"),
    "deep JSON": (b"[" * 100_000, "application/json", "body", "not JSON"),
    "a list": ([], "application/json", "body", "expected an object"),
    "no pictures": ({"images": []}, "application/json", "body", "no pictures"),
    "images of a kind": ({"images": "abc"}, "application/json", "body", "expected a list"),
    "no base64": ({"images": ["%%%"]}, "application/json", "body", "images[0]: not base64"),
    "a number": ({"images": [3]}, "application/json", "body", "images[0]: expected a picture in base64, got int"),
    "an unknown option": ({"images": ["aaaa"], "topp": 3}, "application/json", "body", "topp"),
    "an id of a kind": ({"images": [{"id": 3, "data": "aaaa"}]}, "application/json", "body", "images[0].id"),
    "an address": ({"images": ["http://x/a.png"]}, "application/json", "address", "not fetched"),
    "an address by name": ({"images": [{"url": "x"}]}, "application/json", "address", "not fetched"),
    "an address at the top": ({"url": "http://x"}, "application/json", "address", "not fetched"),
    "too many": ({"images": ["aaaa"] * 4}, "application/json", "pictures", "more than 3 pictures"),
    "a form cut short": (
        form(('name="f"; filename="a"', A), end=b""),
        "multipart/form-data; boundary=edge",
        "body",
        "cut",
    ),
    "a form without a boundary": (form(), "multipart/form-data", "body", "boundary"),
    "a form of another boundary": (form(), "multipart/form-data; boundary=x", "body", "cannot be read"),
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
        "pictures",
        "more than 3",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_body_is_refused_with_its_reason(case: str):
    body, kind, reason, message = REFUSED[case]
    with pytest.raises(Refused) as caught:
        read(body, kind)
    assert caught.value.reason == reason
    assert message in str(caught.value)
