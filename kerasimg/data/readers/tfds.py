"""Reader of TensorFlow Datasets: a prepared data set, by its folder or as "tfds:NAME" (extra `tfds`).

A prepared folder is read without the library: features.json names the features of the image and the label,
dataset_info.json the TFRecord files of each split, NAME.labels.txt the classes. The library is needed only to find a
data set by name. Nothing is downloaded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from kerasimg.data.items import PARTS, ManyFaults, Part, Reading, class_name, fault
from kerasimg.data.readers.reader import Reader
from kerasimg.data.readers.tfrecords import Names, read_tfrecords
from kerasimg.errors import CallError, Fault, listed
from kerasimg.spec.document import Task

FEATURES = "features.json"
INFO = "dataset_info.json"
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
"""Names of files if dataset_info.json has no template."""


class TFDS(Reader):
    """A prepared data set of TensorFlow Datasets, by its folder or its name."""

    name = "TensorFlow Datasets"
    takes = "a prepared folder (`.../beans/0.1.0`, with `dataset_info.json`), or `tfds:beans` with the extra"
    extra = "tfds"
    prefix = "tfds:"
    objects = ("'tfds:NAME'",)

    def recognises(self, data: Any) -> bool:
        """Whether it is "tfds:NAME", or the folder of a prepared data set."""
        return super().recognises(data) or (isinstance(data, str) and is_prepared(data))

    def read(self, data: str, task: Task, classes: Sequence[str] = ()) -> Reading:
        """Reads the labelled images of the data set."""
        return read_named(data, task) if data.startswith(self.prefix) else read_prepared(data, task)


def is_prepared(path: str) -> bool:
    """Whether a folder is a prepared data set."""
    return all(os.path.isfile(os.path.join(path, name)) for name in (FEATURES, INFO))


def read_named(name: str, task: Task) -> Reading:
    """The labelled images of "tfds:NAME", NAME as in `tfds.builder`: "beans", "cifar10:3.0.2"."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise CallError(f'{name}: TensorFlow Datasets is not installed: pip install "kerasimg[tfds]"') from error
    short = name.removeprefix(TFDS.prefix)
    try:
        builder = tfds.builder(short)
    except Exception as error:
        # The library raises its own errors and network errors.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise fault(name, "", f"no such data set ({reason})") from error
    if not is_prepared(str(builder.data_dir)):
        raise fault(name, "", f"is not prepared; prepare it first: tfds.builder('{short}').download_and_prepare()")
    return read_prepared(str(builder.data_dir), task)


def read_prepared(path: str, task: Task) -> Reading:
    """The labelled images of a prepared data set: the folder with dataset_info.json."""
    info, features = _json(path, INFO), _json(path, FEATURES)
    file_format = str(info.get("fileFormat") or "tfrecord")
    if file_format != "tfrecord":
        advice = "prepare it again: download_and_prepare(file_format='tfrecord')"
        raise fault(path, INFO, f"expected fileFormat 'tfrecord', found '{file_format}'; {advice}")
    names = _names(path, features)
    files: list[str] = []
    parts: list[Part | None] = []
    for split in info.get("splits") or []:
        values = _files(path, info, split)
        files += values
        parts += [PARTS.get(str(split.get("name")).lower())] * len(values)
    missing = [file for file in files if not os.path.isfile(file)]
    if missing or not files:
        raise ManyFaults(
            [Fault(path, os.path.basename(file), f"no such file, though {INFO} lists it") for file in missing]
            or [Fault(path, INFO, "lists no files")]
        )
    return read_tfrecords(files, task, names, parts)


def _json(path: str, name: str) -> dict[str, Any]:
    try:
        with open(os.path.join(path, name), encoding="utf-8") as file:
            values = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise fault(path, name, f"cannot be read as JSON ({error})") from error
    if not isinstance(values, dict):
        raise fault(path, name, "expected a JSON object")
    return values


def _names(path: str, features: Mapping[str, Any]) -> Names:
    """The features of the image and the label."""
    try:
        kinds = {
            name: str(feature["pythonClassName"]).rpartition(".")[2]
            for name, feature in features["featuresDict"]["features"].items()
        }
    except (KeyError, TypeError, AttributeError):
        raise fault(path, FEATURES, "expected featuresDict.features with a pythonClassName each") from None
    listing = listed(f"{name} ({kind})" for name, kind in kinds.items())
    chosen = []
    for what, kind, preferred in (("Image", "Image", "image"), ("ClassLabel", "ClassLabel", "label")):
        values = [name for name, one in kinds.items() if one == kind]
        if preferred not in values and len(values) != 1:
            raise fault(path, FEATURES, f"expected one feature {what}, or '{preferred}' among them; found {listing}")
        chosen.append(preferred if preferred in values else values[0])
    labels = os.path.join(path, f"{chosen[1]}.labels.txt")
    classes: tuple[str, ...] = ()
    if os.path.isfile(labels):
        with open(labels, encoding="utf-8") as file:
            classes = tuple(class_name(line) for line in file.read().splitlines() if line.strip())
    return Names((chosen[0],), (chosen[1],), classes)


def _files(path: str, info: Mapping[str, Any], split: Mapping[str, Any]) -> list[str]:
    """The files of a split that are not empty."""
    lengths = split.get("shardLengths") or []
    template = str(split.get("filepathTemplate") or TEMPLATE)
    files = []
    for index, length in enumerate(lengths):
        named = {
            "DATASET": info.get("name"),
            "SPLIT": split.get("name"),
            "FILEFORMAT": "tfrecord",
            "SHARD_INDEX": f"{index:05}",
            "NUM_SHARDS": f"{len(lengths):05}",
            "SHARD_X_OF_Y": f"{index:05}-of-{len(lengths):05}",
        }
        name = template
        for key, value in named.items():
            name = name.replace("{" + key + "}", str(value))
        if int(length):
            files.append(os.path.join(path, os.path.basename(name)))
    return files
