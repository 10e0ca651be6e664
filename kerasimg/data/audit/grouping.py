"""Images that seem to belong together, by their folders, columns, names or likeness: a suggestion to set `fit.group`.

Several images of one patient, object or burst in several parts make a model look better than it is: it recognises the
patient again. Only the person who made the data knows; this looks for what usually tells.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from kerasimg.data.audit.duplicates import NearPairs, components
from kerasimg.data.source import Source
from kerasimg.errors import counted

COLUMN = re.compile(
    r"(patient|subject|person|people|case|object|specimen|sample|animal|individual|plant|scene|video|clip|session|series|"
    r"study|burst|sequence|group|slide|participant|user|site|camera|location)(_?id|_?no|_?number|_?name)?",
    re.IGNORECASE,
)
"""Names of columns that usually say what belongs together."""
NUMBERED = re.compile(r"(?P<group>.*[0-9].*?)[ _.-]+[a-z]{0,6}[0-9]+|(?P<burst>.+?)[ _-]*\([0-9]+\)", re.IGNORECASE)
"""A name of a file that ends with a number of its own after one of something else: "p03_2", "frog (4)"."""
FEWEST = 3
"""Groups that there must be."""
EACH = 2.0
"""Images that a group must have on average."""
NAMED = 0.6
"""Share of the files whose names must be of that kind."""
NEAR = 0.1
"""Share of the images that must have a near copy."""


def suggestion(source: Source, pairs: NearPairs) -> str | None:
    """What says that images belong together, and what to do; None if nothing does."""
    ids = [item.id for item in source.items]
    if len(ids) < FEWEST * EACH:
        return None
    if found := _columns(source):
        return f'by the column \'{found}\': "fit": {{"group": {{"column": "{found}"}}}}'
    if (groups := _folders(source)) is not None:
        return f'by {counted(groups, "folder")} below the classes: "fit": {{"group": "folder"}}'
    manifest = 'write a manifest with a column for it, and "fit": {"group": {"column": NAME}}'
    if (named := _names(ids)) is not None:
        groups, example = named
        return f"by the names of files, {counted(groups, 'group')} such as '{example}'; {manifest}"
    near = components(pairs)
    if sum(map(len, near)) >= NEAR * len(ids):
        images = counted(sum(map(len, near)), "image", "are")
        return f"{images} near copies of others, as of a burst or a video; {manifest}"
    return None


def _columns(source: Source) -> str | None:
    names = dict.fromkeys(name for item in source.items for name in item.extras if COLUMN.fullmatch(name))
    for name in names:
        values = Counter(str(item.extras.get(name)) for item in source.items)
        if _are_groups(list(values.values())):
            return name
    return None


def _folders(source: Source) -> int | None:
    from kerasimg.data.groups import group_names
    from kerasimg.errors import DataError

    try:
        names = Counter(group_names(source, "folder"))
    except DataError:
        return None
    return len(names) if len(names) > len(source.classes) and _are_groups(list(names.values())) else None


def _names(ids: Sequence[str]) -> tuple[int, str] | None:
    found: Counter[str] = Counter()
    for name in ids:
        match = NUMBERED.fullmatch(posixpath.splitext(posixpath.basename(name))[0])
        if match:
            found[match["group"] or match["burst"]] += 1
    if found.total() < NAMED * len(ids) or not _are_groups(list(found.values())):
        return None
    return len(found), found.most_common(1)[0][0]


def _are_groups(sizes: Sequence[int]) -> bool:
    """Whether these sizes are of groups: several, of several images each."""
    return len(sizes) >= FEWEST and float(np.mean(sizes)) >= EACH
