"""The choice of a reader for whatever a caller passes as data: a path, a name, or an object in memory."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

from kerasimg.data.images import require_local
from kerasimg.data.items import ManyFaults, Reading, fault, in_order
from kerasimg.data.readers import Reader
from kerasimg.data.readers.arrays import Arrays, Npz
from kerasimg.data.readers.folders import Folder, Sample
from kerasimg.data.readers.huggingface import HuggingFace
from kerasimg.data.readers.manifests import Manifest
from kerasimg.data.readers.parquet import Parquet
from kerasimg.data.readers.shards import PATTERN, named_files
from kerasimg.data.readers.tars import WebDataset
from kerasimg.data.readers.tfds import TFDS
from kerasimg.data.readers.tfrecords import TFRecord
from kerasimg.data.readers.zips import Zip
from kerasimg.data.source import Source
from kerasimg.errors import CallError, DataError, Fault, listed, nearest_path
from kerasimg.escaping import path_from_here
from kerasimg.run_folder import kind_of
from kerasimg.spec.document import Task

GROUP: Final = "kerasimg.sources"
"""The entry-point group by which other packages add readers."""

READERS: Final[tuple[Reader, ...]] = (
    *(Folder(), Manifest(), Arrays(), Zip(), Npz(), TFRecord(), WebDataset(), Parquet(), TFDS(), HuggingFace()),
    Sample(),
)
"""Every kind of data that kerasimg reads itself, in the order of docs/data.md."""

Data = str | os.PathLike[str] | tuple[Any, Any] | Any
"""Whatever one of `readers()` takes: a path, a name, or an object in Python."""


def readers() -> Iterator[Reader]:
    """All readers in the order in which they are asked: those of plain folders and arrays after all others."""
    general = (Arrays, Folder)
    yield from (reader for reader in READERS if not isinstance(reader, general))
    yield from _plugins()
    yield from (reader for reader in READERS if isinstance(reader, general))


def image_path(where: str, name: str) -> str:
    """The path of an image of the data, for a command in the current folder; its name where it is no file there.

    where: the folder or file that the data is.  name: of the image in it.
    """
    if not os.path.exists(where):
        return name
    path = os.path.join(where if os.path.isdir(where) else os.path.dirname(where), name)
    return path_from_here(path) if os.path.isfile(path) else name


def is_in_memory(where: str) -> bool:
    """Whether `Source.where` means objects in Python, which cannot be opened again by it."""
    return any(reader.where == where for reader in readers() if reader.where)


def table() -> str:
    """The kinds of data as the Markdown table of docs/data.md."""
    rows = [f"| {reader.name} | {reader.takes} | {reader.extra and f'`{reader.extra}`'} |" for reader in READERS]
    return "\n".join(["| what | how it looks | extra |", "| --- | --- | --- |", *rows]).replace("|  |", "| |")


def open_source(
    data: Data, task: Task = "multiclass", classes: Sequence[str] | None = None, positive: str | None = None
) -> Source:
    """Opens labelled images of any kind: see docs/data.md.

    Args:
        data: a path; a pattern, "shard-{000..009}.tar"; a name, "tfds:NAME" or "sample"; or an object in Python.
        task: the spec's task.
        classes: those of a trained model, if the images are for it: labels are numbered by them, and a single class is
            then enough.
        positive: the positive class of a binary task; None: the second by name.

    Raises:
        DataError: if the data is wrong, with all errors at once.
        CallError: if it is of an unknown kind.
    """
    where, reading = _read(data, task, classes or ())
    ordered = in_order(reading.classes)
    source = Source(reading.items, ordered, task, where, reading.ignored, soft=reading.soft, empty=reading.empty)
    if not source.items:
        raise fault(where, "", "holds no images")
    if classes is not None:
        return source.match(classes)
    fewest, most = {"multiclass": (2, None), "binary": (2, 2), "multilabel": (1, None)}[task]
    count = len(source.classes)
    if count < fewest or (most and count > most):
        expected = f"exactly {fewest}" if most else f"at least {fewest}"
        names = listed(source.classes)
        again = "; for more, write the spec again: kerasimg init DATA --force" if most and count > most else ""
        raise fault(where, "", f"expected {expected} classes (task '{task}'), found {count}: {names}{again}")
    if positive is None:
        return source
    if positive not in source.classes:
        names = listed(source.classes)
        raise fault(where, "", f"the spec's positive_class '{positive}' is not a class of the data (classes: {names})")
    return source.match([*(name for name in source.classes if name != positive), positive])


def open_recorded(
    where: str,
    data: Data | None,
    task: Task,
    advice: str,
    *,
    classes: Sequence[str] | None = None,
    positive: str | None = None,
) -> Source:
    """Opens the images of a run or a search again, or `data` in their place.

    advice: where the images have moved to another place, how to name that; it is added to what is wrong with them.
    """
    try:
        return open_source(where if data is None else data, task, classes=classes, positive=positive)
    except DataError as error:
        if data is not None or os.path.isdir(where):
            raise
        moved = Fault("", "", f"if these images have moved: {advice}")
        # Of many errors, as of a manifest, not all are printed.
        raise ManyFaults([moved, *error.faults] if len(error.faults) > 1 else [*error.faults, moved]) from None


def task_of(data: Data) -> Task:
    """The task that fits the labels: several labels per image, two classes, or more."""
    try:
        source = open_source(data, "multiclass")
    except DataError as error:
        try:
            several = open_source(data, "multilabel")
        except DataError:
            raise error from None
        if several.has_several:
            return several.suggested_task
        raise
    return source.suggested_task


def _read(data: Data, task: Task, classes: Sequence[str]) -> tuple[str, Reading]:
    given = os.fspath(data) if isinstance(data, os.PathLike) else data
    if isinstance(given, str) and not given:
        raise CallError("data: expected a folder or a file, got ''")
    # A folder of shards is no plain folder; folders of libraries, which hold shards too, have readers of their own.
    for reader in readers():
        if not isinstance(reader, Folder) and reader.recognises(given):
            return given if isinstance(given, str) else reader.where or reader.name, reader.read(given, task, classes)
    if not isinstance(given, str):
        objects = [text for reader in readers() for text in reader.objects]
        labels = "; images need labels: data=(images, labels)" if hasattr(data, "shape") else ""
        expected = f"data: expected a path, {', '.join(objects[:-1])} or {objects[-1]}"
        raise CallError(f"{expected}, got {type(data).__name__}{labels}")
    require_local(given)
    if os.path.isdir(given) and (found := kind_of(Path(given))) is not None:
        raise CallError(
            f"'{given}' is {found[0]}; name the folder of the images (to continue an unfinished one: {found[1]})"
        )
    if os.path.isdir(given) and not (paths := _shards_in(given)):
        return given, Folder().read(given, task, classes)
    if not os.path.exists(given):
        paths = _matching(given)
    elif not os.path.isdir(given):
        paths = [given]
    return given, _read_files(given, paths, task, classes)


def _shards_in(folder: str) -> list[str]:
    """The files with many images in a folder that holds no folders; beside class folders they are what was unpacked."""
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
            if any(entry.is_dir() for entry in visible):
                return []
    except OSError:  # `Folder` reports it
        return []
    return sorted(entry.path for entry in visible if (reader := _file_reader(entry.name)) and reader.several)


def _matching(pattern: str) -> list[str]:
    if PATTERN.search(pattern):
        return named_files(pattern)
    raise fault(pattern, "", f"no such file or folder{nearest_path(pattern)}")


def _read_files(where: str, paths: Sequence[str], task: Task, classes: Sequence[str]) -> Reading:
    kinds = {_file_reader(path): path for path in paths}
    if len(kinds) > 1:
        raise fault(where, "", f"expected files of one kind, found {listed(kinds.values())}")
    [reader] = kinds
    if reader is None or (len(paths) > 1 and not reader.several):
        extensions = ", ".join(extension for reader in readers() for extension in reader.extensions)
        raise fault(where, "", f"expected a folder or a file of one of {extensions}")
    return reader.read(list(paths) if reader.several else paths[0], task, classes)


def _file_reader(path: str) -> Reader | None:
    return next((reader for reader in readers() if reader.recognises_file(path)), None)


@functools.cache
def _plugins() -> tuple[Reader, ...]:
    """The readers of other packages.

    Raises:
        CallError: if one cannot be loaded.
    """
    plugins = []
    for point in entry_points(group=GROUP):
        try:
            reader = point.load()()
        except Exception as error:
            package = point.dist.name if point.dist else "a package"
            raise CallError(f"the data source '{point.name}' of {package} cannot be loaded: {error}") from error
        if not isinstance(reader, Reader):
            raise CallError(f"the data source '{point.name}': expected a subclass of Reader, got {point.value}")
        plugins.append(reader)
    return tuple(plugins)
