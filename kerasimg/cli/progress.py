"""What a terminal shows while a command prints nothing for more than two seconds: the task and its progress."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from kerasimg import log
from kerasimg.cli.output import echo
from kerasimg.errors import counted

PATIENCE_S = 2.0
"""Shorter waits are not shown."""
INTERVAL_S = 0.5
"""Time between two updates."""
LOG_INTERVAL_S = 30.0
"""The same if standard error is not a terminal: each update is a line that stays, so there are few."""


class Waiting:
    """The line on standard error during a wait; it is cleared before anything else is printed, and at the end."""

    def __init__(self, what: str, shown: bool, silent: bool = False, in_lines: bool = False, err: bool = False) -> None:
        """in_lines: standard error is no terminal; write whole lines, few of them.  err: messages go there, too."""
        self.what = what
        self.in_lines = in_lines
        self.due = PATIENCE_S
        self.silent = silent
        self.err = err
        self.done = ""
        self.start = time.monotonic()
        # A file of its own: standard error is redirected while a library is silenced.
        self.terminal = os.dup(2) if shown else None
        self.width = 0
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._update, name="kerasimg-waiting", daemon=True)
        if shown:
            self.thread.start()

    def say(self, line: str, err: bool | None = None) -> None:
        """Print a line that stays, unless silent; the wait starts again from here.  err: None: as all messages."""
        if self.silent:
            return
        with self.lock:
            self._clear()
            echo(line, err=self.err if err is None else err)
            self.start, self.due = time.monotonic(), LOG_INTERVAL_S

    def doing(self, what: str) -> None:
        """Note what is being done from now on; the wait starts again from here."""
        if what != self.what:
            with self.lock:
                self.what, self.done = what, ""
                self.start, self.due = time.monotonic(), PATIENCE_S

    def progress(self, done: int, of: int) -> None:
        """Note how many images are done, of how many."""
        self.done = f", {done:,} of {counted(of, 'image')}"

    def end(self) -> None:
        """Clear the line and stop."""
        self.over.set()
        if self.terminal is not None:
            self.thread.join()
            self._clear()
            os.close(self.terminal)
            self.terminal = None

    def _update(self) -> None:
        while not self.over.wait(INTERVAL_S):
            with self.lock:
                seconds = time.monotonic() - self.start
                if self.in_lines and seconds >= self.due:
                    self.due = seconds + LOG_INTERVAL_S
                    self._write(f"{self.what}{self.done} ... {seconds:.0f} s\n")
                elif not self.in_lines and seconds >= PATIENCE_S:
                    self._show(f"{self.what}{self.done} ... {seconds:.0f} s")

    def _show(self, text: str) -> None:
        text = text[: max(1, shutil.get_terminal_size().columns - 1)]
        self._write("\r" + text.ljust(self.width))
        self.width = len(text)

    def _clear(self) -> None:
        if self.width:
            self._write("\r" + " " * self.width + "\r")
            self.width = 0

    def _write(self, text: str) -> None:
        if self.terminal is not None:
            try:
                os.write(self.terminal, text.encode("utf-8", "replace"))
            except OSError:  # the terminal is gone; the work continues
                self.over.set()


@contextmanager
def waiting(what: str, silent: bool = False, err: bool = False) -> Iterator[Waiting]:
    """Show `what` and the seconds on a terminal while the block runs and prints nothing for more than two seconds.

    err: messages go to standard error, since others read the output.
    silent: show nothing, and print only warnings, to standard error. If standard error is not a terminal, a line after
    two seconds and then every 30 s shows the progress, so that logs stay short.
    """
    shown = Waiting(what, not silent and sys.stderr is not None, silent, not _is_terminal(), err)
    try:
        with log.attached(_Lines(shown), logging.WARNING if silent else logging.DEBUG):
            yield shown
    finally:
        shown.end()


@contextmanager
def messages(silent: bool = False, err: bool = False) -> Iterator[None]:
    """Print the messages of the package while the block runs; if silent, only warnings, to standard error.

    err: all to standard error.
    """
    with log.attached(_Print(err or silent), logging.WARNING if silent else logging.INFO):
        yield


class _Print(logging.Handler):
    """Prints each message."""

    def __init__(self, err: bool) -> None:
        super().__init__()
        self.err = err

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.INFO:
            echo(record.getMessage(), err=self.err)


class _Lines(logging.Handler):
    """Shows the messages of the package: lines that stay, and how many images are processed."""

    def __init__(self, shown: Waiting) -> None:
        super().__init__()
        self.shown = shown

    def emit(self, record: logging.LogRecord) -> None:
        if self.shown.silent and record.levelno >= logging.WARNING:
            echo(record.getMessage(), err=True)  # standard output is for JSON
        elif record.levelno >= logging.INFO:
            self.shown.say(record.getMessage())
        elif hasattr(record, log.DOING):
            self.shown.doing(getattr(record, log.DOING))
        elif hasattr(record, log.DONE):
            self.shown.progress(getattr(record, log.DONE), getattr(record, log.TOTAL))


def _is_terminal() -> bool:
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
