"""`kerasimg.calibrate`: fit a temperature on validation pictures, keep it with the model, tell what it changed.

The temperature stands in the `.keras` file beside the classes, not in the model's weights. Whoever opens the file with
kerasimg gets calibrated probabilities; so do exports. The thresholds that were chosen move along, so that no decision
changes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from kerasimg.data.sources import Data
from kerasimg.errors import CallError, KerasimgError
from kerasimg.evaluation.evaluate import Chosen, NotKept, choose_pictures, evaluate, judged, own_record, predicted
from kerasimg.files import write_json
from kerasimg.models.classifier import Classifier, ClassifierReference, model_file, set_decisions
from kerasimg.models.temperature import at_temperature, logits
from kerasimg.run_folder import RunFolder
from kerasimg.spec.document import Task

RANGE = (0.05, 20.0)
"""Temperatures that are searched; no sensible one lies outside."""
FIGURES = ("log_loss", "calibration_error")


def calibrate(
    run: ClassifierReference, *, data: Data | None = None, part: str | None = None, undo: bool = False
) -> dict[str, Any]:
    """Fit a temperature, write it into the model's file, and judge the run's held-out pictures anew.

    run: a run, its folder, or a model.keras file.
    data, part: the pictures to fit it on; None: the validation part of the run.
    undo: set the temperature back to 1 instead.

    Returns what also stands in the run's calibration.json: `temperature`, `fitted_on` (part, n), and `parts`: of the
    fitted part and of the run's test part the log-loss and the calibration error before and after, with intervals.
    """
    file = model_file(run)
    classifier = Classifier.open(run)
    if undo:
        _apply(classifier, file, 1.0)
        RunFolder(file.parent).calibration_file.unlink(missing_ok=True)
        return {"temperature": 1.0}
    raw = replace(classifier, temperature=1.0, thresholds=None)
    asked = choose_pictures(raw, data, part, otherwise="validation")
    truth, p = asked.source.label_ids(asked.indices), predicted(raw, asked.source, asked.indices)
    task = raw.spec.task
    temperature = fit_temperature(truth, p, task)
    told: dict[str, Any] = {
        "temperature": temperature,
        "fitted_on": {"data": asked.source.where, "part": asked.part, "n": len(p)},
        "parts": {asked.part: before_and_after(truth, p, temperature, raw.classes, task)},
    }
    test = _test_pictures(raw, asked, data)
    if test is not None:
        truth, p = test.source.label_ids(test.indices), predicted(raw, test.source, test.indices)
        told["parts"][test.part] = before_and_after(truth, p, temperature, raw.classes, task)
    write_json(RunFolder(file.parent).calibration_file, told)
    _apply(classifier, file, temperature)
    return told


def fit_temperature(truth: ArrayLike, probabilities: ArrayLike, task: Task) -> float:
    """The temperature of least log-loss.  truth, probabilities: as in `scores`.

    Raises KerasimgError where there is none: where, say, every picture is right, so that the surest model is the best.
    """
    y = np.asarray(truth).astype(int)
    z = logits(probabilities, task)
    if task == "multiclass":
        own = z[np.arange(len(z)), y]

        def loss(scale: float) -> float:
            return float(np.mean(np.logaddexp.reduce(z * scale, axis=1) - own * scale))

    else:
        # The logit of what is true: positive where the model is right.
        signed = np.where(y == 1, z.reshape(y.shape), -z.reshape(y.shape))

        def loss(scale: float) -> float:
            return float(np.mean(np.logaddexp(0, -signed * scale)))

    low, high = np.log(RANGE)
    # In the inverse of the temperature the loss is convex, so there is one minimum; its logarithm is searched evenly.
    found = minimize_scalar(lambda t: loss(np.exp(-t)), bounds=(low, high), method="bounded", options={"xatol": 1e-7})
    if not low + 0.01 < found.x < high - 0.01:
        raise KerasimgError(
            f"no temperature from {RANGE[0]:g} to {RANGE[1]:g} fits the {len(y):,} pictures best: too few of them are "
            "wrong (or right) to say how sure the model may be; give more pictures with --data"
        )
    return float(np.exp(found.x))


def before_and_after(
    truth: ArrayLike, probabilities: ArrayLike, temperature: float, classes: tuple[str, ...], task: Task
) -> dict[str, Any]:
    """Log-loss and calibration error at temperature 1 and at another, with intervals and the bins behind them."""
    told: dict[str, Any] = {"n": len(np.asarray(truth))}
    for when, p in (("before", probabilities), ("after", at_temperature(probabilities, temperature, task))):
        found = judged(truth, p, classes, task)
        told[when] = {name: found[name] for name in FIGURES}
        told[when]["intervals"] = {name: found["intervals"][name] for name in FIGURES}
        told[f"calibration_{when}"] = found["calibration"]
    return told


def decide_by(classifier: Classifier, file: Path, temperature: float, thresholds: tuple[float, ...] | None) -> None:
    """Write a temperature and thresholds into the model's file, and judge the run's held-out pictures by them."""
    set_decisions(file, temperature, thresholds)
    folder = classifier.folder
    if folder is None:
        return
    try:
        parts = {picture["part"] for picture in own_record(classifier)["pictures"]}
    except NotKept:
        return
    if parts & {"test", "validation"}:
        evaluate(replace(classifier, temperature=temperature, thresholds=thresholds))


def _apply(classifier: Classifier, file: Path, temperature: float) -> None:
    """Write the temperature, with the thresholds moved to where they decide the same."""
    thresholds = classifier.thresholds
    if thresholds is not None:
        moved = at_temperature(thresholds, temperature / classifier.temperature, "multilabel")
        thresholds = tuple(old if old in (0.0, 1.0) else float(new) for old, new in zip(thresholds, moved, strict=True))
    decide_by(classifier, file, temperature, thresholds)


def _test_pictures(classifier: Classifier, fitted: Chosen, data: Data | None) -> Chosen | None:
    """The run's test pictures, where there are and the temperature was not fitted on them."""
    if classifier.folder is None or (data is None and fitted.part in ("test", "all")):
        return None
    try:
        return choose_pictures(classifier, None, "test")
    except CallError:
        return None
