"""The loading of Keras, which takes longer than most of what is then done with it.

Keras imports scikit-learn, pandas and Matplotlib for three conveniences (its scikit-learn wrappers, data frames in
`fit`, picture galleries) that no command uses, and goes on without where they are missing. So in these processes, while
Keras is loaded, they are missing; whoever imports them afterwards gets them. A process that uses kerasimg as a library
imports Keras as ever.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from kerasimg.cli.waiting import waiting

SPARED = frozenset({"sklearn", "pandas", "matplotlib"})
"""What Keras does without."""


@contextmanager
def keras_loaded() -> Iterator[None]:
    """Load Keras with its backend's start-up chatter held back; it is told when the start fails.

    Nothing else runs beside it: an import holds Python's lock nearly all the time, and reading pictures in another
    thread lost more than it gained.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of a home folder that is not there
    sys.stderr.flush()
    kept = os.dup(2)
    with waiting("starting Keras"), tempfile.TemporaryFile() as chatter:
        os.dup2(chatter.fileno(), 2)
        try:
            _load()
        except Exception:
            chatter.seek(0)
            os.write(kept, chatter.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        yield


def _load() -> None:
    if "keras" in sys.modules:
        return
    spared = _Spared(threading.get_ident())
    collecting = gc.isenabled()
    gc.disable()  # nearly all that an import makes stays, so a fifth of its time would be spent on looking through it
    sys.meta_path.insert(0, spared)
    try:
        import keras

        keras.ops.zeros(1)
    finally:
        sys.meta_path.remove(spared)
        if collecting:
            gc.enable()
    gc.freeze()


class _Spared(MetaPathFinder, Loader):
    """Has imports fail, for one thread; to ask whether there is such a module, as PyTorch does, is no error."""

    def __init__(self, thread: int) -> None:
        self.thread = thread

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What cannot be loaded, for a module that is spared."""
        spared = fullname in SPARED and threading.get_ident() == self.thread
        return ModuleSpec(fullname, self) if spared else None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """ModuleNotFoundError, as where it is not installed."""
        raise ModuleNotFoundError(f"No module named {spec.name!r}", name=spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """It never comes to this."""
