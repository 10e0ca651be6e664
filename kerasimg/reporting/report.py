"""`kerasimg.report`: writes a run's report.html, one file to share, and its model card."""

from __future__ import annotations

import functools
import os
import platform
import shlex
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import PIL.Image
from markupsafe import Markup

from kerasimg import log
from kerasimg.catalog import load
from kerasimg.data.image_files import ImageInput
from kerasimg.errors import KerasimgError, counted
from kerasimg.escaping import command
from kerasimg.evaluation import Method
from kerasimg.evaluation.explain import explain_examples
from kerasimg.evaluation.explain_layers import map_layer
from kerasimg.evaluation.predictions import Predictions, read_predictions
from kerasimg.evaluation.scores import drawn_confusion
from kerasimg.files import write_text
from kerasimg.keras_internals import is_functional
from kerasimg.log import warning
from kerasimg.models.classifier import Classifier
from kerasimg.models.keras_file import Answer
from kerasimg.models.split_model import digest
from kerasimg.remembered import circumstances, recall, remember
from kerasimg.reporting import charts as drawing
from kerasimg.reporting.epochs import duration, stage_summaries
from kerasimg.reporting.images import (
    SMALL,
    Album,
    Example,
    counts,
    examples,
    mistakes_and_hits,
    sizes,
    thumbnail,
    unique,
)
from kerasimg.reporting.model_card import model_card
from kerasimg.reporting.trust import trust_sections
from kerasimg.reporting.wording import headline, number, percent, words
from kerasimg.results import epoch_figure
from kerasimg.run_folder import DataRecord, RunFolder, RunReference
from kerasimg.spec.formatting import dumps
from kerasimg.spec.load import Spec
from kerasimg.spec.metrics import NO_FIGURES, direction_of, goals_in
from kerasimg.staleness import change, identity_of_file, mark, stale_files

TEMPLATES = Path(__file__).parent / "templates"

CONFUSED = 8
"""Pairs of classes that are listed."""
LISTED_CLASSES = 200
"""Classes in the table; of more, those with the lowest F1."""


def report(run: RunReference, *, out: str | os.PathLike[str] | None = None) -> Path:
    """Write `report.html` and `MODEL_CARD.md` of a run.

    What the run does not hold (no model yet, no evaluation) is left out of the page.

    Args:
        run: a `Run` or its folder.
        out: another file for the page.

    Returns:
        The path of the page.

    Raises:
        CallError: if the folder holds no run.

    Example:
        >>> kerasimg.report("runs/photos-1").name
        'report.html'
    """
    files = RunFolder.open(run)
    return _write(files, files.report_file if out is None else Path(out), _classifier(files))


def write_report(run: RunFolder, classifier: Classifier, answer: Answer | None = None) -> None:
    """Writes the report at the end of a training. A failure is logged and does not cost the trained model.

    Args:
        run: the finished run.
        classifier: its model, which is in memory already.
        answer: what it says of the evaluated images, with the features of those in the map; None: it is asked again.
    """
    log.info(f"writing {run.report_file}")
    try:
        _write(run, run.report_file, classifier, answer)
    except Exception as error:
        again = command("run", "report", run.path)
        log.info(f"the report could not be written ({type(error).__name__}: {error}); try again: {again}")


def _write(files: RunFolder, path: Path, classifier: Classifier | None, answer: Answer | None = None) -> Path:
    """Write the page to its path and the card beside it."""
    content = _content(files, classifier, answer)
    if gone := content["gone"]:
        warning(f"{counted(gone, 'image')} of the report cannot be shown: no longer where the run found them")
    path.parent.mkdir(parents=True, exist_ok=True)
    for place, text in (
        (path, render("report.html.j2", content)),
        (RunFolder(path.parent).card_file, model_card(content)),
    ):
        # A file name that is not UTF-8 comes from the file system with surrogates; a page has no place for its bytes.
        write_text(place, text.encode("utf-8", "replace").decode("utf-8"))
    return path


def render(template: str, content: Mapping[str, Any]) -> str:
    """Fills in a template; names and texts are escaped for HTML."""
    levels = {theme: list(drawing.level_styles(theme)) for theme in ("light", "dark")}
    return _templates().get_template(template).render(levels=levels, **content)


@functools.cache
def _templates() -> jinja2.Environment:
    """Holds the compiled templates: to compile that of the page takes longer than to fill it in."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "number": number,
        "percent": percent,
        "words": words,
        "duration": duration,
        "counted": counted,
        "epoch_figure": epoch_figure,
    }
    return environment


def _content(files: RunFolder, classifier: Classifier | None, answer: Answer | None) -> dict[str, Any]:
    """Everything that the page and the card say; None for what the run does not hold."""
    spec = load(str(files.spec_file))
    scores, record = files.evaluation.metrics(), files.data()
    rows = files.history()
    predictions = files.evaluation.predictions_file
    found = read_predictions(predictions, spec.task) if predictions.is_file() else None
    album = Album(record, spec.image)
    facts = None if classifier is None else model_facts(classifier, files.path)
    model = identity_of_file(files.model_file)
    evaluated = (scores or {}).get("model")
    # The page shows these; exports, say, are no matter of the page.
    shown = (files.evaluation.metrics_file, files.calibration_file, files.thresholds_file)
    stale = [each for each in stale_files(files.path) if each.path in shown]
    for each in stale:
        warning(str(each))
    return {
        "stale": [str(each) for each in stale],
        "model_mark": mark(model if change(evaluated, model) is None else evaluated),
        "name": files.path.resolve().name,
        "spec": spec,
        "spec_text": dumps(spec.resolved),
        "classes": files.classes() or [],
        "scores": scores,
        "headline": headline(scores) if scores else [],
        "per_class": _per_class(scores) if scores else [],
        "confused": _confused(scores) if scores else [],
        "figures": _figures(files, scores),
        "slices": (scores or {}).get("slices", []),
        **trust_sections(files, found, scores, spec.task, classifier, album, model, answer),
        "stages": stage_summaries(rows, goals_in(spec.resolved)),
        "seconds": sum(row.get("seconds", 0) for row in rows),
        "feature_seconds": _feature_seconds(files),
        "charts": _charts(rows, spec),
        "data": _data(record, album) if record else None,
        **_gallery(found, spec, album, classifier),
        "gone": len(album.missing),
        "facts": facts,
        "environment": _environment(files, record),
        "written": datetime.now(UTC).strftime("%d %B %Y").lstrip("0"),
        "version": version("kerasimg"),
    }


def _feature_seconds(files: RunFolder) -> float:
    """How long the features of a frozen part were computed, which no epoch includes."""
    stages = (files.training() or {}).get("stages", ())
    return sum(note["seconds"] for stage in stages for name, note in stage.items() if name.endswith("_features"))


def _classifier(files: RunFolder) -> Classifier | None:
    """The trained model; None where there is none yet, or it was made for another version."""
    try:
        return Classifier.open(files.path) if files.model_file.is_file() else None
    except (KerasimgError, OSError, ValueError, TypeError):
        return None


def _per_class(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = [{"name": name, **row} for name, row in scores["per_class"].items()]
    if len(rows) > LISTED_CLASSES:
        rows = sorted((row for row in rows if row["support"]), key=lambda row: row["f1"])[:LISTED_CLASSES]
    return rows


def _confused(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The pairs of classes that are confused most."""
    pairs = scores.get("most_confused", [])[:CONFUSED]
    return [{**pair, "taken": pair["prediction"]} for pair in pairs]


def _figures(files: RunFolder, scores: Mapping[str, Any] | None) -> dict[str, Markup | None]:
    """The drawings, None those that the scores are not enough for; and the class whose curve is the lowest."""
    figures: dict[str, Markup | None] = dict.fromkeys(("confusion", "reliability", "precision_recall", "roc", "worst"))
    if scores is None:
        return figures
    if (confusion := drawn_confusion(scores)) is not None:
        figures["confusion"] = drawing.confusion(confusion, scores["classes"])
    if "calibration" in scores:
        figures["reliability"] = drawing.reliability(scores["calibration"], scores["calibration_error"])
    curves = (files.evaluation.curves() or {}).get("classes", {})
    if curves:
        share = drawing.ticks(0, 1)
        worst = min(curves, key=lambda name: curves[name]["average_precision"])
        for key, title, area, x, y in (
            ("precision_recall", "Precision and recall", "average_precision", "recall", "precision"),
            ("roc", "ROC", "roc_auc", "fpr", "tpr"),
        ):
            lines = [
                drawing.Line(
                    name,
                    "first" if name == worst else "faint",
                    list(zip(row[key][x], row[key][y], strict=True)),
                )
                for name, row in sorted(curves.items(), key=lambda pair: pair[0] == worst)
            ]
            areas = "; ".join(f"{name} {row[area]:.3f}" for name, row in curves.items())
            across = "recall" if key == "precision_recall" else "false positive rate"
            sides = drawing.Axis(across, 0, 1, share), drawing.Axis(y, 0, 1, share)
            figures[key] = drawing.chart(title, f"Areas: {areas}.", lines, *sides, diagonal=key == "roc")
        figures["worst"] = Markup.escape(worst)
    return figures


def _charts(rows: Sequence[Mapping[str, float]], spec: Spec) -> list[dict[str, Any]]:
    """A chart per figure that was measured while training, the training part beside the validation part."""
    if not rows:
        return []
    summaries = stage_summaries(rows, goals_in(spec.resolved))
    bounds = [(each.first - 0.5, f"Stage {each.stage}") for each in summaries] if len(summaries) > 1 else []
    stored = [each.best for each in summaries]
    names = dict.fromkeys(name.removeprefix("val_") for row in rows for name in row)
    measured = [name for name in names if name not in NO_FIGURES]
    charts = []
    for name in sorted(measured, key=lambda name: (name != "loss", name)):
        lines = []
        for key, style in ((name, "first"), (f"val_{name}", "second")):
            points = [(row["epoch"], row[key]) for row in rows if key in row]
            best = max((point for point in points if point[0] == stored[-1]), default=None)
            if points:
                part = "validation" if style == "second" else "training"
                lines.append(drawing.Line(part, style, points, best if style == "second" else None))
        values = [value for line in lines for _, value in line.points]
        low, high = (min(values), max(values)) if values else (0, 1)
        low = max(0.0, low - 0.05 * (high - low)) if low >= 0 else low
        first, last = rows[0]["epoch"], rows[-1]["epoch"]
        about = "; ".join(f"{line.name} from {line.points[0][1]:.3g} to {line.points[-1][1]:.3g}" for line in lines)
        charts.append(
            {
                "name": epoch_figure(name, spec.task),
                "lines": lines,
                "drawing": drawing.chart(
                    words(epoch_figure(name, spec.task)),
                    f"{about}, over {counted(len(rows), 'epoch')}.",
                    lines,
                    drawing.Axis("epoch", first, last, drawing.ticks(first, last, 7, whole=True)),
                    drawing.Axis(name, low, high, drawing.ticks(low, high)),
                    bounds=bounds,
                ),
                "falls": direction_of(name, spec.compile.metrics, spec.fit.teacher is not None) == "min",
            }
        )
    return charts


def _data(record: Mapping[str, Any], album: Album) -> dict[str, Any]:
    parts, table, totals = counts(record)
    chosen = examples(record)
    images = album.find([name for names in chosen.values() for name in names])
    shown = {
        label: [
            {"name": name, "image": thumbnail(opened, 96)}
            for name in names
            if name in images and (opened := album.read(images[name], name)) is not None
        ]
        for label, names in chosen.items()
    }
    return {
        "where": record["where"],
        "parts": parts,
        "table": table[:LISTED_CLASSES],
        "classes": len(table),
        "most": max((sum(row[part] for part in parts) for row in table), default=1) or 1,
        "totals": totals,
        "skipped": len(record.get("skipped", [])),
        "sizes": sizes(album),
        "examples": {label: row for label, row in shown.items() if row},
    }


def _gallery(found: Predictions | None, spec: Spec, album: Album, classifier: Classifier | None) -> dict[str, Any]:
    """The most confident mistakes and the least confident correct predictions, with images and maps if available."""
    if found is None:
        return {"mistakes": [], "hits": [], "mistaken": 0, "explained_by": None}
    mistakes, hits, mistaken = mistakes_and_hits(found, spec.task)
    images = album.find(unique([*mistakes, *hits]))
    opened = {name: album.read(image, name) for name, image in images.items()}
    readable = {name: images[name] for name, image in opened.items() if image is not None}
    maps, method = explain_all(classifier, [*mistakes, *hits], readable)

    def shown(one: Example) -> dict[str, Any]:
        image, heat = opened.get(one.id), maps.get((one.id, one.target))
        return {
            "example": one,
            "image": None if image is None else thumbnail(image),
            "map": None if heat is None else thumbnail(heat),
        }

    return {
        "mistakes": [shown(one) for one in mistakes],
        "hits": [shown(one) for one in hits],
        "mistaken": mistaken,
        "explained_by": method if maps else None,
    }


def _environment(files: RunFolder, record: DataRecord | None) -> dict[str, Any]:
    stored = files.environment() or {}
    typed = list(stored.get("command", []))
    if typed and Path(typed[0]).name in ("__main__.py", "kerasimg"):
        typed[0] = "kerasimg"
    again = None
    if record and record["where"] not in ("arrays", "dataset"):
        skipping = ["--on-bad-image", "skip"] if record.get("skipped") else []
        again = command("train", files.spec_file, "--data", record["where"], *skipping)
    return {
        "facts": stored,
        "command": shlex.join(typed) if typed[:1] == ["kerasimg"] else None,
        "again": again,
        "folder": str(files.path),
        "calibrate": command("run", "calibrate", files.path),
        "report": command("run", "report", files.path),
    }


BATCH = 16
SECONDS = 0.1
"""Spent at most on measuring each size of batch."""
WITHOUT_MAPS = 8
"""Images that are explained where no class activation map is to be had, for the other methods take far longer."""
LAYERS = 40


class Facts(NamedTuple):
    """A model in figures."""

    params: int
    trainable: int
    bytes: int
    layers: list[tuple[str, str, str, int]]
    """(name, kind, shape of its output, parameters) of each layer, of the first 40."""
    more: int
    """Layers beyond."""
    speed: Mapping[str, Any]
    """ms_single, ms_batch: milliseconds an image, alone and in batches; measured on: machine, cores, backend."""


def model_facts(classifier: Classifier, folder: Path) -> Facts:
    """Measures a model. The speed is measured once and stored in the run."""
    model = classifier.model
    files = RunFolder(folder)
    speed = files.evaluation.speed()
    if speed is None:
        speed = speed_of(classifier)
        files.evaluation.write_speed(speed)
    layers = [
        (layer.name, type(layer).__name__, _shape(layer), int(layer.count_params()))
        for layer in model.layers
        if type(layer).__name__ != "InputLayer"
    ]
    trained = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    size = files.model_file.stat().st_size
    return Facts(model.count_params(), trained, size, layers[:LAYERS], max(0, len(layers) - LAYERS), speed)


def speed_of(classifier: Classifier) -> dict[str, Any]:
    """As `measure`; once for all runs of the same network on this machine, since its weights make no difference."""
    if not is_functional(classifier.model):
        return measure(classifier)
    about = {"result": "speed", "model": digest(classifier.model, weights=False), "flips": classifier.flips}
    about |= {"head": classifier.head is not None, **circumstances()}
    speed = recall(about)
    if speed is None:
        speed = measure(classifier)
        remember(about, speed)
    return speed


def measure(classifier: Classifier) -> dict[str, Any]:
    """Milliseconds that an image takes, without reading it: medians over a moment, after a first call."""
    import keras

    ask = classifier.values
    height, width = classifier.spec.image.size
    images = np.random.default_rng(0).integers(0, 256, (BATCH, height, width, classifier.spec.image.channels))
    found: dict[str, Any] = {}
    for key, count in (("ms_single", 1), ("ms_batch", BATCH)):
        some = images[:count].astype("float32")
        ask(some)
        times: list[float] = []
        until = time.perf_counter() + SECONDS
        while len(times) < 3 or (time.perf_counter() < until and len(times) < 30):
            start = time.perf_counter()
            ask(some)
            times.append(time.perf_counter() - start)
        found[key] = round(1000 * float(np.median(times)) / count, 3)
    machine = platform.machine()
    return {**found, "batch": BATCH, "backend": keras.backend.backend(), "machine": machine, "cores": os.cpu_count()}


def explain_all(
    classifier: Classifier | None, examples: Sequence[Example], images: Mapping[str, ImageInput]
) -> tuple[dict[tuple[str, str], PIL.Image.Image], str | None]:
    """(image, class) -> the overlay that explains it; and the method.

    images: those that can be read, by name.
    By Grad-CAM; where a model keeps no map, the first few by integrated gradients.
    """
    if classifier is None:
        return {}, None
    # An evaluation may be of another model: of one with a class that was removed since.
    asked = [one for one in examples if one.id in images and one.target in classifier.classes]
    method, options = _method(classifier)
    if method != "grad_cam":
        asked = asked[:WITHOUT_MAPS]
    if not asked:
        return {}, None
    chosen = [images[one.id] for one in asked]
    targets, sure = [one.target for one in asked], [one.confidence for one in asked]
    explained = explain_examples(classifier, chosen, method, targets, sure, **options)
    maps = {}
    for one, each in zip(asked, explained, strict=True):
        tiny = max(each.seen.shape) <= SMALL
        maps[one.id, one.target] = each.overlay() if tiny else each.overlay_on_original()
    return maps, method


def _method(classifier: Classifier) -> tuple[Method, dict[str, Any]]:
    try:
        map_layer(classifier.model)
    except KerasimgError:
        return "integrated_gradients", {"steps": 16}
    return "grad_cam", {}


def _shape(layer: Any) -> str:
    try:
        return " × ".join("?" if side is None else str(side) for side in layer.output.shape[1:])
    except (AttributeError, ValueError):
        return ""
