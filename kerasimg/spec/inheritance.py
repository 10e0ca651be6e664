"""A document and those it extends -> one document, and where each part of it came from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from kerasimg.errors import Fault, SpecError
from kerasimg.spec.locations import Faults, Origins
from kerasimg.spec.merge import edit, merge
from kerasimg.spec.reader import kind_of, read, shown, without_comments
from kerasimg.spec.versions import upgrade

_PACKAGE = Path(__file__).parents[1]
ZOO = _PACKAGE / "zoo" if (_PACKAGE / "zoo").is_dir() else _PACKAGE.parent / "zoo"
"""The folder of the specs that ship: inside the package once installed, beside it in a checkout."""

MAX_PARENTS = 8


class Found(NamedTuple):
    """A spec file: where it is and what errors call it."""

    path: Path
    label: str


Find = Callable[[str, Path], Found]
"""(reference in a spec, folder of that spec) -> the file; LookupError, with what exists, when there is none."""


def with_parents(found: Found, find: Find, children: tuple[Path, ...]) -> tuple[dict[str, Any], Origins]:
    if found.path.resolve() in children:
        names = " -> ".join(path.name for path in (*children, found.path))
        raise SpecError([Fault(found.label, "extends", f"the file extends itself: {names}")])
    if len(children) >= MAX_PARENTS:
        raise SpecError([Fault(found.label, "extends", f"more than {MAX_PARENTS} files extend one another")])
    return extended(read(found.path, found.label), found, find, (*children, found.path.resolve()))


def extended(
    document: dict[str, Any], found: Found, find: Find, children: tuple[Path, ...]
) -> tuple[dict[str, Any], Origins]:
    """The document merged onto its parents, with its own `set` made."""
    document = upgrade(document, found.label)
    origins = Origins(found.label)

    def refuse(path: str, message: str) -> SpecError:
        return SpecError([Fault(found.label, path, message)])

    parent = document.get("extends")
    if parent is not None:
        if not isinstance(parent, str):
            raise refuse("extends", f"expected a file beside this one or a zoo name, got {shown(parent)}")
        try:
            at = find(parent, found.path.parent)
        except LookupError as error:
            raise refuse("extends", str(error.args[0])) from None
        inherited, origins = with_parents(at, find, children)
        document = merge(inherited, document, origins, found.label)
    edits = document.get("set", {})
    if not isinstance(edits, dict):
        raise refuse("set", f"expected an object of values by path, got {kind_of(edits)}")
    faults = Faults(document, origins, found.label)
    rest = {key: value for key, value in document.items() if key not in ("set", "extends")}
    made = edit(rest, without_comments(edits), origins, found.label, faults.report)
    if len(faults):
        raise SpecError(faults)
    return made, origins
