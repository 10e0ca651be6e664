"""Where a value stands in a document and where it came from, so that an error can point at the user's own line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kerasimg.errors import Fault

Path = tuple[str | int, ...]
Report = Callable[[Path, str], None]

NODE_KINDS = ("layer", "block", "backbone", "reuse")


class Origins:
    """For each part of a merged document, the file or the call that it came from."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._sources: dict[Path, str] = {}

    def set(self, path: Path, source: str) -> None:
        """All that stands at `path` and below comes from `source`."""
        for known in [known for known in self._sources if known[: len(path)] == path]:
            del self._sources[known]
        self._sources[path] = source

    def paths(self) -> list[Path]:
        """The paths at which a source begins."""
        return list(self._sources)

    def of(self, path: Path) -> str:
        """The source of what stands at `path`."""
        for length in range(len(path), -1, -1):
            if path[:length] in self._sources:
                return self._sources[path[:length]]
        return self.file


class Faults:
    """Collects every fault of a document, each once, with its path as the document's reader sees it."""

    def __init__(self, document: dict[str, Any], origins: Origins) -> None:
        self.document = document
        self.origins = origins
        self.moved: dict[Path, Path] = {}
        """Path of a chosen option's content -> where it stands in the document as written."""
        self._found: dict[Fault, None] = {}

    def report(self, path: Path, message: str) -> None:
        """Add the fault `message` of what stands at `path`."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.moved:
                path = self.moved[path[:length]] + path[length:]
                break
        self._found[Fault(self.origins.of(path), show_path(self.document, path), message)] = None

    def below(self, path: Path) -> Report:
        """A `report` whose paths begin at `path`."""
        return lambda rest, message: self.report(path + rest, message)

    def __iter__(self) -> Any:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def show_path(document: Any, path: Path) -> str:
    """A path as text, naming what a list item is: `model[3] (Conv2D).filters`."""
    text = ""
    for step in path:
        document = _step(document, step)
        if isinstance(step, int):
            text += f"[{step}]{_titled(document)}"
        else:
            text += f".{step}" if text else step
    return text


def _step(value: Any, step: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(step)
    if isinstance(value, list) and isinstance(step, int) and step < len(value):
        return value[step]
    return None


def _titled(item: Any) -> str:
    if not isinstance(item, dict):
        return ""
    kind = next((item[key] for key in NODE_KINDS if isinstance(item.get(key), str)), None)
    return f" ({kind[:40]})" if kind else ""
