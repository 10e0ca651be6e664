"""Progress messages. They go to the logger `kerasimg`; `verbose` says what a call lets through.

A program that configures `logging` gets the messages where it sends them. Otherwise they are printed, as long as the
call runs. The level is INFO for messages, DEBUG for progress ("12 of 40 images").
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, Final, Literal, NamedTuple, ParamSpec, TypeVar, cast

from kerasimg.errors import CallError
from kerasimg.escaping import lines

LOGGER: Final = logging.getLogger("kerasimg")

Verbose = Literal[0, 1, 2]
"""0: silent. 1: messages, and a progress bar for each epoch, or one line where the output is a file or a pipe. 2:
messages, and one line for each epoch."""

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")

DONE, TOTAL = "done", "total"
"""Attributes of a record that `progress` makes."""
DOING: Final = "doing"
"""Attribute of a record that `doing` makes."""
RUN: Final = "run"
"""Attribute of the record that a training begins: the folder of the run."""


def info(message: str, **facts: str) -> None:
    """Report progress in one line.  facts: attributes of the record, for programs that read it."""
    LOGGER.info("%s", lines(message), extra=facts)


def once(message: str) -> None:
    """As `info`, unless the running command has reported the same: a search trains many times on the same images."""
    if LOGGER.isEnabledFor(logging.INFO) and _is_new(message):
        info(message)


def warning(message: str) -> None:
    """As `once`: what a person should know before relying on a result; on standard error where nothing is set up."""
    if _is_new(message):
        LOGGER.warning("warning: %s", lines(message))


def _is_new(message: str) -> bool:
    """Whether the running command has not reported this before; outside of commands everything is new."""
    with _LOCK:
        new = not _attached or message not in _reported
        if _attached:
            _reported.add(message)
    return new


def progress(done: int, total: int) -> None:
    """Report that `done` of `total` images are processed."""
    if LOGGER.isEnabledFor(logging.DEBUG):
        LOGGER.debug("%d of %d images", done, total, extra={DONE: done, TOTAL: total})


def doing(what: str) -> None:
    """Report what is being done from now on, in a few words; it is shown only if it takes seconds."""
    if LOGGER.isEnabledFor(logging.DEBUG):
        LOGGER.debug("%s", what, extra={DOING: what})


class _Print(logging.Handler):
    """Prints each message to what is `sys.stdout` at that time, as a notebook cell or a test replaces it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stdout, flush=True)


def is_configured() -> bool:
    """Whether the program sends messages somewhere.

    A library that calls `logging.warning`, say, gives the root logger a handler that nobody asked for, in Python's
    default format and at its default level. That does not count.
    """
    root = logging.getLogger()
    probe = logging.LogRecord("name", logging.INFO, "", 0, "text", (), None)
    unasked = root.level == logging.WARNING and all(
        type(handler) is logging.StreamHandler and handler.format(probe) == "INFO:name:text"
        for handler in root.handlers
    )
    return bool(LOGGER.handlers) or (LOGGER.hasHandlers() and not unasked)


@contextmanager
def verbosity(verbose: Verbose) -> Iterator[None]:
    """Let the messages of a call through, or not.

    Args:
        verbose: 0, 1 or 2, see `Verbose`.

    Raises:
        CallError: for any other value.
    """
    if verbose not in (0, 1, 2):
        raise CallError(f"verbose: expected 0 (silent), 1 (progress bars) or 2 (a line per epoch), got {verbose!r}")
    handler = _Print(logging.INFO) if verbose and not is_configured() else None
    with attached(handler, logging.INFO if verbose else logging.WARNING):
        yield


def applies_verbose(function: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """Decorate a public function so that its argument `verbose` applies while it runs.

    Called without one by another such function, it leaves what that one was given.
    """

    @wraps(function)
    def call(*args: Arguments.args, **options: Arguments.kwargs) -> Returned:
        if _applied.get() and "verbose" not in options:
            return function(*args, **options)
        with verbosity(cast(Any, options.get("verbose", 1))):
            before = _applied.set(True)
            try:
                return function(*args, **options)
            finally:
                _applied.reset(before)

    return call


_applied: ContextVar[bool] = ContextVar("applied", default=False)
"""Whether a function that was given `verbose` is running."""


class _Attached(NamedTuple):
    level: int
    handler: logging.Handler | None
    alone: bool
    """Whether nobody else got the messages when the handler came."""


_LOCK: Final = threading.Lock()
_attached: list[_Attached] = []
_reported: Final[set[str]] = set()
"""What `once` and `warning` have reported since the first block of those attached began."""
_before = logging.NOTSET, True
"""Level and propagation of the logger without what is attached."""


@contextmanager
def attached(handler: logging.Handler | None, level: int) -> Iterator[None]:
    """Give the logger a level and a handler while the block runs.

    A level that is already lower, because the program around wants more, stays as it is. If the program has not
    configured `logging`, a library that does so meanwhile does not print the messages a second time. Blocks may run in
    several threads and end in any order; the level is that of the last one that began and has not ended.
    """
    global _before
    with _LOCK:
        if not _attached:
            _before = LOGGER.level, LOGGER.propagate
            _reported.clear()
        entry = _Attached(level, handler, handler is not None and not is_configured())
        _attached.append(entry)
        _apply()
        if handler is not None:
            LOGGER.addHandler(handler)
    try:
        yield
    finally:
        with _LOCK:
            del _attached[next(k for k, other in enumerate(_attached) if other is entry)]
            _apply()
            if handler is not None:
                LOGGER.removeHandler(handler)


def _apply() -> None:
    """Sets the level and the propagation for what is attached."""
    level, propagate = _before
    for entry in _attached:
        wants_more = entry.level < logging.WARNING and logging.NOTSET < level < entry.level
        level = level if wants_more else entry.level
        propagate = propagate and not entry.alone
    LOGGER.setLevel(level)
    LOGGER.propagate = propagate
