"""The input of an export: a trained classifier, calibration images, and images to compare the exported model on."""

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
"""Number of training images for int8 calibration."""

SAME = 1e-3
"""Largest allowed difference between the probabilities stored in a pack and those computed on this machine."""

LOADED = 64
"""Number of images decoded per batch."""


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images: indices into a source."""

    source: Source
    indices: np.ndarray
    part: str

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def names(self) -> list[str]:
        """Names of the images."""
        return [self.source.items[index].id for index in self.indices]

    @property
    def truth(self) -> np.ndarray:
        """Labels, as returned by `Source.label_ids`."""
        return self.source.label_ids(self.indices)

    def batches(self, image: Image, size: int = LOADED) -> Iterator[np.ndarray]:
        """Yields batches of pixels from the reference decoder: (n, H, W, C) uint8, 0-255."""
        loader = Loader(self.source, self.indices, image, None)
        for start in range(0, len(self), size):
            yield loader.load(np.arange(start, min(start + size, len(self))))

    def sample(self, count: int) -> Images:
        """Returns at most `count` of the images, evenly spaced."""
        if count >= len(self):
            return self
        return replace(self, indices=self.indices[np.linspace(0, len(self) - 1, count).round().astype(int)])


@dataclass(frozen=True)
class Options:
    """The caller's options for a target."""

    precisions: tuple[Precision, ...] = ()
    """Precisions to write; empty: the target's default."""
    batch: int | None = None
    """Fixed batch size; None: any, if the target supports it."""
    input_dtype: InputType = "uint8"
    """Input type of an int8 model: uint8 or int8."""
    allow_flex: bool = False
    """Whether a .tflite file may use TensorFlow (Flex) operations."""
    flash_bytes: int | None = None
    """Embedded: maximum size of the model and its class names."""
    arena_bytes: int | None = None
    """Embedded: maximum working memory."""
    activation: str | None = None
    """Activation behind the exported logits, by which a target compares an int8 model's decisions with those in float32
    to choose operations that stay in float32; None: all that can be are in int8."""

    def check(self) -> None:
        """Raises a CallError for an invalid batch size or input type."""
        if self.batch is not None and self.batch < 1:
            raise CallError(f"batch: expected 1 or more, got {self.batch}")
        if self.input_dtype not in ("uint8", "int8"):
            raise CallError(f"input_dtype: expected uint8 or int8, got {self.input_dtype}")


@dataclass(frozen=True, eq=False)
class Exporting:
    """A classifier during its export, with its images and options."""

    classifier: Classifier
    training: Images | None
    """Calibration images, at most REPRESENTATIVE; None if there are none."""
    test: Images | None
    """Images on which the exported model is compared with this one."""
    options: Options = field(default_factory=Options)
    vectors: np.ndarray | None = None
    """Test vectors of a pack, (N, H, W, C) uint8, for the comparison if there are no test images."""

    @property
    def compared(self) -> bool:
        """Whether there are images to compare an exported model on."""
        return bool(self.test is not None and len(self.test)) or self.vectors is not None

    @property
    def name(self) -> str:
        """Name of the spec."""
        return self.classifier.spec.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the outputs."""
        return self.classifier.classes

    @property
    def image(self) -> Image:
        """The preprocessing of images."""
        return self.classifier.spec.image

    @property
    def task(self) -> Task:
        """The task, which defines the meaning of the outputs."""
        return self.classifier.spec.task

    @property
    def run(self) -> Path | None:
        """The run's folder; None without one."""
        return self.classifier.folder

    @property
    def batch(self) -> int | None:
        """Fixed batch size; None: any."""
        return self.options.batch

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the pixels of one image: (H, W, C)."""
        return (*self.image.size, self.image.channels)  # type: ignore[return-value]

    @cached_property
    def model(self) -> keras.Model:
        """Pixels (N, H, W, C) float32, 0-255 -> probabilities (N, K) float32, temperature and softmax inside."""
        return inference_model(self.classifier.model, self.classifier.temperature, self.task)

    @cached_property
    def logits(self) -> tuple[keras.Model, str]:
        """The model that outputs temperature-scaled logits, and its final activation, "softmax" or "sigmoid"."""
        return logits_model(self.classifier.model, self.classifier.temperature, self.task)

    def signature(self, batch: int | None) -> list[keras.InputSpec]:
        """Returns the input signature for `keras.Model.export`."""
        return [keras.InputSpec(shape=(batch, *self.shape), dtype="float32", name="pixels")]

    def representative(self, batch: int | None = None) -> Iterator[np.ndarray]:
        """Yields calibration images from the reference decoder, (batch, H, W, C) float32, 0-255.

        The first two batches are all 0 and all 255: the input then has scale 1 and zero point 0, so that the quantized
        model takes raw pixels.

        Args:
            batch: batch size; None: 1. The last batch is padded with its last image.

        Raises:
            CallError: if there are no calibration images.
        """
        if self.training is None:
            raise CallError(
                "int8 needs calibration images, and a model without its run has none: "
                "pass the run's folder, or images (--data)"
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
    """Opens the classifier of a run with its calibration and test images.

    Args:
        run: as for `kerasimg.export`.
        data: other images than the run's; the train split (or all) is for calibration, the test split (or all) for the
            comparison.
        images: number of images for the comparison, evenly spaced; None: all.
        options: the caller's options.
    """
    classifier = Classifier.open(run)
    training, test = _images_of_data(classifier, data) if data is not None else _images_of_run(classifier)
    if test is not None and images is not None:
        test = test.sample(images)
    vectors = _vectors(classifier, run) if test is None else None
    return Exporting(classifier, training, test, options or Options(), vectors)


def _vectors(classifier: Classifier, run: ClassifierReference) -> np.ndarray | None:
    """Returns the test vectors of a pack; raises GateError if the model gives other probabilities than the pack."""
    if not is_pack(run) or (vectors := pack_io.vectors(Path(str(run)))) is None:
        return None
    actual = classifier.probabilities(vectors.pixels.astype(np.float32))
    if (
        actual.shape != vectors.probabilities.shape
        or (worst := float(np.abs(actual - vectors.probabilities).max())) > SAME
    ):
        change = f"differ by {worst:.2g}" if actual.shape == vectors.probabilities.shape else "have another shape"
        raise GateError(f"'{run}': the probabilities of its test vectors {change} from those in {VECTORS}")
    return vectors.pixels


def _images_of_data(classifier: Classifier, data: Data) -> tuple[Images, Images]:
    source = open_source(data, classifier.spec.task, classes=classifier.classes)
    trained = np.flatnonzero(source.parts == 0)
    training = Images(source, trained if len(trained) else np.arange(len(source)), "train")
    chosen = choose_images(classifier, data, None)
    return training.sample(REPRESENTATIVE), Images(*chosen)


def _images_of_run(classifier: Classifier) -> tuple[Images | None, Images | None]:
    """Returns the run's calibration and test images; None if the run recorded none."""
    try:
        record = own_record(classifier)
    except CallError:
        return None, None
    parts = {image["part"] for image in record["images"]}
    test = Images(*choose_images(classifier, None, None)) if parts - {"train"} else None
    return _training(classifier, record), test


def _training(classifier: Classifier, record: DataRecord) -> Images:
    """Returns evenly spaced training images of the run; raises ManyFaults if their content has changed."""
    digests = {image["id"]: image["sha256"] for image in record["images"] if image["part"] == "train"}
    source = open_source(record["where"], classifier.spec.task, classes=classifier.classes)
    available = np.array([index for index, item in enumerate(source.items) if item.id in digests], dtype=np.int64)
    chosen = Images(source, available, "train").sample(REPRESENTATIVE)
    faults = [
        Fault(record["where"], item.id, "has changed since the run was trained on it")
        for item in (source.items[index] for index in chosen.indices)
        if fingerprint(item) != digests[item.id]
    ]
    if faults or not len(chosen):
        raise ManyFaults(faults or [Fault(record["where"], "", "none of the run's training images were found")])
    return chosen
