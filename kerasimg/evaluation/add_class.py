"""`kerasimg.add_class`: one more class for a trained classifier, from a few images, without training again.

The last layer gets one more column; all other weights stay. The column is fitted by logistic regression on features of
training images of the run, whose other logits are known, and of the new images, which weigh as much as an average
class.
So the old classes keep their order among each other, and an old image changes only if the new class takes it over.
The penalty on the column is the one with the smallest log loss of images that it was not fitted to: validation images,
and the new ones, each left out in turn. As the loss is a log loss, the probabilities stay calibrated.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from scipy.optimize import minimize

from kerasimg.catalog import find
from kerasimg.data.images import Images
from kerasimg.data.items import evenly_spaced
from kerasimg.errors import CallError, counted
from kerasimg.escaping import command
from kerasimg.evaluation.embed import directions, embed
from kerasimg.evaluation.evaluate import Chosen, choose_images, held_out, image_batches
from kerasimg.evaluation.intervals import wilson
from kerasimg.files import write_json
from kerasimg.log import warning
from kerasimg.models.classifier import Classifier
from kerasimg.models.keras_file import read_facts
from kerasimg.models.known import Known, find_head
from kerasimg.results import Result
from kerasimg.run_folder import RunFolder, RunReference
from kerasimg.spec.load import Spec, load_document

TRAINED, UNSEEN = 1000, 500
"""Most training images to fit the column to, and most validation images to choose the penalty by."""
PENALTIES = (0.001, 0.01, 0.1, 1.0)
LEFT_OUT = 10
"""Most times that new images are left out of a fit; of more images, several at once."""
NEAR = 0.25
"""Part of the way from chance to 1 below which the accuracy of the nearest class mean is near chance."""
FEW = 0.5
"""Share of new images, each left out of the fit, below which a warning says that the class is hardly recognised."""


@dataclass(frozen=True, repr=False)
class AddedClass(Result):
    """What adding a class to a run did."""

    name: str | None
    """The class; None: the last one was removed again."""
    classes: tuple[str, ...]
    """All classes, in the order of the outputs."""
    images: int = 0
    """Number of images of the new class."""
    left_out: float | None = None
    """Share of the new images that is recognised when each is left out of the fit; None with a single image."""
    old: Mapping[str, Any] | None = None
    """The old classes on held-out images: part, n, accuracy before and after, their paired difference with its 95 %
    interval, and how many images the new class took over. None without such images."""
    warnings: tuple[str, ...] = ()


def add_class(
    run: RunReference, name: str | None = None, images: Images | None = None, *, undo: bool = False
) -> AddedClass:
    """Add a class to a trained run from a few images, without training its layers again.

    Args:
        run: a `Run` or its folder; its model gets the class.
        name: the name of the new class.
        images: images of it, five or more if possible, as for `kerasimg.predict`: a folder, files, arrays.
        undo: remove the class that was added last instead.

    Returns:
        An `AddedClass`: how well the new images are recognised, and how far the accuracy of the old classes moved.

    Raises:
        CallError: if the run's task is not multiclass, its last layer is no Dense, or the class exists.
        DataError: if an image cannot be read.

    Example:
        >>> kerasimg.add_class("runs/photos-1", "badger", "photo.jpg").classes
        ('cat', 'dog', 'badger')
    """
    files = RunFolder.open(run)
    if undo:
        return _undo(files)
    if not name or images is None:
        raise CallError("add: give the name of the new class, and images of it")
    classifier = Classifier.open(files.path)
    if classifier.spec.task != "multiclass":
        raise CallError(
            f"add: the task is {classifier.spec.task}; only a multiclass run can get one more class: train again with "
            "--task multiclass"
        )
    if name in classifier.classes:
        raise CallError(f"add: the run has a class '{name}' already")
    head = find_head(classifier.model)
    if head is None or not head.has_logits or head.call.operation.units != len(classifier.classes):
        raise CallError("add: the last layer with weights is not a Dense layer with one output for each class")
    new = embed(classifier, images).features.astype(np.float64)
    column = _Column(classifier, head.call.operation, new)
    kernel, bias = column.fit()
    changed = _with_column(classifier, head.call.operation, name, kernel, bias, new)
    result = AddedClass(
        name,
        changed.classes,
        len(new),
        column.left_out,
        _compare(classifier, changed),
        tuple(column.warnings(name, classifier.classes)),
    )
    if classifier.sets is not None:
        note = f"the rule of prediction sets is removed; to choose it again: {command('run', 'sets', files.path)}"
        result = replace(result, warnings=(*result.warnings, note))
    if classifier.known is not None:
        note = f"known.json is of the classes before; to choose the rule again: {command('run', 'known', files.path)}"
        result = replace(result, warnings=(*result.warnings, note))
    for note in result.warnings:
        warning(note)
    _store(files, changed, result)
    return result


class _Column:
    """The fit of a new class's weights.

    Args:
        classifier: the trained classifier.
        dense: its last layer.
        new: (N, d) features of the new class.
    """

    def __init__(self, classifier: Classifier, dense: keras.layers.Dense, new: np.ndarray) -> None:
        self.new = new
        self.temperature = classifier.temperature
        kernel = keras.ops.convert_to_numpy(dense.kernel).astype(np.float64)
        bias = (
            keras.ops.convert_to_numpy(dense.bias).astype(np.float64) if dense.use_bias else np.zeros(kernel.shape[1])
        )
        if not dense.use_bias:
            raise CallError("add: the last layer has no bias, so that the new class cannot be made as likely as others")
        self.kernel, self.bias = kernel, bias
        self.old, self.truth = _features(classifier, choose_images(classifier, None, "train"), TRAINED)
        try:
            unseen = choose_images(classifier, None, None, otherwise="validation")
        except CallError:  # the run held out nothing
            unseen = choose_images(classifier, None, "train")
        self.unseen, self.unseen_truth = _features(classifier, unseen, UNSEEN)
        self.mean = self.old.mean(axis=0)
        spread = self.old.std(axis=0)
        self.spread = spread + 0.1 * spread.mean() + 1e-12
        self.left_out: float | None = None

    def _logits(self, features: np.ndarray) -> np.ndarray:
        return np.asarray((features @ self.kernel + self.bias) / self.temperature)

    def _scaled(self, features: np.ndarray) -> np.ndarray:
        return np.asarray((features - self.mean) / self.spread)

    def _fit(self, new: np.ndarray, penalty: float) -> np.ndarray:
        """Weights and, last, the bias of the column, for scaled features."""
        features = np.concatenate([self.old, new])
        x = np.c_[self._scaled(features), np.ones(len(features))] / np.sqrt(features.shape[1])
        others = self._logits(features)
        rest = others.max(axis=1) + np.log(np.exp(others - others.max(axis=1, keepdims=True)).sum(axis=1))
        is_new = np.arange(len(features)) >= len(self.old)
        # The new images weigh as much as an average class.
        average = len(self.old) / self.kernel.shape[1]
        weights = np.where(is_new, average / len(new), 1.0) / (len(self.old) + average)

        def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
            z = x @ w - rest
            value = weights @ (np.logaddexp(0, z) - is_new * z) + penalty / 2 * float(w[:-1] @ w[:-1]) / len(w)
            slope = x.T @ (weights * (1 / (1 + np.exp(-np.clip(z, -500, 500))) - is_new))
            slope[:-1] += penalty * w[:-1] / len(w)
            return float(value), slope

        found = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 200})
        return np.asarray(found.x / np.sqrt(features.shape[1]))

    def _margin(self, features: np.ndarray, column: np.ndarray) -> np.ndarray:
        """(N, K + 1) log probabilities."""
        z = np.c_[self._logits(features), self._scaled(features) @ column[:-1] + column[-1]]
        z -= z.max(axis=1, keepdims=True)
        return np.asarray(z - np.log(np.exp(z).sum(axis=1, keepdims=True)))

    def fit(self) -> tuple[np.ndarray, float]:
        """Returns the kernel's new column (d,) and the new bias."""
        count = len(self.new)
        groups = np.array_split(np.random.default_rng(0).permutation(count), min(count, LEFT_OUT)) if count > 1 else []
        classes = self.kernel.shape[1]
        scores = []
        for penalty in PENALTIES:
            right, losses = [], []
            for group in groups:
                rest = np.delete(self.new, group, axis=0)
                rows = self._margin(self.new[group], self._fit(rest, penalty))
                right += (rows.argmax(axis=1) == classes).tolist()
                losses += (-rows[:, -1]).tolist()
            old = self._margin(self.unseen, self._fit(self.new, penalty))
            own = -old[np.arange(len(old)), self.unseen_truth].mean()
            mean = float(np.mean(losses)) if losses else 0.0
            scores.append((own * classes / (classes + 1) + mean / (classes + 1), penalty, right))
        _, penalty, right = min(scores, key=lambda score: score[0])
        self.left_out = float(np.mean(right)) if right else None
        column = self._fit(self.new, penalty)
        kernel = column[:-1] / self.spread * self.temperature
        return kernel, float(column[-1] * self.temperature - self.mean @ kernel)

    def warnings(self, name: str, classes: tuple[str, ...]) -> list[str]:
        """What must be known of the new class."""
        notes = []
        count = len(classes)
        means = np.stack([self.old[self.truth == k].mean(axis=0) for k in range(count) if (self.truth == k).any()])
        numbers = np.array([k for k in range(count) if (self.truth == k).any()])
        nearest = numbers[(directions(self.unseen - self.mean) @ directions(means - self.mean).T).argmax(axis=1)]
        right = float((nearest == self.unseen_truth).mean())
        low, _ = wilson(right, len(self.unseen))
        if low < 1 / count + NEAR * (1 - 1 / count):
            notes.append(
                f"the features hardly tell classes apart: the nearest class mean is right for {right:.0%} of "
                f"{counted(len(self.unseen), 'held-out image')}, {1 / count:.0%} being chance; train again with the "
                "new class"
            )
        if self.left_out is None:
            notes.append(f"a single image of '{name}' does not say how well the class is recognised; give five or more")
        elif self.left_out < FEW:
            notes.append(
                f"'{name}' is hardly recognised: {self.left_out:.0%} of its images, each left out of the fit; give "
                "more images, or train again with the new class"
            )
        return notes


def _features(classifier: Classifier, chosen: Chosen, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and class numbers of at most `count` images, evenly spaced."""
    indices = np.asarray(chosen.indices)[evenly_spaced(len(chosen.indices), count)]
    features = classifier.values(image_batches(classifier, chosen.source, indices)).required_features()
    return features.astype(np.float64), np.asarray(chosen.source.label_ids(indices)).reshape(-1).astype(int)


def _with_column(
    classifier: Classifier,
    dense: keras.layers.Dense,
    name: str,
    kernel: np.ndarray,
    bias: float,
    new: np.ndarray,
) -> Classifier:
    """The classifier with one more output."""
    count = len(classifier.classes)
    model = type(classifier.model).from_config(_with_units(classifier.model.get_config(), dense.name, count + 1))
    values = []
    for variable, target in zip(classifier.model.weights, model.weights, strict=True):
        value = keras.ops.convert_to_numpy(variable)
        if value.shape != tuple(target.shape):
            extra = kernel[:, np.newaxis] if value.ndim == 2 else np.array([bias])
            value = np.concatenate([value, extra.astype(value.dtype)], axis=-1)
        values.append(value)
    model.set_weights(values)
    known = classifier.known
    if known is not None and known.rule.method != "energy":
        known = _with_centres(known, new.astype(np.float32))
    return replace(
        classifier,
        model=model,
        spec=_spec(classifier.spec, count + 1),
        classes=(*classifier.classes, name),
        sets=None,
        known=known,
    )


def _with_units(config: Any, name: str, units: int) -> Any:
    """A Keras config in which the Dense layer of this name has other units."""
    if isinstance(config, dict):
        if config.get("class_name") == "Dense" and config.get("config", {}).get("name") == name:
            return {**config, "config": {**config["config"], "units": units}}
        return {key: _with_units(value, name, units) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(_with_units(value, name, units) for value in config)
    return config


def _with_centres(known: Known, new: np.ndarray) -> Known:
    """The rule with the new images among those that others are compared with.

    Distances only become shorter, so that no more of the old images are flagged as unknown than before.
    """
    projected = (new - known.arrays["mean"]) @ known.arrays["directions"]
    rows = projected if known.rule.method == "distance" else projected.mean(axis=0, keepdims=True)
    rows = np.repeat(rows, -(-known.rule.neighbour // len(rows)), axis=0)
    return replace(known, arrays={**known.arrays, "centres": np.concatenate([known.arrays["centres"], rows])})


def _spec(spec: Spec, classes: int) -> Spec:
    """The spec for one more class, where it says how many there are."""
    resolved = dict(spec.resolved)
    params, nodes = resolved.get("params", {}), list(resolved["model"])
    last = max((k for k, node in enumerate(nodes) if node.get("layer") == "Dense"), default=None)
    if last is not None and nodes[last].get("units") == classes - 1:  # a number, not an expression of num_classes
        nodes[last] = {**nodes[last], "units": classes}
        resolved["model"] = nodes
    if "num_classes" in params:
        resolved["params"] = {**params, "num_classes": classes}
    return load_document(resolved, find, spec.folder)


def _compare(before: Classifier, after: Classifier) -> dict[str, Any] | None:
    """How far the old classes moved, on images that neither model was fitted to."""
    try:
        chosen = held_out(before, Chosen(*choose_images(before, None, "train")), None)
        chosen = chosen or choose_images(before, None, "validation")
    except CallError:
        return None
    truth = np.asarray(chosen.source.label_ids(chosen.indices)).reshape(-1)
    batches = (image_batches(each, chosen.source, chosen.indices) for each in (before, after))
    first, second = (each.probabilities(b).argmax(axis=1) for each, b in zip((before, after), batches, strict=True))
    broken = (first == truth) & (second != truth)
    # Only the new class can take images over, so none is right that was wrong before: the difference is a share.
    low, high = wilson(float(broken.mean()), len(truth))
    return {
        "part": chosen.part,
        "n": len(truth),
        "before": float((first == truth).mean()),
        "after": float((second == truth).mean()),
        "difference": 0.0 - float(broken.mean()),
        "interval": [-high, 0.0 - low],
        "taken_over": int((second == len(before.classes)).sum()),
    }


def _kept(files: RunFolder) -> list[Path]:
    """The files that adding a class changes."""
    return [files.model_file, files.spec_file, files.classes_file, files.known_file, files.sets_file]


def _store(files: RunFolder, changed: Classifier, result: AddedClass) -> None:
    """Keeps the files of the run as they are in a folder, then writes the new ones."""
    number = len(files.added()) + 1
    folder = files.added_folder(number)
    folder.mkdir(parents=True)
    for path in _kept(files):
        if path.is_file():
            shutil.copy2(path, folder / path.name)
    write_json(folder / "added.json", result.to_dict())
    changed.save(files.model_file)
    files.write_spec(changed.spec.resolved)
    files.write_classes(changed.classes)
    files.sets_file.unlink(missing_ok=True)


def _undo(files: RunFolder) -> AddedClass:
    """Restores the files as they were before the class that was added last."""
    folders = files.added()
    if not folders:
        raise CallError(f"add: no class was added to '{files.path}'")
    for path in _kept(files):
        stored = folders[-1] / path.name
        if stored.is_file():
            shutil.copy2(stored, path)
        else:
            path.unlink(missing_ok=True)
    shutil.rmtree(folders[-1])
    return AddedClass(None, tuple(read_facts(files.model_file).classes))
