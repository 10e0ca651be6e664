"""The version of the format, and how a document of an earlier one becomes one of today's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kerasimg.errors import Fault, SpecError
from kerasimg.spec.document import FORMAT_VERSION
from kerasimg.spec.reader import shown

MIGRATIONS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Version -> what makes a document of it one of the next; pure, dict to dict. Version 1 is the first."""


def upgrade(
    document: dict[str, Any],
    file: str,
    *,
    migrations: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = MIGRATIONS,
    current: int = FORMAT_VERSION,
) -> dict[str, Any]:
    """The document in today's format; SpecError when its version is none that can be read."""
    version = document.get("kerasimg")
    if version is None:
        raise SpecError([Fault(file, "kerasimg", f"missing; the format's version, {current}, must be given")])
    if isinstance(version, bool) or not isinstance(version, int) or version < min((*migrations, current)):
        raise SpecError([Fault(file, "kerasimg", f"expected the format's version, {current}, got {shown(version)}")])
    if version > current:
        message = f"version {version} is newer than this kerasimg reads ({current}); update kerasimg"
        raise SpecError([Fault(file, "kerasimg", message)])
    while version < current:
        document = {**migrations[version](document), "kerasimg": version + 1}
        version += 1
    return document
