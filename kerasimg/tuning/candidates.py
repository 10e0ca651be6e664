"""The models that `auto` compares: what a trial predicts for the validation images, and averages of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from kerasimg.catalog import ZOO
from kerasimg.data.pipeline import batches
from kerasimg.evaluation.evaluate import TARGETS
from kerasimg.files import read_object
from kerasimg.models.compiled_predict import answers
from kerasimg.models.flips import with_flips
from kerasimg.models.output_kind import as_probabilities, output_kind
from kerasimg.models.split_model import split_frozen
from kerasimg.models.weights import keras_models
from kerasimg.spec.arguments import entry, known
from kerasimg.spec.document import Task
from kerasimg.spec.expand import snake_case
from kerasimg.spec.load import Spec
from kerasimg.training.prepare import Experiment

ALL_LAYERS: Final = ("finetune", "scratch")
"""Steps that train all layers; the others train a head."""


@dataclass(frozen=True)
class Candidate:
    """A model that could be the result: a trial, or an average of several."""

    step: str
    trials: tuple[str, ...]
    spec: Spec
    weights: Path
    """Of the first trial."""
    score: float
    """Accuracy on the validation images; multilabel: macro F1."""
    loss: float
    probabilities: np.ndarray = field(repr=False)
    values: Sequence[np.ndarray] | None = field(default=None, repr=False)
    """The averaged weights; None: those of the file."""
    flips: bool = False
    """Whether the probabilities are averaged over an image and its mirror image."""

    @property
    def rank(self) -> tuple[float, float]:
        """The higher the better. The loss tells models apart where the score of few images is mostly noise."""
        return -self.loss, self.score

    def gains(self, other: Candidate) -> bool:
        """Whether an average is better than what it was made from: in the loss, at no cost in the score."""
        return self.loss < other.loss and self.score >= other.score


def structure(step: str, spec: Spec) -> str:
    """Returns a text that is equal for specs of the steps whose weights can be averaged."""
    backbone = next((node.target for node in spec.nodes if node.kind == "backbone"), None)
    frozen = step not in ALL_LAYERS
    return str((backbone, frozen, spec.params.get("hidden") or 0, spec.image.size, spec.params.get("width")))


class TrialModel:
    """Predicts the validation images with several sets of weights; what is frozen is computed once."""

    def __init__(self, experiment: Experiment, task: Task, features: dict[str, np.ndarray]) -> None:
        """features: of the validation images by earlier ones, by the digest of the frozen part."""
        self.model, self.task = experiment.built.model, task
        indices = experiment.parts["validation"]
        self.truth = experiment.source.label_ids(indices)
        self._kind = output_kind(self.model)
        experiment.enter(len(experiment.spec.fit.stages) - 1)
        self._images = lambda: batches(
            experiment.source,
            indices,
            experiment.spec.image,
            batch_size=64,
            targets=TARGETS[task],
            cache=experiment.cache,
            exact=False,
        )
        self._split = split_frozen(self.model)
        self._known, self._features = features, ""

    def load(self, file: Path) -> None:
        """Set the weights of a trial with the same structure; what is frozen has the same in all."""
        frozen = [layer for layer in self.model.layers if not layer.trainable_weights] if self._features else []
        self.model.load_weights(file, objects_to_skip=frozen)

    def values(self) -> list[np.ndarray]:
        """The present weights."""
        return [np.asarray(value) for value in self.model.get_weights()]

    def set(self, values: Sequence[np.ndarray]) -> None:
        """Set the weights."""
        self.model.set_weights(list(values))

    def flipped(self) -> np.ndarray:
        """As `probabilities`, averaged over each image and its mirror image."""
        return as_probabilities(answers(with_flips(self.model), self._images()), self._kind, self.task)

    def probabilities(self) -> np.ndarray:
        """Of the validation images, (N, K)."""
        if self._split is None or len(self._split.frozen.outputs) > 1:
            return as_probabilities(answers(self.model, self._images()), self._kind, self.task)
        if not self._features:  # not earlier: the frozen part has no weights before the first trial is loaded
            self._features = self._split.digest
        if self._features not in self._known:
            self._known[self._features] = answers(self._split.frozen, self._images())
        outputs = answers(self._split.rest, self._known[self._features])
        return as_probabilities(outputs, self._kind, self.task)


def backbones_at_hand() -> list[tuple[str, dict[str, Any]]]:
    """Returns further backbones whose weights are on this machine: of keras.applications in Keras' cache, and imported.

    Imported ones are those that `kerasimg import` has written below the current folder.
    """
    found: list[tuple[str, dict[str, Any]]] = []
    frozen = {"name": "base", "trainable": False}
    for name in known("backbones"):
        facts = entry("backbones", name) or {}
        defaults = {key: argument.get("default") for key, argument in facts["args"].items()}
        for file in facts["imagenet"]:
            variant = {key: value for key, value in file.items() if key not in ("file", "url", "hash", "rows")}
            usual = all(defaults.get(key) == value for key, value in variant.items())
            if usual and file.get("rows", 224) == 224 and (keras_models() / file["file"]).is_file():
                found.append((snake_case(name), {"backbone": name, "weights": "imagenet", **frozen}))
    for weights in sorted(Path().glob("*/*.weights.h5")):
        spec = weights.with_name(weights.name.removesuffix(".weights.h5") + ".json")
        shipped = spec.resolve().is_relative_to(ZOO.resolve())
        if not shipped and spec.is_file() and "pretrained" in read_object(spec):
            found.append((snake_case(spec.stem), {"backbone": str(spec.resolve()), "weights": "imagenet", **frozen}))
    return found
