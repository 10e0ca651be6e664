"""The kinds of problems in images, the severity of each, and the rules that find them.

The limits below that compare an image with the others are there so that what the whole data set is (28 pixels small,
dark, drawn on white) is not held against each of its images.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from kerasimg.data.audit.duplicates import CHANGES, NearPairs, components
from kerasimg.data.audit.survey import Survey
from kerasimg.data.items import PART_NAMES
from kerasimg.data.source import Source

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


class Kind(NamedTuple):
    """One kind of finding."""

    severity: Severity
    title: str
    advice: str


KINDS: dict[str, Kind] = {
    "unreadable": Kind("error", "cannot be read", "repair or remove them, or leave them out (--fix-list FILE does)"),
    "class_unreadable": Kind("error", "classes of which no image can be read", "repair them, or remove the class"),
    "no_split": Kind("error", "the data cannot be split", "add images, or set the share to 0"),
    "conflict": Kind(
        "error",
        "the same image in several classes",
        "decide which label is right; remove the others (--fix-list removes all)",
    ),
    "leak": Kind(
        "error", "the same image in several parts", "remove it from the part that trains (--fix-list FILE does)"
    ),
    "leak_drawn": Kind(
        "warning", "the same image, which the split would put in several parts", "keep one (--fix-list FILE does)"
    ),
    "near_conflict": Kind("warning", "copies in several classes", "look at them: is one label wrong?"),
    "near_leak": Kind("warning", "copies in several parts", "keep them in one part, or keep one"),
    "duplicate": Kind("warning", "the same image several times in a class", "keep one (--fix-list FILE does)"),
    "blank": Kind("warning", "of one colour, or nearly", "remove them, unless that is the class"),
    "tiny": Kind("warning", "far smaller than the others", "replace them by larger ones"),
    "empty_class": Kind(
        "warning", "folders without images", "put images in them, or remove them; they are no classes now"
    ),
    "few": Kind("warning", "classes with few images", "add images; with fewer than 20 a class is learned by luck"),
    "imbalance": Kind("warning", "classes of very different size", 'see `fit.class_weight`, and monitor "f1"'),
    "label_suspect": Kind(
        "note", "the label may be wrong", "look at them; of photos, run label-errors of a trained run says more"
    ),
    "near_duplicate": Kind("note", "copies in a class", "copies teach nothing new; see that a split keeps them apart"),
    "groups": Kind(
        "note", "images that seem to belong together", "if they do, keep them in one part: see docs/groups.md"
    ),
    "dark": Kind("note", "dark", "look at them"),
    "overexposed": Kind("note", "overexposed", "look at them"),
    "blurred": Kind("note", "far less sharp than the others", "look at them"),
    "aspect": Kind("note", "of an odd aspect", "see what `image.resize` does to them"),
    "huge": Kind("note", "huge", "make them smaller: they slow down every first epoch"),
    "extension": Kind(
        "note", "named for another format than they have", "kerasimg goes by the content; others may not"
    ),
    "animated": Kind("note", "animated", "the first frame counts"),
    "cmyk": Kind("note", "CMYK", "are turned into RGB without a colour profile"),
    "deep": Kind("note", "16 bits a channel", "the upper 8 bits are used"),
    "rotated": Kind("note", "rotated by EXIF", "kerasimg turns them upright; other readers may not"),
}
"""Name -> what it is. The order is that of importance."""

FEW = 20
"""Images that a class should have."""
IMBALANCE = 10.0
"""Images of the largest class by those of the smallest, at most."""
BLANK = 8
"""Spread (0-255) of a thumbnail of nearly one colour: above the noise of a dark frame, below a pale drawing."""
DARK = 40
"""95 % of a dark image's grey values (0-255) are no higher."""
BRIGHT = 200
"""1 % of an overexposed image's grey values are no higher, and more than half are 250 and more."""
TINY = 32
"""Pixels of the shorter side; and less than half of what is usual."""
LONG = 3.0
"""Longer by shorter side; and twice of what is usual."""
HUGE = 50e6
"""Pixels; above what cameras of phones commonly make."""
BLURRED = 0.02
"""Sharpness of a blurred image at most; and below nearly all others: see `_blurred`."""
DEVIATIONS = 3.5
"""How far below the median, in robust standard deviations (Iglewicz, Hoaglin 1993: the modified z-score)."""
COUNTED = 8
"""Images of a data set, at least, for its usual values to mean something."""


class Finding(NamedTuple):
    """Something found: of one image, of a group, of a class, or of the whole."""

    kind: str
    images: tuple[int, ...] = ()
    """Indices into the source."""
    detail: str = ""
    label: str = ""
    """The class, where it is about one."""
    suggested: str | None = None
    """The class that the image looks like, where its label may be wrong."""

    @property
    def severity(self) -> Severity:
        """The severity of its kind."""
        return KINDS[self.kind].severity


def find_problems(
    source: Source, seen: Survey, parts: np.ndarray, groups: Sequence[Sequence[int]], pairs: NearPairs
) -> list[Finding]:
    """All findings, the most severe kinds first.

    parts: (N,) int8, places in PART_NAMES: the split that training would make.
    groups, pairs: see `duplicates.same` and `duplicates.near`.
    """
    every = [
        *(Finding("unreadable", (index,), reason) for index, reason in sorted(seen.reasons.items())),
        *(Finding("empty_class", detail=f"'{name}'") for name in source.empty),
        *_classes(source, seen),
        *_same(source, parts, groups),
        *_near(source, seen, parts, pairs),
        *_shown(seen),
        *(Finding(kind, (index,)) for index, kinds in sorted(seen.oddities.items()) for kind in kinds),
    ]
    return in_order(every)


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """The findings in the order of KINDS."""
    place = {kind: number for number, kind in enumerate(KINDS)}
    return sorted(findings, key=lambda one: place[one.kind])


def part_names(parts: np.ndarray, indices: Sequence[int]) -> list[str]:
    """The parts that these images are in, in the order train, validation, test."""
    codes = set(parts[list(indices)].tolist())
    return [name for code, name in enumerate(PART_NAMES) if code in codes]


def _classes(source: Source, seen: Survey) -> Iterator[Finding]:
    counts = Counter(source.only(np.flatnonzero(seen.readable)).label_counts())
    for name in source.classes:
        if not counts[name]:
            yield Finding("class_unreadable", detail=f"class '{name}'", label=name)
        elif counts[name] < FEW:
            yield Finding("few", detail=f"class '{name}': {counts[name]}", label=name)
    if len(counts) > 1:
        (most, high), (least, low) = counts.most_common(1)[0], min(counts.items(), key=lambda pair: pair[1])
        if high / low > IMBALANCE:
            yield Finding("imbalance", detail=f"'{most}' has {high / low:.0f} times as many images as '{least}'")


def _same(source: Source, parts: np.ndarray, groups: Sequence[Sequence[int]]) -> Iterator[Finding]:
    given = source.parts
    for group in groups:
        labels = {frozenset(source.items[index].labels) for index in group}
        named = part_names(parts, group)
        across = f"in {' and '.join(named)}" if len(named) > 1 else ""
        if len(labels) > 1:
            names = sorted({label for one in labels for label in one})
            yield Finding("conflict", tuple(group), "; ".join(filter(None, [" / ".join(names), across])))
        elif len(set(given[list(group)].tolist()) - {-1}) > 1:
            yield Finding("leak", tuple(group), across)
        elif across:
            yield Finding("leak_drawn", tuple(group), across)
        else:
            yield Finding("duplicate", tuple(group))


def _near(source: Source, seen: Survey, parts: np.ndarray, pairs: NearPairs) -> Iterator[Finding]:
    about: dict[int, list[str]] = defaultdict(list)
    for first, second, distance, change in zip(*(column.tolist() for column in pairs), strict=True):
        resized = sorted(seen.sizes[first]) != sorted(seen.sizes[second])
        changes = ", ".join(filter(None, [CHANGES[change], "resized" if resized else ""]))
        about[first].append(f"{changes or 'recompressed or retouched'} (correlation {1 - distance**2 / 2:.3f})")
    for group in components(pairs):
        labels = {frozenset(source.items[index].labels) for index in group}
        named = part_names(parts, group)
        detail = "; ".join(dict.fromkeys(how for index in group for how in about[index][:3]))
        if len(labels) > 1:
            names = sorted({label for one in labels for label in one})
            yield Finding("near_conflict", tuple(group), f"{' / '.join(names)}; {detail}")
        elif len(named) > 1:
            yield Finding("near_leak", tuple(group), f"in {' and '.join(named)}; {detail}")
        else:
            yield Finding("near_duplicate", tuple(group), detail)


def _shown(seen: Survey) -> Iterator[Finding]:
    """What the measured copies show, image by image."""
    readable = seen.readable
    if not readable.any():
        return
    width, height = seen.sizes.T
    shorter, longer = np.minimum(width, height), np.maximum(width, height)
    aspect = longer / np.maximum(shorter, 1)
    enough = readable.sum() >= COUNTED
    blank = seen.figure("spread") <= BLANK
    dark = ~blank & (seen.figure("brightest") <= DARK)
    overexposed = ~blank & (seen.figure("darkest") >= BRIGHT) & (seen.figure("washed_out") > 0.5)
    if np.median(seen.figure("washed_out")[readable]) > 0.5:  # drawings on white
        overexposed[:] = False
    tiny = (shorter < TINY) & (shorter < np.median(shorter[readable]) / 2) & enough
    odd = (aspect > LONG) & (aspect > 2 * np.median(aspect[readable]))
    blurred = _blurred(seen, readable & ~blank) if enough else np.zeros(len(seen), bool)
    sizes = [f"{one} x {other}" for one, other in seen.sizes.tolist()]
    for kind, which in {
        "blank": blank,
        "tiny": tiny,
        "dark": dark,
        "overexposed": overexposed,
        "blurred": blurred,
        "aspect": odd,
        "huge": width * height > HUGE,
    }.items():
        sized = kind in ("tiny", "aspect", "huge")
        for index in np.flatnonzero(which & readable).tolist():
            yield Finding(kind, (index,), sizes[index] if sized else "")


def _blurred(seen: Survey, among: np.ndarray) -> np.ndarray:
    """Images that are not sharp, and less so than nearly all others: (N,) bool.

    By the variance of the Laplacian (Pech-Pacheco et al. 2000) over the variance of the grey values, so that an
    image of low contrast is not taken for a blurred one; on a scale of logarithms, for it spans decades.
    """
    scale = np.log10(np.maximum(seen.figure("sharpness"), 1e-6))
    if not among.any():
        return np.zeros(len(seen), bool)
    median = np.median(scale[among])
    deviation = max(1.4826 * float(np.median(np.abs(scale[among] - median))), 0.05)
    return among & (seen.figure("sharpness") <= BLURRED) & ((median - scale) / deviation > DEVIATIONS)
