"""Groups: images of one patient, object or burst, which must not be in two parts.

`fit.group` defines them: "folder" is the first folder below the class (for a manifest the folder of the file),
{"column": NAME} a column of the manifest. Images with the same group name are one group, whatever their classes.
"""

from __future__ import annotations

import posixpath
from typing import Any

import numpy as np

from kerasimg.data.items import PART_NAMES, Item, ManyFaults, class_name
from kerasimg.data.source import Source
from kerasimg.errors import Fault, listed, nearest
from kerasimg.spec.document import Group, GroupColumn


def group_names(source: Source, group: Group) -> list[str]:
    """The group name of each image.

    Raises:
        DataError: if the column or the folders do not exist, or an image has no value in the column.
    """
    if isinstance(group, GroupColumn):
        return _from_column(source, group.column)
    names = [_folder(item) for item in source.items]
    if not any(names):
        message = '"folder": no image is in a folder below its class; use a manifest, and {"column": ...}'
        raise ManyFaults([Fault(source.where, "fit.group", message)])
    # An image directly in the class folder is a group of its own.
    return [name or item.id for name, item in zip(names, source.items, strict=True)]


def group_numbers(source: Source, group: Group | None) -> np.ndarray | None:
    """The group number of each image, (N,) int64, from 0; None without groups."""
    if group is None:
        return None
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in group_names(source, group)], np.int64)


def known_group_numbers(source: Source, group: Group | None) -> np.ndarray | None:
    """Like `group_numbers`, but None if these images have no such groups (other data than the training data)."""
    try:
        return group_numbers(source, group)
    except ManyFaults:
        return None


def require_apart(source: Source, group: Group) -> None:
    """Raises a DataError if the data itself puts one group into two parts."""
    parts: dict[str, set[int]] = {}
    for name, part in zip(group_names(source, group), source.parts.tolist(), strict=True):
        if part >= 0:
            parts.setdefault(name, set()).add(part)
    faults = [
        Fault(
            source.where,
            f"group '{name}'",
            f"is in several parts of the data ({', '.join(PART_NAMES[code] for code in sorted(codes))}), and fit.group "
            "keeps groups in one; move its images, or leave the parts to kerasimg",
        )
        for name, codes in parts.items()
        if len(codes) > 1
    ]
    if faults:
        raise ManyFaults(faults)


def _from_column(source: Source, column: str) -> list[str]:
    values: list[Any] = [item.extras.get(column) for item in source.items]
    missing = [place for place, value in enumerate(values) if value in (None, "")]
    if len(missing) == len(values):
        columns = dict.fromkeys(name for item in source.items for name in item.extras)
        names = f"{nearest(column, columns)} (columns: {listed(columns)})"
        hint = names if columns else "; only manifests have columns"
        raise ManyFaults([Fault(source.where, "fit.group", f"the data has no column '{column}'{hint}")])
    if missing:
        raise ManyFaults(
            Fault(source.where, source.items[place].id, f"has no value in the column '{column}', which fit.group names")
            for place in missing
        )
    return [str(value) for value in values]


def _folder(item: Item) -> str:
    """The first folder below the class; the folder of the image if its path does not contain its class."""
    *folders, _ = item.id.split("/")
    for place in range(len(folders) - 1, -1, -1):
        if class_name(folders[place]) in item.labels:
            return folders[place + 1] if place + 1 < len(folders) else ""
    return posixpath.dirname(item.id)
