"""NumPy arrays, given as (images, labels) or in an .npz file -> labelled pictures.

Images: numbers of 0 to 255, (N, H, W) or (N, H, W, C) with 1, 3 or 4 channels. Labels: integers or names,
(N,); where the task is multilabel, zeros and ones, (N, number of classes). Classes are named by their labels.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from kerasimg.data.index import Items, Labels, Numbered, joined
from kerasimg.data.items import PART_NAMES, ManyFaults, Part, Reading, class_name, fault
from kerasimg.data.readers.places import Arrays
from kerasimg.errors import Fault
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
"""Names of arrays in an .npz file, as Keras' and MedMNIST's data sets have them, and their part."""


SINGLE = b"\x93NUMPY"
"""How a file with a single array begins."""


def read_npz(path: str, task: Task) -> Reading:
    """The pictures of an .npz file, part by part; Python objects in it (pickle) are never loaded."""
    try:
        with open(path, "rb") as file:
            one = file.read(len(SINGLE)) == SINGLE
            if not one and not zipfile.is_zipfile(file):  # NumPy would advise to load it unsafely
                raise ValueError("it is no zip file")
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            names = archive.files
            arrays = {name: archive[name] for keys in KEYS for name in keys[:2] if name in names}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        pickled = "; Python objects are not loaded from files" if "pickle" in str(error) else ""
        raise fault(path, "", f"cannot be read as an .npz file ({str(error).splitlines()[0]}){pickled}") from error
    faults: list[Fault] = []
    batches = []
    for images, labels, part in KEYS:
        if images in arrays and labels in arrays:
            batches.append(Batch.of(arrays[images], arrays[labels], task, path, images, part))
        elif images in arrays or labels in arrays:
            missing, there = (labels, images) if images in arrays else (images, labels)
            faults.append(Fault(path, missing, f"is missing, and belongs to {there}"))
    if not batches and not faults:
        faults.append(
            Fault(path, "", f"expected x_train and y_train, or x and y; found {', '.join(names) or 'nothing'}")
        )
    if faults:
        raise ManyFaults(faults)
    return _reading(batches)


def read_arrays(images: Any, labels: Any, task: Task, where: str = "arrays", name: str = "images") -> Reading:
    """The pictures of one array, with their labels."""
    return _reading([Batch.of(images, labels, task, where, name)])


class Batch(NamedTuple):
    """One array of pictures, its labels as their names, and its part."""

    pictures: np.ndarray
    labels: Labels
    name: str
    part: Part | None

    @classmethod
    def of(cls, images: Any, labels: Any, task: Task, where: str, name: str, part: Part | None = None) -> Batch:
        """The arrays, once they are found to fit."""
        pictures, targets = np.asarray(images), np.asarray(labels)
        wrong = _image_fault(pictures) or _label_fault(targets, len(pictures), task)
        if wrong:
            raise fault(where, name, wrong)
        if task == "multilabel":
            rows, columns = np.nonzero(targets)
            starts = np.searchsorted(rows, np.arange(len(targets) + 1))
            names = tuple(str(index) for index in range(targets.shape[1]))
            return cls(pictures, Labels(names, columns.astype(np.int32), starts), name, part)
        values, codes = np.unique(targets.reshape(-1), return_inverse=True)
        return cls(pictures, Labels(tuple(map(_name, values.tolist())), codes.astype(np.int32)), name, part)


def _reading(batches: Sequence[Batch]) -> Reading:
    pictures = Arrays([batch.pictures for batch in batches])
    ids = Numbered([batch.part or batch.name for batch in batches], pictures.ends)
    codes = [PART_NAMES.index(batch.part) if batch.part else -1 for batch in batches]
    parts = np.repeat(np.array(codes, np.int8), [len(batch.pictures) for batch in batches])
    labels = joined([batch.labels for batch in batches])
    return Reading(Items(ids, pictures, labels, parts), labels.names)


def _image_fault(images: np.ndarray) -> str | None:
    if images.ndim not in (3, 4) or images.dtype.kind not in "buif":
        found = f"{images.dtype} of shape {images.shape}"
        return f"expected numbers of shape (N, height, width) or (N, height, width, channels), got {found}"
    if images.ndim == 4 and images.shape[3] not in (1, 3, 4):
        turn = "; move the channels to the end: images.transpose(0, 2, 3, 1)" if images.shape[1] in (1, 3, 4) else ""
        return f"expected 1, 3 or 4 channels at the end of the shape, got {images.shape}{turn}"
    if not images.size:
        return "holds no pictures"
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 255):
        return f"expected values of 0 to 255, got {low:g} to {high:g}"
    if 0 < high <= 1:
        return f"expected values of 0 to 255, got {low:g} to {high:g}; multiply by 255 what was scaled to 0 to 1"
    return None


def _label_fault(labels: np.ndarray, count: int, task: Task) -> str | None:
    if len(labels.shape) == 0 or len(labels) != count:
        return f"{count} pictures, but labels of shape {labels.shape}"
    if task == "multilabel":
        if labels.ndim != 2 or not np.isin(labels, (0, 1)).all():
            return f"expected labels of zeros and ones, ({count}, number of classes), got shape {labels.shape}"
        return None
    if labels.size != count:
        turn = "; turn one-hot labels into numbers: labels.argmax(axis=1)" if labels.ndim == 2 else ""
        return f"expected one label per picture, ({count},), got shape {labels.shape}{turn}"
    if labels.dtype.kind not in "biufUS" or (labels.dtype.kind == "f" and (labels != np.rint(labels)).any()):
        return f"expected integers or names as labels, got {labels.dtype}"
    return None


def _name(value: Any) -> str:
    if isinstance(value, bytes):
        return class_name(value.decode())
    return class_name(value if isinstance(value, str) else str(int(value)))
