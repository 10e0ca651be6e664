"""Compare exported models with the trained model and measure their latency, without Keras and TensorFlow."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from kerasimg.data.image_files import read_image
from kerasimg.data.items import ImageInput
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.manifest import KnownOutput, ModelFile, Parity, Precision, Tolerance, Worst
from kerasimg.deploy.runtimes import NotHere, Runtime
from kerasimg.deploy.targets import open_here
from kerasimg.errors import CallError, GateError, counted
from kerasimg.evaluation.conformal import are_known
from kerasimg.evaluation.predictions import decide, two_columns
from kerasimg.models.keras_file import Answer
from kerasimg.results import accuracy_key, figure_words
from kerasimg.spec.document import Task

if TYPE_CHECKING:
    from kerasimg.deploy.export_context import Exporting, Images

TOLERANCES: dict[Precision, Tolerance] = {
    "float32": Tolerance(difference=1e-3, decided=0.995, accuracy_drop=0.005, p_value=0.0),
    "float16": Tolerance(difference=0.05, decided=0.99, accuracy_drop=0.01, p_value=0.02),
    "int16": Tolerance(difference=0.05, decided=0.99, accuracy_drop=0.01, p_value=0.02),
    "dynamic": Tolerance(difference=0.5, decided=0.95, accuracy_drop=0.02, p_value=0.05),
    "int8": Tolerance(difference=1.0, decided=0.9, accuracy_drop=0.02, p_value=0.05),
    "int4": Tolerance(difference=1.0, decided=0.9, accuracy_drop=0.02, p_value=0.05),
}
"""Precision -> default tolerance. In float32, 5 of 1,000 images may get a different decision: those whose top two
classes are almost equally likely. An int8 model may change the probability of a single image by any amount; only the
decisions and the accuracy are bounded. `tolerance_of` adapts both shares to the number of images."""

P_STEPS = 2
"""Number of steps of 1 / (n + 1) by which a p-value may differ in any precision: rounding moves an image past scores
that are close."""

CHANCE = 0.95
"""A model exactly at its bound passes with at least this probability, for any number of images."""

WORST = 5
"""Number of worst images to report."""

CALLS = 200
"""Maximum number of timed calls."""
SECONDS = 1.5
"""Maximum duration of the timing, for one image and again for a batch."""
WARM_UP = 5
"""Warm-up calls, not timed."""
BATCH = 32
"""Batch size for the throughput of a model without a fixed batch size."""


class Latency(NamedTuple):
    """Latency and throughput of a runtime on this machine."""

    p50_ms: float
    """Median latency of one image."""
    p95_ms: float
    """95th percentile of the latency of one image."""
    per_second: float
    """Throughput in batches, in images per second."""


class Reference(NamedTuple):
    """The trained model's probabilities for the images to compare on."""

    names: Sequence[str]
    probabilities: np.ndarray
    """(N, K) float32."""
    truth: np.ndarray | None
    """Labels as in `kerasimg.evaluation.scores`; None if unknown."""
    p_values: np.ndarray | None = None
    """(N,); None if the model has no rule for unknown images, or they are unknown."""


class Bounds(NamedTuple):
    """The caller's bounds; None: the default in TOLERANCES."""

    tolerance: float | None = None
    """Largest allowed difference of a probability."""
    same: float | None = None
    """Minimum share of images with the same decision."""
    accuracy_drop: float | None = None
    """Largest allowed loss of accuracy."""

    def check(self) -> None:
        """Raises a CallError if a bound is not between 0 and 1."""
        for name, value in self._asdict().items():
            if value is not None and not 0 <= value <= 1:
                raise CallError(f"{name}: expected a number from 0 to 1, got {value}")


def tolerance_of(
    model: ModelFile,
    bounds: Bounds = Bounds(),  # noqa: B008 - immutable
    images: int | None = None,
    known: KnownOutput | None = None,
) -> Tolerance:
    """Returns the tolerance for a model: the caller's bounds, with the defaults of its precision for the others.

    Args:
        model: the exported model.
        bounds: the caller's bounds, which apply exactly.
        images: number of images compared. The two default shares are converted to numbers of images by the 95 %
            quantile of the binomial distribution, because on few images a single one exceeds the share: 0.02 allows
            1 of 10, 2 of 34 and 28 of 1,000 images. None: use the shares unchanged.
        known: the rule of the bundle's p-values; None: they are not compared.
    """
    bounds.check()
    default = TOLERANCES[model.precision]
    if images:
        default = default.model_copy(
            update={
                "decided": 1 - _binomial_quantile(1 - default.decided, images) / images,
                "accuracy_drop": _binomial_quantile(default.accuracy_drop, images) / images,
            }
        )
    return Tolerance(
        difference=default.difference if bounds.tolerance is None else bounds.tolerance,
        decided=default.decided if bounds.same is None else bounds.same,
        accuracy_drop=default.accuracy_drop if bounds.accuracy_drop is None else bounds.accuracy_drop,
        p_value=default.p_value if known is None else min(1.0, max(default.p_value, P_STEPS * known.step)),
    )


def _binomial_quantile(share: float, images: int) -> int:
    """Returns the CHANCE quantile of the binomial distribution, computed without SciPy."""
    if share <= 0:
        return 0
    below = 0.0
    for count in range(images):
        ways = math.lgamma(images + 1) - math.lgamma(count + 1) - math.lgamma(images - count + 1)
        below += math.exp(ways + count * math.log(share) + (images - count) * math.log1p(-min(share, 1 - 1e-12)))
        if below >= CHANCE:
            return count
    return images


def compare(
    bundle: Bundle,
    model: ModelFile,
    reference: Reference,
    probabilities: np.ndarray,
    tolerance: Tolerance,
    runtime: str,
    times: Latency,
    p_values: np.ndarray | None = None,
) -> Parity:
    """Compares an exported model's probabilities with those of the trained model.

    Args:
        bundle: the bundle of the exported model.
        model: the exported model.
        reference: probabilities of the trained model.
        probabilities: (N, K) float32, of the exported model, for the same images.
        tolerance: the bounds.
        runtime: name and version of the runtime.
        times: latency of the exported model.
        p_values: (N,) of the exported model, if it gives them.
    """
    task, thresholds = bundle.task, bundle.thresholds
    differences = np.abs(probabilities.astype(np.float64) - reference.probabilities).max(axis=1)
    finite = bool(np.isfinite(differences).all())
    differences = np.where(np.isfinite(differences), differences, np.inf)
    before, after = (decide(rows, task, thresholds)[0] for rows in (reference.probabilities, probabilities))
    same = agree(before, after)
    greatest = float(differences.max())
    accuracy_before, accuracy_after = accuracy(before, reference.truth), accuracy(after, reference.truth)
    row = Parity(
        path=model.path,
        passed=True,
        tolerance=tolerance,
        images=len(differences),
        greatest_difference=greatest if finite else None,
        mean_difference=float(differences.mean()) if finite else None,
        same_decision=float(same.mean()),
        accuracy_before=accuracy_before,
        accuracy_after=accuracy_after,
        **times._asdict(),
        bytes=bundle.model_bytes(model),
        runtime=runtime,
        worst=_worst(bundle, reference, probabilities, differences, same),
        **_compare_p_values(bundle, reference.p_values, p_values),
    )
    return row.model_copy(update={"passed": not exceeded(row)})


def _compare_p_values(bundle: Bundle, before: np.ndarray | None, after: np.ndarray | None) -> dict[str, float]:
    """Returns the figures about p-values; none if one of the two models gives none.  NaN differs by 1."""
    known = bundle.manifest.known
    if before is None or after is None or known is None:
        return {}
    difference = np.nan_to_num(np.abs(after.astype(np.float64) - before), nan=1.0).max()
    same = are_known(before, known.rule.share) == are_known(after, known.rule.share)
    # Whole steps, as p-values are counts.
    return {
        "p_value_difference": float(min(1.0, round(difference / known.step) * known.step)),
        "same_known": float(same.mean()),
    }


def p_values_differ(row: Parity) -> bool:
    """Whether a model's p-values differ from the trained model's by more than is allowed."""
    return row.p_value_difference is not None and row.p_value_difference > row.tolerance.p_value + 1e-9


def exceeded(row: Parity) -> list[str]:
    """Lists the bounds that a model exceeds, with the figures."""
    if row.greatest_difference is None:
        return ["some probabilities are NaN or infinite"]
    violations = []
    if row.greatest_difference > row.tolerance.difference:
        violations.append(
            f"a probability differs by {row.greatest_difference:.2g}, "
            f"allowed: {row.tolerance.difference:g} (--tolerance)"
        )
    if p_values_differ(row):
        violations.append(f"a p-value differs by {row.p_value_difference:.2g}, allowed: {row.tolerance.p_value:.2g}")
    # Whole images are compared, so that rounding of a share cannot decide.
    changed = round((1 - row.same_decision) * row.images)
    if changed > (allowed := _round_down((1 - row.tolerance.decided) * row.images)):
        violations.append(
            f"{changed} of {counted(row.images, 'image')} get a different decision, allowed: {allowed} (--same)"
        )
    if row.accuracy_before is not None and row.accuracy_after is not None:
        lost = round((row.accuracy_before - row.accuracy_after) * row.images)
        if lost > (allowed := _round_down(row.tolerance.accuracy_drop * row.images)):
            violations.append(
                f"{lost} fewer of {counted(row.images, 'image')} classified correctly, allowed: {allowed} "
                "(--accuracy-drop)"
            )
    return violations


def _round_down(images: float) -> int:
    """Rounds a number of images down, with a margin for rounding errors in the share."""
    return math.floor(images + 1e-6)


def agree(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Returns (N,) bool: whether the class, or all K labels, are the same."""
    return np.asarray(np.asarray(before == after).reshape(len(before), -1).all(axis=1))


def accuracy(decided: np.ndarray, truth: ArrayLike | None) -> float | None:
    """Returns the share of correct decisions; for several labels, of images with all labels correct."""
    return None if truth is None else float(agree(decided, np.asarray(truth)).mean())


def line_of(row: Parity, task: Task) -> str:
    """Formats a comparison as one line."""
    if row.greatest_difference is None:
        return f"{row.path}: some probabilities are NaN or infinite"
    line = f"{row.path}: differs by {row.greatest_difference:.2g} at most"
    if row.tolerance.difference < 1:
        line += f" (allowed {row.tolerance.difference:g})"
    line += f", {row.same_decision:.2%} of {counted(row.images, 'image')} get the same decision"
    if row.tolerance.decided > 0:
        line += f" (required {row.tolerance.decided:.2%})"
    if row.accuracy_before is not None and row.accuracy_after is not None:
        line += f", {figure_words(accuracy_key(task))} {row.accuracy_before:.4f} -> {row.accuracy_after:.4f}"
        if row.tolerance.accuracy_drop < 1:
            line += f" (allowed {row.tolerance.accuracy_drop:.3g} less)"
    if row.p_value_difference is not None and row.same_known is not None:
        line += (
            f", p-values differ by {row.p_value_difference:.2g} at most (allowed {row.tolerance.p_value:.2g}), "
            f"{row.same_known:.2%} are known or unknown in both"
        )
    return line


def require(bundle: Bundle, rows: Iterable[Parity]) -> None:
    """Raises a GateError that names every model of a bundle beyond its tolerance and its worst images."""
    failed = [row for row in rows if not row.passed]
    if not failed:
        return
    lines = []
    for row in failed:
        lines.append(f"{bundle.folder}: {line_of(row, bundle.task)}")
        lines += [f"    failed: {violation}" for violation in exceeded(row)]
        lines += [
            f"    {worst.image}: by {worst.difference:.2g}, {worst.before} -> {worst.after}" for worst in row.worst
        ]
    lines.append(
        "manifest.json records this; use another precision, or allow more (--tolerance, --same, --accuracy-drop)"
    )
    raise GateError("\n".join(lines))


def latency(predict: Callable[[np.ndarray], object], shape: tuple[int, int, int], batch: int | None = None) -> Latency:
    """Measures the latency and throughput of a function that takes pixels (N, H, W, C) uint8.

    Args:
        predict: the function.
        shape: of an image, (H, W, C).
        batch: batch size for the throughput; None: BATCH.
    """
    size = BATCH if batch is None else batch
    pixels = np.random.default_rng(0).integers(0, 256, (max(size, 1), *shape)).astype(np.uint8)
    single = _time_calls(predict, pixels[:1])
    batched = single if size == 1 else _time_calls(predict, pixels)
    return Latency(
        float(np.percentile(single, 50)) * 1e3, float(np.percentile(single, 95)) * 1e3, size / float(np.median(batched))
    )


class GateResult(NamedTuple):
    """The comparison of a bundle with the trained model."""

    rows: list[Parity]
    """One row per compared model."""
    skipped: dict[str, str]
    """Path of a model that was not compared -> reason."""
    failed: dict[str, Exception]
    """Path of a model that failed to run -> the error of its runtime."""


def gate(exporting: Exporting, bundle: Bundle, bounds: Bounds = Bounds()) -> GateResult:  # noqa: B008 - immutable
    """Compares each model of a bundle, decoding and runtime included, with the trained model."""
    if not exporting.compared:
        return GateResult(
            [], {model.path: "there are no test images; pass some (--data)" for model in bundle.models}, {}
        )
    skipped: dict[str, str] = {}
    failed: dict[str, Exception] = {}
    runtimes: dict[str, Runtime] = {}
    try:
        for model in bundle.models:
            try:
                runtimes[model.path] = open_here(bundle, model)
            except NotHere as error:
                skipped[model.path] = str(error)
            except Exception as error:
                failed[model.path] = error
        reference, answers = _answers(exporting, runtimes, failed)
        rows = []
        for model in bundle.models:
            if model.path in answers:
                runtime = runtimes[model.path]
                tolerance = tolerance_of(model, bounds, len(reference.names), bundle.manifest.known)
                times = latency(runtime, bundle.shape, model.batch)
                answer = runtime.split(answers[model.path])
                rows.append(
                    compare(
                        bundle,
                        model,
                        reference,
                        answer.probabilities,
                        tolerance,
                        runtime.name,
                        times,
                        answer.p_values,
                    )
                )
        return GateResult(rows, skipped, failed)
    finally:
        for runtime in runtimes.values():
            runtime.close()


def _answers(
    exporting: Exporting, runtimes: dict[str, Runtime], failed: dict[str, Exception]
) -> tuple[Reference, dict[str, np.ndarray]]:
    """Returns the answers of the trained model, and the rows of each runtime; adds failures to `failed`."""
    trained: list[Answer] = []
    rows: dict[str, list[np.ndarray]] = {path: [] for path in runtimes}
    for pixels, files in _batches(exporting):
        trained.append(exporting.classifier.answer(pixels.astype(np.float32)))
        contents: list[bytes] | None = None
        for path, runtime in runtimes.items():
            if path in failed:
                continue
            try:
                if runtime.reads_files:
                    contents = contents or [as_file(file) for file in files]
                    rows[path].append(runtime.of_files(contents))
                else:
                    rows[path].append(runtime.rows(pixels))
            except Exception as error:  # each runtime has its own exceptions
                failed[path] = error
    test = exporting.test
    expected = np.concatenate([answer.probabilities for answer in trained])
    count = len(expected)
    p_values = [answer.p_values for answer in trained if answer.p_values is not None]
    names = [f"vector {number}" for number in range(count)] if test is None else test.names
    truth = None if test is None else test.truth
    reference = Reference(names, expected, truth, np.concatenate(p_values) if p_values else None)
    return reference, {path: np.concatenate(batches) for path, batches in rows.items() if path not in failed}


def _batches(exporting: Exporting) -> Iterator[tuple[np.ndarray, Iterable[ImageInput]]]:
    """Yields pixels (n, H, W, C) uint8 and their images: the test images, or the test vectors of a pack."""
    test: Images | None = exporting.test
    if test is None or not len(test):
        if exporting.vectors is not None:
            yield exporting.vectors, list(exporting.vectors)
        return
    start = 0
    for pixels in test.batches(exporting.image):
        indices = test.indices[start : start + len(pixels)]
        yield pixels, map(test.source.columns.image, indices.tolist())
        start += len(pixels)


def as_file(image: ImageInput) -> bytes:
    """Returns the content of an image file; encodes an array as PNG, one of more than 3 channels as .npy."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, np.ndarray):
        file = io.BytesIO()
        if image.shape[2:] > (3,):
            np.save(file, image)
        else:
            read_image(image).save(file, "PNG")
        return file.getvalue()
    with open(image, "rb") as stored:
        return stored.read()


def _time_calls(predict: Callable[[np.ndarray], object], pixels: np.ndarray) -> list[float]:
    for _ in range(WARM_UP):
        predict(pixels)
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) < WARM_UP or (len(times) < CALLS and time.perf_counter() < end):
        start = time.perf_counter()
        predict(pixels)
        times.append(time.perf_counter() - start)
    return times


def _worst(
    bundle: Bundle, reference: Reference, probabilities: np.ndarray, differences: np.ndarray, same: np.ndarray
) -> list[Worst]:
    """Returns the worst images: changed decisions first, then by difference."""
    order = np.lexsort((-differences, same))[:WORST]
    return [
        Worst(
            image=reference.names[place],
            difference=float(min(differences[place], 1.0)),
            before=describe_decision(reference.probabilities[place], bundle.classes, bundle.task, bundle.thresholds),
            after=describe_decision(probabilities[place], bundle.classes, bundle.task, bundle.thresholds),
        )
        for place in order.tolist()
    ]


def describe_decision(row: np.ndarray, classes: Sequence[str], task: Task, thresholds: Sequence[float] | None) -> str:
    """Formats the decision for one image with its confidence: "cat 0.81"."""
    decision, confidence = decide(row[np.newaxis], task, thresholds)
    if task == "multilabel":
        names = [name for name, held in zip(classes, decision[0], strict=True) if held]
        return f"{' + '.join(names) or 'nothing'} {confidence[0]:.3f}"
    columns = two_columns(row) if task == "binary" else row[np.newaxis]
    return f"{classes[int(decision[0])]} {columns[0, int(decision[0])]:.3f}"
