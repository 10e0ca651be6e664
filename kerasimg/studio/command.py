"""Runs a command of kerasimg for the studio: `python -m kerasimg.studio.command FILE train ...`.

The command is what the command line runs. Besides, the path of the run that it trains is written to FILE as soon as the
run exists.
"""

from __future__ import annotations

import logging
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

from kerasimg import log
from kerasimg.files import write_text


def main() -> None:
    """Runs the command in this process."""
    log.LOGGER.addFilter(run_recorder(Path(sys.argv[1])))
    sys.argv = ["kerasimg", *sys.argv[2:]]
    runpy.run_module("kerasimg", run_name="__main__", alter_sys=True)


def run_recorder(file: Path) -> Callable[[logging.LogRecord], bool]:
    """A filter of the logger that writes the folder of a run that begins to a file, and lets every record through."""

    def record_run(record: logging.LogRecord) -> bool:
        if (run := getattr(record, log.RUN, None)) is not None:
            write_text(file, run)
        return True

    return record_run


if __name__ == "__main__":
    main()
