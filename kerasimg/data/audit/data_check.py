"""`kerasimg.check_data`: what is wrong with a folder of images, before a run is wasted on it."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from kerasimg.catalog import Reference, load
from kerasimg.data.audit.duplicates import near, same
from kerasimg.data.audit.findings import KINDS, SEVERITIES, Finding, found, in_order, part_names
from kerasimg.data.audit.fix_list import left_out, write_fix_list
from kerasimg.data.audit.framing import Framing, Shown, choose, contact_sheet, framing, shown, summary
from kerasimg.data.audit.grouping import suggestion
from kerasimg.data.audit.survey import Progress, Survey, survey
from kerasimg.data.items import PART_NAMES
from kerasimg.data.source import Source
from kerasimg.data.sources import Data, open_source, task_of
from kerasimg.data.split import split
from kerasimg.errors import DataError
from kerasimg.results import Result
from kerasimg.spec.document import Fit, Image, Task
from kerasimg.spec.load import Spec

FORMAT_VERSION = 1
SHEET = 24
"""Images on the contact sheet."""

LabelJudge = Callable[[Sequence[str], np.ndarray, np.ndarray, Sequence[str], Task], list[dict[str, Any]]]
"""Names, labels and out-of-fold probabilities of images -> rows {file, given, suggested, ...} of suspect ones;
`kerasimg.evaluation.label_errors.find_label_errors` is one."""


@dataclass(frozen=True, eq=False, repr=False)
class DataCheck(Result):
    """What was found. Nothing of the data is held but thumbnails; where more is shown, the files are read again."""

    source: Source
    seen: Survey
    parts: np.ndarray
    """(N,) int8: places in PART_NAMES of the split that training would make; -1: left out."""
    findings: tuple[Finding, ...]
    image: Image | None = None
    """The spec's section."""
    seconds: float = 0.0

    def _shown(self) -> dict[str, Any]:
        counts = {kind: row["findings"] for kind, row in self.counts().items()}
        return {"where": self.source.where, "images": len(self.source), "ok": self.ok, "findings": counts}

    @property
    def ok(self) -> bool:
        """Whether nothing must be mended."""
        return not any(one.severity == "error" for one in self.findings)

    @cached_property
    def framed(self) -> Framing | None:
        """What the spec's `image` section does to each image; None without a spec."""
        return None if self.image is None else framing(self.seen.sizes, self.image)

    def counts(self) -> dict[str, dict[str, int]]:
        """Kind -> {"findings", "images"}, of the kinds that occur, the gravest first."""
        rows: dict[str, dict[str, int]] = {}
        for kind in KINDS:
            if ours := [one for one in self.findings if one.kind == kind]:
                rows[kind] = {
                    "findings": len(ours),
                    "images": len({index for one in ours for index in one.images}),
                }
        return rows

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON; `docs/data-check.md` says what each key means."""
        severities = Counter(one.severity for one in self.findings)
        readable = self.seen.readable
        return {
            "kerasimg_data_check": FORMAT_VERSION,
            "where": self.source.where,
            "task": self.source.task,
            "suggested_task": self.source.suggested_task,
            **({} if self.source.positive is None else {"positive_class": self.source.positive}),
            "ok": self.ok,
            **{f"{severity}s": severities[severity] for severity in SEVERITIES},
            "images": len(self.source),
            "readable": int(readable.sum()),
            "ignored_files": self.source.ignored,
            "seconds": round(self.seconds, 3),
            "counts": {kind: {"severity": KINDS[kind].severity, **row} for kind, row in self.counts().items()},
            "findings": [self._finding(one) for one in self.findings],
            "parts": {name: int((self.parts == code).sum()) for code, name in enumerate(PART_NAMES)},
            "parts_given": part_names(self.source.parts, range(len(self.source))),
            "classes": self.classes(),
            "sizes": self.sizes(),
            "kinds": dict(Counter(self.seen.kinds[readable].tolist()).most_common()),
            "image": summary(self._framed_readable(), self.image) if self.image else None,
        }

    def classes(self) -> list[dict[str, Any]]:
        """Each class with its number of images that can be read, in all and by part."""
        rows = {name: {"name": name, "images": 0} | dict.fromkeys(PART_NAMES, 0) for name in self.source.classes}
        for code in (-1, *range(len(PART_NAMES))):
            chosen = np.flatnonzero((self.parts == code) & self.seen.readable)
            for name, count in self.source.only(chosen).label_counts().items():
                rows[name]["images"] += count  # type: ignore[operator]
                if code >= 0:
                    rows[name][PART_NAMES[code]] = count
        return list(rows.values())

    def sizes(self) -> dict[str, Any]:
        """Smallest, median and largest width and height in pixels, upright, and the sizes that are most common."""
        sizes = self.seen.sizes[self.seen.readable]
        if not len(sizes):
            return {}
        unique, counts = np.unique(sizes, axis=0, return_counts=True)
        common = np.argsort(-counts, kind="stable")[:10]
        return {
            name: [int(column.min()), float(np.median(column)), int(column.max())]
            for name, column in zip(("width", "height"), sizes.T, strict=True)
        } | {"common": [[*map(int, unique[place]), int(counts[place])] for place in common]}

    def show(self, count: int = SHEET) -> list[Shown]:
        """Images beside what the spec makes of them: those changed most, and some of each class."""
        if self.image is None or self.framed is None:
            return []
        labels = [" ".join(self.source.items[index].labels) for index in range(len(self.source))]
        chosen = choose(self.framed, self.seen.readable, labels, count)
        return shown(self.source.items, chosen, self.framed, self.seen.sizes, self.image)

    def sheet(self) -> PIL.Image.Image:
        """The contact sheet: up to 24 images, each beside what the spec's `image` section makes of it."""
        images = self.show()
        return contact_sheet(images, [self.source.items[one.place].id for one in images])

    def to_text(self, limit: int = 5) -> str:
        """A summary, then the findings by kind with the first `limit` of each."""
        from kerasimg.data.audit.check_text import text

        return text(self, limit)

    def to_html(self) -> str:
        """A page with thumbnails, in one file of at most about 3 MB."""
        from kerasimg.data.audit.check_page import page

        return page(self)

    def left_out(self, near: bool = False) -> dict[int, str]:
        """Image -> the kind of finding for which the fix list leaves it out; see `fix_list`."""
        return left_out(self.source, self.findings, near)

    def write_fix_list(self, path: str | os.PathLike[str], near: bool = False) -> int:
        """Write a manifest (.csv or .jsonl) without the bad images; gives how many it lists."""
        return write_fix_list(path, self.source, self.left_out(near))

    def write_html(self, path: str | os.PathLike[str]) -> None:
        """Write the page."""
        Path(path).write_text(self.to_html(), encoding="utf-8")

    def _framed_readable(self) -> Framing:
        framed = self.framed
        if framed is None:
            raise ValueError("no spec was given")
        return Framing(*(column[self.seen.readable] for column in framed))

    def _finding(self, one: Finding) -> dict[str, Any]:
        images = [
            {
                "file": self.source.items[index].id,
                "labels": list(self.source.items[index].labels),
                "part": PART_NAMES[self.parts[index]] if self.parts[index] >= 0 else None,
                "size": self.seen.sizes[index].tolist(),
            }
            for index in one.images
        ]
        row = {"kind": one.kind, "severity": one.severity, "detail": one.detail, "images": images}
        return row | ({"class": one.label} if one.label else {})


def check_data(
    data: Data,
    spec: Reference | None = None,
    *,
    task: Task | None = None,
    judge_labels: LabelJudge | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> DataCheck:
    """Look at every image of a data set and say what is wrong with it; nothing is changed.

    data: as for `train`: a folder, a manifest, an .npz, (images, labels), or "sample".
    spec: with one, the split is that which training would make, and it is told what `image` does to the images.
    task: None: that of the spec, else multilabel where images have several labels, and multiclass where not.
    judge_labels: asked for labels that may be wrong, with the probabilities of a simple classifier of thumbnails.
    threads: None: one per core.  progress: called with how many images are done, and of how many.

    Raises DataError where the data cannot be listed at all, SpecError where the spec is wrong.
    """
    loaded = None if spec is None else load(spec, partial=True)
    if task is None:
        # Two classes are judged as such; whether one of them is the positive one does not matter here.
        task = loaded.task if loaded else "multilabel" if task_of(data) == "multilabel" else "multiclass"
    source = open_source(data, task, positive=loaded.positive_class if loaded and task == "binary" else None)
    start = time.perf_counter()
    seen = survey(source.items, threads, progress)
    parts, broken = _parts(source, seen, loaded)
    groups = same(source.items, seen)
    pairs = near(source.items, seen, groups)
    findings = [*broken, *found(source, seen, parts, groups, pairs)]
    if (loaded is None or loaded.fit.group is None) and (together := suggestion(source, pairs)):
        findings.append(Finding("groups", detail=together))
    checked = DataCheck(source, seen, parts, tuple(in_order(findings)), loaded.image if loaded else None)
    if judge_labels is not None:
        suspects = _suspects(checked, groups, judge_labels)
        checked = replace(checked, findings=tuple(in_order([*checked.findings, *suspects])))
    return replace(checked, seconds=time.perf_counter() - start)


def _parts(source: Source, seen: Survey, spec: Spec | None) -> tuple[np.ndarray, list[Finding]]:
    """The split that training would make, (N,) int8, -1 where unreadable; and why it cannot be made."""
    readable = np.flatnonzero(seen.readable)
    parts = np.full(len(source), -1, np.int8)
    sound = source.only(readable)
    fit = Fit() if spec is None else spec.fit
    try:
        drawn = {}
        if len(readable):
            drawn = split(sound, fit.validation_split, fit.test_split, fit.seed, fit.group)
    except DataError as error:
        parts[readable] = np.maximum(sound.parts, 0)
        return parts, [Finding("no_split", detail=f"{fault.path}: {fault.message}") for fault in error.faults]
    for part, indices in drawn.items():
        parts[readable[indices]] = PART_NAMES.index(part)
    return parts, []


def _suspects(checked: DataCheck, groups: Sequence[Sequence[int]], judge: LabelJudge) -> list[Finding]:
    from kerasimg.data.audit.label_guess import out_of_fold

    indices, probabilities = out_of_fold(checked.source, checked.seen, groups)
    if not len(indices):
        return []
    source = checked.source
    index_of = {source.items[index].id: int(index) for index in indices}
    rows = judge(list(index_of), source.label_ids(indices), probabilities, source.classes, source.task)
    return [
        Finding(
            "label_suspect", (index_of[row["file"]],), f"is labelled '{row['given']}', looks like '{row['suggested']}'"
        )
        for row in rows
    ]
