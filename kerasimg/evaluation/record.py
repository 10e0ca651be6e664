"""The JSON files that a judgement is kept in."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kerasimg.errors import CallError


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file; CallError where there is none."""
    if not path.is_file():
        raise CallError(f"there is no {path}; name the folder of a run that was judged (kerasimg evaluate)")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}")
    partial.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)
