"""Load Keras for a command, which takes longer than most commands themselves."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from kerasimg.backend import check_backend, load_keras
from kerasimg.cli.progress import waiting


@contextmanager
def keras_loaded(*runs: str | os.PathLike[str]) -> Iterator[None]:
    """Load Keras without its backend's start-up messages; they are printed if the start fails.

    Nothing else runs beside it: an import holds Python's lock nearly all the time, and reading images in another
    thread lost more than it gained.

    runs: checked first, so that a mistyped name is reported at once.
    """
    if runs:
        from kerasimg.run_folder import check_classifier

        for run in runs:
            check_classifier(run)
    check_backend()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of a home folder that is not there
    sys.stderr.flush()
    stderr = os.dup(2)
    silent = not {"--json", "--quiet"}.isdisjoint(sys.argv)  # every command has them by these names
    with waiting("starting Keras", silent), tempfile.TemporaryFile() as chatter:
        os.dup2(chatter.fileno(), 2)
        try:
            load_keras()
        except Exception:
            chatter.seek(0)
            os.write(stderr, chatter.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        yield
