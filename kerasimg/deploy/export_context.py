"""What an export starts from: a trained classifier, ready to be written by any target, and images to judge it on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import keras
import numpy as np

from kerasimg.data.items import ManyFaults
from kerasimg.data.loading import Loader
from kerasimg.data.source import Source
from kerasimg.data.sources import Data, open_source
from kerasimg.data.split import fingerprint
from kerasimg.deploy.logits import inference_model, logits_model
from kerasimg.deploy.manifest import InputType, Precision
from kerasimg.errors import CallError, Fault, GateError
from kerasimg.evaluation.evaluate import choose_images, own_record
from kerasimg.models import pack_io
from kerasimg.models.classifier import Classifier, ClassifierReference
from kerasimg.run_folder import DataRecord
from kerasimg.spec.document import Image, Task
from kerasimg.spec.pack import VECTORS, is_pack

REPRESENTATIVE = 200
"""Training images from which the range of every value is taken."""

SAME = 1e-3
"""Greatest difference of a probability between the machine on which a pack was written and this one."""

LOADED = 64
"""Images that are decoded at a time."""


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images, by their places in a source."""

    source: Source
    indices: np.ndarray
    part: str

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def names(self) -> list[str]:
        """Of the images, in their order."""
        return [self.source.items[index].id for index in self.indices]

    @property
    def truth(self) -> np.ndarray:
        """Labels as `Source.label_ids` gives them."""
        return self.source.label_ids(self.indices)

    def batches(self, image: Image, size: int = LOADED) -> Iterator[np.ndarray]:
        """The images through the reference decoder, from their files on: (n, H, W, C) uint8, 0-255."""
        loader = Loader(self.source, self.indices, image, None)
        for start in range(0, len(self), size):
            yield loader.load(np.arange(start, min(start + size, len(self))))

    def evenly(self, count: int) -> Images:
        """So many of them, or all, at even distances."""
        if count >= len(self):
            return self
        return replace(self, indices=self.indices[np.linspace(0, len(self) - 1, count).round().astype(int)])


@dataclass(frozen=True)
class Options:
    """What a caller may ask of targets."""

    precisions: tuple[Precision, ...] = ()
    """Those to write; none: the target's own choice."""
    batch: int | None = None
    """Images that a model takes at a time; None: any number, where the target can."""
    input_dtype: InputType = "uint8"
    """What a model takes whose values are all integers: uint8 or int8."""
    allow_flex: bool = False
    """Whether a .tflite may hold operations that only TensorFlow has."""
    flash_bytes: int | None = None
    """Embedded: of the model and its code, at most."""
    arena_bytes: int | None = None
    """Embedded: working memory, at most."""

    def check(self) -> None:
        """Raises a CallError for a batch or an input type that no target has."""
        if self.batch is not None and self.batch < 1:
            raise CallError(f"batch: expected 1 or more, got {self.batch}")
        if self.input_dtype not in ("uint8", "int8"):
            raise CallError(f"input_dtype: expected uint8 or int8, got {self.input_dtype}")


@dataclass(frozen=True, eq=False)
class Exporting:
    """A classifier that is being exported."""

    classifier: Classifier
    training: Images | None
    """Those from which the range of every value is taken, REPRESENTATIVE at most; None where there are none."""
    test: Images | None
    """Those on which an exported model is compared with this one."""
    options: Options = field(default_factory=Options)
    vectors: np.ndarray | None = None
    """Test vectors of a pack, (N, H, W, C) uint8, on which it is compared where there are no test images."""

    @property
    def compared(self) -> bool:
        """Whether there is anything to compare an exported model on."""
        return bool(self.test is not None and len(self.test)) or self.vectors is not None

    @property
    def name(self) -> str:
        """Of the spec."""
        return self.classifier.spec.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the outputs."""
        return self.classifier.classes

    @property
    def image(self) -> Image:
        """How an image becomes the model's input."""
        return self.classifier.spec.image

    @property
    def task(self) -> Task:
        """What the outputs mean."""
        return self.classifier.spec.task

    @property
    def run(self) -> Path | None:
        """The run's folder, if there is one."""
        return self.classifier.folder

    @property
    def batch(self) -> int | None:
        """Images that a model takes at a time; None: any number."""
        return self.options.batch

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image's pixels: (H, W, C)."""
        return (*self.image.size, self.image.channels)  # type: ignore[return-value]

    @cached_property
    def model(self) -> keras.Model:
        """Pixels (N, H, W, C) float32, 0-255 -> probabilities (N, K) float32, temperature and softmax inside."""
        return inference_model(self.classifier.model, self.classifier.temperature, self.task)

    @cached_property
    def logits(self) -> tuple[keras.Model, str]:
        """The model up to its logits at the temperature, and "softmax" or "sigmoid", which makes probabilities."""
        return logits_model(self.classifier.model, self.classifier.temperature, self.task)

    def signature(self, batch: int | None) -> list[keras.InputSpec]:
        """What `keras.Model.export` is told of the input."""
        return [keras.InputSpec(shape=(batch, *self.shape), dtype="float32", name="pixels")]

    def representative(self, batch: int | None = None) -> Iterator[np.ndarray]:
        """Images of the training, (batch, H, W, C) float32, 0-255, each from its file on by the reference decoder.

        batch: images that the model takes at a time; None: one by one. The last batch is filled up with its last image.

        Before them one of zeros and one of 255: then the quantized input's step is exactly 1 and its zero 0, and the
        model takes raw pixels. CallError where there are no images.
        """
        if self.training is None:
            raise CallError(
                "int8 takes the range of every value from images of the training, and a model without its run has "
                "none: name the run's folder, or the images (--data)"
            )
        for value in (0, 255):
            yield np.full((batch or 1, *self.shape), value, np.float32)
        size = batch or 1
        for loaded in self.training.batches(self.image):
            for start in range(0, len(loaded), size):
                images = loaded[start : start + size]
                yield np.concatenate([images, images[-1:].repeat(size - len(images), axis=0)]).astype(np.float32)


def prepare(
    run: ClassifierReference, *, data: Data | None = None, images: int | None = None, options: Options | None = None
) -> Exporting:
    """The classifier of a run with its images.

    data: other images than the run's; their train part, or all, gives the ranges, their test part, or all, judges.
    images: how many to judge on, at even distances; None: all.
    """
    classifier = Classifier.open(run)
    training, test = _given(classifier, data) if data is not None else _own(classifier)
    if test is not None and images is not None:
        test = test.evenly(images)
    vectors = _vectors(classifier, run) if test is None else None
    return Exporting(classifier, training, test, options or Options(), vectors)


def _vectors(classifier: Classifier, run: ClassifierReference) -> np.ndarray | None:
    """The test vectors of a pack; GateError where its model does not answer as it did where it was packed."""
    if not is_pack(run) or (found := pack_io.vectors(Path(str(run)))) is None:
        return None
    told = classifier.probabilities(found.pixels.astype(np.float32))
    if told.shape != found.probabilities.shape or (worst := float(np.abs(told - found.probabilities).max())) > SAME:
        how = f"differ by {worst:.2g}" if told.shape == found.probabilities.shape else "have another shape"
        raise GateError(f"'{run}': the probabilities of its test vectors {how} from those in {VECTORS}")
    return found.pixels


def _given(classifier: Classifier, data: Data) -> tuple[Images, Images]:
    source = open_source(data, classifier.spec.task, classes=classifier.classes)
    trained = np.flatnonzero(source.parts == 0)
    training = Images(source, trained if len(trained) else np.arange(len(source)), "train")
    chosen = choose_images(classifier, data, None)
    return training.evenly(REPRESENTATIVE), Images(*chosen)


def _own(classifier: Classifier) -> tuple[Images | None, Images | None]:
    """The run's own images; None where it kept none."""
    try:
        record = own_record(classifier)
    except CallError:
        return None, None
    parts = {image["part"] for image in record["images"]}
    test = Images(*choose_images(classifier, None, None)) if parts - {"train"} else None
    return _training(classifier, record), test


def _training(classifier: Classifier, record: DataRecord) -> Images:
    """A few of the images that were trained on, at even distances, each with the content that it had."""
    kept = {image["id"]: image["sha256"] for image in record["images"] if image["part"] == "train"}
    source = open_source(record["where"], classifier.spec.task, classes=classifier.classes)
    there = np.array([index for index, item in enumerate(source.items) if item.id in kept], dtype=np.int64)
    chosen = Images(source, there, "train").evenly(REPRESENTATIVE)
    faults = [
        Fault(record["where"], item.id, "is not the file that the run used: its content has changed")
        for item in (source.items[index] for index in chosen.indices)
        if fingerprint(item) != kept[item.id]
    ]
    if faults or not len(chosen):
        raise ManyFaults(faults or [Fault(record["where"], "", "the images that the run was trained on are gone")])
    return chosen
