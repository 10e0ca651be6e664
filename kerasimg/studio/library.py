"""The images of a folder with their labels: those of the folders that they are in, and the decisions of the journal.

Labels are decided in the journal; files stay where they are until `move_files`. An image is in the class whose folder
holds it (`cat/1.jpg`, `train/cat/1.jpg`), or in none: directly in the folder, in a part, or in `unlabelled/`. What is
left out is not trained on, and is moved to `.kerasimg/left_out/`; nothing is deleted.
"""

from __future__ import annotations

import csv
import errno
import filecmp
import io
import os
import shutil
import threading
import time
from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any

from kerasimg.data.image_files import EXTENSIONS, BadImage, read_sent
from kerasimg.data.items import PARTS, class_name, in_order
from kerasimg.data.readers.folder_index import LEFT_BEHIND
from kerasimg.errors import CallError
from kerasimg.escaping import csv_row
from kerasimg.files import lock_folder, replacing
from kerasimg.studio.journal import LABEL, Change, Journal, Moves

STATE = ".kerasimg"
"""The folder of the studio within the folder of images; hidden, so that no reader takes it for a class."""
LEFT_OUT = "/left_out"
"""The label of images that are left out; no class can have it, since its name has a slash."""
LEFT_OUT_FOLDER = f"{STATE}/left_out/"
"""Where their files are moved to, below their old path."""
UNLABELLED = "unlabelled"
"""The folder of images without a label."""
MANIFEST = "labels.csv"
"""The labels as a data manifest, for `train`, `data check` and every other command."""
MAX_NAME_BYTES = 255
COUNTER_BYTES = 40
"""Left for the number that a file gets beside one of the same name, and for the partial file."""
QUERIES = 8
"""Answers to filters that are stored."""
CAPTURED = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}

Label = str | None


class Conflict(CallError):
    """Images have other labels than the person saw: another tab changed them. Nothing was written."""

    def __init__(self, paths: Sequence[str]) -> None:
        more = f" and {len(paths) - 3:,} more" if len(paths) > 3 else ""
        super().__init__(f"{', '.join(paths[:3])}{more}: labelled in another tab meanwhile; nothing was changed")


class Library(AbstractContextManager["Library"]):
    """The images of a folder, open for one studio at a time.

    Args:
        folder: the folder; it is made if it does not exist.

    Raises:
        CallError: if it is a file, cannot be written to, another studio has it open, or a link in `.kerasimg/` leaves
            it.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).resolve()
        self.state = self.folder / STATE
        try:
            self.state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CallError(
                f"'{self.folder}' must be a folder that can be written to: labels are stored in {STATE}/ in it "
                f"({error.strerror or error})"
            ) from None
        self._refuse_links()
        self.lock = threading.RLock()
        self._stack = ExitStack()
        self._stack.enter_context(lock_folder(self.state, "showing the studio"))
        self.paths: list[str] = []
        self.labels: list[Label] = []
        self._number: dict[str, int] = {}
        self._missing: set[int] = set()
        self._class_folders: frozenset[str] = frozenset()
        self._generation = 0
        self._order: tuple[tuple[int, int], array[int]] = (0, 0), array("I")
        self._answers: OrderedDict[tuple[Any, ...], array[int]] = OrderedDict()
        try:
            self.journal = Journal(self.state / "journal.jsonl")
            self._complete_moves()
            self.rescan()
        except BaseException:
            self._stack.close()
            raise

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def version(self) -> int:
        """Grows with every change of labels or files."""
        return self.journal.version + self._generation

    def rescan(self) -> int:
        """List the folder again; returns how many images are new. Numbers of images stay the same."""
        with self.lock:
            before = len(self.paths)
            present = set()
            for path in (*_images_in(self.folder, ""), *_images_in(self.folder, LEFT_OUT_FOLDER)):
                number = self._number.get(path)
                if number is None:
                    number = self._add(path)
                present.add(number)
            missing = set(range(len(self.paths))) - present
            class_folders = frozenset(_class_folders(self.folder))
            if (missing, class_folders) != (self._missing, self._class_folders) or len(self.paths) > before:
                self._generation += 1
            self._missing, self._class_folders = missing, class_folders
            return len(self.paths) - before

    def file(self, number: int) -> Path:
        """The file of an image; IndexError if there is no such number."""
        if not 0 <= number < len(self.paths):
            raise IndexError(number)
        return self.folder / self.paths[number]

    def classes(self) -> tuple[str, ...]:
        """Names of the classes, also of those without images, in the order of the model's outputs."""
        named = {str(key).removeprefix("class:") for key, held in self.journal.values.get("", {}).items() if held}
        named |= {label for number, label in enumerate(self.labels) if label and number not in self._missing}
        return in_order((named | self._class_folders) - {LEFT_OUT})

    def summary(self) -> dict[str, Any]:
        """The classes with their numbers of images, and what can be undone, redone and moved."""
        with self.lock:
            counts = Counter(label for number, label in enumerate(self.labels) if number not in self._missing)
            return {
                "version": self.version,
                "folder": self.folder.name,
                "path": str(self.folder),
                "total": len(self.paths) - len(self._missing),
                "classes": [{"name": name, "images": counts[name]} for name in self.classes()],
                "unlabelled": counts[None],
                "left_out": counts[LEFT_OUT],
                "to_move": len(self.planned_moves()),
                "undo": self.journal.undoable,
                "redo": self.journal.redoable,
            }

    def select(self, label: Label = "", text: str = "", status: str = "all") -> array[int]:
        """The numbers of the images that a filter lets through, in the order of their paths.

        Args:
            label: a class, None: those without a label, LEFT_OUT, or "": all that are not left out.
            text: a part of the path, in any case.
            status: "all", or "to_move": the file is in another folder than its label says.
        """
        with self.lock:
            key = (self.version, label, text, status)
            if key not in self._answers:
                self._answers[key] = array("I", self._matching(label, text.casefold(), status))
                if len(self._answers) > QUERIES:
                    self._answers.popitem(last=False)
            return self._answers[key]

    def rows(self, numbers: Iterable[int]) -> list[tuple[int, str, Label]]:
        """(number, path, label) of images."""
        return [(number, self.paths[number], self.labels[number]) for number in numbers]

    def set_labels(self, numbers: Sequence[int], label: Label, before: Sequence[Label] | None = None) -> int:
        """Label images; returns how many had another label.

        Args:
            numbers: of the images.
            label: a class, None or LEFT_OUT.
            before: the labels that the person saw, to notice changes in another tab.

        Raises:
            Conflict: if an image has another label than `before` says.
            CallError: if the label cannot be a class.
        """
        if label is not None and label != LEFT_OUT:
            label = checked_class(label)
        with self.lock:
            now = [self.labels[number] for number in numbers]
            if before is not None and list(before) != now:
                stale = [
                    self.paths[number] for number, old, new in zip(numbers, before, now, strict=True) if old != new
                ]
                raise Conflict(stale)
            changes = [Change(self.paths[number], LABEL, old, label) for number, old in zip(numbers, now, strict=True)]
            return len(self._apply(self.journal.edit(changes)))

    def mark(self, subjects: Iterable[str], key: str, value: Any) -> int:
        """Store another decision on images, by path: that a suspicion is unfounded."""
        with self.lock:
            return len(
                self.journal.edit(Change(subject, key, self.journal.value(subject, key), value) for subject in subjects)
            )

    def add_class(self, name: str) -> str:
        """A class without images yet; returns its name as it is stored."""
        name = checked_class(name)
        self.mark([""], f"class:{name}", True)
        return name

    def undo(self) -> int:
        """Undo the last decision; returns how many images it changed."""
        with self.lock:
            return len(self._apply(self.journal.undo()))

    def redo(self) -> int:
        """Repeat the decision that was taken back last."""
        with self.lock:
            return len(self._apply(self.journal.redo()))

    def planned_moves(self) -> Moves:
        """The files that are in another folder than their label says, and where they would go."""
        with self.lock:
            planned: Moves = []
            taken: set[str] = set()
            for number in self._displaced():
                path = self.paths[number]
                target = self._free_path(self._place(path, self.labels[number]), taken)
                taken.add(target)
                planned.append((path, target))
            return planned

    def move_files(self) -> int:
        """Move every file into the folder of its label; returns how many were moved. A kill loses nothing.

        A file that cannot be moved stays where it is, and is planned again.
        """
        with self.lock:
            planned = self.planned_moves()
            if planned:
                for folder in {self.folder / os.path.dirname(target) for _, target in planned}:
                    self._require_inside(folder)
                self.journal.begin_moves(planned)
                self._generation += 1
                return self._complete_moves()
            return 0

    def add_image(self, content: bytes, label: Label, name: str | None = None) -> int:
        """Store an image that the page sends, as a new image of a class; returns its number.

        Args:
            content: the file.
            label: the class, or None.
            name: the name of the file that was chosen; None: a photograph of the camera.

        Raises:
            BadImage: if it cannot be read, or a photograph is not a JPEG, PNG or WebP image.
            CallError: if the label cannot be a class, or the name that of an image file.
        """
        label = checked_class(label) if label is not None else None
        name = None if name is None else _checked_file_name(name)
        kind = read_sent(content)
        if name is None:
            if kind not in CAPTURED:
                raise BadImage("is not a JPEG, PNG or WebP image")
            name = f"camera-{time.strftime('%Y%m%d-%H%M%S')}{CAPTURED[kind]}"
        with self.lock:
            path = self._free_path(f"{label or UNLABELLED}/{name}", set())
            self._require_inside(self.folder / os.path.dirname(path))
            file = self.folder / path
            file.parent.mkdir(exist_ok=True)
            with replacing(file) as partial, partial.open("xb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
            number = self._add(path)
            # So that undo takes the image back: it is left out then.
            self.journal.edit([Change(path, LABEL, LEFT_OUT, label)])
            return number

    def manifest(self, relative_to: Path) -> str:
        """The labelled images as the text of a CSV manifest, with paths relative to a folder."""
        up = os.path.relpath(self.folder, relative_to).replace(os.sep, "/")
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("path", "label", "split"))
        with self.lock:
            for number in self.select():
                path, label = self.paths[number], self.labels[number]
                if label is None:
                    continue
                if path.encode("utf-8", "ignore").decode() != path:
                    raise CallError(f"{path!a}: the name is not UTF-8 and cannot be listed; rename the file")
                part = PARTS.get(part_of(path).lower(), "")
                writer.writerow(csv_row((path if up == "." else f"{up}/{path}", label, part)))
        return text.getvalue()

    def write_manifest(self) -> Path:
        """Write `.kerasimg/labels.csv`, for the commands; returns its path."""
        file = self.state / MANIFEST
        with replacing(file) as partial:
            partial.write_text(self.manifest(self.state), encoding="utf-8")
        return file

    def number_of(self, path: str) -> int | None:
        """The number of an image by its path relative to the folder, or as the manifest has it."""
        return self._number.get(path.removeprefix("../"))

    def _add(self, path: str) -> int:
        number = self._number[path] = len(self.paths)
        self.paths.append(path)
        self.labels.append(self.journal.value(path, LABEL, label_of(path)))
        return number

    def _apply(self, changes: Iterable[Change]) -> list[Change]:
        """The labels after changes of the journal; returns those of images."""
        images = [change for change in changes if change.key == LABEL and change.subject in self._number]
        for change in images:
            self.labels[self._number[change.subject]] = change.after
        return images

    def _matching(self, label: Label, text: str, status: str) -> Iterator[int]:
        if self._order[0] != (self._generation, len(self.paths)):
            in_order_of_paths = sorted(range(len(self.paths)), key=self.paths.__getitem__)
            self._order = (self._generation, len(self.paths)), array("I", in_order_of_paths)
        numbers: Iterable[int] = self._order[1]
        if status == "to_move":
            displaced = set(self._displaced())
            numbers = (number for number in numbers if number in displaced)
        for number in numbers:
            own = self.labels[number]
            if number in self._missing or (own == LEFT_OUT if label == "" else own != label):
                continue
            if text and text not in self.paths[number].casefold():
                continue
            yield number

    def _displaced(self) -> Iterator[int]:
        for subject, values in self.journal.values.items():
            number = self._number.get(subject)
            if number is None or number in self._missing or LABEL not in values:
                continue
            if values[LABEL] != label_of(subject):
                yield number

    def _place(self, path: str, label: Label) -> str:
        """Where an image of a label belongs: the class's folder, in the part that it is in now."""
        if label == LEFT_OUT:
            return LEFT_OUT_FOLDER + path
        path = path.removeprefix(LEFT_OUT_FOLDER)
        part, name = part_of(path), os.path.basename(path)
        if label is None:
            return f"{UNLABELLED}/{name}"
        return f"{part}/{label}/{name}" if part else f"{label}/{name}"

    def _free_path(self, path: str, taken: set[str]) -> str:
        """The path, with a number before its extension if a file has it already."""
        stem, extension = os.path.splitext(path)
        free, counter = path, 1
        while free in taken or os.path.lexists(self.folder / free):
            counter += 1
            free = f"{stem}-{counter}{extension}"
        return free

    def _require_inside(self, folder: Path) -> None:
        """Raises a CallError if a folder is a link that leads out of the folder of images."""
        if not Path(os.path.realpath(folder)).is_relative_to(self.folder):
            raise CallError(f"'{folder}' is a link that leaves '{self.folder}'; nothing is moved there")

    def _refuse_links(self) -> None:
        """Raises a CallError if the studio would write through a link that leads out of the folder of images."""
        below = [Path(entry.path) for entry in os.scandir(self.state)] if self.state.is_dir() else []
        deeper = [Path(entry.path) for path in below if path.is_dir() for entry in os.scandir(path)]
        for path in (self.state, *below, *deeper):
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(self.folder):
                raise CallError(f"'{path}' is a link that leaves '{self.folder}'; remove it, nothing is written there")

    def _complete_moves(self) -> int:
        """Moves the files that the journal says are to be moved, and were not yet; returns how many are moved."""
        moves = self.journal.open_moves
        if not moves:
            return 0
        moved = [(before, after) for before, after in moves if self._move(before, after)]
        self.journal.end_moves(moved)
        for before, after in moved:
            number = self._number.pop(before, None)
            if number is not None:
                self._number[after], self.paths[number] = number, after
        return len(moved)

    def _move(self, before: str, after: str) -> bool:
        """Moves a file unless it was moved already; whether it is at its new place now."""
        source, target = self.folder / before, self.folder / after
        if not os.path.lexists(source):
            return os.path.lexists(target)
        if os.path.lexists(target):  # copied to another disk, not yet removed here; or somebody else's file
            if not filecmp.cmp(source, target, shallow=False):
                return False
            source.unlink()
            return True
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            source.rename(target)
        except OSError as error:
            return error.errno == errno.EXDEV and _copy(source, target)
        return True


def _copy(source: Path, target: Path) -> bool:
    """Moves a file to another disk; whether it is there now."""
    try:
        with replacing(target) as partial:
            shutil.copy2(source, partial)
        source.unlink()
    except OSError:
        return False
    return True


def label_of(path: str) -> Label:
    """The label that the folder of an image gives it."""
    if path.startswith(LEFT_OUT_FOLDER):
        return LEFT_OUT
    folders = path.split("/")[:-1]
    if folders and part_of(path):
        folders = folders[1:]
    if not folders or folders[0].lower() == UNLABELLED:
        return None
    return class_name(folders[0])


def part_of(path: str) -> str:
    """The folder of the part that an image is in: "train" of train/cat/1.jpg; "" without one."""
    folders = path.split("/")[:-1]
    return folders[0] if len(folders) > 1 and folders[0].lower() in PARTS else ""


def checked_class(name: str) -> str:
    """The name of a class, which is also the name of its folder.

    Raises:
        CallError: if it cannot be both.
    """
    name = class_name(name)
    reason = None
    if not name or name.lower() == UNLABELLED:
        reason = "expected the name of a class"
    elif any(character in '/\\<>:"|?*' or not character.isprintable() for character in name) or name[0] == ".":
        reason = "it names a folder, so it cannot begin with '.' or hold / \\ < > : \" | ? * or control characters"
    elif name.lower() in LEFT_BEHIND or name.endswith("."):
        reason = "a folder of that name would not be read"
    elif len(name.encode("utf-8", "surrogateescape")) > MAX_NAME_BYTES:
        reason = f"it is longer than {MAX_NAME_BYTES} bytes"
    if reason:
        raise CallError(f"class '{name[:40]}': {reason}")
    return name


def _checked_file_name(name: str) -> str:
    """The name of a file that a page sends.

    Raises:
        CallError: if it cannot be that of an image file in the folder of a class.
    """
    reason = None
    if any(character in "/\\" or not character.isprintable() for character in name) or name.startswith("."):
        reason = "the name of a file cannot begin with '.' or hold / \\ or control characters"
    elif os.path.splitext(name)[1].lower() not in EXTENSIONS or name.lower() in LEFT_BEHIND:
        reason = "its name does not end as that of an image, such as .jpg or .png"
    elif len(name.encode("utf-8", "surrogateescape")) > MAX_NAME_BYTES - COUNTER_BYTES:
        reason = f"its name is longer than {MAX_NAME_BYTES - COUNTER_BYTES} bytes"
    if reason:
        raise CallError(reason)
    return name


def _class_folders(folder: Path) -> Iterator[str]:
    """The classes that folders are named after, whether images are in them or not."""
    for entry in os.scandir(folder):
        if entry.name.lower() in PARTS and entry.is_dir():
            yield from _class_folders(Path(entry.path))
        elif entry.is_dir():
            with suppress(CallError):  # a hidden folder, "unlabelled", or a name that no class can have
                yield checked_class(entry.name)


def _images_in(folder: Path, start: str) -> Iterator[str]:
    """The paths, relative to a folder, of all images below `start` in it; links that lead back are not followed.

    In the order of their names, those of a folder before those of the folders in it.
    """
    waiting, seen = [start], set()
    while waiting:
        below = waiting.pop()
        try:
            status = os.stat(folder / below)
            entries = sorted(os.scandir(folder / below), key=lambda entry: entry.name)
        except OSError:  # removed meanwhile, or not permitted
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        deeper: list[str] = []
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in LEFT_BEHIND:
                continue
            if os.path.splitext(entry.name)[1].lower() in EXTENSIONS and not entry.is_dir():
                yield below + entry.name
            elif entry.is_dir():
                deeper.append(f"{below}{entry.name}/")
        waiting += reversed(deeper)
