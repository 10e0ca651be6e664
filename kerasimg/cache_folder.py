"""The cache folder: decoded images, indices of folders, features of frozen layers, compiled functions."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

VARIABLE = "KERASIMG_CACHE"
"""The environment variable that names another folder."""


def cache_folder() -> Path:
    """The folder, which may not exist yet: `$KERASIMG_CACHE`, else `kerasimg` in the system's cache folder."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    try:
        return _systems_own() / "kerasimg"
    except RuntimeError:  # no home folder
        return Path(tempfile.gettempdir()) / "kerasimg"


def _systems_own() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
