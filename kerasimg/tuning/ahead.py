"""The next trial's graph, made while the present trial computes.

To make and trace a model is Python's work; to run an epoch's graph is not, and leaves cores idle where a model is
small. Only one thread makes anything at any time: the one whose turn it is. So what is made ahead is what would have
been made later, and every figure stays the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class Ahead:
    """Who may make models: the present trial, and between its steps what is prepared for the next."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._present = False

    @contextmanager
    def present(self, prepare: Callable[[], None] | None) -> Iterator[None]:
        """The time of a trial.  prepare: what to do beside it, if it ever computes; its errors are the next trial's."""
        beside: threading.Thread | None = None
        with self._turn:
            self._present = True
            if prepare is not None:
                beside = threading.Thread(target=self._beside, args=(prepare,), daemon=True)
                beside.start()
            try:
                yield
            finally:
                self._present = False
        if beside is not None:
            beside.join()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """The time of a step that makes nothing: another thread may."""
        self._turn.release()
        try:
            yield
        finally:
            try:
                self._turn.acquire()
            except KeyboardInterrupt:  # the turn is given back further out, so it has to be ours
                self._turn.acquire()
                raise

    def _beside(self, prepare: Callable[[], None]) -> None:
        with self._turn, suppress(Exception):
            if self._present:  # else the trial has ended without computing, and the next makes what it needs itself
                prepare()
