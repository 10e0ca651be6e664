"""Reader of folders with a folder per class, perhaps below `train/`, `validation/` and `test/`.

Class folders are searched recursively. Images are recognised by their extension. Hidden files and folders and files of
operating systems are ignored silently; other files are counted.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kerasimg import log
from kerasimg.data.index import Items, Labels
from kerasimg.data.items import PART_NAMES, PARTS, ManyFaults, Part, Reading, class_name, fault
from kerasimg.data.readers.folder_index import Folders, Listing, Tree
from kerasimg.data.readers.image_store import Files
from kerasimg.data.readers.packed_strings import Paths, Texts, readable
from kerasimg.data.readers.reader import Reader
from kerasimg.errors import Fault, counted, listed
from kerasimg.spec.document import Task

SAMPLE = Path(__file__).parents[1] / "sample"
"""The data set that ships: 2,500 images of Fashion-MNIST, 28 x 28, grey, ten classes."""


class ClassFolder(NamedTuple):
    """The images of one class in one part, by folder."""

    label: str
    part: Part | None
    folder: str
    listings: list[tuple[str, Listing]]
    """Path and content of each folder with images."""


class Folder(Reader):
    """A folder with a folder per class."""

    name = "a folder"
    takes = (
        "a folder per class; or `train/`, `validation/`, `test/`, each with a folder per class; a folder above them, "
        "as unpacking makes it, is passed through"
    )

    def recognises(self, data: Any) -> bool:
        """Whether it is a folder."""
        return isinstance(data, str) and os.path.isdir(data)

    def read(self, data: str, task: Task, classes: Sequence[str] = ()) -> Reading:
        """Reads the labelled images in the order of their paths; a folder named like one of `classes` is a class."""
        with Folders(data) as folders:
            return read_tree(data, folders, classes)


class Sample(Reader):
    """The data set that ships with kerasimg."""

    name = "`sample`"
    takes = "the data set that ships: Fashion-MNIST, 2,000 + 500 images, ten classes"
    objects = ("'sample'",)

    def recognises(self, data: Any) -> bool:
        """Whether it is "sample"."""
        return isinstance(data, str) and data == "sample"

    def read(self, data: str, task: Task, classes: Sequence[str] = ()) -> Reading:
        """Reads the images; the licence and the note beside them are not counted as other files."""
        return Folder().read(str(SAMPLE), task)._replace(ignored=0)


def collect(folder: str) -> tuple[list[str], int]:
    """Paths of the images in a folder, recursively, and the number of other files."""
    with Folders(folder) as folders:
        listings, others = _collect(folders, folder)
    return [os.path.join(path, name) for path, listing in listings for name in listing.names()], others


def _note_folders_above(root: str, class_folders: Sequence[ClassFolder]) -> None:
    """Says so where no class has images of its own and all have the same folders: those may be meant as the classes."""
    inside = [{Path(path).relative_to(each.folder).parts[:1] for path, _ in each.listings} for each in class_folders]
    common = sorted(name for name, *_ in set.intersection(*inside)) if inside and () not in set.union(*inside) else []
    if len(inside) > 1 and len(common) > 1:
        labels = listed(sorted({each.label for each in class_folders}), 3)
        log.once(
            f"the classes are {labels}, and each has folders {listed(map(readable, common), 3)}: if those are the "
            f"classes, put them directly in {root}"
        )


def read_tree(root: str, folders: Tree, known: Sequence[str] = ()) -> Reading:
    """The labelled images of a tree of folders, on disk or in an archive."""
    base = _unwrap(root, folders, known)
    top = folders.listing(base)
    if not top.folders:
        what = f"holds {counted(top.number, 'image')} but no folders" if top.number else "holds no folders"
        raise fault(root, "", f"{what}; expected one folder per class, with the images of the class in it")
    above = "" if base == root else _below(root, base)
    faults = [_loose(root, above, name) for name in top.names()]
    ignored = top.others
    class_folders: list[ClassFolder] = []
    empty: list[str] = []
    parts = _part_folders(root, base, folders, faults)
    for part, folder in parts.items() or [(None, base)]:
        listing = folders.listing(folder)
        if part:
            faults += [_loose(root, _below(root, folder), name) for name in listing.names()]
            ignored += listing.others
        if not listing.folders and listing.number + listing.others:
            faults.append(Fault(root, _below(root, folder), "holds no class folders; add them, or remove it"))
        elif not listing.folders:
            empty.append(_below(root, folder))
        for name in listing.folders:
            listings, others = _collect(folders, os.path.join(folder, name), root, base, folder)
            ignored += others
            if listings:
                class_folders.append(
                    ClassFolder(class_name(readable(name)), part, os.path.join(folder, name), listings)
                )
            else:
                empty.append(_below(root, os.path.join(folder, name)))
    _note_folders_above(root, class_folders)
    faults += _class_faults(root, class_folders)
    if empty and not class_folders:
        faults += [Fault(root, path, "holds no images; put the class's images in it, or remove it") for path in empty]
    if faults:
        raise ManyFaults(faults)
    return Reading(
        _items(root, class_folders), {class_folder.label for class_folder in class_folders}, ignored, empty=tuple(empty)
    )


def _unwrap(root: str, folders: Tree, known: Sequence[str]) -> str:
    """The folder of the classes or parts: `root`, or below it while each folder holds exactly one folder.

    Unpacked archives have such folders: `photos/photos/cat/1.jpg`.
    """
    base = root
    while True:
        listing = folders.listing(base)
        below = [name for name in listing.folders if _collect(folders, os.path.join(base, name), root, base)[0]]
        if listing.number or len(below) != 1 or class_name(readable(below[0])) in known:
            return base
        inner = os.path.join(base, below[0])
        within = folders.listing(inner)
        if below[0].lower() in PARTS or within.number or not within.folders:
            return base
        base = inner


def _collect(folders: Tree, folder: str, *above: str) -> tuple[list[tuple[str, Listing]], int]:
    """All folders with images, recursively, and the number of other files.

    above: the folders that this one is in. A link that leads back to one of them is not followed: it would bring the
    images of every class into this one.
    """
    listings = []
    others = 0
    waiting, seen = [folder], {folders.identity(path) for path in above}
    while waiting:
        path = waiting.pop()
        identity = folders.identity(path)
        if identity in seen:  # links may form a cycle
            continue
        seen.add(identity)
        listing = folders.listing(path)
        if listing.number:
            listings.append((path, listing))
        waiting += [os.path.join(path, name) for name in listing.folders]
        others += listing.others
    return listings, others


def _items(root: str, class_folders: Sequence[ClassFolder]) -> Items:
    """The images in columns, in the order of their paths; the work is per folder, not per image."""
    names = tuple(dict.fromkeys(class_folder.label for class_folder in class_folders))
    numbers = {name: number for number, name in enumerate(names)}
    folders = sorted(
        (
            _prefix(root, path),
            listing.images,
            listing.number,
            numbers[class_folder.label],
            PART_NAMES.index(class_folder.part) if class_folder.part else -1,
        )
        for class_folder in class_folders
        for path, listing in class_folder.listings
    )
    paths = Paths.joined(b"\0".join(head + names.replace(b"\0", b"\0" + head) for head, names, *_ in folders))
    counts = [count for _, _, count, _, _ in folders]
    labels = Labels(names, np.repeat(np.array([label for *_, label, _ in folders], np.int32), counts))
    parts = np.repeat(np.array([part for *_, part in folders], np.int8), counts)
    rows = None if _is_in_order(paths, counts) else np.array(sorted(range(len(paths)), key=paths.__getitem__))
    return Items(paths, Files(paths, root), labels, parts, rows=rows)


def _prefix(root: str, folder: str) -> bytes:
    """The folder's path below the root: the prefix of the paths of its files."""
    return os.fsencode(os.path.relpath(folder, root).replace(os.sep, "/") + "/")


def _is_in_order(paths: Texts, counts: Sequence[int]) -> bool:
    """Whether paths that are sorted within each folder are sorted as a whole; False if one is not UTF-8."""
    if not paths.is_utf_8():
        return False
    ends = np.cumsum(counts).tolist()
    return all(paths.raw(end - 1) < paths.raw(end) for end in ends[:-1])


def _part_folders(root: str, base: str, folders: Tree, faults: list[Fault]) -> dict[Part, str]:
    """Part -> folder; empty if the folders are classes.

    A folder named like a part that holds images itself is a class ("train", next to "bus" and "car").
    """
    parts: dict[Part, str] = {}
    beside = []
    for name in folders.listing(base).folders:
        part = PARTS.get(name.lower())
        path = os.path.join(base, name)
        if part is None or folders.listing(path).number:
            beside.append(name)
        elif part in parts:
            faults.append(Fault(root, name, f"is the {part} part, like {_below(root, parts[part])}/; remove one"))
        else:
            parts[part] = path
    for name in beside if parts else []:
        if _collect(folders, os.path.join(base, name))[0]:
            known = listed(f"{_below(root, path)}/" for path in parts.values())
            message = f"holds images, but is beside {known}; move it into one of these, or elsewhere"
            faults.append(Fault(root, name, message))
    return parts


def _class_faults(root: str, class_folders: Iterable[ClassFolder]) -> list[Fault]:
    faults = []
    first: dict[tuple[Part | None, str], str] = {}
    for class_folder in class_folders:
        path = _below(root, class_folder.folder)
        twin = first.setdefault((class_folder.part, class_folder.label), path)
        if twin != path:
            faults.append(Fault(root, path, f"is the same class as {twin}; put the images in one folder"))
    return faults


def _loose(root: str, folder: str, name: str) -> Fault:
    path = f"{folder}/{name}" if folder else name
    return Fault(root, readable(path), "is outside of the class folders; move it into one, or elsewhere")


def _below(root: str, path: str) -> str:
    return readable(os.path.relpath(path, root).replace(os.sep, "/"))
