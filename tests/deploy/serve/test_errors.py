"""Every reason has a status, and every error of an image has a reason."""

import pytest

from kerasimg.data.image_files import BEGINNINGS, BadImage
from kerasimg.deploy.serve.errors import (
    RETRY_AFTER_S,
    STATUS,
    Refused,
    TooManyPixels,
    refused_image,
    refused_route,
)

REASONS = {
    "is empty": "damaged",
    "is truncated": "damaged",
    "is damaged (broken data stream)": "damaged",
    "is not an image of a known format": "unknown",
    "has 400 million pixels; the limit is 178 million": "pixels",
    "is too large (Image size (9 pixels) exceeds limit)": "pixels",
    "holds floating-point values from 0 to 1; 0 to 255 is expected": "damaged",
}


def test_only_temporary_refusals_have_retry_after():
    assert {reason for reason in STATUS if STATUS[reason] in (429, 503)} == set(RETRY_AFTER_S)
    assert {STATUS[reason] for reason in STATUS} <= {400, 401, 404, 405, 408, 413, 415, 422, 429, 500, 503}


@pytest.mark.parametrize("message", REASONS)
def test_every_decoder_message_has_a_reason(message: str):
    refused = refused_image("a.png", BadImage(message))
    assert (refused.reason, str(refused)) == (REASONS[message], f"a.png {message}")


def test_other_file_types_are_unknown():
    others = [message for _, message in BEGINNINGS if "truncated" not in message]
    assert {refused_image("a", BadImage(message)).reason for message in others} == {"unknown"}
    assert refused_image("a", TooManyPixels("has 9 x 9 pixels")).status == 413


@pytest.mark.parametrize(("status", "reason"), [(404, "route"), (405, "method"), (400, "body"), (500, "failed")])
def test_every_router_status_has_a_reason(status: int, reason: str):
    refused = refused_route(status, "POST", "/x")
    assert (refused.reason, refused.status) == (reason, status)
    assert "'/x'" in str(refused)


def test_a_missing_key_names_the_scheme():
    assert Refused("key", "a key is needed").headers == {"www-authenticate": "Bearer"}
