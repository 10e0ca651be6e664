"""`kerasimg.learn`: new classes from examples that an exported page has collected, by ridge regression on features.

The page (`web/page/learner.js`) and `fit_head` compute the same from the same numbers: an export for the web with
`trainable` brings features of training images, the page adds those of new images, and what it saves has all of them.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import keras
import numpy as np
from pydantic import Field, ValidationError

from kerasimg.boundary import limit, parse_json, read_file, reading
from kerasimg.data.sources import Data, open_source
from kerasimg.deploy.logits import in_float32
from kerasimg.errors import CallError, counted
from kerasimg.evaluation.evaluate import choose_images, image_batches
from kerasimg.models.classifier import Classifier, ClassifierReference
from kerasimg.models.compiled_predict import answers
from kerasimg.models.known import outputs_and_features
from kerasimg.results import Result
from kerasimg.spec.document import Section

if TYPE_CHECKING:
    from kerasimg.deploy.export_context import Exporting

STORED, MOST_CLASSES = 512, 100
"""Most features of training images in a page, and most classes whose features it has: at least five of each."""
PENALTY = 0.01
"""The ridge penalty, as a share of the mean squared length of the features, less their mean."""
SHARPNESS = (1.0, 20.0)
"""The range of what scores are multiplied by before the softmax."""
USUAL_SHARPNESS = 10.0
"""The same where no class has two examples, so that none can be left out."""
HALVINGS = 50


@dataclass(frozen=True, eq=False)
class Examples:
    """Features of labelled images, by which a head is fitted."""

    name: str
    """Of the classifier."""
    weights: str
    """The digest of its weights (`Classifier.identity`)."""
    classes: tuple[str, ...]
    labels: np.ndarray
    """(N,) numbers of classes."""
    features: np.ndarray
    """(N, d) float32."""

    def to_dict(self) -> dict[str, Any]:
        """The content of the JSON file, as the page saves it, too."""
        content = np.ascontiguousarray(self.features, "<f4").tobytes()
        return {
            "kerasimg_examples": 1,
            "name": self.name,
            "weights": self.weights,
            "classes": list(self.classes),
            "labels": self.labels.tolist(),
            "width": self.features.shape[1],
            "features": base64.b64encode(content).decode(),
        }

    @staticmethod
    def read(file: Path) -> Examples:
        """Reads a file that a page saved; CallError if it is not valid."""
        if not file.is_file():
            raise CallError(f"no file '{file}'; name the JSON that the page saved")
        with reading(f"'{file}' is not a file that a page of `kerasimg export --to web --trainable` saved"):
            document = parse_json(read_file(file, limit("examples_bytes")), most=limit("examples_bytes"))
            try:
                content = _File.model_validate(document)
            except ValidationError as error:
                first = error.errors()[0]
                raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
            values = np.frombuffer(base64.b64decode(content.features, validate=True), "<f4")
            if len(values) != len(content.labels) * content.width:
                raise ValueError(
                    f"features: expected {len(content.labels)} x {content.width} numbers, found {len(values)}"
                )
            if not np.isfinite(values).all():
                raise ValueError("features: expected finite numbers")
            if len(set(content.classes)) < len(content.classes) or not all(content.classes):
                raise ValueError("classes: expected names that differ")
            labels = np.array(content.labels, np.int64)
            if len(labels) and labels.max() >= len(content.classes):
                raise ValueError(f"labels: expected numbers below {len(content.classes)}, found {labels.max()}")
        features = values.reshape(len(labels), content.width)
        return Examples(content.name, content.weights, tuple(content.classes), labels, features)

    def add(self, names: Sequence[str], features: np.ndarray) -> Examples:
        """These and further examples.  names: the class of each."""
        classes = tuple(dict.fromkeys((*self.classes, *names)))
        numbers = np.array([classes.index(name) for name in names], np.int64)
        return replace(
            self,
            classes=classes,
            labels=np.concatenate([self.labels, numbers]),
            features=np.concatenate([self.features, features]),
        )


class _File(Section):
    """The JSON file of examples."""

    kerasimg_examples: Literal[1]
    name: str
    weights: str
    classes: list[str]
    labels: list[Annotated[int, Field(ge=0, strict=True)]]
    width: Annotated[int, Field(ge=1, strict=True)]
    features: str


@dataclass(frozen=True, repr=False)
class Learned(Result):
    """A classifier with classes that a page has learned."""

    file: Path
    """The model, as a `.keras` file."""
    classes: tuple[str, ...]
    images: dict[str, int]
    """Class -> number of examples."""
    left_out: float | None
    """The share of examples that is right when each is left out of the fit, averaged over classes; None where no class
    has two examples."""


@dataclass(frozen=True, eq=False)
class Head:
    """Logits are `features @ kernel + bias`."""

    kernel: np.ndarray
    bias: np.ndarray
    left_out: float | None


def fit_head(examples: Examples) -> Head:
    """Fits a head by ridge regression of the classes on the features; each class counts the same.

    The scores are multiplied by the number for which the softmax is most likely, each example being left out of the
    fit by which its own scores are computed. Step by step as in `learner.js`.

    Raises:
        CallError: if a class has no example, or there are fewer than two classes.
    """
    count = len(examples.classes)
    if count < 2:
        raise CallError(f"learning needs two classes with examples, and there are {count}")
    counts = np.bincount(examples.labels, minlength=count)
    if not counts.all():
        raise CallError(f"the class '{examples.classes[int(counts.argmin())]}' has no example")
    weights = 1 / (count * counts[examples.labels])
    features = examples.features.astype(np.float64)
    mean = weights @ features
    centred = features - mean
    scale = np.sqrt(max(float(weights @ np.square(centred).sum(axis=1)), 1e-24))
    root = np.sqrt(weights)[:, None]
    rows = root * centred / scale
    targets = root * (np.eye(count)[examples.labels] - 1 / count)
    inverse = np.linalg.inv(rows @ rows.T + PENALTY * np.eye(len(rows)))
    dual = inverse @ targets
    # The scores of an example that is left out of the fit (PRESS, Allen 1974), without a fit for each.
    freedom = PENALTY * np.diag(inverse) - weights
    scores = (targets - PENALTY * dual / freedom[:, None]) / root + 1 / count
    several = counts[examples.labels] > 1
    sharpness, left_out = USUAL_SHARPNESS, None
    if several.any():
        chosen, own = scores[several], examples.labels[several]
        share = weights[several] / weights[several].sum()
        sharpness = _sharpness(chosen, own, counts[own], share)
        left_out = float(share @ (chosen.argmax(axis=1) == own))
    kernel = rows.T @ dual / scale
    bias = 1 / count - mean @ kernel
    return Head((sharpness * kernel).astype(np.float32), (sharpness * bias).astype(np.float32), left_out)


def _sharpness(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray, weights: np.ndarray) -> float:
    """The factor of scores (N, K) with the smallest weighted log loss: where its derivative, which rises, is 0.

    Of a class with n examples, an example counts as one with probability (n + 1) / (n + 2), so that a few examples that
    are all right do not make the model certain (Platt 1999).
    """
    low, high = SHARPNESS
    sure = (counts + 1) / (counts + 2)
    other = (1 - sure) / (scores.shape[1] - 1)
    own = (sure - other) * scores[np.arange(len(labels)), labels] + other * scores.sum(axis=1)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        powers = np.exp(middle * (scores - scores.max(axis=1, keepdims=True)))
        expected = (powers * scores).sum(axis=1) / powers.sum(axis=1)
        if weights @ (expected - own) > 0:
            high = middle
        else:
            low = middle
    return (low + high) / 2


def collect_examples(exporting: Exporting) -> Examples:
    """The features of training images, as many of each class; none where there are no such images.

    Raises:
        CallError: if the model has no features, or an image may have several labels.
    """
    classifier = exporting.classifier
    model = features_model(classifier)
    classes: tuple[str, ...] = ()
    labels, features = np.empty(0, np.int64), np.empty((0, model.output_shape[-1]), np.float32)
    if exporting.training is not None and len(classifier.classes) <= MOST_CLASSES:
        trained = choose_images(
            classifier, exporting.data, "train" if exporting.data is None else None, otherwise="train"
        )
        truth = np.asarray(trained.source.label_ids(trained.indices)).reshape(len(trained.indices)).astype(np.int64)
        places = _first_of_each(truth, STORED // len(classifier.classes))
        if len(np.unique(truth[places])) == len(classifier.classes):
            classes, labels = classifier.classes, truth[places]
            features = answers(model, image_batches(classifier, trained.source, trained.indices[places]))
    return Examples(exporting.name, classifier.identity()["weights"], classes, labels, features)


def _first_of_each(truth: np.ndarray, count: int) -> np.ndarray:
    """The places of at most `count` images of each class, chosen at random, ascending."""
    order = np.random.default_rng(0).permutation(len(truth))
    return np.sort(np.concatenate([order[truth[order] == number][:count] for number in np.unique(truth)]))


def features_model(classifier: Classifier) -> keras.Model:
    """The model from images (N, H, W, C), 0-255, to features (N, d), in float32.

    Raises:
        CallError: if the model has none, or an image may have several labels.
    """
    if classifier.spec.task == "multilabel":
        raise CallError("learning new classes needs one label for each image, and the task is multilabel")
    both = outputs_and_features(in_float32(classifier.model))
    return keras.Model(both.inputs, both.outputs[1], name=both.name)


def learn(
    run: ClassifierReference,
    page: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    data: Data | None = None,
) -> Learned:
    """Make a classifier of the classes that an exported page has learned.

    Its features are those of the run; its last layer is fitted to the examples as the page does, so it gives the same
    probabilities.

    Args:
        run: the `Run` that was exported with `trainable`, its folder, or its `model.keras` file.
        page: the JSON file that the page saved.
        out: the `.keras` file to write. None: beside `page`.
        data: labelled images that are further examples, of these or of new classes.

    Returns:
        The `Learned`: the file, which every command takes as a run, and its classes.

    Raises:
        CallError: if the file is not valid, or was saved by a page of another model.

    Example:
        >>> kerasimg.learn("runs/photos-1", "photos-learned.json").classes
        ('cat', 'dog')
    """
    file = Path(out) if out is not None else Path(page).with_suffix(".keras")
    if file.suffix != ".keras":
        raise CallError(f"out: expected a file that ends in .keras, got '{file}'")
    classifier = Classifier.open(run)
    examples = Examples.read(Path(page))
    model = features_model(classifier)
    if examples.weights != classifier.identity()["weights"]:
        raise CallError(
            f"'{page}' was saved by a page of another model, '{examples.name}'; name the run that it was exported from"
        )
    if examples.features.shape[1] != (width := model.output_shape[-1]):
        raise CallError(f"'{page}': expected {counted(width, 'feature')}, found {examples.features.shape[1]}")
    if data is not None:
        source = open_source(data, "multiclass")
        names = [source.classes[number] for number in np.asarray(source.label_ids(np.arange(len(source)))).reshape(-1)]
        examples = examples.add(names, answers(model, image_batches(classifier, source, np.arange(len(source)))))
    head = fit_head(examples)
    dense = keras.layers.Dense(len(examples.classes), activation="softmax", dtype="float32", name="learned")
    learned = keras.Model(model.inputs, dense(model.output), name=model.name)
    dense.set_weights([head.kernel, head.bias])
    resolved = classifier.spec.resolved
    if classifier.spec.task == "binary":  # whose loss does not go with several classes
        compiled = {**resolved.get("compile", {}), "loss": "auto", "metrics": []}
        resolved = {**resolved, "task": "multiclass", "compile": compiled}
    spec = replace(classifier.spec, task="multiclass", resolved=resolved)
    Classifier(learned, spec, examples.classes).save(file)
    counts = np.bincount(examples.labels, minlength=len(examples.classes))
    images = dict(zip(examples.classes, counts.tolist(), strict=True))
    return Learned(file, examples.classes, images, head.left_out)
