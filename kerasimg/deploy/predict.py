"""`kerasimg.predict`: classifies images, by an export bundle of the run where one is verified, else by Keras.

A bundle starts in a fraction of a second, because neither Keras nor TensorFlow is loaded, and answers one image many
times as fast as `keras.Model.predict`. It is used if its results are those of the trained model:

- it belongs to the current state of the run's model: weights, temperature and thresholds;
- the export compared it with the model on images, and no probability differed by more than `SAME`;
- its file is as it was exported, and its runtime is installed;
- it has the run's rule for unknown images (`kerasimg.known`), if there is one, and its p-values were compared, too.

Class names, thresholds and prediction sets are read from `model.keras`, as with Keras. Of several models the one that
was fastest at the export is used, for up to `MOST` images; more may run on a GPU, which Keras uses. To have Keras
predict, name the run's `model.keras` instead of the run. Where Keras predicts only because the bundles are of an
earlier state of the model, a message says so, and how to renew them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np

from kerasimg import log
from kerasimg.data.images import Images, named_images
from kerasimg.data.readable import OnBadImage
from kerasimg.deploy import manifest as manifests
from kerasimg.deploy.bundle import Bundle, changed_files
from kerasimg.deploy.manifest import ModelFile, Parity
from kerasimg.deploy.runtimes import Runtime
from kerasimg.deploy.targets import open_runtime, target_of
from kerasimg.errors import KerasimgError, check_choice, counted
from kerasimg.evaluation.predict import BATCH_SIZE, Prediction, Predictor, answer, require_all
from kerasimg.log import Verbose
from kerasimg.models.keras_file import Answer, read_facts
from kerasimg.results import Results
from kerasimg.run_folder import RunFolder
from kerasimg.spec.load import Spec
from kerasimg.spec.pack import SetRule
from kerasimg.staleness import Stale, as_identity, change, identity_of_file, known_change, stale_bundle

if TYPE_CHECKING:
    from kerasimg.models.classifier import ClassifierReference

MOST = BATCH_SIZE
"""Number of images up to which a bundle predicts."""
SAME = 1e-3
"""Largest difference of a probability from the trained model's, on any image that the export compared."""


@dataclass(frozen=True)
class BundledClassifier:
    """A model of an export bundle in its runtime, with the decisions of the run's model."""

    bundle: Bundle
    model: ModelFile
    parity: Parity
    runtime: Runtime
    spec: Spec
    classes: tuple[str, ...]
    thresholds: tuple[float, ...] | None
    sets: SetRule | None

    def answer(self, images: Any) -> Answer:
        """The probabilities of images (N, H, W, C), 0-255, and their p-values if the run has a rule for them."""
        return self.runtime.answer(np.asarray(images).astype(np.uint8))

    def __str__(self) -> str:
        return (
            f"{self.bundle.model_path(self.model)} ({self.runtime.name}), which differs from the trained model by "
            f"{self.parity.greatest_difference:.1e} at most on {counted(self.parity.images, 'image')}"
        )


@log.applies_verbose
def predict(
    run: ClassifierReference, images: Images, *, on_bad_image: OnBadImage = "fail", verbose: Verbose = 1
) -> Results[Prediction]:
    """Classify images. A verified export bundle of the run predicts up to 64 images, without Keras; else Keras does.

    Args:
        run: a `Run`, its folder, a `model.keras` or `.kerasimg` file, or a zoo spec that brings its weights.
        images: the path of an image or of a folder (all images below it), an image as bytes, `PIL.Image` or array
            (H, W, C), several images as an array (N, H, W, C), or a list of any of these.
        on_bad_image: "fail" reports every unreadable image; "skip" leaves them out.
        verbose: 0, 1 or 2. 1 logs which bundle predicts.

    Returns:
        One `Prediction` per image, in order.

    Raises:
        DataError: if an image cannot be read.
        CallError: if there is no trained model, or no image.

    Example:
        >>> [prediction] = kerasimg.predict("runs/photos-1", "photo.jpg")
        >>> prediction.label in ("cat", "dog")
        True
    """
    check_choice("on_bad_image", on_bad_image, get_args(OnBadImage))
    if isinstance(images, Iterator):
        images = list(images)
    answers = answer(open_predictor(run, images), images)
    skip = on_bad_image == "skip" and answers.predictions
    return Results(answers.predictions if skip else require_all(answers))


def open_predictor(run: ClassifierReference, images: Images) -> Predictor:
    """The fastest verified export bundle of a run, or else its Keras model, and why, if the bundles are stale.

    Args:
        run, images: as for `choose_bundle`.
    """
    bundled, stale, _ = _choose(run, images)
    if bundled is not None:
        log.info(f"predicting with {bundled}")
        return bundled
    if stale is not None:
        log.info(f"predicting with Keras, which starts more slowly: {stale}")
    from kerasimg.models.classifier import Classifier

    return Classifier.open(run)


def choose_bundle(run: ClassifierReference, images: Images) -> BundledClassifier | None:
    """Returns the fastest verified model of a run's bundles; None if there is none, or Keras should predict.

    Args:
        run: as for `predict`; only a run has bundles.
        images: as for `predict`; none yet: of a stream, whose images come one after another.
    """
    return _choose(run, images).bundled


class _Choice(NamedTuple):
    bundled: BundledClassifier | None = None
    stale: Stale | None = None
    """A bundle that would predict if it were of the run's model as it is now."""
    channels: int = 3
    """Of the model's images."""


def _choose(run: ClassifierReference, images: Images) -> _Choice:
    if not isinstance(run, str | os.PathLike):
        return _Choice()
    files = RunFolder(Path(run))
    stamps = [_stamp(path) for path in [files.model_file, *sorted(files.exports.glob(f"*/{manifests.FILE}"))]]
    if len(stamps) < 2 or not files.model_file.is_file():
        return _Choice()
    choice = _open_fastest(files, tuple(stamps))
    none = choice.bundled is None and choice.stale is None
    return _Choice() if none or len(named_images(images, choice.channels)) > MOST else choice


def _stamp(path: Path) -> tuple[str, int, int]:
    """Identifies the state of a file."""
    state = path.stat() if path.is_file() else os.stat_result((0,) * 10)
    return str(path), state.st_size, state.st_mtime_ns


@functools.lru_cache(maxsize=4)
def _open_fastest(files: RunFolder, stamps: tuple[tuple[str, int, int], ...]) -> _Choice:
    """Opens the fastest verified model.  stamps: of the files that the result depends on."""
    identity, facts = identity_of_file(files.model_file), read_facts(files.model_file)
    spec = facts.load_spec(f"'{files.model_file}'")
    thresholds = None if facts.thresholds is None else tuple(facts.thresholds)
    candidates: list[tuple[Bundle, ModelFile, Parity]] = []
    stale: Stale | None = None
    for path, *_ in stamps[1:]:
        try:
            bundle = Bundle.open(Path(path).parent, check=False)
        except KerasimgError:  # `verify` reports it
            continue
        stored = as_identity(bundle.manifest.model)
        known = bundle.manifest.known and bundle.manifest.known.model_dump()
        if stored is None:
            continue
        current = change(stored, identity) is None and known_change(known, files.model_file) is None
        rows = {row.path: row for row in bundle.manifest.parity if _verified(row, current and facts.known is not None)}
        found = [(bundle, model, rows[model.path]) for model in bundle.models if model.path in rows and _opens(model)]
        if current:
            candidates += found
        elif found:
            stale = stale or stale_bundle(bundle.folder)
    for bundle, model, row in sorted(candidates, key=lambda candidate: candidate[2].p50_ms):
        try:
            fits = bundle.classes == tuple(facts.classes) and bundle.image == spec.image and bundle.task == spec.task
            if not fits or changed_files(bundle, model):
                continue
            opened = open_runtime(bundle, model)
            bundled = BundledClassifier(bundle, model, row, opened, spec, bundle.classes, thresholds, facts.sets)
            return _Choice(bundled, None, spec.image.channels)
        except KerasimgError:  # its runtime is not installed, or the file is damaged: the next, or Keras
            continue
    return _Choice(None, stale, spec.image.channels)


def _opens(model: ModelFile) -> bool:
    """Whether a package in this process can run the model on images in memory."""
    try:
        runtime = target_of(model).runtime
    except KerasimgError:
        return False
    return runtime.package is not None and not runtime.reads_files


def _verified(row: Parity, known: bool) -> bool:
    difference = row.greatest_difference
    same = row.passed and row.images > 0 and difference is not None and difference <= SAME
    return same and (not known or row.p_value_difference is not None)
