"""`kerasimg.explain`: heat maps of the parts of an image that a prediction rests on."""

from __future__ import annotations

import base64
import io
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
import PIL.Image

from kerasimg.data.decode import decode
from kerasimg.data.image_files import RGB, BadImage, ImageInput, read_image
from kerasimg.data.images import Images, NamedImage, named_images
from kerasimg.data.readable import OnBadImage, leave_out
from kerasimg.errors import CallError, Fault, check_choice, counted, listed, nearest
from kerasimg.evaluation import Method
from kerasimg.evaluation.explain_methods import method_named
from kerasimg.evaluation.explain_overlay import OPACITY, as_shares, on_original, overlay
from kerasimg.evaluation.occlusion import occlusion
from kerasimg.evaluation.predictions import decide, two_columns
from kerasimg.models.classifier import Classifier, ClassifierReference
from kerasimg.models.compiled_predict import MODEL_LOCK
from kerasimg.results import Result, Results
from kerasimg.spec.document import Image

BATCH_SIZE = 20
"""Images whose gradients are computed at once."""


class Asked(Protocol):
    """What occlusion needs of a classifier; an exported file has it, too."""

    classes: Sequence[str]
    spec: Any
    """Of which `image` and `task` are read."""

    def probabilities(self, images: Any) -> np.ndarray:
        """(N, K), or (N, 1) where the task is binary, for images (N, H, W, C) float32 of 0-255."""


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(Result):
    """The explanation of one class in one image."""

    file: str
    """Its path, or its place among the arrays: "[3]"."""
    method: str
    target: str
    """The class that is explained."""
    probability: float
    """Of that class."""
    map: np.ndarray
    """(H, W) float32 of the model's input size, 0-1: how much speaks for the class at each pixel. All 0: nothing."""
    seen: np.ndarray
    """The image as the network sees it, uint8 (H, W, C)."""
    source: ImageInput = field(repr=False)
    image: Image = field(repr=False)
    """How the one became the other."""

    def _repr_html_(self) -> str:
        shown = f"{self.file}: {self.target} ({self.probability:.3f}, {self.method})"
        data = base64.b64encode(_png(self.overlay())).decode()
        return f'<figure><img src="data:image/png;base64,{data}"><figcaption>{escape(shown)}</figcaption></figure>'

    def overlay(self, opacity: float = OPACITY) -> PIL.Image.Image:
        """The map over the image as the network sees it."""
        pixels = self.seen[..., 0] if self.seen.shape[-1] == 1 else self.seen
        return overlay(PIL.Image.fromarray(pixels), self.map, opacity)

    def overlay_on_original(self, opacity: float = OPACITY) -> PIL.Image.Image:
        """The map over the image at its own size, upright."""
        original = self.original()
        return overlay(original, on_original(self.map, self.image, *original.size), opacity)

    def original(self) -> PIL.Image.Image:
        """The image at its own size, upright, in RGB."""
        red, green, blue = self.image.background
        background: RGB = (red, green, blue)
        return read_image(self.source, background)

    def peak(self) -> tuple[int, int]:
        """(row, column) of the map's maximum."""
        row, column = np.unravel_index(int(self.map.argmax()), self.map.shape)
        return int(row), int(column)


def explain(
    run: ClassifierReference | Asked,
    images: Images,
    method: Method = "grad_cam",
    target: str | Sequence[str] | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    on_bad_image: OnBadImage = "fail",
    **options: Any,
) -> Results[Explanation]:
    """Explains a class by heat maps over images.

    Args:
        run: a `Run`, its folder, a `model.keras` file, or a zoo spec that brings its weights.
        images: as for `kerasimg.predict`.
        method: "grad_cam", "grad_cam_pp", "hires_cam", "integrated_gradients", "smooth_grad", "occlusion" or
            "attention_rollout".
        target: a class, or one per image. None: the predicted class; multilabel: the most likely.
        out: a folder for two PNG files per image, the map over the image and over what the model sees of it.
        on_bad_image: "fail" reports every unreadable image; "skip" leaves them out.
        **options: of the method: layer, steps, baseline, samples, noise, seed, window, stride.

    Returns:
        One `Explanation` per image, in order.

    Raises:
        CallError: if the method does not fit the model.
        DataError: if an image cannot be read.

    Example:
        >>> [explanation] = kerasimg.explain("runs/photos-1", "photo.jpg", "integrated_gradients")
        >>> explanation.map.shape
        (8, 8)
    """
    check_choice("on_bad_image", on_bad_image, get_args(OnBadImage))
    explained = method_named(method, options)
    classifier = _classifier(run, method)
    if classifier.spec.image.channels > 3:
        channels = classifier.spec.image.channels
        raise CallError(
            f"explain: maps are drawn over grey or RGB images, and these have {counted(channels, 'channel')}"
        )
    named = named_images(images, classifier.spec.image.channels)
    if not named:
        raise CallError("no images to explain")
    wanted = _targets(classifier, target, len(named))
    readable, seen = _decoded(named, classifier.spec.image, on_bad_image)
    named = [named[place] for place in readable]
    wanted = None if wanted is None else wanted[readable]

    def ask(images: np.ndarray) -> np.ndarray:
        probabilities = classifier.probabilities(images)
        return two_columns(probabilities) if classifier.spec.task == "binary" else probabilities

    probabilities = np.concatenate([ask(batch) for _, batch in _batches(seen)])
    targets = _predicted(classifier, probabilities) if wanted is None else wanted
    sure = probabilities[np.arange(len(seen)), targets]
    maps = _maps(explained, ask if explained is occlusion else classifier.model, seen, targets, options)
    found = Results(_explanations(classifier, method, named, seen, targets, sure, maps))
    if out is not None:
        save(found, out)
    return found


def explain_examples(
    classifier: Classifier,
    images: Sequence[ImageInput],
    method: Method,
    targets: Sequence[str],
    probabilities: Sequence[float],
    **options: Any,
) -> list[Explanation]:
    """As `explain`, of readable images whose classes have known probabilities: the model is not asked for them."""
    explained, named = method_named(method, options), named_images(images, classifier.spec.image.channels)
    wanted = _numbers(classifier, targets)
    seen = [decode(one.read(), classifier.spec.image) for one in named]
    maps = _maps(explained, classifier.model, seen, wanted, options)
    return _explanations(classifier, method, named, seen, wanted, probabilities, maps)


def _maps(
    explained: Callable[..., np.ndarray],
    asked: Any,
    seen: Sequence[np.ndarray],
    targets: np.ndarray,
    options: Mapping[str, Any],
) -> list[np.ndarray]:
    """The maps of each batch, by a method of a model or, for occlusion, of a function."""
    with MODEL_LOCK:
        return [explained(asked, batch, targets[here], **options) for here, batch in _batches(seen)]


def _batches(seen: Sequence[np.ndarray]) -> Iterator[tuple[slice, np.ndarray]]:
    """The images as float32, BATCH_SIZE at once, each time with their places."""
    for first in range(0, len(seen), BATCH_SIZE):
        here = slice(first, first + BATCH_SIZE)
        yield here, np.stack(seen[here]).astype("float32")


def _explanations(
    classifier: Any,
    method: Method,
    named: Sequence[NamedImage],
    seen: Sequence[np.ndarray],
    targets: np.ndarray,
    probabilities: Sequence[float] | np.ndarray,
    maps: Sequence[np.ndarray],
) -> list[Explanation]:
    """maps: those of each batch."""
    return [
        Explanation(
            one.name,
            method,
            classifier.classes[target],
            float(probability),
            as_shares(values),
            pixels,
            one.read(),
            classifier.spec.image,
        )
        for one, pixels, target, probability, values in zip(
            named, seen, targets, probabilities, itertools.chain(*maps), strict=True
        )
    ]


def save(explanations: Sequence[Explanation], out: str | os.PathLike[str]) -> list[Path]:
    """Writes `NAME.METHOD.png` and `NAME.METHOD.seen.png` for each into a folder, created if missing; gives the paths.

    NAME is the image's, without extension; where other maps have it, of this call or an earlier one, with a number.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for each in explanations:
        stem = Path(each.file).stem.strip("[]") or "image"
        maps = [_png(each.overlay_on_original()), _png(each.overlay())]
        for name in itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2))):
            paths = [folder / f"{name}.{each.method}.{ending}" for ending in ("png", "seen.png")]
            there = [path.read_bytes() if path.is_file() else None for path in paths]
            if paths[0] not in written and there in ([None, None], maps):
                break
        for path, drawn in zip(paths, maps, strict=True):
            path.write_bytes(drawn)
        written += paths
    return written


def _png(drawn: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    drawn.save(buffer, "PNG")
    return buffer.getvalue()


def _classifier(run: Any, method: str) -> Any:
    if method == "occlusion" and not isinstance(run, Classifier) and callable(getattr(run, "probabilities", None)):
        return run
    return Classifier.open(run)


def _predicted(classifier: Any, probabilities: np.ndarray) -> np.ndarray:
    """The number of the predicted class of each image, of several labels the most likely.  probabilities: (N, K)."""
    if classifier.spec.task == "binary":
        return decide(probabilities[:, 1], "binary", getattr(classifier, "thresholds", None))[0]
    return np.asarray(probabilities.argmax(axis=1))


def _targets(classifier: Any, target: str | Sequence[str] | None, count: int) -> np.ndarray | None:
    """The number of the class to explain, for each image."""
    if target is None:
        return None
    names = [target] * count if isinstance(target, str) else list(target)
    if len(names) != count:
        raise CallError(
            f"target: {counted(len(names), 'class')} for {counted(count, 'image')}; give one class, or one for each"
        )
    return _numbers(classifier, names)


def _numbers(classifier: Any, names: Sequence[str]) -> np.ndarray:
    """The numbers of classes."""
    numbers = {name: number for number, name in enumerate(classifier.classes)}
    for name in names:
        if name not in numbers:
            raise CallError(f"target: the model knows no class '{name}'{nearest(name, numbers)} ({listed(numbers)})")
    return np.array([numbers[name] for name in names])


def _decoded(named: Sequence[NamedImage], image: Image, on_bad_image: OnBadImage) -> tuple[list[int], list[np.ndarray]]:
    """The places of the readable images, and each as the network sees it."""
    readable: list[int] = []
    seen: list[np.ndarray] = []
    faults: list[Fault] = []
    for place, one in enumerate(named):
        try:
            seen.append(decode(one.read(), image))
            readable.append(place)
        except BadImage as error:
            faults.append(Fault(one.name, "", error.reason))
    leave_out(faults, len(named), on_bad_image)
    return readable, seen
