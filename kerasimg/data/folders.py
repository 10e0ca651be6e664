"""A folder with a folder per class, below `train/`, `validation/` and `test/` or not -> labelled pictures.

A class folder is searched in all its depth. What counts as a picture is decided by the extension; hidden files
and folders, and what operating systems leave behind, are passed over without a word, other files are counted.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from kerasimg.data.items import PARTS, Item, ManyFaults, Part, Reading, class_name, fault
from kerasimg.data.picture import EXTENSIONS
from kerasimg.errors import Fault, listed

LEFT_BEHIND = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
"""What operating systems leave in folders, in lower case, next to hidden files."""


class Listing(NamedTuple):
    """What stands directly in a folder: names of pictures and of folders, and how many other files."""

    pictures: list[str]
    folders: list[str]
    others: int


class Found(NamedTuple):
    """The pictures of one class in one part."""

    label: str
    part: Part | None
    folder: str
    pictures: list[str]


def read_folder(root: str) -> Reading:
    """The labelled pictures below `root`, in the order of their paths."""
    top = list_folder(root)
    if not top.folders:
        what = f"holds {len(top.pictures):,} pictures but no folders" if top.pictures else "holds no folders"
        raise fault(root, "", f"{what}; expected one folder per class, with the pictures of the class in it")
    faults = [_loose(root, "", name) for name in top.pictures]
    ignored = top.others
    found: list[Found] = []
    parts = _part_folders(root, top.folders, faults)
    for part, folder in parts.items() or [(None, root)]:
        listing = list_folder(folder) if part else top
        if part:
            faults += [_loose(root, _below(root, folder), name) for name in listing.pictures]
            ignored += listing.others
        if not listing.folders:
            faults.append(Fault(root, _below(root, folder), "holds no class folders; add them, or remove it"))
        for name in listing.folders:
            pictures, others = collect(os.path.join(folder, name))
            ignored += others
            found.append(Found(class_name(_readable(name)), part, os.path.join(folder, name), pictures))
    faults += _class_faults(root, found)
    if faults:
        raise ManyFaults(faults)
    items = [Item(_below(root, path), path, (one.label,), one.part) for one in found for path in one.pictures]
    items.sort(key=lambda item: item.id)
    return Reading(items, {one.label for one in found}, ignored)


def list_folder(path: str) -> Listing:
    """What stands directly in a folder, in the order of names."""
    pictures, folders, others = [], [], 0
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith(".") or name.lower() in LEFT_BEHIND:
                    continue
                if _is_folder(entry):
                    folders.append(name)
                elif os.path.splitext(name)[1].lower() in EXTENSIONS:
                    pictures.append(name)
                else:
                    others += 1
    except OSError as error:
        raise fault(path, "", f"cannot be read ({error.strerror or error})") from error
    return Listing(sorted(pictures), sorted(folders), others)


def collect(folder: str) -> tuple[list[str], int]:
    """Paths of the pictures in a folder and in those below it, and how many other files there are."""
    pictures: list[str] = []
    others = 0
    waiting, seen = [folder], set()
    while waiting:
        path = waiting.pop()
        status = os.stat(path)
        if (status.st_dev, status.st_ino) in seen:  # links may lead in a circle
            continue
        seen.add((status.st_dev, status.st_ino))
        listing = list_folder(path)
        pictures += [os.path.join(path, name) for name in listing.pictures]
        waiting += [os.path.join(path, name) for name in listing.folders]
        others += listing.others
    return pictures, others


def _part_folders(root: str, folders: Iterable[str], faults: list[Fault]) -> dict[Part, str]:
    """The folders that hold a part each, by part; none where the folders are classes.

    A folder named like a part that holds pictures itself is a class ("train", next to "bus" and "car").
    """
    parts: dict[Part, str] = {}
    beside = []
    for name in folders:
        part = PARTS.get(name.lower())
        path = os.path.join(root, name)
        if part is None or list_folder(path).pictures:
            beside.append(name)
        elif part in parts:
            faults.append(Fault(root, name, f"is the {part} part, as {_below(root, parts[part])}/ is; keep one"))
        else:
            parts[part] = path
    for name in beside if parts else []:
        if collect(os.path.join(root, name))[0]:
            known = listed(f"{_below(root, path)}/" for path in parts.values())
            message = f"holds pictures, but stands beside {known}; move it into the part it belongs to, or away"
            faults.append(Fault(root, name, message))
    return parts


def _class_faults(root: str, found: Iterable[Found]) -> list[Fault]:
    faults = []
    first: dict[tuple[Part | None, str], str] = {}
    for one in found:
        path = _below(root, one.folder)
        if not one.pictures:
            faults.append(Fault(root, path, "holds no pictures; put the class's pictures in it, or remove it"))
        twin = first.setdefault((one.part, one.label), path)
        if twin != path:
            faults.append(Fault(root, path, f"names the same class as {twin}; put their pictures in one folder"))
    return faults


def _loose(root: str, folder: str, name: str) -> Fault:
    path = f"{folder}/{name}" if folder else name
    return Fault(root, _readable(path), "lies outside of the class folders; move it into one, or away")


def _below(root: str, path: str) -> str:
    return _readable(os.path.relpath(path, root).replace(os.sep, "/"))


def _readable(name: str) -> str:
    """The name as text that can be printed: bytes of it that are no UTF-8 are written as escapes."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False
