"""What a report says of trust: unknown images, prediction sets, abstention, corrupted images, and a map of the data."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from kerasimg.data.decode import decode
from kerasimg.data.image_files import BadImage
from kerasimg.data.items import evenly_spaced
from kerasimg.errors import KerasimgError, counted
from kerasimg.evaluation.calibrate import calibration_verdict
from kerasimg.evaluation.conformal import are_known, class_columns
from kerasimg.evaluation.embed import MAPPED
from kerasimg.evaluation.label_errors import find_label_errors
from kerasimg.evaluation.prediction_sets import errors_among, risk_coverage
from kerasimg.evaluation.predictions import Predictions
from kerasimg.evaluation.shift import broken_promise
from kerasimg.files import read_json
from kerasimg.models.classifier import Classifier
from kerasimg.models.keras_file import Answer
from kerasimg.reporting import charts as drawing
from kerasimg.reporting.images import Album, thumbnail
from kerasimg.run_folder import RunFolder
from kerasimg.spec.document import Task
from kerasimg.staleness import ModelIdentity, change

LEAST_MAPPED = 20
"""Fewest images for a map."""
SHOWN = 8
"""Images that are shown of each kind that the map marks."""
COLOURS = 10
"""Colours of classes in the map; more classes share them."""
CURVE = 101
"""Points of the risk-coverage curve."""


def trust_sections(
    files: RunFolder,
    predictions: Predictions | None,
    scores: Mapping[str, Any] | None,
    task: Task,
    classifier: Classifier | None,
    album: Album,
    model: ModelIdentity | None,
    answer: Answer | None,
) -> dict[str, Any]:
    """Returns the content of the sections; None for each that the run has nothing for.

    answer: as for `write_report`.
    """
    robustness = _current(files.evaluation.robustness_file, model)
    known = _current(files.known_file, model)
    if known and known.get("parts"):
        test = {**next(iter(known["parts"].values())), "share": known["rule"]["share"], "expected": known["expected"]}
        known = {**known, "advice": broken_promise(test, known["chosen_on"]["n"], files.path)}
    calibration = _current(files.calibration_file, model)
    return {
        "calibration": calibration,
        "verdict": calibration_verdict(scores, calibration) if scores and "calibration_error" in scores else None,
        "known": known,
        "sets": _current(files.sets_file, model),
        "abstention": None if predictions is None or task == "multilabel" else _abstention(predictions),
        "robustness": None if robustness is None else {**robustness, "drawing": _robustness_chart(robustness)},
        "data_map": _data_map(predictions, classifier, album, answer),
    }


def _current(path: Any, model: ModelIdentity | None) -> dict[str, Any] | None:
    """Returns the content of a file of the run; None if there is none, it is damaged, or is of another model."""
    try:
        content = read_json(path) if path.is_file() else None
    except (KerasimgError, OSError):
        return None
    return content if isinstance(content, dict) and change(content.get("model"), model) is None else None


def _abstention(predictions: Predictions) -> dict[str, Any]:
    """The error if only the most confident images are answered."""
    p, truth = class_columns(predictions.probabilities), np.asarray(predictions.truth).reshape(-1).astype(int)
    wrong = errors_among(p.argmax(axis=1) != truth, p.max(axis=1))
    counts = np.unique(np.linspace(1, len(truth), CURVE).round().astype(int))
    points = [(count / len(truth), float(wrong[count - 1] / count)) for count in counts.tolist()]
    rows = risk_coverage(truth, p)
    most = max(error for _, error in points) or 0.01
    return {
        "rows": rows,
        "drawing": drawing.chart(
            "Risk and coverage",
            "; ".join(f"{row['answered']:.0%} answered: error {row['error']:.1%}" for row in rows),
            [drawing.Line("error", "first", points)],
            drawing.Axis("share that is answered", 0, 1, drawing.ticks(0, 1)),
            drawing.Axis("error", 0, most, drawing.ticks(0, most)),
        ),
    }


def _robustness_chart(content: Mapping[str, Any]) -> Markup:
    clean = content["clean"]["accuracy"]
    lines = [
        drawing.Line(name, "faint", [(0, clean), *((row["severity"], row["accuracy"]) for row in rows)])
        for name, rows in content["rows"].items()
    ]
    mean = [clean, *content["by_severity"]]
    return drawing.chart(
        "Accuracy on corrupted images",
        "Mean over corruptions: " + "; ".join(f"severity {k} {value:.1%}" for k, value in enumerate(mean)),
        [*lines, drawing.Line("mean", "first", list(enumerate(mean)))],
        drawing.Axis("severity", 0, 5, [0, 1, 2, 3, 4, 5]),
        drawing.Axis("accuracy", 0, 1, drawing.ticks(0, 1)),
    )


def _data_map(
    predictions: Predictions | None, classifier: Classifier | None, album: Album, answer: Answer | None
) -> dict[str, Any] | None:
    """The images of the test split by their features, in two dimensions; None where too few can be had."""
    if predictions is None or classifier is None:
        return None
    if predictions.truth.ndim > 1 and predictions.truth.shape[1] > 1:
        return None
    chosen = evenly_spaced(len(predictions.ids), MAPPED)
    if len(chosen) < LEAST_MAPPED:
        return None
    found = album.find(predictions.ids[place] for place in chosen)
    places = [place for place in chosen.tolist() if found.get(predictions.ids[place]) is not None]
    if answer is not None and answer.features is not None and len(answer.features) == len(chosen):
        features: np.ndarray | None = answer.features[np.isin(chosen, places)]
    else:
        places, features = _features(predictions, classifier, found, places)
    if features is None or len(places) < LEAST_MAPPED:
        return None
    points, how = in_two_dimensions(features)
    p_values = None if classifier.known is None else classifier.p_values(features)
    outside = (
        np.zeros(len(places), bool)
        if p_values is None or classifier.known is None
        else ~are_known(p_values, classifier.known.rule.share)
    )
    ids = [predictions.ids[place] for place in places]
    rows = find_label_errors(
        predictions.ids,
        predictions.truth,
        predictions.probabilities,
        predictions.classes,
        "binary" if predictions.probabilities.shape[-1] == 1 or predictions.probabilities.ndim == 1 else "multiclass",
    )
    suspect = {row["file"]: row for row in rows}
    to_check = [(name, f"{row['given']}, or {row['suggested']}?") for name, row in suspect.items() if name in ids]
    truth = np.asarray(predictions.truth).reshape(-1).astype(int)[places]
    order = np.argsort(np.zeros(len(ids)) if p_values is None else p_values, kind="stable")
    outliers = [int(k) for k in order if outside[k]]
    return {
        "how": how,
        "n": len(places),
        "unknown": len(outliers),
        "suspect": len(to_check),
        "classes": list(predictions.classes)[:COLOURS],
        "more": max(0, len(predictions.classes) - COLOURS),
        "drawing": _scatter(points, truth, outside, [name in suspect for name in ids], ids, predictions.classes),
        "outliers": _thumbnails(album, found, [(ids[k], predictions.classes[truth[k]]) for k in outliers[:SHOWN]]),
        "suspects": _thumbnails(album, found, to_check[:SHOWN]),
    }


def _features(
    predictions: Predictions, classifier: Classifier, found: Mapping[str, Any], places: Sequence[int]
) -> tuple[list[int], np.ndarray | None]:
    """The places of the images that can be read, and their features; None where the model has none."""
    readable, pixels = [], []
    for place in places:
        with contextlib.suppress(BadImage, OSError):
            pixels.append(decode(found[predictions.ids[place]], classifier.spec.image))
            readable.append(place)
    return readable, classifier.values(np.stack(pixels).astype(np.float32)).features if pixels else None


def _thumbnails(album: Album, found: Mapping[str, Any], named: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    opened = [(name, text, album.read(found[name], name)) for name, text in named]
    return [
        {"name": name, "text": text, "image": thumbnail(image, 96)} for name, text, image in opened if image is not None
    ]


def in_two_dimensions(features: np.ndarray) -> tuple[np.ndarray, str]:
    """Returns features (N, d) in two dimensions, (N, 2), and how: by UMAP if it is installed, else by PCA."""
    centred = features - features.mean(axis=0)
    if find_spec("umap") is not None:
        umap: Any = import_module("umap")

        return np.asarray(umap.UMAP(random_state=0).fit_transform(features)), "UMAP"
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    two = (left * values)[:, :2]
    points = np.pad(two, ((0, 0), (0, 2 - two.shape[1])))
    total = float(np.square(values).sum()) or 1.0
    return points, f"PCA; the two directions hold {100 * np.square(values[:2]).sum() / total:.0f} % of the variance"


def _scatter(
    points: np.ndarray,
    truth: np.ndarray,
    outside: np.ndarray,
    suspect: Sequence[bool],
    ids: Sequence[str],
    classes: Sequence[str],
) -> Markup:
    width, height, edge = 720, 460, 14
    low, high = points.min(axis=0), points.max(axis=0)
    spread = np.where(high > low, high - low, 1)
    x, y = ((points - low) / spread * [width - 2 * edge, height - 2 * edge] + edge).T
    parts = []
    # Marked images are drawn last, above the others.
    for k in sorted(range(len(ids)), key=lambda k: (bool(outside[k]) + bool(suspect[k]), k)):
        at = f'cx="{x[k]:.1f}" cy="{height - y[k]:.1f}"'
        notes = [classes[truth[k]], *["unlike the training images"] * bool(outside[k]), *["label?"] * bool(suspect[k])]
        title = f"<title>{escape(ids[k])}: {escape(', '.join(notes))}</title>"
        if outside[k]:
            parts.append(f'<circle class="outlier" {at} r="7"/>')
        if suspect[k]:
            parts.append(
                f'<rect class="suspect" x="{x[k] - 6:.1f}" y="{height - y[k] - 6:.1f}" width="12" height="12"/>'
            )
        parts.append(f'<g>{title}<circle class="c{truth[k] % COLOURS}" {at} r="3.2"/></g>')
    unlike = f"{int(outside.sum())} unlike the training images, {sum(suspect)} with a suspect label"
    about = f"{counted(len(ids), 'image')}; {unlike}."
    return drawing.svg("Map of the data", about, width, height, parts)
