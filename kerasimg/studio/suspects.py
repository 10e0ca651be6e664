"""What `data check`, `run label-errors` and `predict` suspect: groups of images to decide on, the most severe first."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kerasimg.data.audit.findings import KINDS
from kerasimg.errors import CallError
from kerasimg.studio.jobs import Job
from kerasimg.studio.library import LEFT_OUT, Library

SHOWN = 60
"""Groups of a kind that the page gets at once; the next ones follow when these are decided."""
IN_GROUP = 12
FINE = "fine:{}"
"""The key of the decision that a suspicion is unfounded, on the first image of its group."""
BY_RUN, FOREIGN = "label_error", "unknown"


def list_suspects(library: Library, jobs: list[Job]) -> dict[str, Any]:
    """The open suspicions of the last check and of the last search for label errors.

    Args:
        library: the images.
        jobs: ended jobs with results.

    Returns:
        {"groups": [{kind, severity, title, advice, detail, suggested, images}], "counts": {kind: open}}.
    """
    counts: dict[str, int] = {}
    groups = []
    with library.lock:
        for group in _groups(library, jobs):
            if _is_decided(library, group):
                continue
            counts[group["kind"]] = counts.get(group["kind"], 0) + 1
            if counts[group["kind"]] <= SHOWN:
                rows = library.rows(image["number"] for image in group["images"][:IN_GROUP])
                groups.append({**group, "images": rows, "more": max(0, len(group["images"]) - IN_GROUP)})
    order = [BY_RUN, FOREIGN, *KINDS]
    groups.sort(key=lambda group: (_rank(group["severity"]), order.index(group["kind"])))
    return {"groups": groups, "counts": counts}


def mark_fine(library: Library, kind: str, number: int) -> None:
    """Store that a suspicion is unfounded; `undo` takes it back."""
    if kind not in (*KINDS, BY_RUN, FOREIGN):
        raise CallError(f"no kind of suspicion '{kind[:40]}'")
    library.mark([library.paths[number]], FINE.format(kind), True)


def _groups(library: Library, jobs: list[Job]) -> Iterator[dict[str, Any]]:
    for job in jobs:
        yield from SOURCES[job.kind](library, job)


def _of_check(library: Library, job: Job) -> Iterator[dict[str, Any]]:
    for finding in job.result()["findings"]:
        images = [
            {"number": number, "given": (image["labels"] or [None])[0]}
            for image in finding["images"]
            if (number := library.number_of(image["file"])) is not None
        ]
        if not images:  # of a class, or of the whole
            continue
        kind = KINDS[finding["kind"]]
        yield {
            "kind": finding["kind"],
            "severity": kind.severity,
            "title": kind.title,
            "advice": kind.advice,
            "detail": finding["detail"],
            "suggested": finding.get("suggested"),
            "images": images,
        }


def _of_label_errors(library: Library, job: Job) -> Iterator[dict[str, Any]]:
    for row in job.result()["rows"]:
        number = library.number_of(row["file"])
        if number is not None:
            sure = f"labelled '{row['given']}' ({row['p_given']:.2f}), looks like '{row['suggested']}'"
            yield {
                "kind": BY_RUN,
                "severity": "warning",
                "title": "the label may be wrong, by the trained model",
                "advice": "look at them",
                "detail": f"{sure} ({row['p_suggested']:.2f})",
                "suggested": row["suggested"],
                "images": [{"number": number, "given": row["given"]}],
            }


def _of_predictions(library: Library, job: Job) -> Iterator[dict[str, Any]]:
    rows = []
    with Path(job.arguments[-1]).open(encoding="utf-8") as file:
        for line in file:
            if '"known": false' in line:  # few of many lines
                row = json.loads(line)
                number = library.number_of(os.path.relpath(row["file"], library.folder).replace(os.sep, "/"))
                if row["known"] is False and number is not None and library.labels[number] != LEFT_OUT:
                    rows.append((row["p_value"], row["confidence"], number))
    for p_value, _, number in sorted(rows):  # p-values are equal below the least usual held-out image
        yield {
            "kind": FOREIGN,
            "severity": "warning",
            "title": "unlike the images that the model was trained on",
            "advice": "look at them",
            "detail": f"{p_value:.1%} of images like those that it was trained on are as unlike them",
            "suggested": None,
            "images": [{"number": number, "given": library.labels[number]}],
        }


SOURCES: dict[str, Callable[[Library, Job], Iterator[dict[str, Any]]]] = {
    "check": _of_check,
    "label errors": _of_label_errors,
    "unknown": _of_predictions,
}
"""Kind of job -> the groups of images in its result."""


def _is_decided(library: Library, group: dict[str, Any]) -> bool:
    """Whether it was called unfounded, or labels have changed so that it no longer holds."""
    numbers = [image["number"] for image in group["images"]]
    if library.journal.value(library.paths[numbers[0]], FINE.format(group["kind"]), False):
        return True
    left = [image for image in group["images"] if library.labels[image["number"]] != LEFT_OUT]
    if len(numbers) > 1:
        together = "conflict" in group["kind"] and len({library.labels[image["number"]] for image in left}) < 2
        return len(left) < 2 or together
    if group["suggested"] is not None:
        return any(library.labels[image["number"]] != image["given"] for image in group["images"])
    return not left


def _rank(severity: str) -> int:
    return ("error", "warning", "note").index(severity)
