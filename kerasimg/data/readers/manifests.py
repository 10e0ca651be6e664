"""Reader of data manifests: CSV or JSONL files that list images.

Columns: path (relative to the manifest), label or labels (a list in JSONL, or several in one text, see
`label_lists.py`), and optionally split and p:CLASS, soft labels (`soft_labels.py`); other columns are extras. CSV is
UTF-8, separated by commas, semicolons or tabs.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kerasimg.data.index import Gathering
from kerasimg.data.items import PARTS, Item, ManyFaults, Reading, class_name, fault
from kerasimg.data.readers.image_store import Files
from kerasimg.data.readers.label_lists import TEXT, resolve_lists, split_texts, whole_numbers
from kerasimg.data.readers.packed_strings import Growing
from kerasimg.data.readers.reader import Reader
from kerasimg.data.readers.soft_labels import PREFIX, most_likely, shares_of
from kerasimg.errors import Fault, counted, nearest
from kerasimg.escaping import from_csv_cell
from kerasimg.spec.document import Task

COLUMNS = ("path", "label", "labels", "split")
OTHER_NAMES = {
    **dict.fromkeys(("file", "filename", "file_name", "filepath", "image", "image_path", "img", "uri", "url"), "path"),
    **dict.fromkeys(("class", "class_name", "classname", "category", "target", "tag"), "label"),
    **dict.fromkeys(("part", "subset", "set", "fold"), "split"),
}
"""Names of columns in manifests of other tools, and what kerasimg calls them."""

Row = tuple[int, Mapping[str, Any]]
"""The line number of a row, and its values by column."""


class Manifest(Reader):
    """A CSV or JSONL file that lists images."""

    name = "a manifest"
    takes = (
        "`.csv` or `.jsonl` with `path`, `label` (or `labels`), and, if wanted, `split`; paths are relative to the "
        "file; a cell `'=x`, as our CSV files have it, is read as `=x`"
    )
    extensions = (".csv", ".tsv", ".jsonl", ".ndjson")

    def read(self, data: str, task: Task, classes: Sequence[str] = ()) -> Reading:
        """Reads the labelled images, in the order of the manifest."""
        faults: list[Fault] = []
        gathered, places = Gathering(), Growing()
        lines: dict[str, int] = {}
        shared: dict[str, None] = {}
        rows = _csv_rows(data, faults) if data.lower().endswith((".csv", ".tsv")) else _jsonl_rows(data, faults)
        try:
            for line, row in rows:
                item, wrong = _item(os.path.dirname(data), row, task)
                first = lines.setdefault(item.id, line)
                if first != line and item.id:
                    wrong.append(f"'{item.id}' is already in line {first}; use one line with all its labels")
                faults += [Fault(data, f"line {line}", message) for message in wrong]
                if not wrong:
                    shared |= {key.removeprefix(PREFIX): None for key in item.extras if key.startswith(PREFIX)}
                    gathered.add(item.id, item.labels, item.part, item.extras)
                    places.add_raw(os.fsencode(str(item.held)))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise fault(data, "", f"cannot be read as UTF-8 text: {error}; save it as UTF-8 (CSV UTF-8)") from error
        if faults:
            raise ManyFaults(faults)
        items = gathered.items(Files(places.texts()))
        try:
            labels = whole_numbers(resolve_lists(split_texts(items.all_labels), task))
        except ValueError as error:
            raise fault(data, "", str(error)) from error
        return Reading(replace(items, all_labels=labels), {*labels.names, *shared}, soft=bool(shared))


def _csv_rows(path: str, faults: list[Fault]) -> Iterator[Row]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        file.seek(0)
        mark = max(",;\t", key=header.count)
        reader = csv.DictReader(file, delimiter=mark, restkey="")
        names = [from_csv_cell(name.strip()) for name in reader.fieldnames or []]
        if "path" not in names or not _has_labels(names):
            raise fault(path, "line 1", _columns_wanted(names))
        reader.fieldnames = names
        for row in reader:
            if "" not in names and any(row.get("") or ()):  # an unquoted label with a comma would be cut
                wrong = (
                    f"has more fields than the {counted(len(names), 'column')}; quote a value that contains {mark!r}"
                )
                faults.append(Fault(path, f"line {reader.line_num}", wrong))
                continue
            yield reader.line_num, {name: from_csv_cell(value or "") for name, value in row.items() if name}


def _jsonl_rows(path: str, faults: list[Fault]) -> Iterator[Row]:
    with open(path, encoding="utf-8-sig") as file:
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                faults.append(Fault(path, f"line {line}", f"is not JSON: {error}"))
                continue
            if not isinstance(row, dict):
                faults.append(Fault(path, f"line {line}", 'expected an object: {"path": ..., "label": ...}'))
            elif "path" not in row or not _has_labels(row):
                faults.append(Fault(path, f"line {line}", _columns_wanted(list(row))))
            else:
                yield line, row


def _has_labels(names: Iterable[str]) -> bool:
    return any(name in ("label", "labels") or name.startswith(PREFIX) for name in names)


def _columns_wanted(names: list[str]) -> str:
    advice = next((guess for name in names if name not in COLUMNS and (guess := nearest(name, COLUMNS))), "")
    if others := [f"'{name}' to '{OTHER_NAMES[name.lower()]}'" for name in names if name.lower() in OTHER_NAMES]:
        advice = f"; rename {' and '.join(others)}"
    return f"expected the columns path and label (or labels), found {', '.join(names) or 'none'}{advice}"


def _item(folder: str, row: Mapping[str, Any], task: Task) -> tuple[Item, list[str]]:
    """The image of a row, and the errors of the row."""
    wrong: list[str] = []
    name = row["path"]
    if not isinstance(name, str) or not name:
        wrong.append(f"expected a path, got {name!r}")
        name = ""
    if "\\" in name and not os.path.exists(os.path.join(folder, name)):
        name = name.replace("\\", "/")  # written on Windows
    place = os.path.normpath(os.path.join(folder, name))
    if name and not os.path.exists(place):
        wrong.append(f"no such file: {name}; paths are relative to the manifest's folder")
    split = row.get("split") or None
    part = PARTS.get(str(split).strip().lower())
    if split is not None and part is None:
        wrong.append(f"no split '{split}'{nearest(str(split), PARTS)}; the parts are train, validation and test")
    shares = shares_of(row, wrong)
    if shares and task != "multiclass":
        wrong.append(f"soft labels need the task 'multiclass', not '{task}'")
    if shares and not row.get("label"):
        row = {**row, "labels": [most_likely(shares)]}
    labels = _labels(row, task, wrong) if not wrong or not isinstance(row.get("labels"), dict) else ()
    extras = {key: value for key, value in row.items() if key not in COLUMNS and not key.startswith(PREFIX)}
    extras |= {PREFIX + name: share for name, share in shares.items()}
    return Item(os.path.normpath(name).replace(os.sep, "/") if name else "", place, labels, part, extras), wrong


def _labels(row: Mapping[str, Any], task: Task, wrong: list[str]) -> tuple[str, ...]:
    values = row.get("label") if isinstance(row.get("labels"), dict) else row.get("labels", row.get("label"))
    if isinstance(values, str) and task == "multilabel":
        return (TEXT + values,) if values.strip() else ()
    if isinstance(values, str) and "labels" in row:
        values = [part for part in values.split("|") if part.strip()]
    in_list = isinstance(values, list)
    labels = []
    for value in values if isinstance(values, list) else [values]:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) and in_list and task == "multilabel":
            value = int(value)
        if not isinstance(value, str | int) or isinstance(value, bool) or not class_name(str(value)):
            wrong.append(f"expected a label, got {value!r}")
        else:
            labels.append(class_name(str(value)))
    if task != "multilabel" and not wrong and len(labels) != 1:
        wrong.append(f"expected one label, got {len(labels)}; several per image: --task multilabel")
    return tuple(labels)  # with repeats: see `resolve_lists`
