"""Converters chatter from C++, past `sys.stdout` and `sys.stderr`; it is held back, and told where they fail."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def silence(expected: Callable[[Exception], bool] = lambda error: False) -> Iterator[None]:
    """Hold back what is written to the process's stdout and stderr, and warnings, within the block.

    expected: an exception that the caller tells in words of its own; for any other, what was held back is told.
    For the process, so what other threads print meanwhile is held back with it; blocks wait for one another.
    """
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    with _ONE_AT_A_TIME, ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        stack.callback(logger.setLevel, level)
        chatter = stack.enter_context(tempfile.TemporaryFile())
        kept = os.dup(2)
        stack.callback(os.close, kept)
        for number in (1, 2):
            stack.enter_context(_into(number, chatter.fileno()))
        try:
            yield
        except Exception as error:
            sys.stderr.flush()
            if not expected(error):
                chatter.seek(0)
                os.write(kept, chatter.read()[-20_000:])
            raise


@contextmanager
def _into(number: int, other: int) -> Iterator[None]:
    """A file descriptor of the process, for a while another."""
    stream = sys.stdout if number == 1 else sys.stderr
    stream.flush()
    kept = os.dup(number)
    os.dup2(other, number)
    try:
        yield
    finally:
        stream.flush()
        os.dup2(kept, number)
        os.close(kept)
