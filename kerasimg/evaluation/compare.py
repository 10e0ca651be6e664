"""`kerasimg.compare`: tests whether one run is better than another on the same images.

Each run is compared with the first. Differences of metrics get intervals by the paired bootstrap: both runs are scored
on the same resamples. McNemar's exact test (McNemar 1947) asks whether one run is right more often; it looks only at
the images that one run gets right and the other does not. Where images belong to groups (`fit.group`), groups
are drawn, and the test flips the sign of whole groups, since images of one group are no independent evidence.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kerasimg.data.groups import known_group_numbers
from kerasimg.data.sources import Data
from kerasimg.data.split import fingerprint
from kerasimg.errors import CallError, listed
from kerasimg.evaluation.evaluate import choose_images, predicted
from kerasimg.evaluation.intervals import LEVEL, RESAMPLES, SEED, interval, resampled
from kerasimg.evaluation.predictions import THRESHOLD, decide, read_predictions
from kerasimg.evaluation.scores import scores
from kerasimg.files import write_json
from kerasimg.models.classifier import Classifier, ClassifierReference
from kerasimg.results import Comparison
from kerasimg.run_folder import DATA, EVALUATION, METRICS, PREDICTIONS, DataRecord, RunFolder
from kerasimg.spec.document import Task
from kerasimg.staleness import warn_of_stale

FLIPS = 20_000
"""Random signs of `sign_flips`, which end its p value at 1 / 20,001."""


class Answers(NamedTuple):
    """The predictions of one run, with the labels of its images."""

    name: str
    task: Task
    classes: list[str]
    keys: list[str]
    """SHA-256 of each image, with a number where there are several of one."""
    ids: list[str]
    truth: np.ndarray
    probabilities: np.ndarray
    thresholds: list[float] | None
    used: frozenset[str]
    """SHA-256 of the images of the training and validation splits."""
    groups: list[str] | None
    """The group of each image (`fit.group`); None without groups."""

    def only(self, rows: Sequence[int], classes: list[str]) -> Answers:
        """Some rows, with the classes in another order."""
        order = [self.classes.index(name) for name in classes]
        truth, p, thresholds = self.truth[list(rows)], self.probabilities[list(rows)], self.thresholds
        if self.task == "multilabel":
            truth, p = truth[:, order], p[:, order]
            thresholds = None if thresholds is None else [thresholds[place] for place in order]
        elif self.classes != classes:
            truth = np.argsort(order)[truth]
            p = _reordered(p, order) if self.task == "multiclass" else _of_the_first(p)
            if self.task == "binary" and thresholds not in (None, [THRESHOLD]):
                raise CallError(f"'{self.name}' was given a threshold for another class than the first run; undo it")
        keys, ids = [self.keys[row] for row in rows], [self.ids[row] for row in rows]
        groups = None if self.groups is None else [self.groups[row] for row in rows]
        changed = self._replace(classes=classes, keys=keys, ids=ids, truth=truth, probabilities=p)
        return changed._replace(thresholds=thresholds, groups=groups)


def compare(
    *runs: ClassifierReference,
    data: Data | None = None,
    part: str | None = None,
    out: str | os.PathLike[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Comparison:
    """Compare two or more runs on the same images, each with the first.

    Args:
        *runs: runs or their folders.
        data: labelled images that all runs predict; None: the test images that all runs have stored predictions for,
            matched by SHA-256.
        part: the part of `data`.
        out: a file for the result as JSON.
        resamples: bootstrap resamples for the intervals.
        seed: of the bootstrap.

    Returns:
        A `Comparison`: figures, differences with 95 % intervals, McNemar's test, and the images that changed.

    Raises:
        CallError: if the runs have no image or no classes in common.

    Example:
        >>> kerasimg.compare("runs/photos-1", "runs/photos-2").n
        6
    """
    if len(runs) < 2:
        raise CallError("compare: name two runs or more")
    if part is not None and data is None:
        raise CallError("part: without data the runs are compared on what they held out; name the data too")
    every = [_asked(run, data, part) if data is not None else _kept(run) for run in runs]
    first, *_ = every
    for other in every[1:]:
        if (other.task, sorted(other.classes)) != (first.task, sorted(first.classes)):
            raise CallError(
                f"'{other.name}' and '{first.name}' answer different questions: {other.task} of "
                f"{listed(sorted(other.classes))}, and {first.task} of {listed(sorted(first.classes))}"
            )
    same, differs = _in_common(every)
    evaluated = [scores(one.truth, one.probabilities, one.classes, one.task, one.thresholds) for one in same]
    names = next((one.groups for one in same if one.groups is not None), None)
    groups = None if names is None else np.unique(names, return_inverse=True)[1]
    drawn = [
        resampled(one.truth, one.probabilities, one.task, one.thresholds, groups=groups, resamples=resamples, seed=seed)
        for one in same
    ]
    content = {
        "runs": [one.name for one in same],
        "n": len(same[0].ids),
        "differs": differs,
        "figures": {name: [found[name] for found in evaluated] for name in drawn[0]},
        "intervals_by": {
            **{"level": LEVEL, "resamples": resamples, "seed": seed, "method": "paired percentile"},
            **({} if groups is None else {"groups": len(np.unique(groups))}),
        },
        "against_first": [
            {
                "run": same[place].name,
                "differences": _differences(evaluated[0], evaluated[place], drawn[0], drawn[place]),
                **_changes(same[0], same[place], groups, seed),
            }
            for place in range(1, len(same))
        ],
    }
    if out is not None:
        write_json(Path(out), content)
    return Comparison.of(content)


def _reordered(p: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """(N, K) probabilities with the classes in another order, of which the same one is decided.

    Of equal probabilities the first class is decided, so the one that was first gets the next larger number.
    """
    rows, decided = np.arange(len(p)), p.argmax(axis=1)
    ahead = p.copy()
    ahead[rows, decided] = np.nextafter(p[rows, decided], p.dtype.type(2))
    return np.where((p == p.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True) > 1, ahead, p)[:, order]


def _of_the_first(p: np.ndarray) -> np.ndarray:
    """The probability of the first of two classes, from that of the second; at one half the first is decided."""
    return np.where(p == THRESHOLD, np.nextafter(p, p.dtype.type(1)), 1 - p)


def mcnemar(only_first: int, only_second: int) -> float:
    """The p value of McNemar's exact test, for the numbers of images that only one of two models gets right."""
    from scipy.stats import binomtest  # 0.3 s, in every command

    changed = only_first + only_second
    return float(binomtest(only_first, changed).pvalue) if changed else 1.0


def sign_flips(differences: np.ndarray, seed: int = SEED) -> float:
    """How likely chance alone gives so uneven a sum, or more so, when each group could as well favour the other model.

    The permutation test of paired groups: McNemar's test where each group is one image. All signs are tried for up to
    16 groups that differ, else `FLIPS` at random.

    differences: (G,) integers, for each group how many more of its images the one model gets right.
    """
    changed = differences[differences != 0]
    if not len(changed):
        return 1.0
    if len(changed) <= 16:
        signs = 1 - 2 * ((np.arange(2 ** len(changed))[:, np.newaxis] >> np.arange(len(changed))) & 1)
        return float((np.abs(signs @ changed) >= abs(changed.sum())).mean())
    signs = np.random.default_rng(seed).choice([-1, 1], (FLIPS, len(changed)))
    return float((1 + (np.abs(signs @ changed) >= abs(changed.sum())).sum()) / (1 + FLIPS))


def _kept(run: ClassifierReference) -> Answers:
    """The stored predictions of a run on its test split."""
    files = RunFolder.of(run)
    file = files.evaluation.predictions_file
    if not file.is_file():
        place = f"{EVALUATION}/{PREDICTIONS}"
        raise CallError(
            files.interrupted or f"'{files.path}' holds no {place}; name the folder of a run, or name the data"
        )
    warn_of_stale(files.path)
    found, record = files.required(f"{EVALUATION}/{METRICS}"), files.required(DATA)
    said = read_predictions(file, found["task"])
    hashes = {image["id"]: image["sha256"] for image in record["images"]}
    groups = {image["id"]: image["group"] for image in record["images"] if "group" in image}
    thresholds = list(found["thresholds"].values()) if "thresholds" in found else None
    return Answers(
        str(files.path),
        found["task"],
        said.classes,
        _numbered([hashes.get(name, name) for name in said.ids]),
        said.ids,
        said.truth,
        said.probabilities,
        thresholds,
        _used(record, found["part"]),
        [groups.get(name, name) for name in said.ids] if groups else None,
    )


def _asked(run: ClassifierReference, data: Data | None, part: str | None) -> Answers:
    """The predictions of a run on other images."""
    classifier = Classifier.open(run)
    asked = choose_images(classifier, data, part)
    items = [asked.source.items[index] for index in asked.indices]
    folder = classifier.folder
    record = RunFolder(folder).data() if folder else None
    numbers = known_group_numbers(asked.source, classifier.spec.fit.group)
    return Answers(
        str(folder or run),
        classifier.spec.task,
        list(classifier.classes),
        _numbered([fingerprint(item) for item in items]),
        [item.id for item in items],
        asked.source.label_ids(asked.indices),
        predicted(classifier, asked.source, asked.indices),
        None if classifier.thresholds is None else list(classifier.thresholds),
        _used(record, "test"),
        None if numbers is None else [str(numbers[index]) for index in asked.indices],
    )


def _used(record: DataRecord | None, evaluated_on: str) -> frozenset[str]:
    images = record["images"] if record else []
    return frozenset(image["sha256"] for image in images if image["part"] not in ("test", evaluated_on))


def _numbered(hashes: Sequence[str]) -> list[str]:
    """Each hash with a number from the second of its kind on, so that all differ."""
    seen: Counter[str] = Counter()
    keys = []
    for one in hashes:
        keys.append(f"{one}:{seen[one]}" if seen[one] else one)
        seen[one] += 1
    return keys


def _in_common(every: Sequence[Answers]) -> tuple[list[Answers], dict[str, Any]]:
    """The answers on the images that all have, under one order of classes, and what sets the runs apart."""
    places = [{key: row for row, key in enumerate(one.keys)} for one in every]
    common = [key for key in every[0].keys if all(key in one for one in places)]
    if not common:
        raise CallError("compare: the runs have no test image in common (by content); name images with --data")
    aligned = [
        one.only([place[key] for key in common], every[0].classes) for one, place in zip(every, places, strict=True)
    ]
    agree = np.ones(len(common), dtype=bool)
    for one in aligned[1:]:
        agree &= (one.truth == aligned[0].truth).reshape(len(common), -1).all(axis=1)
    if not agree.any():
        raise CallError("compare: the runs give every image they have in common a different label")
    rows = np.flatnonzero(agree).tolist()
    differs = {
        "only_in": {one.name: len(one.ids) - len(common) for one in every},
        "labelled_otherwise": [aligned[0].ids[row] for row in np.flatnonzero(~agree)],
        "trained_on": {one.name: sum(key.split(":")[0] in one.used for key in common) for one in every},
    }
    return [one.only(rows, one.classes) for one in aligned], differs


def _differences(
    first: dict[str, Any], this: dict[str, Any], first_draws: dict[str, np.ndarray], draws: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Figure -> this less the first, with the interval of that difference."""
    return {
        name: {
            "difference": this[name] - first[name],
            "interval": interval(draws[name] - first_draws[name], this[name] - first[name]),
        }
        for name in draws
        if first[name] is not None and this[name] is not None
    }


def _changes(first: Answers, this: Answers, groups: np.ndarray | None, seed: int) -> dict[str, Any]:
    (before, sure_before), (after, sure_after) = (
        decide(one.probabilities, one.task, one.thresholds) for one in (first, this)
    )
    n = len(first.ids)
    was, now = ((said == first.truth).reshape(n, -1).all(axis=1) for said in (before, after))
    other = (before != after).reshape(n, -1).any(axis=1)

    def rows(chosen: np.ndarray) -> list[dict[str, Any]]:
        return [
            {
                "file": this.ids[row],
                "truth": _named(first.truth[row], this.classes),
                "before": _named(before[row], this.classes),
                "after": _named(after[row], this.classes),
                "confidence_before": float(sure_before[row]),
                "confidence_after": float(sure_after[row]),
            }
            for row in sorted(np.flatnonzero(chosen), key=lambda row: -float(sure_after[row]))
        ]

    only_first, only_this = int((was & ~now).sum()), int((now & ~was).sum())
    if groups is None:
        p = mcnemar(only_first, only_this)
    else:
        p = sign_flips(np.bincount(groups, now.astype(int) - was.astype(int)).astype(int), seed)
    return {
        "mcnemar": {"only_first": only_first, "only_this": only_this, "p": p},
        "fixed": rows(now & ~was),
        "broken": rows(was & ~now),
        "changed": rows(other & ~was & ~now),
    }


def _named(decided: Any, classes: Sequence[str]) -> str | list[str]:
    if np.ndim(decided) == 0:
        return classes[int(decided)]
    return [name for name, held in zip(classes, decided, strict=True) if held]
