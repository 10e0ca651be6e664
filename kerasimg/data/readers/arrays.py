"""Readers of labelled images in memory and of .npz files.

Images: an array of 0 to 255, (N, H, W) or (N, H, W, C) with 1 or 3 channels (4 to 16 if the spec says so), or a list of
paths, bytes, PIL images or arrays; see `kerasimg.data.images`. Labels: integers or names, (N,); if the task is
multilabel, zeros and ones, (N, number of classes). Classes are named by their labels.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from kerasimg.boundary import reason_of
from kerasimg.data.image_files import BadImage
from kerasimg.data.images import batch_fault, named_images
from kerasimg.data.index import Items, Labels, Numbered, join_labels
from kerasimg.data.items import PART_NAMES, PARTS, ManyFaults, Part, Reading, class_name, fault
from kerasimg.data.pixels import BANDS, to_array
from kerasimg.data.readers.image_store import Held, Images, Stacked, join_places
from kerasimg.data.readers.reader import Reader
from kerasimg.data.readers.tf_datasets import is_tf_dataset, read_tf_dataset
from kerasimg.errors import CallError, Fault, counted, nearest
from kerasimg.spec.document import Task

KEYS: tuple[tuple[str, str, Part | None], ...] = (
    ("x_train", "y_train", "train"),
    ("x_val", "y_val", "validation"),
    ("x_test", "y_test", "test"),
    ("train_images", "train_labels", "train"),
    ("val_images", "val_labels", "validation"),
    ("test_images", "test_labels", "test"),
    ("x", "y", None),
    ("images", "labels", None),
)
"""Names of arrays in .npz files of Keras and MedMNIST, and their part."""


SINGLE = b"\x93NUMPY"
"""First bytes of a file with a single array."""


class Npz(Reader):
    """An .npz file; Python objects in it (pickle) are never loaded."""

    name = "arrays in a file"
    takes = "an `.npz` with `x_train`, `y_train`, `x_test`, `y_test` as Keras' data sets have them"
    extensions = (".npz",)

    def read(self, data: str, task: Task, classes: Sequence[str] = ()) -> Reading:
        """Reads the images of the file, part by part."""
        try:
            with open(data, "rb") as file:
                one = file.read(len(SINGLE)) == SINGLE
                if not one and not zipfile.is_zipfile(file):  # NumPy would suggest loading it unsafely
                    raise ValueError("it is not a ZIP file")
                file.seek(0)
                archive = np.load(file, allow_pickle=False)
                if not isinstance(archive, np.lib.npyio.NpzFile):
                    raise ValueError("it holds a single array")
                names = archive.files
                arrays = {name: archive[name] for keys in KEYS for name in keys[:2] if name in names}
        except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile) as error:
            pickled = "; Python objects are not loaded from files" if "pickle" in str(error) else ""
            raise fault(data, "", f"cannot be read as an .npz file ({reason_of(error)}){pickled}") from error
        faults: list[Fault] = []
        batches = []
        for images, labels, part in KEYS:
            if images in arrays and labels in arrays:
                batches.append(Batch.of(arrays[images], arrays[labels], task, data, images, part))
            elif images in arrays or labels in arrays:
                missing, present = (labels, images) if images in arrays else (images, labels)
                faults.append(Fault(data, missing, f"is missing, and belongs to {present}"))
        if not batches and not faults:
            faults.append(
                Fault(data, "", f"expected x_train and y_train, or x and y; found {', '.join(names) or 'nothing'}")
            )
        if faults:
            raise ManyFaults(faults)
        return _reading(batches)


class Arrays(Reader):
    """Labelled images in memory, by part: pairs of (images, labels), or a `tf.data.Dataset` each."""

    name = "in memory"
    takes = (
        "`(images, labels)`; `((x, y), (x_test, y_test))` as `keras.datasets` gives it; three pairs are train, "
        'validation and test; a dictionary, `{"train": (x, y), "validation": ...}`; a `tf.data.Dataset` of '
        '`(image, label)` or `{"image": ..., "label": ...}`, batched or not, which is read once into at most half of '
        "the free memory"
    )
    objects = (
        "(images, labels)",
        "((x, y), (x_test, y_test))",
        "{'train': ..., 'test': ...}",
        "a tf.data.Dataset",
    )
    where = "arrays"

    def recognises(self, data: Any) -> bool:
        """Whether it is a pair, pairs, a dictionary of them, or a `tf.data.Dataset`."""
        return parts_in(data) is not None

    def read(self, data: Any, task: Task, classes: Sequence[str] = ()) -> Reading:
        """Reads the images of each part."""
        batches = []
        for part, members in (parts_in(data) or {}).items():
            name = part or "images"
            if is_tf_dataset(members):
                images, labels, names = read_tf_dataset(members, part or self.where)
                batch = Batch.of(images, labels, task, self.where, name, part)
                if names is not None:
                    batch = batch._replace(labels=_named(batch.labels, names, part or self.where))
            else:
                images, labels = members
                batch = Batch.of(images, labels, task, self.where, name, part)
            batches.append(batch)
        return _reading(batches)


def parts_in(data: Any) -> dict[Part | None, Any] | None:
    """The parts of data in memory; None if it is of another kind.

    (images, labels) has no part. ((x, y), (x_test, y_test)), as `keras.datasets` returns it, is train and test;
    three pairs are train, validation and test; a dictionary names its parts.
    """
    if is_tf_dataset(data):
        return {None: data}
    if isinstance(data, Mapping) and data:
        if unknown := [name for name in data if str(name).lower() not in PARTS]:
            raise CallError(
                f"data: no part '{unknown[0]}'{nearest(str(unknown[0]), PARTS)}; the parts are train, validation, test"
            )
        members: dict[Part | None, Any] = {PARTS[str(name).lower()]: pair for name, pair in data.items()}
        if len(members) < len(data):
            raise CallError(f"data: two keys for the same part: {', '.join(map(str, data))}")
        for name, pair in members.items():
            if not is_tf_dataset(pair) and not (isinstance(pair, tuple | list) and len(pair) == 2):
                raise CallError(f"data['{name}']: expected (images, labels) or a tf.data.Dataset")
        return members
    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        return None
    if any(is_tf_dataset(member) for member in data):
        raise CallError(
            'data: say which tf.data.Dataset is which: {"train": first, "validation": second}, or "test" for the second'
        )
    if all(_is_pair(member) for member in data):
        names: tuple[Part, ...] = ("train", "test") if len(data) == 2 else PART_NAMES
        return dict(zip(names, data, strict=True))
    return {None: tuple(data)} if len(data) == 2 else None


def _is_pair(member: Any) -> bool:
    """Whether it is (images, labels), not two images or two rows of labels."""
    if not isinstance(member, tuple | list) or len(member) != 2:
        return False
    images, labels = member
    if hasattr(images, "shape"):
        return len(images.shape) >= 3 and len(getattr(labels, "shape", ())) < 3
    first = images[0] if isinstance(images, tuple | list) and images else None
    return isinstance(first, str | os.PathLike | bytes | PIL.Image.Image) or len(getattr(first, "shape", ())) >= 2


def _named(labels: Labels, classes: Sequence[str], where: str) -> Labels:
    """Labels that are indices into a list of classes, by name."""
    for name in labels.names:
        if not name.isdecimal() or int(name) >= len(classes):
            raise fault(
                where, "label", f"'{name}' is not an index into class_names, which has {counted(len(classes), 'name')}"
            )
    codes = np.array([int(name) for name in labels.names], np.int32)[labels.codes]
    return replace(labels, names=tuple(map(class_name, classes)), codes=codes)


class Batch(NamedTuple):
    """Images of one array or list, their labels, name and part."""

    images: Images
    labels: Labels
    name: str
    part: Part | None

    @classmethod
    def of(cls, images: Any, labels: Any, task: Task, where: str, name: str, part: Part | None = None) -> Batch:
        """Checks images and labels against each other."""
        imgs = _images(images, where, name)
        try:
            targets = to_array(labels)
        except ValueError as error:
            raise fault(where, "labels", f"cannot be made an array ({error})") from error
        if targets.dtype.kind == "O" and all(isinstance(value, str) for value in targets.flat):
            targets = targets.astype(str)  # a column of pandas
        if wrong := _label_fault(targets, len(imgs), task):
            raise fault(where, name, wrong)
        if task == "multilabel":
            rows, columns = np.nonzero(targets)
            starts = np.searchsorted(rows, np.arange(len(targets) + 1))
            names = tuple(str(index) for index in range(targets.shape[1]))
            return cls(imgs, Labels(names, columns.astype(np.int32), starts), name, part)
        values, codes = np.unique(targets.reshape(-1), return_inverse=True)
        return cls(imgs, Labels(tuple(map(_name, values.tolist())), codes.astype(np.int32)), name, part)


def _images(images: Any, where: str, name: str) -> Images:
    """Check the images of an array or a list."""
    if isinstance(images, list | tuple) and not images:
        raise fault(where, name, "holds no images")
    if isinstance(images, list | tuple) and images and not isinstance(images[0], list | tuple | int | float):
        return _held(images, where, name)
    try:
        array = to_array(images)
    except ValueError as error:
        raise fault(where, name, f"cannot be made an array ({error})") from error
    if array.ndim == 1 and array.dtype.kind in "OUS" and len(array):
        return _held(array.tolist(), where, name)
    # Of other channels `Source` knows whether they are expected.
    is_bands = array.ndim == 4 and array.shape[3] in BANDS and array.shape[1] not in (1, 3)
    channels = int(array.shape[-1]) if is_bands else 3
    if wrong := batch_fault(array, channels):
        raise fault(where, name, wrong)
    return Stacked([array])


def _held(images: Sequence[Any], where: str, name: str) -> Images:
    """The images of a list: paths, bytes, PIL images, arrays of any size."""
    shape: tuple[int, ...] = getattr(images[0], "shape", ())
    listed = named_images(images, shape[2] if len(shape) == 3 and shape[2] in BANDS else 3)
    if len(listed) != len(images):
        raise fault(where, name, "expected one file for each label, got folders; pass the folder itself as data")
    faults = [
        Fault(where, f"{name}[{place}]", one.image.reason)
        for place, one in enumerate(listed)
        if isinstance(one.image, BadImage)
    ]
    if faults:
        raise ManyFaults(faults)
    imgs = [one.read() for one in listed]
    shapes = {(one.shape, one.dtype) if isinstance(one, np.ndarray) else None for one in imgs}
    if len(shapes) == 1 and None not in shapes:
        return Stacked([np.stack(imgs)])
    return Held(imgs)


def _reading(batches: Sequence[Batch]) -> Reading:
    images = join_places([batch.images for batch in batches])
    counts = [len(batch.images) for batch in batches]
    ids = Numbered([batch.part or batch.name for batch in batches], np.cumsum(counts))
    codes = [PART_NAMES.index(batch.part) if batch.part else -1 for batch in batches]
    parts = np.repeat(np.array(codes, np.int8), counts)
    labels = join_labels([batch.labels for batch in batches])
    return Reading(Items(ids, images, labels, parts), labels.names)


def _label_fault(labels: np.ndarray, count: int, task: Task) -> str | None:
    if len(labels.shape) == 0 or len(labels) != count:
        return f"{counted(count, 'image')}, but labels of shape {labels.shape}"
    if task == "multilabel":
        if labels.ndim != 2 or not np.isin(labels, (0, 1)).all():
            return f"expected labels of zeros and ones, ({count}, number of classes), got shape {labels.shape}"
        return None
    if labels.size != count:
        turn = "; turn one-hot labels into numbers: labels.argmax(axis=1)" if labels.ndim == 2 else ""
        return f"expected one label per image, ({count},), got shape {labels.shape}{turn}"
    if labels.dtype.kind not in "biufUS" or (labels.dtype.kind == "f" and (labels != np.rint(labels)).any()):
        return f"expected integers or names as labels, got {labels.dtype}"
    return None


def _name(value: Any) -> str:
    if isinstance(value, bytes):
        return class_name(value.decode())
    return class_name(value if isinstance(value, str) else str(int(value)))
