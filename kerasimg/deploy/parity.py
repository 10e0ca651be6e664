"""Compares exported models with the trained one: bounds, comparison, times. Without Keras and TensorFlow."""

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
from kerasimg.deploy.manifest import ModelFile, Parity, Precision, Tolerance, Worst
from kerasimg.deploy.runtimes import NotHere, Runtime
from kerasimg.deploy.targets import open_here
from kerasimg.errors import CallError, GateError
from kerasimg.evaluation.predictions import decide, two_columns
from kerasimg.spec.document import Task

if TYPE_CHECKING:
    from kerasimg.deploy.export_context import Exporting, Images

TOLERANCES: dict[Precision, Tolerance] = {
    "float32": Tolerance(difference=1e-3, decided=0.995, accuracy_drop=0.005),
    "float16": Tolerance(difference=0.05, decided=0.99, accuracy_drop=0.01),
    "dynamic": Tolerance(difference=0.5, decided=0.95, accuracy_drop=0.02),
    "int8": Tolerance(difference=1.0, decided=0.9, accuracy_drop=0.02),
}
"""Precision -> what is allowed where the caller says nothing. In float32, 5 of 1,000 images may be decided otherwise:
those whose first two classes are as good as equally likely. Of an int8 model a single image's probability may be
anything; what is decided, and how often rightly, is held. `tolerance_of` fits both shares to the number of images."""

CHANCE = 0.95
"""A model that is exactly as good as its bound passes with at least this probability, however few the images."""

NAMED = 5
"""Images that are named where a model differs."""

CALLS = 200
"""Calls that are timed at most."""
SECONDS = 1.5
"""That timing takes at most, for one image and again for a batch."""
WARM = 5
"""Calls before the first that is timed."""
BATCH = 32
"""Images in a batch whose rate is told, where the model takes any number."""


class Latency(NamedTuple):
    """How long a runtime takes on this machine."""

    p50_ms: float
    """Median time of a call with one image."""
    p95_ms: float
    """What 95 % of those calls stay below."""
    per_second: float
    """Images a second in batches."""


class Asked(NamedTuple):
    """Images and what the trained model says of them."""

    names: Sequence[str]
    probabilities: np.ndarray
    """(N, K) float32, of the trained model."""
    truth: np.ndarray | None
    """As in `kerasimg.evaluation.scores`; None where it is not known."""


class Asks(NamedTuple):
    """What a caller allows, in place of TOLERANCES; None: what stands there."""

    tolerance: float | None = None
    """Greatest difference of a probability."""
    same: float | None = None
    """Share of the images for which the same must be decided."""
    accuracy_drop: float | None = None
    """How much less accurate a model may be."""

    def check(self) -> None:
        """CallError for what cannot be."""
        for name, value in self._asdict().items():
            if value is not None and not 0 <= value <= 1:
                raise CallError(f"{name}: expected a number from 0 to 1, got {value}")


def tolerance_of(model: ModelFile, asks: Asks = Asks(), images: int | None = None) -> Tolerance:  # noqa: B008 - it cannot be changed
    """What a model is held to: the caller's figures, and for those left out the default of its precision.

    images: how many are compared. The two default shares become numbers of images: the 95 % quantile of the binomial
    distribution, since on few images a single one is more than the share. With 0.02, 1 of 10, 2 of 34 and 28 of 1,000
    images. A caller's own figure is kept to exactly. None: the shares as they are.
    """
    asks.check()
    default = TOLERANCES[model.precision]
    if images:
        default = default.model_copy(
            update={
                "decided": 1 - _by_chance(1 - default.decided, images) / images,
                "accuracy_drop": _by_chance(default.accuracy_drop, images) / images,
            }
        )
    return Tolerance(
        difference=default.difference if asks.tolerance is None else asks.tolerance,
        decided=default.decided if asks.same is None else asks.same,
        accuracy_drop=default.accuracy_drop if asks.accuracy_drop is None else asks.accuracy_drop,
    )


def _by_chance(share: float, images: int) -> int:
    """How many of the images may be concerned where, over all images, a share of them is: a quantile, without SciPy."""
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
    bundle: Bundle, model: ModelFile, asked: Asked, found: np.ndarray, tolerance: Tolerance, runtime: str, took: Latency
) -> Parity:
    """How a model's probabilities compare with those of the trained one.

    found: (N, K) float32, of the same images.
    """
    task, thresholds = bundle.task, bundle.thresholds
    differences = np.abs(found.astype(np.float64) - asked.probabilities).max(axis=1)
    sound = bool(np.isfinite(differences).all())
    differences = np.where(np.isfinite(differences), differences, np.inf)
    before, after = (decide(one, task, thresholds)[0] for one in (asked.probabilities, found))
    same = agree(before, after)
    greatest = float(differences.max())
    were, are = accuracy(before, asked.truth), accuracy(after, asked.truth)
    row = Parity(
        path=model.path,
        passed=True,
        tolerance=tolerance,
        images=len(differences),
        greatest_difference=greatest if sound else None,
        mean_difference=float(differences.mean()) if sound else None,
        same_decision=float(same.mean()),
        accuracy_before=were,
        accuracy_after=are,
        **took._asdict(),
        bytes=bundle.model_bytes(model),
        runtime=runtime,
        worst=_worst(bundle, asked, found, differences, same),
    )
    return row.model_copy(update={"passed": not exceeded(row)})


def exceeded(row: Parity) -> list[str]:
    """The bounds that a model exceeds, each with its figures."""
    if row.greatest_difference is None:
        return ["its probabilities are not all numbers"]
    bounds = []
    if row.greatest_difference > row.tolerance.difference:
        bounds.append(
            f"a probability differs by {row.greatest_difference:.2g}, "
            f"allowed is {row.tolerance.difference:g} (--tolerance)"
        )
    # In whole images, so that a share is compared with itself and not with its rounding.
    changed = round((1 - row.same_decision) * row.images)
    if changed > (allowed := _whole((1 - row.tolerance.decided) * row.images)):
        bounds.append(f"{changed} of {row.images:,} images are decided otherwise, allowed are {allowed} (--same)")
    if row.accuracy_before is not None and row.accuracy_after is not None:
        lost = round((row.accuracy_before - row.accuracy_after) * row.images)
        if lost > (allowed := _whole(row.tolerance.accuracy_drop * row.images)):
            bounds.append(
                f"{lost} fewer of {row.images:,} images are classified correctly, "
                f"allowed are {allowed} (--accuracy-drop)"
            )
    return bounds


def _whole(images: float) -> int:
    """A number of images, rounded down, but for what rounding of a share left out."""
    return math.floor(images + 1e-6)


def agree(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(N,) whether the same was decided: (N,) classes, or (N, K) labels all of them."""
    return np.asarray(np.asarray(before == after).reshape(len(before), -1).all(axis=1))


def accuracy(decided: np.ndarray, truth: ArrayLike | None) -> float | None:
    """Share of the images that are decided right; several labels: with all of them."""
    return None if truth is None else float(agree(decided, np.asarray(truth)).mean())


def line_of(row: Parity) -> str:
    """One line."""
    if row.greatest_difference is None:
        return f"{row.path}: gives what is no number"
    line = (
        f"{row.path}: differs by {row.greatest_difference:.2g} at most (allowed {row.tolerance.difference:g}), "
        f"{row.same_decision:.2%} of {row.images:,} images decided alike (asked {row.tolerance.decided:.2%})"
    )
    if row.accuracy_before is not None and row.accuracy_after is not None:
        line += f", accuracy {row.accuracy_before:.4f} -> {row.accuracy_after:.4f}"
        if row.tolerance.accuracy_drop < 1:
            line += f" (allowed {row.tolerance.accuracy_drop:g} less)"
    return line


def require(where: object, rows: Iterable[Parity]) -> None:
    """GateError that names every model that is beyond its tolerance, with its worst images."""
    failed = [row for row in rows if not row.passed]
    if not failed:
        return
    lines = []
    for row in failed:
        lines.append(f"{where}: {line_of(row)}")
        lines += [f"    failed: {bound}" for bound in exceeded(row)]
        lines += [f"    {one.image}: by {one.difference:.2g}, {one.before} -> {one.after}" for one in row.worst]
    lines.append(
        "manifest.json says so, too; take another precision, or allow more (--tolerance, --same, --accuracy-drop)"
    )
    raise GateError("\n".join(lines))


def latency(ask: Callable[[np.ndarray], object], shape: tuple[int, int, int], batch: int | None = None) -> Latency:
    """How long a call takes that answers pixels (N, H, W, C) uint8.

    batch: images of the batches whose rate is told; None: BATCH.
    """
    size = BATCH if batch is None else batch
    pixels = np.random.default_rng(0).integers(0, 256, (max(size, 1), *shape)).astype(np.uint8)
    times = _timed(ask, pixels[:1])
    many = times if size == 1 else _timed(ask, pixels)
    return Latency(
        float(np.percentile(times, 50)) * 1e3, float(np.percentile(times, 95)) * 1e3, size / float(np.median(many))
    )


class Gated(NamedTuple):
    """The comparison of a bundle with the trained model."""

    rows: list[Parity]
    """One for each model that was compared."""
    left: dict[str, str]
    """Path of a model that was not compared -> why."""
    failed: dict[str, Exception]
    """Path of a model that does not run -> what its runtime raised."""


def gate(exporting: Exporting, bundle: Bundle, asks: Asks = Asks()) -> Gated:  # noqa: B008 - it cannot be changed
    """Compares each model of a bundle, on its own runtime and from the image files on, with the trained model."""
    if not exporting.compared:
        return Gated([], {model.path: "there are no test images; name some (--data)" for model in bundle.models}, {})
    left: dict[str, str] = {}
    failed: dict[str, Exception] = {}
    runtimes: dict[str, Runtime] = {}
    try:
        for model in bundle.models:
            try:
                runtimes[model.path] = open_here(bundle, model)
            except NotHere as error:
                left[model.path] = str(error)
            except Exception as error:
                failed[model.path] = error
        asked, answers = _answers(exporting, runtimes, failed)
        rows = []
        for model in bundle.models:
            if model.path in answers:
                runtime = runtimes[model.path]
                tolerance = tolerance_of(model, asks, len(asked.names))
                seconds = latency(runtime, bundle.shape, model.batch)
                rows.append(compare(bundle, model, asked, answers[model.path], tolerance, runtime.name, seconds))
        return Gated(rows, left, failed)
    finally:
        for runtime in runtimes.values():
            runtime.close()


def _answers(
    exporting: Exporting, runtimes: dict[str, Runtime], failed: dict[str, Exception]
) -> tuple[Asked, dict[str, np.ndarray]]:
    """Returns the answers of the trained model, and (N, K) float32 of each runtime; those that fail go to `failed`."""
    trained: list[np.ndarray] = []
    rows: dict[str, list[np.ndarray]] = {path: [] for path in runtimes}
    for pixels, files in _batches(exporting):
        trained.append(exporting.classifier.probabilities(pixels.astype(np.float32)))
        contents: list[bytes] | None = None
        for path, runtime in runtimes.items():
            if path in failed:
                continue
            try:
                if runtime.reads_files:
                    contents = contents or [as_file(file) for file in files]
                    rows[path].append(runtime.of_files(contents))
                else:
                    rows[path].append(runtime(pixels))
            except Exception as error:  # each runtime has its own
                failed[path] = error
    test = exporting.test
    count = sum(map(len, trained))
    names = [f"vector {number}" for number in range(count)] if test is None else test.names
    asked = Asked(names, np.concatenate(trained), None if test is None else test.truth)
    return asked, {path: np.concatenate(made) for path, made in rows.items() if path not in failed}


def _batches(exporting: Exporting) -> Iterator[tuple[np.ndarray, Iterable[ImageInput]]]:
    """Yields pixels (n, H, W, C) uint8 with the images that they come from: test images, or the vectors of a pack."""
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
    """Returns an image as the content of a file: its own, or a PNG of its pixels."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, np.ndarray):
        png = io.BytesIO()
        read_image(image).save(png, "PNG")
        return png.getvalue()
    with open(image, "rb") as file:
        return file.read()


def _timed(ask: Callable[[np.ndarray], object], pixels: np.ndarray) -> list[float]:
    for _ in range(WARM):
        ask(pixels)
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) < WARM or (len(times) < CALLS and time.perf_counter() < end):
        begun = time.perf_counter()
        ask(pixels)
        times.append(time.perf_counter() - begun)
    return times


def _worst(bundle: Bundle, asked: Asked, found: np.ndarray, differences: np.ndarray, same: np.ndarray) -> list[Worst]:
    """The images that are decided otherwise before those that are not, by difference."""
    order = np.lexsort((-differences, same))[:NAMED]
    return [
        Worst(
            image=asked.names[place],
            difference=float(min(differences[place], 1.0)),
            before=told(asked.probabilities[place], bundle.classes, bundle.task, bundle.thresholds),
            after=told(found[place], bundle.classes, bundle.task, bundle.thresholds),
        )
        for place in order.tolist()
    ]


def told(row: np.ndarray, classes: Sequence[str], task: Task, thresholds: Sequence[float] | None) -> str:
    """What is decided from the probabilities of one image, and how sure it is: "cat 0.81"."""
    decision, confidence = decide(row[np.newaxis], task, thresholds)
    if task == "multilabel":
        names = [name for name, held in zip(classes, decision[0], strict=True) if held]
        return f"{' + '.join(names) or 'nothing'} {confidence[0]:.3f}"
    columns = two_columns(row) if task == "binary" else row[np.newaxis]
    return f"{classes[int(decision[0])]} {columns[0, int(decision[0])]:.3f}"
