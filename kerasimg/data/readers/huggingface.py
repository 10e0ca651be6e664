"""Reader of Hugging Face datasets: a `datasets.Dataset` or `DatasetDict`, or a folder of `save_to_disk`.

The splits train, validation and test are the parts. The image is the column of the feature Image, the label that of
ClassLabel. The data stays in memory-mapped Arrow files. Needs the extra `datasets`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kerasimg.data.image_files import BadImage
from kerasimg.data.index import Items, Numbered, join_labels
from kerasimg.data.items import PART_NAMES, PARTS, ImageInput, ManyFaults, Reading, fault
from kerasimg.data.readers.arrow_columns import Columns, choose_columns, labels_of
from kerasimg.data.readers.image_store import digest, keys_of
from kerasimg.data.readers.reader import Reader
from kerasimg.data.readers.shards import require_labels
from kerasimg.errors import CallError, Fault
from kerasimg.spec.document import Task

FILES = ("state.json", "dataset_dict.json")
"""A folder of `save_to_disk` has one of these files."""
KINDS = ("Dataset", "DatasetDict")


class Rows:
    """Images in the rows of concatenated datasets."""

    def __init__(self, datasets: Sequence[Any], column: str):
        """datasets: with this column only, not decoded: it returns bytes or a path."""
        self.datasets = datasets
        self.column = column
        self.ends = np.cumsum([len(one) for one in datasets])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def read(self, row: int) -> ImageInput:
        """The bytes of a file, or a path."""
        number, index = self._place(row)
        found = self.datasets[number][index][self.column]
        if isinstance(found, bytes):
            return found
        image = found and (found.get("bytes") or found.get("path"))
        if not image:
            raise BadImage("is empty (null)")
        return image

    def keys(self, rows: np.ndarray) -> np.ndarray:
        """Digests of the dataset's fingerprint, which reflects all operations on it, and the row."""

        def key(row: int) -> bytes:
            number, index = self._place(row)
            return digest(f"{self.datasets[number]._fingerprint}\0{index}".encode())

        return keys_of(rows, lambda chunk: [key(row) for row in chunk.tolist()])

    def _place(self, row: int) -> tuple[int, int]:
        number = int(np.searchsorted(self.ends, row, "right"))
        return number, row - int(self.ends[number - 1] if number else 0)


class HuggingFace(Reader):
    """A `Dataset`, a `DatasetDict`, or a folder of `save_to_disk`."""

    name = "Hugging Face datasets"
    takes = "a folder of `save_to_disk`; in Python a `Dataset` or `DatasetDict`"
    extra = "datasets"
    objects = ("a Hugging Face dataset",)
    where = "dataset"

    def recognises(self, data: Any) -> bool:
        """Whether it is an object of the library, or a folder that one was saved to."""
        return is_saved(data) if isinstance(data, str) else is_dataset(data)

    def read(self, data: Any, task: Task, classes: Sequence[str] = ()) -> Reading:
        """Reads the labelled images of every split."""
        return read_saved(data, task) if isinstance(data, str) else read_dataset(data, task, self.where)


def is_dataset(data: Any) -> bool:
    """Whether it is a Dataset or a DatasetDict; does not import the library."""
    return any(kind.__module__.split(".")[0] == "datasets" and kind.__name__ in KINDS for kind in type(data).__mro__)


def read_saved(path: str, task: Task) -> Reading:
    """The labelled images of a folder that `save_to_disk` wrote."""
    try:
        import datasets
    except ImportError as error:
        raise CallError(
            f'{path} is a Hugging Face dataset; install the library: pip install "kerasimg[datasets]"'
        ) from error
    try:
        loaded = datasets.load_from_disk(path, keep_in_memory=False)
    except Exception as error:
        # The library raises OSError, ValueError, KeyError, Arrow's own errors and others.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise fault(path, "", f"cannot be read as a folder of save_to_disk ({reason})") from error
    return read_dataset(loaded, task, path)


def read_dataset(data: Any, task: Task, where: str) -> Reading:
    """The labelled images of a Dataset or a DatasetDict."""
    splits = dict(data) if isinstance(data, Mapping) else {str(data.split or "dataset"): data}
    names = [name for name in splits if len(splits[name])]
    if not names:
        raise fault(where, "", "holds no images")
    faults: list[Fault] = []
    read = []
    classes: list[str] = []
    for name in names:
        dataset = splits[name]
        columns = choose_columns(f"{where}: {name}", dataset.features.arrow_schema, dataset.features.to_dict())
        found = dataset.select_columns([columns.label]).with_format("arrow")[:].column(0)
        labels, wrong = labels_of(found, columns.classes)
        faults += [Fault(where, f"{name}[{row}].{columns.label}", message) for row, message in wrong]
        read.append((_undecoded_images(dataset, columns), columns.image, labels))
        classes += columns.classes
    if faults:
        raise ManyFaults(faults)
    if len({image for _, image, _ in read}) > 1:
        raise fault(where, "", f"expected one name of the image's column, found {', '.join(one[1] for one in read)}")
    counts = [len(splits[name]) for name in names]
    labels = require_labels(
        join_labels([one for *_, one in read]), task, [f"{where}: {name}" for name in names], counts
    )
    of_splits = [PARTS.get(name.lower()) for name in names]
    codes = np.array([-1 if part is None else PART_NAMES.index(part) for part in of_splits], np.int8)
    images = Rows([dataset for dataset, *_ in read], read[0][1])
    items = Items(Numbered(names, images.ends), images, labels, np.repeat(codes, counts))
    return Reading(items, {*classes, *labels.names})


def _undecoded_images(dataset: Any, columns: Columns) -> Any:
    """The image column, as bytes or paths."""
    import datasets

    images = dataset.select_columns([columns.image]).with_format(None)
    if isinstance(images.features[columns.image], datasets.Image):
        images = images.cast_column(columns.image, datasets.Image(decode=False))
    return images


def is_saved(path: str) -> bool:
    """Whether a folder is one of `save_to_disk`."""
    return any(os.path.isfile(os.path.join(path, name)) for name in FILES)
