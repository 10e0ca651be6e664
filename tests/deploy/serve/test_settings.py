"""Settings are validated before anything is opened."""

import pytest

from kerasimg.deploy.serve.settings import MINIMUM, NAMES, Settings, key_from_environment
from kerasimg.errors import CallError


def test_settings_survive_serialization():
    chosen = Settings(port=0, workers=2, names=("a",), max_wait_ms=0.5)
    assert Settings.from_json(chosen.to_json()) == chosen


def test_minimum_values_belong_to_settings():
    assert MINIMUM.keys() <= NAMES


@pytest.mark.parametrize("name", sorted(MINIMUM))
def test_a_number_that_is_too_small_is_named(name: str):
    with pytest.raises(CallError, match=rf"^{name}: expected"):
        Settings(**{name: MINIMUM[name] - 1})


def test_conflicting_numbers_are_refused():
    with pytest.raises(CallError, match="port: expected 0 to 65535"):
        Settings(port=65536)
    with pytest.raises(CallError, match="queue: expected at least max_images, 8"):
        Settings(queue=4, max_images=8)


@pytest.mark.parametrize(("key", "right"), [("", True), ("k" * 16, True), ("short", False), ("ü" * 16, False)])
def test_a_key_is_long_and_printable(key: str, right: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KERASIMG_API_KEY", key)
    if right:
        assert key_from_environment() == (key or None)
    else:
        with pytest.raises(CallError, match=r"KERASIMG_API_KEY\): expected 16 or more"):
            key_from_environment()
