"""Several labels per image, as files write them: lists of names, lists of 0 and 1 (multi-hot), or one text.

One rule for every reader:

- Lists of the same length, two or more, of nothing but 0 and 1 are multi-hot: the classes are "0", "1", ... by
  place. Other lists are names or numbers of classes, each counted once.
- A text holds several labels where the task is multilabel. They are separated by `|`, `;` or `,`, whichever occurs
  in the file; two of these in one file are an error. Where none of them occurs, spaces separate if the words
  recombine (fewer words than different texts); otherwise a text with a space could be one label or several, and that
  is an error, too.
- Labels that are all whole numbers are named without a fraction: "1.0" is "1", as pandas writes a column with gaps.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from kerasimg.data.index import Labels
from kerasimg.data.items import class_name
from kerasimg.spec.document import Task

TEXT = "\0"
"""Before a label that is a text as a file has it, until `split_texts` has split it."""
SEPARATORS = ("|", ";", ",")
WHOLE = re.compile(r"(-?\d+)(\.0+)?")


def settle_lists(labels: Labels, task: Task) -> Labels:
    """Labels of lists, in which repeats are kept: by place where they are multi-hot, else each once for an image.

    Raises:
        ValueError: if lists of 0 and 1 repeat a value and are not all of one length.
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
    once = each_once(labels)
    if is_binary and len(once.codes) < len(labels.codes):
        short, long = counts.min(), counts.max()
        raise ValueError(f"expected lists of 0 and 1 of one length (multi-hot), found {short} to {long} values")
    return once


def each_once(labels: Labels) -> Labels:
    """The labels, each at most once for an image, in their order; one per image where that is so."""
    if labels.starts is None:
        return labels
    pairs = labels.owners() * max(1, len(labels.names)) + labels.codes
    kept = np.sort(np.unique(pairs, return_index=True)[1])
    counts = np.bincount(labels.owners()[kept], minlength=len(labels.starts) - 1)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Labels(labels.names, labels.codes[kept], None if bool((counts == 1).all()) else starts)


def split_texts(labels: Labels) -> Labels:
    """The labels, those that are texts (`TEXT`) split.

    Raises:
        ValueError: if the separator is not clear.
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
    """What separates the labels in texts; None where each is one label."""
    examples = {mark: next((text for text in texts if mark in text), "") for mark in SEPARATORS}
    marks = [mark for mark, example in examples.items() if example]
    if len(marks) > 1:
        shown = " and ".join(f"'{examples[mark]}'" for mark in marks[:2])
        raise ValueError(f"labels are separated in two ways, {shown}; use | alone")
    if marks:
        return marks[0]
    spaced = {" ".join(text.split()) for text in texts if len(text.split()) > 1}
    if not spaced:
        return None
    every = {" ".join(text.split()) for text in texts if text.strip()}
    words = {word for text in every for word in text.split()}
    if len(words) < len(every):
        return " "
    raise ValueError(f"'{min(spaced)}' could be one label or several; separate labels by |, or end a single one with |")


def whole_numbers(labels: Labels) -> Labels:
    """The labels; those of "1" and "1.0" as one class where all are whole numbers.

    Raises:
        ValueError: if both occur beside labels that are no numbers.
    """
    matches = [WHOLE.fullmatch(name) for name in labels.names]
    if not any(match and match[2] for match in matches):
        return labels
    if all(matches):
        return _merged(labels, [str(match and match[1]) for match in matches])
    names = set(labels.names)
    for match in matches:
        if match and match[2] and match[1] in names:
            raise ValueError(f"'{match[1]}' and '{match[0]}' would be two classes; write both alike")
    return labels


def _merged(labels: Labels, renamed: Iterable[str]) -> Labels:
    names: dict[str, int] = {}
    table = np.array([names.setdefault(name, len(names)) for name in renamed], np.int32)
    return each_once(replace(labels, names=tuple(names), codes=table[labels.codes]))
