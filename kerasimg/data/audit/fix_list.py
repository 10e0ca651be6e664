"""A manifest of a data set without its bad images, ready for training; no image is changed.

Left out are images that cannot be read, all of the same image in several classes, and of the same image
otherwise all but one: the one in the test part, else in the validation part, else the first. Copies that are near but
not the same are left in, unless it is asked for.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kerasimg.data.audit.findings import Finding
from kerasimg.data.items import PART_NAMES, fault
from kerasimg.data.source import Source
from kerasimg.errors import CallError
from kerasimg.escaping import csv_row

FORMS = (".csv", ".jsonl")
FIXED = frozenset({"unreadable", "conflict", "leak"})
"""Kinds of errors that a list without these images is free of."""


def left_out(source: Source, findings: Iterable[Finding], near: bool = False) -> dict[int, str]:
    """Image -> the kind of finding for which it is left out.

    near: of copies that are not the same, too, all but one are left out; not where their classes differ, for one of
    two look-alikes may be right.
    """
    rules = {"leak", "leak_drawn", "duplicate"} | ({"near_leak", "near_duplicate"} if near else set())
    out: dict[int, str] = {}
    for one in findings:
        if one.kind in ("unreadable", "conflict"):
            out |= dict.fromkeys(one.images, one.kind)
        elif one.kind in rules:
            still = [index for index in one.images if index not in out]
            # The part's number is that of its place in train, validation, test; the last one is the most valuable.
            best = max(still, key=lambda index: (int(source.parts[index]), -index), default=None)
            out |= {index: one.kind for index in still if index != best}
    return out


def lists_files(source: Source) -> bool:
    """Whether the images are files of their own, which a manifest can list."""
    return all(isinstance(source.columns.image(index), str) for index in range(min(1, len(source))))


def write_fix_list(path: str | os.PathLike[str], source: Source, out: Mapping[int, str]) -> int:
    """Write the manifest (.csv or .jsonl) of what is not left out, with paths relative to it; gives how many rows.

    Raises CallError where the images are no files, or the name has another extension; DataError where a path cannot
    be written as text.
    """
    place = Path(path)
    if place.suffix.lower() not in FORMS:
        raise CallError(f"--fix-list: expected a name that ends in {' or '.join(FORMS)}, got '{place}'")
    if os.path.isfile(source.where) and place.exists() and os.path.samefile(place, source.where):
        raise CallError(f"--fix-list: '{place}' is the data itself; give another name")
    rows = [_row(source, index, place) for index in range(len(source)) if index not in out]
    with open(place, "w", encoding="utf-8", newline="") as file:
        if place.suffix.lower() == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        else:
            _write_csv(file, rows, source)
    return len(rows)


def _row(source: Source, index: int, place: Path) -> dict[str, Any]:
    item = source.items[index]
    if not isinstance(item.image, str):
        raise CallError("--fix-list: lists files, and these images are not files of their own")
    relative = os.path.relpath(os.path.abspath(item.image), os.path.abspath(place.parent)).replace(os.sep, "/")
    try:
        relative.encode()
    except UnicodeEncodeError:
        raise fault(source.where, item.id, "has a name that is not UTF-8 and cannot be listed; rename it") from None
    labels = {"labels": list(item.labels)} if source.task == "multilabel" else {"label": item.labels[0]}
    part = source.parts[index]
    return {
        "path": relative,
        **labels,
        **({"split": PART_NAMES[part]} if part >= 0 else {}),
        **dict(item.extras),
    }


def _write_csv(file: Any, rows: list[dict[str, Any]], source: Source) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["path", "label"]
    writer = csv.writer(file)
    writer.writerow(csv_row(names))
    for row in rows:
        if "labels" in row:
            if wrong := [label for label in row["labels"] if "|" in label]:
                raise CallError(
                    f"--fix-list: the label '{wrong[0]}' holds a '|', which parts labels in CSV; use .jsonl"
                )
            row = {**row, "labels": "|".join(row["labels"])}
        writer.writerow(csv_row(row.get(name, "") for name in names))
