"""Suppress the output of converters, whose C++ code bypasses `sys.stdout` and `sys.stderr`; show it on failure."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

_LOCK = threading.RLock()


@contextmanager
def silence(expected: Callable[[Exception], bool] = lambda error: False) -> Iterator[None]:
    """Suppresses warnings and the process's stdout and stderr in the block; blocks in other threads wait.

    The output of other threads is suppressed, too.

    Args:
        expected: whether the caller reports an exception itself; for any other, the suppressed output is shown.
    """
    loggers = [logging.getLogger(name) for name in ("tf2onnx", "tensorflow")]
    with _LOCK, ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for logger in loggers:
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        output = stack.enter_context(tempfile.TemporaryFile())
        stderr = os.dup(2)
        stack.callback(os.close, stderr)
        for number in (1, 2):
            stack.enter_context(_redirect(number, output.fileno()))
        try:
            yield
        except Exception as error:
            sys.stderr.flush()
            if not expected(error):
                output.seek(0)
                os.write(stderr, output.read()[-20_000:])
            raise


@contextmanager
def _redirect(number: int, other: int) -> Iterator[None]:
    """Redirects a file descriptor of the process to another in the block."""
    stream = sys.stdout if number == 1 else sys.stderr
    stream.flush()
    original = os.dup(number)
    os.dup2(other, number)
    try:
        yield
    finally:
        stream.flush()
        os.dup2(original, number)
        os.close(original)
