"""The JSON files that a judgement is kept in."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kerasimg.errors import CallError
from kerasimg.spec.writing import write_whole


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file; CallError where there is none."""
    if not path.is_file():
        raise CallError(f"there is no {path}; name the folder of a run that was judged (kerasimg evaluate)")
    content = read_kept(path)
    if not isinstance(content, dict):
        raise damaged(path, "an object was expected")
    return content


def read_kept(path: Path) -> Any:
    """The content of a JSON file of a run; CallError where it is none any more."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise damaged(path, error) from None


def read_rows(path: Path) -> list[dict[str, float]]:
    """The rows of numbers of a CSV file of a run; CallError where they are none any more."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    except (ValueError, TypeError, csv.Error) as error:
        raise damaged(path, error) from None


def damaged(path: Path, why: object) -> CallError:
    """What is told of a file of a run that is not what was written."""
    return CallError(f"'{path}' is damaged ({why}); it is not as kerasimg wrote it: bring it back, or train anew")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file whole or not at all."""
    write_whole(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
