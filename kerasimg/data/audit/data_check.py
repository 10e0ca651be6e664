"""`kerasimg.check_data`: finds problems in images and labels before training."""

from __future__ import annotations

import base64
import io
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from kerasimg.catalog import Reference, load
from kerasimg.data.audit.duplicates import near, same
from kerasimg.data.audit.findings import KINDS, SEVERITIES, Finding, find_problems, in_order, part_names
from kerasimg.data.audit.fix_list import left_out, write_fix_list
from kerasimg.data.audit.framing import Framing, Shown, choose, contact_sheet, describe, framing, shown, summary
from kerasimg.data.audit.grouping import suggestion
from kerasimg.data.audit.survey import Progress, Survey, survey
from kerasimg.data.bands import read_shown
from kerasimg.data.image_files import BadImage
from kerasimg.data.items import PART_NAMES
from kerasimg.data.source import Source
from kerasimg.data.sources import Data, open_source, task_of
from kerasimg.data.split import split
from kerasimg.data.summary import describe_sizes, unreadable_note
from kerasimg.errors import CallError, DataError, counted
from kerasimg.escaping import one_line
from kerasimg.results import Result
from kerasimg.spec.document import Fit, Image, Task
from kerasimg.spec.load import Spec

FORMAT_VERSION = 1
SHEET = 24
"""Images on the contact sheet."""
OF_A_GROUP = 4
"""Images of a group that are named."""
ALSO = 6
"""Sizes, formats and classes that are listed."""
TEMPLATE = Path(__file__).with_name("data_check.html")
SHOWN = 12
"""Findings of a kind that are shown with images."""
LISTED = 300
"""Further ones that are listed by name."""
CLASSES = 200
THUMB = 112
"""Pixels of the longer side of a thumbnail."""
BUDGET = 2_000_000
"""Characters of images in a page; what comes after is shown by name."""

FindLabelErrors = Callable[[Sequence[str], np.ndarray, np.ndarray, Sequence[str], Task], list[dict[str, Any]]]
"""Names, labels and out-of-fold probabilities of images -> rows {file, given, suggested, ...} of suspect ones;
`kerasimg.evaluation.label_errors.find_label_errors` is one."""


@dataclass(frozen=True, eq=False, repr=False)
class DataCheck(Result):
    """The findings. Only thumbnails are held in memory; to show more, the files are read again."""

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
        """Whether nothing must be fixed before training."""
        return not any(one.severity == "error" for one in self.findings)

    @cached_property
    def framed(self) -> Framing | None:
        """What the spec's `image` section does to each image; None without a spec."""
        return None if self.image is None else framing(self.seen.sizes, self.image)

    def counts(self) -> dict[str, dict[str, int]]:
        """Kind -> {"findings", "images"}, of the kinds that occur, the most severe first."""
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
        return _text(self, limit)

    def to_html(self) -> str:
        """A page with thumbnails, in one file of at most about 3 MB."""
        return _page(self)

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
        row |= {} if one.suggested is None else {"suggested": one.suggested}
        return row | ({"class": one.label} if one.label else {})


def check_data(
    data: Data,
    spec: Reference | None = None,
    *,
    task: Task | None = None,
    find_label_errors: FindLabelErrors | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> DataCheck:
    """Checks every image of a data set. Nothing is changed.

    data: as for `train`: a folder, a manifest, an .npz, (images, labels), or "sample".
    spec: with one, the split is that which training would make, and the check reports what `image` does to the images.
    task: None: that of the spec, else multilabel where images have several labels, and multiclass where not.
    find_label_errors: asked for labels that may be wrong, with the probabilities of a simple classifier of thumbnails.
    threads: None: one per core.  progress: called with how many images are done, and of how many.

    Raises DataError where the data cannot be listed at all, SpecError where the spec is wrong.
    """
    loaded = None if spec is None else load(spec, partial=True)
    if task is None:
        # Two classes are checked as two; which of them is the positive one does not matter here.
        task = loaded.task if loaded else "multilabel" if task_of(data) == "multilabel" else "multiclass"
    source = open_source(data, task, positive=loaded.positive_class if loaded and task == "binary" else None)
    start = time.perf_counter()
    seen = survey(source.items, threads, progress)
    parts, broken = _parts(source, seen, loaded)
    groups = same(source.items, seen)
    pairs = near(source.items, seen, groups)
    findings = [*broken, *find_problems(source, seen, parts, groups, pairs)]
    if (loaded is None or loaded.fit.group is None) and (together := suggestion(source, pairs)):
        findings.append(Finding("groups", detail=together))
    checked = DataCheck(source, seen, parts, tuple(in_order(findings)), loaded.image if loaded else None)
    if find_label_errors is not None:
        suspects = _suspects(checked, groups, find_label_errors)
        checked = replace(checked, findings=tuple(in_order([*checked.findings, *suspects])))
    return replace(checked, seconds=time.perf_counter() - start)


def _parts(source: Source, seen: Survey, spec: Spec | None) -> tuple[np.ndarray, list[Finding]]:
    """The split that training would make, (N,) int8, -1 where unreadable; and why it cannot be made."""
    readable = np.flatnonzero(seen.readable)
    parts = np.full(len(source), -1, np.int8)
    readable_source = source.only(readable)
    fit = Fit() if spec is None else spec.fit
    try:
        drawn = {}
        if len(readable):
            drawn = split(readable_source, fit.validation_split, fit.test_split, fit.seed, fit.group)
    except DataError as error:
        parts[readable] = np.maximum(readable_source.parts, 0)
        return parts, [Finding("no_split", detail=f"{fault.path}: {fault.message}") for fault in error.faults]
    for part, indices in drawn.items():
        parts[readable[indices]] = PART_NAMES.index(part)
    return parts, []


def _suspects(checked: DataCheck, groups: Sequence[Sequence[int]], find_errors: FindLabelErrors) -> list[Finding]:
    from kerasimg.data.audit.data_check import out_of_fold

    indices, probabilities = out_of_fold(checked.source, checked.seen, groups)
    if not len(indices):
        return []
    source = checked.source
    index_of = {source.items[index].id: int(index) for index in indices}
    rows = find_errors(list(index_of), source.label_ids(indices), probabilities, source.classes, source.task)
    return [
        Finding(
            "label_suspect",
            (index_of[row["file"]],),
            f"is labelled '{row['given']}', looks like '{row['suggested']}'",
            suggested=row["suggested"],
        )
        for row in rows
    ]


def _text(checked: DataCheck, limit: int) -> str:
    """The check in lines of text; of each kind of finding the first `limit`."""
    facts = checked.to_dict()
    lines = [checked.source.describe(), _verdict(checked), *_card(checked, facts)]
    for severity in SEVERITIES:
        for kind, row in facts["counts"].items():
            if row["severity"] != severity:
                continue
            ours = [one for one in checked.findings if one.kind == kind]
            lines += ["", f"{severity}: {KINDS[kind].title}: {_amount(row)}; {KINDS[kind].advice}"]
            lines += [f"  {_line(checked, one)}" for one in ours[:limit]]
            if len(ours) > limit:
                lines.append(f"  ... and {len(ours) - limit:,} more")
    return "\n".join(map(one_line, lines))


def _line(checked: DataCheck, one: Finding) -> str:
    """A finding in one line: its images and the detail."""
    names = [checked.source.items[index].id for index in one.images[:OF_A_GROUP]]
    if len(one.images) > OF_A_GROUP:
        names.append(f"{len(one.images) - OF_A_GROUP:,} more")
    where = " = ".join(names) if one.kind in ("conflict", "leak", "leak_drawn", "duplicate") else " ~ ".join(names)
    return one_line(": ".join(filter(None, [where, one.detail])))


def _amounts(checked: DataCheck) -> str:
    """The number of findings of each severity: "2 errors, 1 note"."""
    counts = {severity: sum(one.severity == severity for one in checked.findings) for severity in SEVERITIES}
    facts = [counted(count, name) for name, count in counts.items() if count]
    return ", ".join(facts) or "nothing found"


def _origin(facts: dict) -> str:
    """Where the split comes from."""
    given, parts = facts["parts_given"], [part for part in PART_NAMES if facts["parts"][part]]
    drawn = "as training draws it" + ("" if facts["image"] else " by default; with a spec's shares: --spec SPEC")
    if not given:
        return drawn
    rest = [part for part in parts if part not in given]
    return "as the data says" + (f", {rest[0]} {drawn}" if rest else "")


def _verdict(checked: DataCheck) -> str:
    verdict = "nothing must be fixed" if checked.ok else "fix this before training"
    return f"{verdict}: {_amounts(checked)}" if checked.findings else verdict


def _card(checked: DataCheck, facts: dict) -> list[str]:
    split = ", ".join(f"{name} {facts['parts'][name]:,}" for name in PART_NAMES if facts["parts"][name])
    rows = sorted(facts["classes"], key=lambda row: -row["images"])
    ends = rows if len(rows) <= ALSO else [*rows[: ALSO // 2], None, *rows[-ALSO // 2 :]]
    classes = ", ".join("..." if row is None else f"{row['name']} {row['images']:,}" for row in ends)
    if unreadable := len(checked.source) - facts["readable"]:
        classes += f"; {unreadable_note(unreadable, len(checked.source))}"
    lines = [
        f"split    {split} ({_origin(facts)})",
        f"classes  {classes}",
    ]
    if facts["sizes"]:
        lines.append(f"sizes    {describe_sizes(checked.seen.sizes[checked.seen.readable])}")
    kinds = list(facts["kinds"].items())
    lines.append("formats  " + ", ".join(f"{kind} {count:,}" for kind, count in kinds[:ALSO]))
    if facts["image"]:
        lines.append(f"image    {describe(facts['image'])}")
    per_second = len(checked.source) / max(checked.seconds, 1e-9)
    lines.append(f"checked  in {checked.seconds:.1f} s, {per_second:,.0f} images a second")
    return lines


def _amount(row: dict) -> str:
    if row["images"] == row["findings"]:
        return counted(row["images"], "image")
    if not row["images"]:
        return f"{row['findings']:,}"
    return f"{counted(row['images'], 'image')} in {counted(row['findings'], 'group')}"


class _Thumbnails:
    """Thumbnails as data URIs, until the budget is spent."""

    def __init__(self) -> None:
        self.spent = 0
        self.made: dict[int, str] = {}

    def uri(self, image: PIL.Image.Image) -> str:
        """An image as a data URI; empty when the budget is spent."""
        if self.spent >= BUDGET:
            return ""
        file = io.BytesIO()
        image.save(file, "JPEG", quality=80)
        facts = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
        self.spent += len(facts)
        return facts

    def thumbnail(self, checked: DataCheck, index: int) -> str:
        """An image of the data, small; empty where it cannot be read."""
        if index not in self.made:
            self.made[index] = "" if index in checked.seen.reasons else self._read(checked, index)
        return self.made[index]

    def _read(self, checked: DataCheck, index: int) -> str:
        if self.spent >= BUDGET:
            return ""
        try:
            image = read_shown(checked.source.items[index].image)
        except BadImage:  # it has changed since it was read
            return ""
        image.thumbnail((THUMB, THUMB))
        return self.uri(image)


def _page(checked: DataCheck) -> str:
    """The page."""
    images = _Thumbnails()
    kinds = [_kind(checked, name, row, images) for name, row in checked.counts().items()]
    facts = checked.to_dict()
    sheet = [
        {
            "name": checked.source.items[one.place].id,
            "caption": one.caption,
            "before": images.uri(one.before),
            "after": images.uri(one.after),
        }
        for one in checked.show()
        if images.spent < BUDGET
    ]
    return _template().render(
        facts=facts,
        described=checked.source.describe(),
        kinds=kinds,
        sizes=describe_sizes(checked.seen.sizes[checked.seen.readable]),
        split=_origin(facts),
        amounts=_amounts(checked),
        framed=describe(facts["image"]) if facts["image"] else "",
        sheet=sheet,
        most_classes=CLASSES,
    )


@cache
def _template() -> Any:
    """Returns the compiled template."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def _kind(checked: DataCheck, name: str, row: dict[str, int], images: _Thumbnails) -> dict[str, Any]:
    ours = [one for one in checked.findings if one.kind == name]
    return {
        "name": name,
        **KINDS[name]._asdict(),
        **row,
        "shown": [_shown(checked, one, images) for one in ours[:SHOWN]],
        "rest": [_line(checked, one) for one in ours[SHOWN : SHOWN + LISTED]],
        "unlisted": max(0, len(ours) - SHOWN - LISTED),
    }


def _shown(checked: DataCheck, one: Finding, images: _Thumbnails) -> dict[str, Any]:
    rows = [
        {
            "name": checked.source.items[index].id,
            "part": PART_NAMES[checked.parts[index]] if checked.parts[index] >= 0 else "",
            "data": images.thumbnail(checked, index),
        }
        for index in one.images[:OF_A_GROUP]
    ]
    more = len(one.images) - len(rows)
    return {"images": rows, "detail": "; ".join(filter(None, [one.detail, f"and {more} more" if more > 0 else ""]))}


FOLDS = 5
LANDMARKS = 600
MOST = 20_000
"""Images that the regression is trained on, at most; beyond that a part of each fold is drawn."""


def out_of_fold(source: Source, seen: Survey, groups: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of images by a classifier that was trained without them.

    groups: the same images; of each the first is asked alone, lest a copy is known by heart.
    Returns the indices of the images asked, (M,), and (M, number of classes). Classes with fewer than five images
    are left out. Raises CallError where the task is multilabel.
    """
    from sklearn.model_selection import StratifiedKFold

    if source.task == "multilabel":
        raise CallError("wrong labels are found by thumbnails for images with one label; this data is multilabel")
    asked = seen.readable
    for group in groups:
        asked[list(group[1:])] = False
    labels = source.label_ids()
    enough = np.bincount(labels[asked], minlength=len(source.classes)) >= FOLDS
    indices = np.flatnonzero(asked & enough[labels])
    if enough.sum() < 2:
        return indices[:0], np.empty((0, len(source.classes)))
    features = seen.thumbs[indices].reshape(len(indices), -1).astype(np.float32) / 255
    probabilities = np.zeros((len(indices), len(source.classes)))
    drawn = np.random.default_rng(0)
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(features, labels[indices]):
        if len(train) > MOST:
            train = drawn.choice(train, MOST, replace=False)
        model = _classifier(len(train)).fit(features[train], labels[indices[train]])
        # In slices, so that the kernel map of many images does not stand in memory at once.
        for part in np.array_split(test, -(-len(test) // 8192)):
            probabilities[np.ix_(part, model.classes_)] = model.predict_proba(features[part])
    return indices, probabilities if source.task == "multiclass" else probabilities[:, 1:]


def _classifier(count: int):  # type: ignore[no-untyped-def]
    from sklearn.kernel_approximation import Nystroem
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # 0.01: the width at which pixels of 0 to 1 of 16 x 16 x 3 differ, about 1 / their summed variance.
    kernel = Nystroem(gamma=0.01, n_components=min(LANDMARKS, count), random_state=0)
    return make_pipeline(kernel, StandardScaler(), LogisticRegression(C=0.03, max_iter=300))
