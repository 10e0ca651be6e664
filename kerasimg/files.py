"""Write files whole or not at all; read and write JSON files."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from kerasimg.errors import CallError

try:
    import fcntl
except ImportError:  # Windows: two processes that write to one folder are not separated there
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
"""The file in the folder of a run or a search that is locked while a process writes there."""
PARTIAL = ".partial-{}"
"""The name of a file while it is written. The suffix stays, because Keras chooses a format by it."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file beside its place, and move it there when the block ends.

    Whenever the process dies, `path` is the old file or the new one, never a part of one. If the block fails, the old
    file stays and the new one is removed. What has the name of the new file before, left by a process that was killed
    or planted in the folder of a stranger, is removed and never written to: it may be a link.

    Args:
        path: the file to write or to replace, in a folder that exists.

    Yields:
        The path to write to.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    partial = path.with_name(PARTIAL.format(path.name))
    partial.unlink(missing_ok=True)
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    _sync_folder(path.parent)


def no_link(path: str, flags: int) -> int:
    """An opener for `open` that refuses a link: in the folder of a stranger it may lead to any file."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)


@contextlib.contextmanager
def lock_folder(folder: Path, verb: str) -> Iterator[None]:
    """Keep other processes from writing a run or a search while this one does; the lock ends with the process.

    Args:
        folder: that of the run or the search.
        verb: what the other process would be doing: "training".

    Raises:
        CallError: if another process holds the lock.
    """
    if fcntl is None:
        yield
        return
    path = folder / LOCK
    with _locked(path) as handle:
        if handle is None:
            raise CallError(f"another process is {verb} in '{folder}'; wait until it ends, or end it")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # before it is released: who opened this file meanwhile looks again


def is_locked(folder: Path) -> bool:
    """Whether a process holds the lock of a folder."""
    if fcntl is None or (folder / LOCK).is_symlink():
        return False
    try:
        with open(folder / LOCK, opener=no_link) as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[str] | None]:
    """The lock file, locked; None if another process has locked it."""
    while True:
        if path.is_symlink():  # kerasimg makes none
            path.unlink(missing_ok=True)
        with open(path, "w", opener=no_link) as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield None
                return
            try:
                same = os.path.samestat(os.fstat(handle.fileno()), path.stat())
            except FileNotFoundError:
                same = False
            if same:
                yield handle
                return


def require_free(folder: Path) -> None:
    """Raises a CallError unless a folder to write is missing or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CallError(f"out: '{folder}' already exists; choose another folder")


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, to_json(content) + "\n")


def to_json(content: Any) -> str:
    """JSON for a reader: indented, with every letter as it is."""
    return json.dumps(content, ensure_ascii=False, indent=2)


def read_json(path: Path) -> Any:
    """The content of a JSON file that kerasimg wrote.

    Raises:
        CallError: if the file does not exist or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CallError(f"there is no file '{path}'") from None
    except (ValueError, RecursionError) as error:
        raise damaged(path, error) from None


def read_object(path: Path) -> dict[str, Any]:
    """The content of a JSON file that holds an object.

    Raises:
        CallError: if the file does not exist, is not JSON, or holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise damaged(path, "a JSON object was expected")
    return content


def damaged(path: Path, why: object) -> CallError:
    """The error for a file that is not as kerasimg wrote it."""
    return CallError(f"'{path}' is damaged ({why}): restore it from a copy, or train again")


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
