"""`kerasimg.shrink`: the smallest export of a run that keeps its accuracy: precisions, pruning, distillation, rounding.

The rungs of the ladder, from cheap to expensive:

1. the model as it is, in every precision of the target;
2. if the limits are met in float32 or by size, and integers lose too much: the same model after a few epochs of
   quantization-aware training (`fit.quantization_aware`);
3. for each share of channels, the model pruned to it (`kerasimg.models.prune`), trained for a few epochs with the
   original as its teacher (`fit.teacher`), again in every precision, and then as in 2;
4. if pruning is impossible or costs more accuracy than allowed: smaller variants of the same spec, its params for
   width and depth reduced, trained as the original was, with it as the teacher.

Each trained model is a run of its own, with a spec of its own. Each rung is exported, run in the target's runtime on
the original's test images, and compared with the original there. The ladder ends when a rung holds.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from kerasimg import log
from kerasimg.data.sources import Data
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.export import export
from kerasimg.deploy.export_context import Exporting, Images, prepare
from kerasimg.deploy.manifest import Precision
from kerasimg.deploy.parity import agree
from kerasimg.deploy.targets import open_here, target
from kerasimg.errors import CallError, GateError, Interrupted, SpecError, counted
from kerasimg.evaluation.intervals import interval, resampled
from kerasimg.evaluation.predictions import decide
from kerasimg.log import Verbose
from kerasimg.models.build import build
from kerasimg.models.classifier import Classifier
from kerasimg.models.prune import MULTIPLE, prune
from kerasimg.models.to_spec import copy_weights, to_spec
from kerasimg.results import Result, Results, accuracy_key
from kerasimg.run_folder import RunFolder, RunReference
from kerasimg.spec.load import Spec, load_again
from kerasimg.training.train import train

SHARES = (0.75, 0.5, 0.35, 0.25)
"""Shares of the channels to which a model is pruned, one after the other."""
VARIANTS = (0.5, 0.25)
"""Shares of the params of a spec that smaller variants have."""
LEARNING_RATE, ROUNDED_LEARNING_RATE = 1e-3, 1e-4
"""Of the training after pruning, and with the rounding of int8."""
MOMENTUM = 0.9
"""Largest momentum of batch normalization while a pruned model is trained: with MobileNetV2's 0.999 the moving
statistics, which predictions use, would still be those of the original after the few steps."""
SLACK = 1.05
"""A model is trained if its export, estimated from the parameters, is at most this many times the largest size."""
LEFT_OUT = ("int16",)
"""Precisions that are no rungs: int16 is as large as int8, and a hundred times slower on x86."""
QUANTIZED = "int8"
"""The precision for which quantization-aware training is done."""
TEACHER = {"temperature": 3.0, "alpha": 0.7}
KEPT_FIT = ("batch_size", "validation_split", "test_split", "group", "seed")
"""Keys of `fit` that a pruned run has from the original: the split of the images, above all."""
ROUNDING = 1e-9
"""Added to the largest drop, since a difference of two shares is not exact."""


Method = Literal["as trained", "pruned", "quantization-aware", "variant"]


@dataclass(frozen=True)
class Rung(Result):
    """One model of the ladder, in its runtime on this machine."""

    model: str
    """The run's name."""
    method: Method
    """How the model was made from the run: "as trained", "pruned", "quantization-aware" or "variant"."""
    share: float
    """Of the channels that the model still has; of a variant: of the params for width and depth."""
    precision: Precision
    bytes: int
    p50_ms: float
    """Median time of one image, from pixels to probabilities."""
    same: float
    """Share of the test images that are decided as by the original."""
    accuracy: float
    drop: float
    """Accuracy of the original less that of the rung, on the same images."""
    interval: tuple[float, float] | None
    """95 % interval of the drop, by the paired bootstrap; None if it is the same on every resample."""
    holds: bool
    """Whether it is within the limits, and its export passed the comparison with its own model."""


@dataclass(frozen=True)
class Shrunk(Result):
    """The result of `shrink`."""

    bundle: Bundle
    """The export of the smallest rung that holds."""
    chosen: Rung
    rungs: Results[Rung]


@log.applies_verbose
def shrink(
    run: RunReference,
    *,
    to_kb: float | None = None,
    to_ms: float | None = None,
    max_drop: float = 0.01,
    to: str = "litert",
    epochs: int = 5,
    data: Data | None = None,
    verbose: Verbose = 1,
) -> Shrunk:
    """Find the smallest export of a run within limits of size, time and accuracy, and write it.

    Args:
        run: a `Run` or its folder.
        to_kb: largest size of the model's files, in 1,000 bytes.
        to_ms: largest median time of one image, in milliseconds, on this machine.
        max_drop: largest loss of accuracy on the test images.
        to: the target: "litert", "onnx", "openvino", ...
        epochs: epochs of training after each pruning, and of quantization-aware training.
        data: the images of the run, where they were arrays or have been moved.
        verbose: 0, 1 or 2.

    Returns:
        The bundle that was written, and every rung that was tried. A pruned model is a run beside the original.

    Raises:
        GateError: if no rung holds; lists them all.
        CallError: if no limit is given, or the run has no test images.

    Example:
        >>> kerasimg.shrink("runs/photos-1", to_kb=100, verbose=0).chosen.bytes < 100_000
        True
    """
    if to_kb is None and to_ms is None:
        raise CallError("shrink needs a limit: the size (--to-kb, to_kb), the time (--to-ms, to_ms), or both")
    chosen = target(to)
    chosen.require()
    original = RunFolder.open(run)
    exporting = prepare(original.path, data=data)
    if exporting.test is None or not len(exporting.test):
        raise CallError(f"'{original.path}' has no test images to compare on; name some (--data)")
    precisions = [precision for precision in chosen.precisions if precision not in LEFT_OUT]
    ladder = _Ladder(exporting, exporting.test, to, precisions, to_kb, to_ms, max_drop, data)
    try:
        ladder.climb(_Candidate(original.path, "as trained", 1.0))
        for make in (_rounded_and_pruned, _variants):
            if not ladder.holds:
                make(ladder, original, epochs)
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted(
            f"interrupted; smaller models that were trained are runs in {original.path.parent}, and a second call "
            "trains them again"
        ) from None
    rungs = Results(row for row, _ in ladder.rows)
    held = [(row, folder) for row, folder in ladder.rows if row.holds]
    if not held:
        limits = [f"{limit:g} {unit}" for limit, unit in ((to_kb, "kB"), (to_ms, "ms")) if limit is not None]
        lines = "\n".join([*as_lines(rungs), *_advice(ladder, original.path)])
        raise GateError(f"no model within {', '.join(limits)} loses at most {max_drop:g} of the accuracy:\n{lines}")
    row, folder = min(held, key=lambda each: (each[0].p50_ms if to_kb is None else each[0].bytes, each[0].drop))
    [bundle] = export(folder, to, precision=row.precision, data=data, same=0.0, accuracy_drop=1.0, verbose=verbose)
    return Shrunk(bundle, row, rungs)


def _advice(ladder: _Ladder, original: Path) -> list[str]:
    """What to do where no model holds, in lines: which limit would do for what was tried, and where it was stored."""
    rows, lines = [row for row, _ in ladder.rows], []
    if kept := [row for row in rows if ladder.keeps(row.drop)]:
        small = min(kept, key=lambda row: row.bytes)
        size, time = math.ceil(small.bytes / 1000), math.ceil(10 * small.p50_ms) / 10
        needed = [f"--to-kb {size}"] * (ladder.to_kb is not None) + [f"--to-ms {time:g}"] * (ladder.to_ms is not None)
        lines.append(f"{small.model} in {small.precision} loses no more: {' '.join(needed)}")
    if fitting := [row for row in rows if ladder.fits(row.bytes, row.p50_ms)]:
        best = min(fitting, key=lambda row: row.drop)
        drop = math.ceil(1000 * best.drop) / 1000
        lines.append(f"{best.model} in {best.precision} is small enough: --max-drop {drop:g}, or more --epochs")
    if trained := dict.fromkeys(folder for _, folder in ladder.rows if folder != original):
        lines.append(f"models that were trained are runs: {', '.join(map(str, trained))}")
    return lines


def as_lines(rungs: Sequence[Rung]) -> list[str]:
    """The rungs as a table."""
    sizes = f"{'bytes':>12}{'ms':>8}{'alike':>8}{'accuracy':>10}  drop"
    lines = [f"{'model':24}{'method':20}{'share':>6}{'precision':>11}{sizes}"]
    for row in rungs:
        between = "" if row.interval is None else f" ({row.interval[0]:+.4f} to {row.interval[1]:+.4f})"
        lines.append(
            f"{row.model:24}{row.method:20}{row.share:>6.0%}{row.precision:>11}{row.bytes:>12,}{row.p50_ms:>8.2f}{row.same:>8.1%}"
            f"{row.accuracy:>10.4f}  {row.drop:+.4f}{between}{'  holds' if row.holds else ''}"
        )
    return lines


@dataclass(frozen=True)
class _Candidate:
    """A run whose exports are rungs."""

    run: Path
    method: Method
    share: float

    @property
    def model(self) -> Any:
        """Its trained model."""
        return Classifier.open(self.run).model


@dataclass
class _Ladder:
    """The limits, the original's answers, and the rungs so far with the folders of their runs."""

    exporting: Exporting
    test: Images
    to: str
    precisions: Sequence[Precision]
    to_kb: float | None
    to_ms: float | None
    max_drop: float
    data: Data | None

    def __post_init__(self) -> None:
        self.pixels = np.concatenate(list(self.test.batches(self.exporting.image)))
        self.truth = self.test.truth
        classifier = self.exporting.classifier
        self.thresholds = classifier.thresholds
        self.decisions, self.draws = self._answers(classifier.probabilities(self.pixels.astype(np.float32)))
        self.rows: list[tuple[Rung, Path]] = []

    def _answers(self, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the decisions, and the accuracy on each resample of the images."""
        task = self.exporting.task
        draws = resampled(self.truth, probabilities, task, self.thresholds)
        accuracies = draws[accuracy_key(task)]
        return decide(probabilities, task, self.thresholds)[0], accuracies

    @property
    def holds(self) -> bool:
        """Whether a rung holds."""
        return any(row.holds for row, _ in self.rows)

    def climb(self, candidate: _Candidate) -> list[Rung]:
        """Adds a rung for each precision of a run; returns the new ones."""
        with TemporaryDirectory() as scratch:
            return self._climb(candidate, Path(scratch))

    def _climb(self, candidate: _Candidate, scratch: Path) -> list[Rung]:
        asked: dict[str, Any] = {"precision": list(self.precisions), "same": 0.0, "accuracy_drop": 1}
        log.info(
            f"exporting {candidate.run.name} ({candidate.method}, {candidate.share:.0%}), and comparing it on "
            f"{counted(len(self.truth), 'test image')}"
        )
        try:
            export(candidate.run, self.to, out=scratch, data=self.data, **asked)
        except (GateError, CallError) as error:
            if not (scratch / self.to).is_dir():
                raise
            log.warning(str(error))
        bundle = Bundle.open(scratch / self.to)
        passed = {row.path: row for row in bundle.manifest.parity}
        before = float(agree(self.decisions, self.truth).mean())
        rows = []
        for model in bundle.models:
            runtime = open_here(bundle, model)
            decisions, draws = self._answers(runtime(self.pixels))
            runtime.close()
            accuracy = float(agree(decisions, self.truth).mean())
            drop = before - accuracy
            between = interval(self.draws - draws, drop)
            size, parity = bundle.model_bytes(model), passed[model.path]
            row = Rung(
                model=candidate.run.name,
                method=candidate.method,
                share=candidate.share,
                precision=model.precision,
                bytes=size,
                p50_ms=parity.p50_ms,
                same=float(agree(self.decisions, decisions).mean()),
                accuracy=accuracy,
                drop=drop,
                interval=None if between is None else (between[0], between[1]),
                holds=parity.passed and self.fits(size, parity.p50_ms) and self.keeps(drop),
            )
            rows.append(row)
            log.info(as_lines([row])[1])
        self.rows += [(row, candidate.run) for row in rows]
        return rows

    def fits(self, size: float, p50_ms: float = 0) -> bool:
        """Whether a model is within the limits of size and time."""
        small = self.to_kb is None or size <= self.to_kb * 1000
        return small and (self.to_ms is None or p50_ms <= self.to_ms)

    def keeps(self, drop: float) -> bool:
        """Whether a loss of accuracy is allowed."""
        return drop <= self.max_drop + ROUNDING

    def can_fit(self, parameters: int) -> bool:
        """Whether a model with this number of parameters may be small enough in the smallest precision."""
        share = parameters / self.exporting.model.count_params()
        return self.fits(min(row.bytes for row, _ in self.rows if row.method == "as trained") * share / SLACK)

    def wants_rounding(self, rows: Sequence[Rung]) -> bool:
        """Whether quantization-aware training may bring a model within the limits: only its integers do not hold."""
        quantized = [row for row in rows if row.precision == QUANTIZED]
        return (
            bool(quantized)
            and not any(row.holds for row in rows)
            and any(self.keeps(row.drop) for row in rows)
            and self.fits(min(row.bytes for row in rows) / SLACK)
        )


def _rounded_and_pruned(ladder: _Ladder, original: RunFolder, epochs: int) -> None:
    """Adds rungs of pruned models, and with quantization-aware training, until one holds or pruning costs too much."""
    name, model = ladder.exporting.name, ladder.exporting.classifier.model
    candidate, rows = _Candidate(original.path, "as trained", 1.0), [row for row, _ in ladder.rows]
    for share in (1.0, *SHARES):
        titled = name if share == 1 else f"{name}-{share * 100:.0f}"
        try:
            if share < 1:
                spec, smaller = prune(model, share, titled)
                if not ladder.can_fit(smaller.count_params()):
                    continue
                candidate = _Candidate(_retrain(ladder, original, spec, smaller, epochs), "pruned", share)
                rows = ladder.climb(candidate)
            if ladder.wants_rounding(rows):
                spec, same = _described(candidate.model, f"{titled}-rounded")
                run = _retrain(ladder, original, spec, same, epochs, rounded=True)
                rows = [*rows, *ladder.climb(_Candidate(run, "quantization-aware", share))]
        except (CallError, SpecError) as error:
            log.warning(f"the model is not pruned: {error}")
            return
        if ladder.holds or (share < 1 and not ladder.keeps(min(row.drop for row in rows))):
            return


def _variants(ladder: _Ladder, original: RunFolder, epochs: int) -> None:
    """Adds rungs of smaller variants of the spec until one holds."""
    classifier = ladder.exporting.classifier
    for share in VARIANTS:
        spec = _smaller_variant(classifier.spec, share)
        if spec is None:
            return
        model = build(spec, weights=None)
        if ladder.can_fit(model.count_params()):
            _copy_equal_weights(classifier.model, model)
            run = _train_student(ladder, original, dict(spec.resolved), model)
            ladder.climb(_Candidate(run, "variant", share))
        if ladder.holds:
            return


def _described(model: Any, name: str) -> tuple[Spec, Any]:
    """Returns a spec of a model, one node per layer, and the model that it builds, with the same weights."""
    spec = to_spec(model, name, blocks=False)
    built = build(spec, weights=None)
    copy_weights(model, built)
    return spec, built


def _smaller_variant(spec: Spec, share: float) -> Spec | None:
    """Returns a spec whose params for width and depth are reduced; None if it has no such params.

    These are the params that are numbers, and of which a smaller one makes a model with fewer parameters of the same
    inputs and outputs.
    """
    whole = build(spec, weights=None)
    reduced: dict[str, Any] = {}
    for name, value in spec.resolved.get("params", {}).items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            continue
        smaller: float = value * share
        if isinstance(value, int):
            smaller = max(1, round(smaller / MULTIPLE) * MULTIPLE if value >= 2 * MULTIPLE else round(smaller))
        try:
            model = build(load_again(spec, params={name: smaller}), weights=None)
        except (SpecError, CallError):
            continue  # a depth, say, that must be 6 n + 2
        shapes = [(each.input_shape, each.output_shape) for each in (whole, model)]
        if shapes[0] == shapes[1] and model.count_params() < whole.count_params():
            reduced[name] = smaller
    return load_again(spec, params=reduced) if reduced else None


def _copy_equal_weights(source: Any, target: Any) -> None:
    """Copies the weights of layers that have the same name and the same shapes, of a frozen backbone, say."""
    layers = {layer.name: layer for layer in source.layers}
    for layer in target.layers:
        values = layers[layer.name].get_weights() if layer.name in layers else []
        if values and [each.shape for each in values] == [tuple(each.shape) for each in layer.weights]:
            layer.set_weights(values)


def _retrain(ladder: _Ladder, original: RunFolder, spec: Spec, model: Any, epochs: int, rounded: bool = False) -> Path:
    """Trains a pruned model for some epochs; returns its run.  rounded: with quantization-aware training."""
    classifier = ladder.exporting.classifier
    resolved = classifier.spec.resolved
    image = classifier.spec.image.model_dump(mode="json") | spec.document["image"]
    fit: dict[str, Any] = {key: resolved["fit"][key] for key in KEPT_FIT}
    fit |= {"stages": [{"epochs": epochs, "decay": "cosine"}], "quantization_aware": rounded}
    rate = ROUNDED_LEARNING_RATE if rounded else LEARNING_RATE
    document = {key: value for key, value in spec.document.items() if key != "expect"} | {
        "model": [_with_momentum(node) for node in spec.document["model"]],
        "image": {**image, "scale": "none"},
        "task": classifier.spec.task,
        "augment": resolved.get("augment", []),
        "compile": {"optimizer": {"type": "Adam", "learning_rate": rate}, "metrics": ["accuracy"]},
        "fit": fit,
    }
    return _train_student(ladder, original, document, model)


def _with_momentum(node: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a node, if it is a batch normalization with at most `MOMENTUM`."""
    if node.get("layer") != "BatchNormalization":
        return dict(node)
    return {**node, "momentum": min(MOMENTUM, node.get("momentum", 1.0))}


def _train_student(ladder: _Ladder, original: RunFolder, document: dict[str, Any], model: Any) -> Path:
    """Trains a model on the images of the original, with it as the teacher; returns the run beside it."""
    document = {**document, "fit": {**document["fit"], "features": "off"}}
    if ladder.exporting.task == "multiclass":
        document["fit"]["teacher"] = {"run": os.path.abspath(original.path), **TEACHER}
    record = original.data()
    with TemporaryDirectory() as scratch:
        weights = Path(scratch) / "student.weights.h5"
        model.save_weights(weights)
        where = ladder.data if ladder.data is not None else (record or {"where": ""})["where"]
        skip: dict[str, Any] = {"on_bad_image": "skip"} if record and record.get("skipped") else {}
        epochs = sum(stage["epochs"] for stage in document["fit"]["stages"])
        log.info(f"training {document['name']} for {counted(epochs, 'epoch')}")
        log.doing(f"training {document['name']}")
        run = train(document, data=where, out=original.path.parent, weights=str(weights), verbose=0, **skip)
    _require_same_split(original, run)
    return run.path


def _require_same_split(original: RunFolder, student: RunFolder) -> None:
    """CallError if a model was trained on a test image of the original."""
    parts = [
        {image["id"]: image["part"] for image in (files.data() or {"images": []})["images"]}
        for files in (original, student)
    ]
    if parts[0] != parts[1]:
        raise CallError(f"'{student.path}' has another split than '{original.path}': its data has changed since")
