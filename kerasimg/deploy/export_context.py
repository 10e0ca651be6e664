"""The input of an export: a trained classifier, calibration images, and images to compare the exported model on."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import keras
import numpy as np

from kerasimg.data.items import ManyFaults, evenly_spaced
from kerasimg.data.loading import Loader
from kerasimg.data.source import Source
from kerasimg.data.sources import Data, open_recorded, open_source
from kerasimg.data.split import fingerprint
from kerasimg.deploy.logits import inference_model, logits_model
from kerasimg.deploy.manifest import InputType, KnownOutput, Output, Precision
from kerasimg.errors import CallError, Fault, GateError
from kerasimg.evaluation.evaluate import choose_images, own_record
from kerasimg.models.classifier import Classifier, ClassifierReference, read_vectors
from kerasimg.run_folder import DataRecord
from kerasimg.spec.document import Image, Task
from kerasimg.spec.pack import VECTORS, is_pack

REPRESENTATIVE = 200
"""Number of training images for int8 calibration."""
UNSEEN = 300
"""Number of images for the choice of operations that an int8 model computes in float32."""

ENOUGH = 30
"""Smallest number of validation images by whose decisions operations are chosen."""
AGREE_UNSEEN = 0.985
"""Share of validation images that an int8 model must decide as in float32."""
AGREE_TRAINED = 0.995
"""The same of training images."""

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
        return replace(self, indices=self.indices[evenly_spaced(len(self), count)])


@dataclass(frozen=True)
class Fallback:
    """By what operations of an int8 model are chosen that stay in float32: its decisions on images."""

    activation: str
    """Behind the logits: "softmax" or "sigmoid"."""
    images: Callable[[], Iterator[np.ndarray]]
    """Returns batches of pixels, float32, 0-255."""
    agree: float
    """Share of these images that an int8 model must decide as in float32."""

    def decide(self, outputs: np.ndarray, threshold: float = 0) -> np.ndarray:
        """Returns the decisions (N,) or (N, K) of outputs (N, K).  threshold: of one label; 0 for logits."""
        return np.asarray(outputs.argmax(-1) if self.activation == "softmax" else outputs > threshold)


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
    trainable: bool = False
    """Web: whether the page can learn new classes."""
    flash_bytes: int | None = None
    """Embedded: maximum size of the model and its class names."""
    arena_bytes: int | None = None
    """Embedded: maximum working memory."""
    fallback: Fallback | None = None
    """By what a target chooses operations of an int8 model that stay in float32; None: all that can be are in int8."""

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
    data: Data | None = None
    """Other images than the run's, of which those above are."""
    validation: Images | None = None
    """Images that the model was not trained on, at most UNSEEN; None if there are none besides the test images."""

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
    def known(self) -> KnownOutput | None:
        """The rule for unknown images, as a manifest describes it; None without one."""
        known = self.classifier.known
        if known is None:
            return None
        digest = hashlib.sha256(known.to_bytes()).hexdigest()
        return KnownOutput(rule=known.rule, images=len(known.arrays["scores"]), sha256=digest)

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
        return self.model_with(("probabilities",))

    @cached_property
    def logits(self) -> tuple[keras.Model, str]:
        """The model that outputs temperature-scaled logits, and its final activation, "softmax" or "sigmoid"."""
        classifier = self.classifier
        return logits_model(classifier.model, classifier.temperature, self.task, classifier.flips)

    def model_with(self, outputs: Sequence[Output]) -> keras.Model:
        """As `model`, with a dict of outputs if there are several."""
        each = self.classifier
        return inference_model(each.model, each.temperature, self.task, each.known, outputs, each.flips)

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
        yield from self._padded(self.training, batch or 1)

    def fallback(self, batch: int | None = None) -> Fallback:
        """Returns by what operations of an int8 model are chosen that stay in float32.

        A model is surer of the images that it was trained on than of others, so that their decisions say little: of
        them more must agree.

        Args:
            batch: batch size; None: 1.
        """
        unseen = self.validation is not None and len(self.validation) >= ENOUGH
        images = self.validation if unseen else self.training
        return Fallback(
            self.logits[1],
            lambda: iter(()) if images is None else self._padded(images, batch or 1),
            AGREE_UNSEEN if unseen else AGREE_TRAINED,
        )

    def _padded(self, images: Images, size: int) -> Iterator[np.ndarray]:
        """Yields batches of images, (size, H, W, C) float32; the last is padded with its last image."""
        for loaded in images.batches(self.image):
            for start in range(0, len(loaded), size):
                batch = loaded[start : start + size]
                yield np.concatenate([batch, batch[-1:].repeat(size - len(batch), axis=0)]).astype(np.float32)


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
    training, validation, test = _images_of_data(classifier, data) if data is not None else _images_of_run(classifier)
    if test is not None and images is not None:
        test = test.sample(images)
    vectors = _vectors(classifier, run) if test is None else None
    return Exporting(classifier, training, test, options or Options(), vectors, data, validation)


def _vectors(classifier: Classifier, run: ClassifierReference) -> np.ndarray | None:
    """Returns the test vectors of a pack; raises GateError if the model gives other probabilities than the pack."""
    if not is_pack(run) or (vectors := read_vectors(Path(str(run)))) is None:
        return None
    actual = classifier.probabilities(vectors.pixels.astype(np.float32))
    if (
        actual.shape != vectors.probabilities.shape
        or (worst := float(np.abs(actual - vectors.probabilities).max())) > SAME
    ):
        change = f"differ by {worst:.2g}" if actual.shape == vectors.probabilities.shape else "have another shape"
        raise GateError(f"'{run}': the probabilities of its test vectors {change} from those in {VECTORS}")
    return vectors.pixels


def _images_of_data(classifier: Classifier, data: Data) -> tuple[Images, Images | None, Images]:
    source = open_source(data, classifier.spec.task, classes=classifier.classes)
    trained, validation = (np.flatnonzero(source.parts == code) for code in (0, 1))
    training = Images(source, trained if len(trained) else np.arange(len(source)), "train")
    chosen = choose_images(classifier, data, None)
    unseen = Images(source, validation, "validation").sample(UNSEEN) if len(validation) else None
    return training.sample(REPRESENTATIVE), unseen, Images(*chosen)


def _images_of_run(classifier: Classifier) -> tuple[Images | None, Images | None, Images | None]:
    """Returns the run's calibration, validation and test images; None if the run recorded none."""
    try:
        record = own_record(classifier)
    except CallError:
        return None, None, None
    parts = {image["part"] for image in record["images"]}
    test = Images(*choose_images(classifier, None, None)) if parts - {"train"} else None
    validation = _recorded(classifier, record, "validation", UNSEEN) if "validation" in parts else None
    return _recorded(classifier, record, "train", REPRESENTATIVE), validation, test


def _recorded(classifier: Classifier, record: DataRecord, part: str, count: int) -> Images:
    """Returns evenly spaced images of a part of the run; raises ManyFaults if their content has changed."""
    digests = {image["id"]: image["sha256"] for image in record["images"] if image["part"] == part}
    advice = "name their new place, --data DIR"
    source = open_recorded(record["where"], None, classifier.spec.task, advice, classes=classifier.classes)
    available = np.array([index for index, item in enumerate(source.items) if item.id in digests], dtype=np.int64)
    chosen = Images(source, available, part).sample(count)
    faults = [
        Fault(record["where"], item.id, "has changed since the run was trained on it")
        for item in (source.items[index] for index in chosen.indices)
        if fingerprint(item) != digests[item.id]
    ]
    if faults:
        advice = f"restore these files, name other images (--data {shlex.quote(record['where'])}), or train again"
        raise ManyFaults([*faults, Fault("", "", advice)])
    if not len(chosen):
        raise ManyFaults([Fault(record["where"], "", f"none of the run's {part} images were found")])
    return chosen
