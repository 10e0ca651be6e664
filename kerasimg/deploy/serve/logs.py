"""Structured logs: one line of JSON for each request and each event; never an image, nor a file's name."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any


def tell(event: str, **about: Any) -> None:
    """Write one line to standard output."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = json.dumps({"time": now, "event": event, **about}, ensure_ascii=True, default=str)
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except (BrokenPipeError, ValueError):
        # Whoever read the log has gone; the server goes on.
        return


class JsonHandler(logging.Handler):
    """What uvicorn and the libraries log, in the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record as one line."""
        about: dict[str, Any] = {"level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info and record.exc_info[0] is not None:
            about["error"] = logging.Formatter().formatException(record.exc_info)
        tell("log", logger=record.name, **about)


def set_up() -> None:
    """Let uvicorn's own loggers write lines of JSON, from warnings on."""
    logger = logging.getLogger("uvicorn")
    logger.handlers = [JsonHandler()]
    logger.setLevel(logging.WARNING)
    logger.propagate = False
