"""What was compared or measured once on this machine and need not be again: small results in the cache folder.

Each is found by all that it depends on: the model, the images, the machine, the versions. A file is a JSON object with
the result and the CRC-32 of its text; one that is damaged counts as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kerasimg.backend import BACKENDS, versions
from kerasimg.cache_folder import cache_folder
from kerasimg.files import write_json
from kerasimg.processor import processor_name

MOST = 500
"""Results that are stored; the least recently used ones are removed."""


def circumstances() -> dict[str, Any]:
    """What the numbers and the speed of a model depend on besides it: the machine and the versions, with Keras."""
    import keras

    backend = keras.backend.backend()
    if backend == "torch":  # for which Keras lists no devices
        torch = importlib.import_module("torch")
        devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    else:
        devices = list(map(str, keras.distribution.list_devices()))
    return {
        "processor": [processor_name(), os.cpu_count()],
        "devices": devices,
        "backend": backend,
        "versions": versions(("kerasimg", "keras", BACKENDS[backend])),
    }


def recall(about: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns what was remembered about the same things; None if nothing was."""
    path = result_file(about)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found: dict[str, Any] = content["result"]
        if content["crc32"] != _crc(found):
            return None
    except (OSError, ValueError, TypeError, KeyError):
        return None
    with contextlib.suppress(OSError):  # a folder that is only to be read
        os.utime(path)
    return found


def remember(about: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Stores a result, by all that it depends on; both JSON-compatible. If it cannot be written, nothing is."""
    path = result_file(about)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"result": found, "crc32": _crc(found)})
        for _, old in _files()[:-MOST]:
            old.unlink(missing_ok=True)


def remove_older(age_s: float = 0) -> list[int]:
    """Removes what was not used for `age_s` seconds; returns the bytes of each file."""
    removed = []
    for used, path in _files():
        if time.time() - used >= age_s:
            with contextlib.suppress(OSError):
                size = path.stat().st_size
                path.unlink()
                removed.append(size)
    return removed


def result_file(about: Mapping[str, Any]) -> Path:
    """Returns the file of the result about these things, which may not exist."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
    return cache_folder() / "remembered" / f"{digest}.json"


def _crc(found: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(found, sort_keys=True).encode())


def _files() -> list[tuple[float, Path]]:
    """Returns when each file was used last, and the file, the least recently used first."""
    found = []
    for path in result_file({}).parent.glob("*.json"):
        with contextlib.suppress(OSError):
            found.append((path.stat().st_mtime, path))
    return sorted(found)
