"""`kerasimg.calibrate`: fit a temperature on validation images and store it in the model's file.

The temperature is in the `.keras` file beside the classes, not in the model's weights. Whoever opens the file with
kerasimg gets calibrated probabilities; so does every export from then on. Chosen thresholds move along, so that no
decision changes. A temperature that makes the held-out images worse is not stored.

Few images do not say how sure a model may be: the likelihood alone took 22 images that were nearly all right for a
temperature of 0.06, which makes every probability 0 or 1. So the temperature has a prior, a log-normal around 1
(`PRIOR`), that counts as much as some tens of images and is negligible from some hundreds on. On logits
drawn for 20 images of 3 classes, with true temperatures from 0.5 to 2.5, the likelihood alone raised the log-loss by up
to 0.5 over that of no temperature; the prior lowered it, and raised it by at most 0.02 where 1 was right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from kerasimg.data.sources import Data
from kerasimg.errors import KerasimgError, counted
from kerasimg.escaping import command
from kerasimg.evaluation.evaluate import (
    NotStored,
    choose_images,
    evaluate,
    held_out,
    own_record,
    predicted,
    scores_with_intervals,
    warn_of_trained,
)
from kerasimg.files import read_object, write_json
from kerasimg.log import warning
from kerasimg.models.classifier import Classifier, ClassifierReference, set_decisions
from kerasimg.models.keras_file import model_file
from kerasimg.models.temperature import at_temperature, logits
from kerasimg.results import Calibration
from kerasimg.run_folder import RunFolder
from kerasimg.spec.document import Task
from kerasimg.staleness import ModelIdentity, change, identity_of_file, warn_of_stale

RANGE = (0.05, 20.0)
"""Temperatures that are searched; no sensible one lies outside."""
PRIOR = 0.5
"""Standard deviation of the logarithm of the temperature before any image is seen: 95 % lie between 0.38 and 2.7."""
FIGURES = ("log_loss", "calibration_error")
FEW = 50
"""Below this number of images, a temperature is fitted with a warning: the prior counts as much as they do."""
SMALL = 0.05
"""A calibration error up to this is no matter: the probabilities are about right."""

Verdict = Literal["right", "unshown", "refused", "calibrated", "off"]
"""Whether probabilities can be relied on. unshown: the images are too few to tell. refused: they are off, and a
temperature did not help. calibrated: they are off, although a temperature is applied. off: fit one."""


def calibrate(
    run: ClassifierReference, *, data: Data | None = None, part: str | None = None, undo: bool = False
) -> Calibration:
    """Calibrate the probabilities of a trained classifier by temperature scaling (Guo et al. 2017, arXiv:1706.04599).

    The temperature is stored in the model file, so every later prediction, evaluation and export uses it.

    Args:
        run: a `Run`, its folder, or a `model.keras` file.
        data: labelled images to fit on; None: those of the run.
        part: the part to fit on; None: validation.
        undo: restore the uncalibrated model instead.

    Returns:
        A `Calibration`: the temperature, and the calibration error before and after, with 95 % intervals.

    Raises:
        KerasimgError: if no temperature fits, because too few predictions are wrong.

    Example:
        >>> kerasimg.calibrate("runs/photos-1", undo=True).temperature
        1.0
    """
    file = model_file(run)
    classifier = Classifier.open(run)
    if undo:
        RunFolder(file.parent).calibration_file.unlink(missing_ok=True)
        _apply(classifier, file, 1.0)
        return Calibration.of({"temperature": 1.0})
    raw = replace(classifier, temperature=1.0, thresholds=None)
    asked = choose_images(raw, data, part, otherwise="validation")
    warn_of_trained(raw, asked, data)
    truth, p = asked.source.label_ids(asked.indices), predicted(raw, asked.source, asked.indices)
    task = raw.spec.task
    result = fit(truth, p, raw.classes, task, where=asked.source.where, part=asked.part)
    temperature = result["temperature"]
    notes = _of_few(len(p), result["interval"])
    test = held_out(raw, asked, data)
    if test is not None:
        truth, p = test.source.label_ids(test.indices), predicted(raw, test.source, test.indices)
        row = result["parts"][test.part] = before_and_after(truth, p, temperature, raw.classes, task)
        old = scores_with_intervals(truth, at_temperature(p, classifier.temperature, task), raw.classes, task)
        worse = [name for name in FIGURES if row["after"][name] > old[name]]
        if worse and temperature != classifier.temperature:
            figures = " and ".join(
                f"{name.replace('_', ' ')} {row['after'][name]:.4f} instead of {old[name]:.4f}" for name in worse
            )
            result |= {"temperature": classifier.temperature, "fitted": temperature, "applied": False}
            notes.append(
                f"nothing was changed, the temperature stays {classifier.temperature:.4g}: {temperature:.4g} makes the "
                f"{counted(len(p), 'held-out image')} ({test.part}) worse ({figures}); give more images with --data"
            )
    if notes:
        result["warnings"] = notes
    for note in notes:
        warning(note)
    files = RunFolder(file.parent)
    if result["applied"] or (files.is_run and classifier.temperature == 1):  # a refusal replaces no calibration
        result["model"] = fitted_to(replace(classifier, temperature=result["temperature"]))
        write_json(files.calibration_file, result)
    if result["applied"]:
        _apply(classifier, file, temperature)
    return Calibration.of(result)


def fit(
    truth: ArrayLike, probabilities: ArrayLike, classes: tuple[str, ...], task: Task, *, where: str, part: str
) -> dict[str, Any]:
    """Fits a temperature, as calibration.json has it.

    truth, probabilities: as in `scores`, at temperature 1.  where, part: the images.  Raises as `fit_temperature`.
    """
    temperature = fit_temperature(truth, probabilities, task)
    return {
        "temperature": temperature,
        "interval": list(temperature_interval(truth, probabilities, temperature, task)),
        "applied": True,
        "fitted_on": {"data": where, "part": part, "n": len(np.asarray(probabilities))},
        "parts": {part: before_and_after(truth, probabilities, temperature, classes, task)},
    }


def calibration_verdict(scores: Mapping[str, Any], record: Mapping[str, Any] | None) -> Verdict:
    """Whether to rely on probabilities, and whether to advise `calibrate`: only where the images show the need.

    scores: of the held-out images, as metrics.json has them.  record: calibration.json of the same model, if any.
    """
    if scores["calibration_error"] <= SMALL:
        return "right"
    low, _ = (scores.get("intervals") or {}).get("calibration_error") or (0.0, 1.0)
    if low <= 0:
        return "unshown"
    if record is not None and not record.get("applied", True):
        return "refused"
    return "off" if scores.get("temperature", 1.0) == 1 else "calibrated"


def fitted_to(classifier: Classifier) -> ModelIdentity:
    """The identity of the model that a temperature was fitted to: thresholds do not matter to it."""
    identity = classifier.identity()
    del identity["thresholds"]
    return identity


def _of_few(n: int, interval: Sequence[float]) -> list[str]:
    """A warning if the images are too few for a reliable temperature."""
    reach = f"the 95 % interval of the temperature is {interval[0]:.3g} to {interval[1]:.3g}"
    if n < FEW:
        return [f"fitted on {counted(n, 'image')} only, fewer than {FEW}: {reach}; give more images with --data"]
    if interval[0] <= 1 <= interval[1]:
        return [
            f"{reach}, which includes 1: {counted(n, 'image', 'do')} not show that the model needs another temperature"
        ]
    return []


def temperature_interval(
    truth: ArrayLike, probabilities: ArrayLike, temperature: float, task: Task
) -> tuple[float, float]:
    """The 95 % interval of a fitted temperature, on the scale of its logarithm.

    The wider of two: of the sandwich estimator, and of the curvature of likelihood and prior, as few images that are
    all right hardly differ, and look certain to the first. It is cut off at `RANGE`.

    truth, probabilities: as in `scores`, those that it was fitted on.
    """
    y, z = np.asarray(truth).astype(int), logits(probabilities, task)
    scale = 1 / temperature
    if task == "multiclass":
        powers = np.exp(scale * (z - z.max(axis=1, keepdims=True)))
        p = powers / powers.sum(axis=1, keepdims=True)
        mean = (p * z).sum(axis=1)
        slopes = mean - z[np.arange(len(z)), y]
        bends = (p * (z - mean[:, None]) ** 2).sum(axis=1)
    else:
        signed = np.where(y.reshape(z.shape) == 1, z, -z)
        wrong = (1 - np.tanh(scale * signed / 2)) / 2
        slopes = (-signed * wrong).reshape(len(z), -1).sum(axis=1)
        bends = (signed**2 * wrong * (1 - wrong)).reshape(len(z), -1).sum(axis=1)
    # Of the logarithm of the scale: ds = s d log s.
    information = scale**2 * float(bends.sum()) + 1 / PRIOR**2
    reach = 1.96 * max(scale * float(np.sqrt((slopes**2).sum())) / information, information**-0.5)
    low, high = np.exp(np.clip(np.log(temperature) + np.array([-reach, reach]), *np.log(RANGE)))
    return float(low), float(high)


def fit_temperature(truth: ArrayLike, probabilities: ArrayLike, task: Task) -> float:
    """Fits the most likely temperature, given the images and the prior.  truth, probabilities: as in `scores`.

    Raises KerasimgError where it is out of `RANGE`: where, say, many images are all right, so that the surest model is
    the best.
    """
    y = np.asarray(truth).astype(int)
    z = logits(probabilities, task)
    if task == "multiclass":
        own = z[np.arange(len(z)), y]

        def loss(scale: float) -> float:
            return float(np.sum(np.logaddexp.reduce(z * scale, axis=1) - own * scale))

    else:
        # The logit of what is true: positive where the model is right.
        signed = np.where(y == 1, z.reshape(y.shape), -z.reshape(y.shape))

        def loss(scale: float) -> float:
            return float(np.sum(np.logaddexp(0, -signed * scale)))

    from scipy.optimize import minimize_scalar  # 0.2 s, in every command

    low, high = np.log(RANGE)
    # In the inverse of the temperature the loss is convex; its logarithm is searched evenly.
    found = minimize_scalar(
        lambda t: loss(np.exp(-t)) + t**2 / (2 * PRIOR**2),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-7},
    )
    if not low + 0.01 < found.x < high - 0.01:
        raise KerasimgError(
            f"no temperature from {RANGE[0]:g} to {RANGE[1]:g} fits the {counted(len(y), 'image')} best: too few of "
            "them are wrong (or right) to say how sure the model may be; give more images with --data"
        )
    return float(np.exp(found.x))


def before_and_after(
    truth: ArrayLike, probabilities: ArrayLike, temperature: float, classes: tuple[str, ...], task: Task
) -> dict[str, Any]:
    """Log-loss and calibration error at temperature 1 and at another, with intervals and the bins behind them."""
    content: dict[str, Any] = {"n": len(np.asarray(truth))}
    for when, p in (("before", probabilities), ("after", at_temperature(probabilities, temperature, task))):
        found = scores_with_intervals(truth, p, classes, task)
        content[when] = {name: found[name] for name in FIGURES}
        content[when]["intervals"] = {name: found["intervals"][name] for name in FIGURES}
        content[f"calibration_{when}"] = found["calibration"]
    return content


def decide_by(classifier: Classifier, changed: Classifier, file: Path) -> None:
    """Write changed decisions into the model's file, and evaluate the run's held-out images by them.

    Warns of every file of the run that is stale from then on.

    Args:
        classifier: as it was.
        changed: with another temperature, thresholds or flips.
        file: the model's `.keras` file.
    """
    other = (changed.temperature, changed.flips) != (classifier.temperature, classifier.flips)
    if changed.sets is not None and other:
        again = command("run", "sets", classifier.folder or file)
        warning(f"the rule of prediction sets was for other probabilities and is removed; to renew it: {again}")
        changed = replace(changed, sets=None)
    set_decisions(file, changed)
    if classifier.folder is None:
        return
    try:
        parts = {image["part"] for image in own_record(classifier)["images"]}
    except NotStored:
        parts = set()
    if parts & {"test", "validation"}:
        evaluate(changed, verbose=0)  # which warns
    else:
        warn_of_stale(classifier.folder)


def _apply(classifier: Classifier, file: Path, temperature: float) -> None:
    """Writes the temperature, and moves the thresholds so that every decision stays the same."""
    thresholds = classifier.thresholds
    if thresholds is not None:
        moved = at_temperature(thresholds, temperature / classifier.temperature, "multilabel")
        thresholds = tuple(old if old in (0.0, 1.0) else float(new) for old, new in zip(thresholds, moved, strict=True))
        _move_chosen(file, replace(classifier, temperature=temperature, thresholds=thresholds), thresholds)
    decide_by(classifier, replace(classifier, temperature=temperature, thresholds=thresholds), file)


def _move_chosen(file: Path, changed: Classifier, thresholds: tuple[float, ...]) -> None:
    """Moves the thresholds in thresholds.json along with those of the model; decisions stay the same.

    file: the model's, still as it was before the change.
    """
    chosen = RunFolder(file.parent).thresholds_file
    if not chosen.is_file():
        return
    content = read_object(chosen)
    other_model = change(content.get("model"), identity_of_file(file)) is not None
    if other_model or len(content.get("thresholds", ())) != len(thresholds):
        return  # moving them would not make them this model's
    content["thresholds"] = dict(zip(content["thresholds"], thresholds, strict=True))
    for label, row in content.get("labels", {}).items():
        row["threshold"] = content["thresholds"].get(label)
    content["model"] = changed.identity()
    write_json(chosen, content)
