"""Several labels per image, as files store them: lists of names, lists of 0 and 1 (multi-hot), or one text.

All readers follow these rules:

- Lists of equal length, two or more, with only 0 and 1 are multi-hot: the classes are "0", "1", ... by position. Other
  lists are names or numbers of classes; duplicates are removed.
- If the task is multilabel, a text has several labels, separated by `|`, `;` or `,`, whichever occurs in the file; two
  of these in one file are an error. If none occurs, spaces are separators if the words recombine (fewer words than
  different texts); otherwise a text with a space is ambiguous, and an error too.
- If all labels are whole numbers, "1.0" is "1": pandas writes a column with gaps that way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from kerasimg.data.index import Labels
from kerasimg.data.items import class_name
from kerasimg.errors import counted
from kerasimg.spec.document import Task

TEXT = "\0"
"""Marks a label that `split_texts` has to split."""
SEPARATORS = ("|", ";", ",")
WHOLE = re.compile(r"(-?\d+)(\.0+)?")


def resolve_lists(labels: Labels, task: Task) -> Labels:
    """Resolves labels from lists: by position if they are multi-hot, else without duplicates.

    Raises:
        ValueError: if lists of 0 and 1 with repeated values differ in length.
    """
    if labels.starts is None:
        return labels
    counts = np.diff(labels.starts)
    used = {labels.names[code] for code in np.unique(labels.codes)}
    is_binary = bool(used) and used <= {"0", "1"} and task == "multilabel"
    if is_binary and counts.min() == counts.max() >= 2:
        hot = np.array([name == "1" for name in labels.names])[labels.codes].reshape(len(counts), -1)
        rows, places = np.nonzero(hot)
        starts = np.searchsorted(rows, np.arange(len(counts) + 1)).astype(np.int64)
        return Labels(tuple(map(str, range(hot.shape[1]))), places.astype(np.int32), starts)
    once = remove_duplicates(labels)
    if is_binary and len(once.codes) < len(labels.codes):
        short, long = counts.min(), counts.max()
        raise ValueError(
            f"expected lists of 0 and 1 of equal length (multi-hot), found {short} to {counted(long, 'value')}"
        )
    return once


def remove_duplicates(labels: Labels) -> Labels:
    """Removes duplicate labels of each image, keeping their order."""
    if labels.starts is None:
        return labels
    pairs = labels.owners() * max(1, len(labels.names)) + labels.codes
    firsts = np.sort(np.unique(pairs, return_index=True)[1])
    counts = np.bincount(labels.owners()[firsts], minlength=len(labels.starts) - 1)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Labels(labels.names, labels.codes[firsts], None if bool((counts == 1).all()) else starts)


def split_texts(labels: Labels) -> Labels:
    """Splits the labels that are texts (`TEXT`).

    Raises:
        ValueError: if the separator is ambiguous.
    """
    texts = [name.removeprefix(TEXT) for name in labels.names if name.startswith(TEXT)]
    if not texts:
        return labels
    separator = _separator(texts)
    numbers: dict[str, int] = {}
    table = []
    for name in labels.names:
        parts = [name]
        if name.startswith(TEXT):
            parts = name.removeprefix(TEXT).split(separator) if separator else [name.removeprefix(TEXT)]
        known = dict.fromkeys(class_name(part) for part in parts if class_name(part))
        table.append([numbers.setdefault(part, len(numbers)) for part in known])
    counts = np.bincount(labels.owners(), [len(table[code]) for code in labels.codes], _number(labels)).astype(np.int64)
    codes = np.array([code for text in labels.codes.tolist() for code in table[text]], np.int32)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Labels(tuple(numbers), codes, None if bool((counts == 1).all()) else starts)


def _number(labels: Labels) -> int:
    return len(labels.codes) if labels.starts is None else len(labels.starts) - 1


def _separator(texts: Sequence[str]) -> str | None:
    """The separator of the labels in texts; None if each text is one label."""
    examples = {mark: next((text for text in texts if mark in text), "") for mark in SEPARATORS}
    marks = [mark for mark, example in examples.items() if example]
    if len(marks) > 1:
        shown = " and ".join(f"'{examples[mark]}'" for mark in marks[:2])
        raise ValueError(f"labels have two separators, {shown}; use | only")
    if marks:
        return marks[0]
    spaced = {" ".join(text.split()) for text in texts if len(text.split()) > 1}
    if not spaced:
        return None
    whole_texts = {" ".join(text.split()) for text in texts if text.strip()}
    words = {word for text in whole_texts for word in text.split()}
    if len(words) < len(whole_texts):
        return " "
    raise ValueError(f"'{min(spaced)}' could be one label or several; separate labels by |, or end a single one with |")


def whole_numbers(labels: Labels) -> Labels:
    """Merges "1" and "1.0" if all labels are whole numbers.

    Raises:
        ValueError: if both occur together with labels that are not numbers.
    """
    matches = [WHOLE.fullmatch(name) for name in labels.names]
    if not any(match and match[2] for match in matches):
        return labels
    if all(matches):
        return _merge(labels, [str(match and match[1]) for match in matches])
    names = set(labels.names)
    for match in matches:
        if match and match[2] and match[1] in names:
            raise ValueError(f"'{match[1]}' and '{match[0]}' would be two classes; write them the same way")
    return labels


def _merge(labels: Labels, renamed: Iterable[str]) -> Labels:
    names: dict[str, int] = {}
    table = np.array([names.setdefault(name, len(names)) for name in renamed], np.int32)
    return remove_duplicates(replace(labels, names=tuple(names), codes=table[labels.codes]))
