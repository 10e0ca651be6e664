import os
import pty
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from kerasimg import log
from kerasimg.cli import progress as module
from kerasimg.cli.progress import messages, waiting


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    monkeypatch.setattr(module, "INTERVAL_S", 0.05)


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Standard error is a terminal within the block; gives what reads from it, up to an ending or for five seconds."""
    ours, theirs = pty.openpty()
    stderr = os.dup(2)
    os.dup2(theirs, 2)
    monkeypatch.setattr(module, "_is_terminal", lambda: True)

    def read(ending: str = "") -> str:
        output, deadline = "", time.monotonic() + 5
        while not (ending and output.endswith(ending)) and time.monotonic() < deadline:
            there, _, _ = select.select([ours], [], [], 0.2)
            output += os.read(ours, 100_000).decode() if there else ""
            if not there and not ending:
                break
        return output

    try:
        yield read
    finally:
        os.dup2(stderr, 2)
        for one in (ours, theirs, stderr):
            os.close(one)


def test_a_long_wait_is_shown_and_cleared(monkeypatch: pytest.MonkeyPatch):
    with terminal(monkeypatch) as read:
        with waiting("looking") as shown:
            shown.progress(3, 1000)
            output = read(" s")
        output += read("  \r")
    assert output.startswith("\rlooking, 3 of 1,000 images ... 0 s")
    assert output.endswith("\r" + " " * len("looking, 3 of 1,000 images ... 0 s") + "\r")


def test_a_line_that_stays_clears_the_wait_first(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    with terminal(monkeypatch) as read, waiting("looking") as shown:
        read(" s")
        monkeypatch.setattr(module, "PATIENCE_S", 60)
        shown.say("found")
        assert read("  \r").endswith("\r" + " " * len("looking ... 0 s") + "\r")
    assert capsys.readouterr().out == "found\n"


def test_a_wait_is_shown_while_standard_error_is_redirected(monkeypatch: pytest.MonkeyPatch):
    with terminal(monkeypatch) as read, waiting("starting"):
        stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        output = read(" s")
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
    assert "starting ... 0 s" in output


def test_nothing_is_shown_for_a_short_wait_or_when_silent(monkeypatch: pytest.MonkeyPatch):
    with terminal(monkeypatch) as read:
        with waiting("looking", silent=True):
            time.sleep(0.2)
        monkeypatch.setattr(module, "PATIENCE_S", 60)
        with waiting("looking"):
            time.sleep(0.2)
        assert read() == ""


@pytest.mark.parametrize("block", [partial(waiting, "looking"), messages])
def test_when_silent_only_warnings_are_printed_on_standard_error(block, capfd: pytest.CaptureFixture[str]):
    with block(silent=True):
        log.info("found")
        log.warning("two images are the same")
    assert capfd.readouterr() == ("", "warning: two images are the same\n")


def test_no_log_is_littered(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    monkeypatch.setattr(module, "PATIENCE_S", 60)
    with waiting("looking"):
        time.sleep(0.2)
    assert capfd.readouterr() == ("", "")


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    with waiting("looking") as shown:
        shown.progress(3, 1000)
        time.sleep(0.4)
    assert capfd.readouterr() == ("", "looking, 3 of 1,000 images ... 0 s\n")
    with waiting("looking") as shown:
        log.info("found 3")  # says enough for a while
        time.sleep(0.2)
        log.doing("counting")
        time.sleep(0.3)
    assert capfd.readouterr() == ("found 3\n", "counting ... 0 s\n")
    with waiting("looking", silent=True):
        time.sleep(0.3)
    assert capfd.readouterr() == ("", "")
