"""`kerasimg.evaluate`: computes the metrics of a classifier on labelled images, also by slice, and stores all of it."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from kerasimg import log
from kerasimg.data.groups import known_group_numbers
from kerasimg.data.items import PART_NAMES, PARTS, ManyFaults, Part
from kerasimg.data.pipeline import Targets, batches, own_errors
from kerasimg.data.readable import LEAVE_OUT, OnBadImage, list_others, require_readable
from kerasimg.data.readers.soft_labels import PREFIX
from kerasimg.data.source import Source
from kerasimg.data.sources import Data, is_in_memory, open_recorded, open_source
from kerasimg.data.split import content_hashes, count_trained, fingerprint, trained_words
from kerasimg.errors import CallError, Fault, counted, listed, nearest
from kerasimg.evaluation.intervals import described, intervals
from kerasimg.evaluation.measures import precision_recall_curve, roc_curve
from kerasimg.evaluation.predictions import as_text, decide, write_predictions
from kerasimg.evaluation.scores import drawn_confusion, scores
from kerasimg.evaluation.shift import measure_shift
from kerasimg.figures import confusion_figure, curves_figure, reliability_figure, save_figure
from kerasimg.log import Verbose, warning
from kerasimg.models.classifier import Classifier, ClassifierReference
from kerasimg.models.keras_file import Answer
from kerasimg.results import Evaluation
from kerasimg.run_folder import DataRecord, EvaluationFolder, RunFolder
from kerasimg.spec.document import Task
from kerasimg.staleness import change, warn_of_stale

BATCH_SIZE = 64

TARGETS: dict[str, Targets] = {"multiclass": "sparse", "binary": "binary", "multilabel": "multi_hot"}
"""Task -> the form of the labels; they are not used here, and the pipeline hands them on all the same."""


class Chosen(NamedTuple):
    """Labelled images to evaluate a classifier on."""

    source: Source
    indices: np.ndarray
    part: str


@log.applies_verbose
def evaluate(
    run: ClassifierReference,
    *,
    data: Data | None = None,
    part: str | None = None,
    out: str | os.PathLike[str] | None = None,
    on_bad_image: OnBadImage = "fail",
    verbose: Verbose = 1,
) -> Evaluation:
    """Compute the metrics of a classifier on labelled images, with 95 % intervals.

    Args:
        run: a `Run`, its folder, or a `model.keras` or `.kerasimg` file.
        data: labelled images, as for `kerasimg.train`; their classes are matched to the model's by name. None: the
            images of the run.
        part: "train", "validation", "test" or "all". None: the test part, where there is one, else all; of the run's
            own images those that it held out. Of data without parts: the images of that part of the run, which are
            found by their content, as where the run's images have moved.
        out: a folder for metrics.json and predictions.csv. None: the run's, for the images that it held out.
        on_bad_image: "fail" reports every unreadable image; "skip" leaves them out.
        verbose: 0, 1 or 2.

    Returns:
        An `Evaluation`: `figures`, `intervals`, `per_class`; `result["confusion"]` reads any entry of metrics.json.

    Raises:
        DataError: if an image is missing, unreadable or has changed since the training.
        CallError: if there is no such part.

    Example:
        >>> result = kerasimg.evaluate("runs/photos-1", data="photos/", verbose=0)
        >>> result.n, 0 <= result.accuracy <= 1
        (24, True)
    """
    classifier = Classifier.open(run)
    asked = choose_images(classifier, data, part, on_bad_image)
    own = data is None
    seen = 0 if own and asked.part not in ("validation", "test") else trained_on(classifier, asked, own=own)
    if data is not None and classifier.folder is None:
        log.once("a model file or a pack has no list of the images that it was trained on: use others than those")
    if out is None and data is None and part is None and classifier.folder is not None:
        out = RunFolder(classifier.folder).evaluation.path
    folder = None if out is None else Path(out)
    content = evaluate_images(classifier, asked.source, asked.indices, folder, part=asked.part, seen=seen)
    if classifier.folder is not None:
        warn_of_stale(classifier.folder)
    return Evaluation.of(content)


def evaluate_images(
    classifier: Classifier,
    source: Source,
    indices: Sequence[int] | np.ndarray,
    out: Path | None,
    *,
    part: str,
    seen: int = 0,
    answer: Answer | None = None,
) -> dict[str, Any]:
    """Computes the metrics on the images at `indices`; writes them and every prediction to `out`, if given.

    seen: number of these images that the model was trained on; `warnings` of the result says so, and which classes none
    of them has.
    answer: what the classifier answered for these images; None: it is asked.
    """
    p, p_values, share, _ = answer or answered(classifier, source, indices)
    truth, extras = source.label_ids(indices), extra_columns(source, indices)
    every = known_group_numbers(source, classifier.spec.fit.group)
    groups = None if every is None else every[np.asarray(indices, np.int64)]
    classes, task, thresholds = classifier.classes, classifier.spec.task, classifier.thresholds
    notes = [*([trained_words(seen, len(truth))] if seen else []), *_missing_classes(truth, classes, task)]
    for note in notes:
        warning(note)
    found = {
        "data": source.where,
        "part": part,
        **({"warnings": notes} if notes else {}),
        **({"trained_on": seen} if seen else {}),
        "model": classifier.identity(),
        "temperature": classifier.temperature,
        **scores_with_intervals(truth, p, classes, task, thresholds, groups),
        **(slices(extras, truth, p, classes, task, thresholds, groups) if extras else {}),
    }
    if p_values is not None and classifier.known is not None:
        decision = decide(p, task, thresholds)[0].reshape(len(truth), -1)
        correct = decision == np.asarray(truth).reshape(len(truth), -1)
        held = len(classifier.known.arrays["scores"])
        reference = _own_known(classifier, source)
        found["known"] = measure_shift(p_values, correct.all(axis=1), share, held, reference)
    if out is not None:
        write_scores(out, found, curves(truth, p, found, task))
        ids = [source.items[index].id for index in indices]
        write_predictions(EvaluationFolder(out).predictions_file, ids, truth, p, classes, task, thresholds, extras)
    return found


def _own_known(classifier: Classifier, source: Source) -> Mapping[str, Any] | None:
    """How the run's held-out images compare with its training images, where others are evaluated."""
    if classifier.folder is None:
        return None
    files = RunFolder(classifier.folder)
    record, metrics = files.data(), files.evaluation.metrics()
    if record is None or metrics is None or record["where"] == source.where:
        return None
    same = change(metrics.get("model"), classifier.identity()) is None
    return metrics.get("known") if same else None


def _missing_classes(truth: np.ndarray, classes: Sequence[str], task: Task) -> list[str]:
    """A warning if classes have no images, so that no metric covers them."""
    labels = np.asarray(truth).astype(int)
    held = labels.sum(axis=0) if task == "multilabel" else np.bincount(labels.reshape(-1), minlength=len(classes))
    missing = [name for name, count in zip(classes, held, strict=True) if not count]
    if not missing:
        return []
    which = (
        f"class {missing[0]} has" if len(missing) == 1 else f"{counted(len(missing), 'class')} ({listed(missing)}) have"
    )
    return [
        f"{which} no image among the {counted(len(truth), 'evaluated image')}, so how well such images are recognised "
        "is unknown: where such a class is predicted, macro averages count it as 0, and balanced accuracy leaves it "
        "out; evaluate with images of every class"
    ]


def trained_on(classifier: Classifier, asked: Chosen, *, own: bool = False) -> int:
    """Returns how many of these images the model was trained on, compared by hash; 0 if that is not known.

    own: whether they are a whole part of the run's own images, whose hashes it has.
    """
    record = None if classifier.folder is None else RunFolder(classifier.folder).data()
    if record is None:
        return 0
    recorded = (image["sha256"] for image in record["images"] if image["part"] == asked.part)
    return count_trained(record, recorded if own else content_hashes(asked.source, asked.indices))


def warn_of_trained(classifier: Classifier, asked: Chosen, data: Data | None) -> None:
    """Warns if images that a user gave were trained on: a rule that is fitted to their predictions is too sure."""
    if data is not None and (count := trained_on(classifier, asked)):
        warning(trained_words(count, len(asked.indices)))


def scores_with_intervals(
    truth: ArrayLike,
    probabilities: ArrayLike,
    classes: Sequence[str],
    task: Task,
    thresholds: Sequence[float] | None = None,
    groups: np.ndarray | None = None,
) -> dict[str, Any]:
    """The `scores` with `intervals` of the headline metrics and their method (`intervals_by`)."""
    found = scores(truth, probabilities, classes, task, thresholds)
    reach = intervals(found, truth, probabilities, task, thresholds, groups=groups)
    return {**found, "intervals": reach, "intervals_by": described(list(reach), task, groups=groups)}


def predicted(classifier: Classifier, source: Source, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """The probabilities of the images at `indices`, (N, K) float32, as `scores` takes them."""
    with own_errors():
        return classifier.probabilities(image_batches(classifier, source, indices))


def answered(
    classifier: Classifier,
    source: Source,
    indices: Sequence[int] | np.ndarray,
    kept: Sequence[int] | np.ndarray = (),
) -> Answer:
    """As `predicted`, with what else `Classifier.answer` says; kept: places in `indices`."""
    with own_errors():
        return classifier.answer(image_batches(classifier, source, indices), kept)


def image_batches(classifier: Classifier, source: Source, indices: Sequence[int] | np.ndarray, **options: Any) -> Any:
    """The images at `indices` in batches, as the classifier takes them.

    options: of `batches`; None: the exact pixels, as for a prediction.
    """
    settings = {"batch_size": BATCH_SIZE, "targets": TARGETS[classifier.spec.task], "cache": "off", **options}
    return batches(source, indices, classifier.spec.image, **settings)


def choose_images(
    classifier: Classifier,
    data: Data | None,
    part: str | None,
    on_bad_image: OnBadImage | None = None,
    otherwise: Part = "test",
) -> Chosen:
    """The images to evaluate on.

    on_bad_image: None: "fail", of a command that has no such option.  otherwise: the split if none is named.
    """
    if data is None:
        return _own_images(classifier, part, otherwise)
    source = open_source(data, classifier.spec.task, classes=classifier.classes)
    indices, name = _of_moved(classifier, source, part) or _of_part(source, part, otherwise)
    image = classifier.spec.image
    source = require_readable(
        source.only(indices),
        on_bad_image or "fail",
        image=image if image.channels > 3 else None,
        advice=LEAVE_OUT if on_bad_image else list_others(source.where),
    )
    return Chosen(source, np.arange(len(source)), name)


def held_out(classifier: Classifier, fitted: Chosen, data: Data | None) -> Chosen | None:
    """The run's test images, if it has any and the temperature was not fitted on them."""
    if classifier.folder is None or (data is None and fitted.part in ("test", "all")):
        return None
    try:
        return choose_images(classifier, None, "test")
    except CallError:
        return None


def _of_moved(classifier: Classifier, source: Source, part: str | None) -> tuple[np.ndarray, str] | None:
    """The images of a split that the run drew, in another place; None if there are none.

    They are found by name and content, or else by content alone, of equal images as many as the split has.
    """
    record = None if classifier.folder is None else RunFolder(classifier.folder).data()
    if record is None or part in (None, "all") or (source.parts >= 0).any():
        return None
    wanted = _part(part)
    names = {image["id"]: image["sha256"] for image in record["images"] if image["part"] == wanted}
    digests = content_hashes(source, np.arange(len(source)))
    pairs = zip(source.items, digests, strict=True)
    indices = [at for at, (item, digest) in enumerate(pairs) if names.get(item.id) == digest]
    if not indices:
        left = Counter(names.values())
        for at, digest in enumerate(digests):
            if left[digest]:
                left[digest] -= 1
                indices.append(at)
    return (np.array(indices), wanted) if indices else None


def _of_part(source: Source, part: str | None, otherwise: Part) -> tuple[np.ndarray, str]:
    """The images of a part and its name."""
    there = {PART_NAMES[code] for code in np.unique(source.parts) if code >= 0}
    wanted = None if part == "all" else _part(part or otherwise)
    if wanted is None or (part is None and wanted not in there):
        return np.arange(len(source)), "all"
    if wanted not in there:
        names = ", ".join(sorted(there)) or "none"
        raise CallError(f"the data in {source.where} has no {wanted} part (it has: {names})")
    return np.flatnonzero(source.parts == PART_NAMES.index(wanted)), wanted


def _part(name: str) -> Part:
    if name not in tuple(PARTS):
        raise CallError(f"no part '{name}'{nearest(name, PARTS)} (parts: train, validation, test, all)")
    return PARTS[name]


def _own_images(classifier: Classifier, part: str | None, otherwise: Part) -> Chosen:
    record = own_record(classifier)
    parts = {image["part"] for image in record["images"]}
    if part == "all":
        chosen = {image["id"]: image for image in record["images"]}
    else:
        wanted = _part(part) if part else otherwise
        if part is None and wanted == "test" and "test" not in parts:
            wanted = "validation"
        if wanted not in parts:
            content = "held out no images" if part is None and otherwise == "test" else f"has no {wanted} part"
            raise CallError(f"data: the run {content}; name the data")
        chosen = {image["id"]: image for image in record["images"] if image["part"] == wanted}
        part = wanted
    advice = f"name their new place, --data DIR, and --part {part or 'all'} where the command has it"
    source = open_recorded(record["where"], None, classifier.spec.task, advice, classes=classifier.classes)
    indices = np.array([index for index, item in enumerate(source.items) if item.id in chosen], dtype=np.int64)
    missing = sorted(chosen.keys() - {source.items[index].id for index in indices})
    faults = [Fault(record["where"], name, "was used by the run and is no longer there") for name in missing]
    faults += [
        Fault(record["where"], item.id, "is not the file that the run used: its content has changed")
        for item in (source.items[index] for index in indices)
        if fingerprint(item) != chosen[item.id]["sha256"]
    ]
    if faults:
        where = shlex.quote(record["where"])
        advice = (
            f"restore these files, or use those that are left: --data {where}, and --part {part} where the command "
            "has it; or train again"
        )
        raise ManyFaults([*faults, Fault("", "", advice)])
    return Chosen(source, indices, part)


class NotStored(CallError):
    """The images of a run are not stored, and cannot be read again."""


def own_record(classifier: Classifier) -> DataRecord:
    """The data record of a run; CallError where its data cannot be opened again."""
    record = None if classifier.folder is None else RunFolder(classifier.folder).data()
    if record is None:
        raise NotStored("data: a model file does not know its held-out images; name the data, or the run's folder")
    if is_in_memory(record["where"]):
        raise NotStored("data: the run was trained on arrays, which it did not keep; give them again")
    return record


VALUES = 20
"""A column of more values is cut at its quartiles where all of them are numbers, and else left out."""
SMALL = 30
"""A slice of fewer images is marked as small: its figures say little."""


def extra_columns(source: Source, indices: Sequence[int] | np.ndarray) -> dict[str, list[Any]]:
    """The extra columns of a manifest, besides labels and split: column -> a value for each image, or None."""
    extras = [source.items[index].extras for index in indices]
    names = dict.fromkeys(name for extra in extras for name in extra if not name.startswith(PREFIX))
    return {name: [extra.get(name) for extra in extras] for name in names}


def slices(
    extras: Mapping[str, Sequence[Any]],
    truth: ArrayLike,
    probabilities: ArrayLike,
    classes: Sequence[str],
    task: Task,
    thresholds: Sequence[float] | None = None,
    groups: np.ndarray | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """The headline figures and their intervals for each value of each extra column.

    extras: column -> N values.  The rest: as in `scores`.
    Returns `slices`, a list of {column, rows}, a row being {value, n, small, figures, intervals}; and
    `slices_left_out`, a list of {column, values}, of columns with one value or too many.
    """
    truth, p = np.asarray(truth), np.asarray(probabilities)
    content: list[dict[str, Any]] = []
    left_out = []
    for column, values in extras.items():
        texts, order = _groups(values)
        if not 2 <= len(order) <= VALUES:
            left_out.append({"column": column, "values": len(order)})
            continue
        rows = []
        for value in order:
            chosen = np.array([text == value for text in texts])
            within = None if groups is None else groups[chosen]
            rows.append({"value": value, **_row(truth[chosen], p[chosen], classes, task, thresholds, within)})
        content.append({"column": column, "rows": rows})
    return {"slices": content, "slices_left_out": left_out}


def _row(
    truth: np.ndarray,
    p: np.ndarray,
    classes: Sequence[str],
    task: Task,
    thresholds: Sequence[float] | None,
    groups: np.ndarray | None,
) -> dict[str, Any]:
    found = scores(truth, p, classes, task, thresholds)
    reach = intervals(found, truth, p, task, thresholds, groups=groups)
    figures = {name: found[name] for name in reach}
    return {"n": len(truth), "small": len(truth) < SMALL, "figures": figures, "intervals": reach}


def _groups(values: Sequence[Any]) -> tuple[list[str], list[str]]:
    """The slice of each image, and the slices: most images first, or quartiles in ascending order."""
    texts = [as_text(value) for value in values]
    counts = Counter(texts)
    if len(counts) <= VALUES or (numbers := _numbers(texts)) is None:
        return texts, sorted(counts, key=lambda text: (-counts[text], text))
    edges = np.unique(np.nanquantile(numbers, [0, 0.25, 0.5, 0.75, 1]))
    names = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    # A quarter holds its upper edge; the first holds its lower edge as well.
    places = np.clip(np.searchsorted(edges, numbers) - 1, 0, len(names) - 1)
    texts = ["" if np.isnan(number) else names[place] for number, place in zip(numbers, places, strict=True)]
    return texts, [name for name in [*names, ""] if name in texts]


def _numbers(texts: Sequence[str]) -> np.ndarray | None:
    """The texts as finite numbers, NaN for "", where all of them are."""
    try:
        numbers = np.array([float(text) if text else np.nan for text in texts])
    except ValueError:
        return None
    return numbers if np.isfinite([number for number, text in zip(numbers, texts, strict=True) if text]).all() else None


def write_scores(folder: str | PathLike[str], scores: dict[str, Any], curves: dict[str, Any] | None = None) -> None:
    """Write metrics.json and curves.json, and as figures what they hold.

    folder: created if it does not exist.  scores, curves: what the functions of these names return.
    """
    files = EvaluationFolder(Path(folder))
    files.write_metrics(scores)
    if (confusion := drawn_confusion(scores)) is not None:
        save_figure(confusion_figure(confusion, scores["classes"]), files.confusion_figure, fit=True)
    save_figure(reliability_figure(scores["calibration"], scores["calibration_error"]), files.calibration_figure)
    if curves is None:
        return
    files.write_curves(curves)
    if curves["classes"]:
        save_figure(curves_figure(curves), files.curves_figure)


POINTS = 100
"""Largest number of points of a curve."""
CLASSES = 100
"""Largest number of classes with curves: those with the lowest average precision."""


def curves(truth: ArrayLike, probabilities: ArrayLike, found: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """The curves of each class for which they are defined; where the task is binary, of the positive class alone.

    truth, probabilities: as in `scores`.  found: what `scores` returned for them.
    Returns {"classes": {name: {"roc_auc", "average_precision", "roc": {"fpr", "tpr"}, "precision_recall": {"recall",
    "precision"}}}}; the points are scikit-learn's, in its order, the areas those of the whole curves.
    """
    y, p = np.asarray(truth).astype(int), np.asarray(probabilities)
    names: Sequence[str] = found["classes"]
    rows = found["per_class"]
    numbers = {names[1]: 0} if task == "binary" else {name: number for number, name in enumerate(names)}
    defined = [name for name in numbers if rows[name]["roc_auc"] is not None]
    chosen = set(sorted(defined, key=lambda name: rows[name]["average_precision"])[:CLASSES])

    def column(number: int) -> tuple[np.ndarray, np.ndarray]:
        if task == "binary":
            return y.reshape(-1), p.reshape(-1).astype(np.float64)
        return y[:, number] if task == "multilabel" else y == number, p[:, number].astype(np.float64)

    return {"classes": {name: _curves(*column(numbers[name]), rows[name]) for name in defined if name in chosen}}


def _curves(truth: np.ndarray, p: np.ndarray, row: Mapping[str, Any]) -> dict[str, Any]:
    precision, recall = precision_recall_curve(truth, p)
    fpr, tpr = roc_curve(truth, p)
    return {
        "roc_auc": row["roc_auc"],
        "average_precision": row["average_precision"],
        "roc": _thinned(fpr=fpr, tpr=tpr),
        "precision_recall": _thinned(recall=recall, precision=precision),
    }


def _thinned(**axes: np.ndarray) -> dict[str, list[float]]:
    """At most POINTS points, evenly spaced along the drawn line, the first and the last among them."""
    x, y = axes.values()
    way = np.append(0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    chosen = np.unique(np.searchsorted(way, np.linspace(0, way[-1], POINTS - 1)))
    chosen = np.unique(np.append(np.minimum(chosen, len(x) - 1), len(x) - 1))
    return {name: [round(float(value), 6) for value in axis[chosen]] for name, axis in axes.items()}
