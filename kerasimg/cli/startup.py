"""Load Keras for a command, which takes longer than most commands themselves.

Keras imports scikit-learn, pandas and Matplotlib for three conveniences (its scikit-learn wrappers, data frames in
`fit`, image galleries) that no command uses, and works without them. Importing them is a third of its start. So a
command marks them as not installed while Keras is imported, in the way Python has for it (`sys.modules[name] = None`);
afterwards they can be imported as usual. A program that uses kerasimg as a library imports Keras as it is.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from kerasimg.backend import check_backend
from kerasimg.cli.progress import waiting

OPTIONAL = ("sklearn", "pandas", "matplotlib")
"""Modules that Keras imports and works without."""


@contextmanager
def keras_loaded() -> Iterator[None]:
    """Load Keras without its backend's start-up messages; they are printed if the start fails.

    Nothing else runs beside it: an import holds Python's lock nearly all the time, and reading images in another
    thread lost more than it gained.
    """
    check_backend()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of a home folder that is not there
    sys.stderr.flush()
    stderr = os.dup(2)
    with waiting("starting Keras"), tempfile.TemporaryFile() as chatter:
        os.dup2(chatter.fileno(), 2)
        try:
            _load()
        except Exception:
            chatter.seek(0)
            os.write(stderr, chatter.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        yield


def _load() -> None:
    if "keras" in sys.modules:
        return
    collecting = gc.isenabled()
    gc.disable()  # nearly all that an import makes stays; looking through it would take a fifth of the time
    try:
        with not_installed(OPTIONAL):
            import keras

            keras.ops.zeros(1)
    finally:
        if collecting:
            gc.enable()
    gc.freeze()


@contextmanager
def not_installed(names: Iterable[str]) -> Iterator[None]:
    """Make imports of these modules fail while the block runs; modules that are loaded already stay."""
    modules: dict[str, Any] = sys.modules
    absent = [name for name in names if name not in modules]
    modules.update(dict.fromkeys(absent))
    try:
        yield
    finally:
        for name in absent:
            del modules[name]
