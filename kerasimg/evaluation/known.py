"""`kerasimg.known`: lets a classifier answer "none of these", at a stated rate of false alarms.

A score says how unlike the training images an image is. Its p-value is the share of held-out images that are at least
as unlike (split conformal prediction: Vovk et al. 2005); an image is known if the p-value is above the stated share.
Of images like the held-out ones at most this share is flagged as unknown, whatever the score. The score only decides
how many foreign images are found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, cast

import keras
import numpy as np

from kerasimg.data.items import PART_NAMES
from kerasimg.data.source import Source
from kerasimg.data.sources import Data, open_source
from kerasimg.errors import CallError, counted, nearest
from kerasimg.evaluation.conformal import are_known
from kerasimg.evaluation.evaluate import Chosen, answered, choose_images, held_out, image_batches, warn_of_trained
from kerasimg.evaluation.intervals import wilson
from kerasimg.evaluation.measures import roc_auc
from kerasimg.evaluation.shift import LEAST_OF_SHARE, promise
from kerasimg.files import write_json
from kerasimg.models.classifier import Classifier, ClassifierReference, Values, set_decisions
from kerasimg.models.keras_file import model_file
from kerasimg.models.known import Head, Known, score
from kerasimg.results import KnownImages
from kerasimg.run_folder import RunFolder
from kerasimg.spec.pack import KnownRule


class Passes(NamedTuple):
    """How a model is asked about images."""

    exact: Callable[[Chosen], Values]
    """Gives the values of images of a source, as `Classifier.values` does."""
    draft: Callable[[Chosen | np.ndarray], np.ndarray]
    """Gives the features (N, d) of images of a source, or of images (N, H, W, C) uint8: neither to all digits, nor of
    the exact pixels."""


METHODS: Final = ("mahalanobis", "distance", "energy")
SHARE = 0.05
"""Share of false alarms that `train` asks for."""
FITTED, PER_CLASS, MOST_FITTED = 1000, 5, 5000
"""Training images from which means and directions are computed: at least FITTED, and PER_CLASS for each class."""
SET = 999
"""Most held-out images that set the limit."""
TRIED = 200
"""Most held-out images on which the score is chosen; they do not set the limit."""
LARGEST_SHARE = 0.5
CENTRES, NEIGHBOUR = 512, 3
"""Training images to which "distance" compares, and which neighbour counts."""
WIDEST = 16_384
"""Most features for which `train` fits a rule by itself: their directions take memory and time."""
DIRECTIONS, DIRECTION_VALUES = 64, 65_536
"""Most directions, and most numbers that describe them."""


def least_images(share: float) -> int:
    """The number of held-out images from which on a rule is fitted: 100 for 5 %, so that 4 or more of them set it."""
    return math.ceil(round(LEAST_OF_SHARE / share, 9))


def _possible_share(images: int) -> str:
    """The advice to ask for the smallest share that this number of held-out images allows; empty if none does."""
    share = math.ceil(100 * LEAST_OF_SHARE / max(images, 1)) / 100
    return f"ask for a larger share (--share {share:g}), or " if share <= LARGEST_SHARE else ""


def known(
    run: ClassifierReference,
    share: float = SHARE,
    *,
    method: str = "auto",
    data: Data | None = None,
    undo: bool = False,
) -> KnownImages:
    """Fit the rule by which a classifier says of an image whether it is like its training images.

    `train` does so by itself when 100 or more images are held out for validation. The rule is stored in the model file
    and in packs: `predict` then gives `known` and a p-value for each image, and so do exported models.

    Args:
        run: a `Run`, its folder, or a `model.keras` file.
        share: the largest share of images like the training images that is flagged as unknown, above 0 and at most 0.5.
        method: "mahalanobis", the distance of the last features to the nearest class mean, by the covariance that the
            classes share (Lee et al. 2018, arXiv:1807.03888), with what the main directions lose; "distance", to the
            third nearest of 512 training images (Sun et al. 2022, arXiv:2204.06507); "energy" of the logits (Liu et al.
            2020, arXiv:2010.03759); "auto": the one that best tells held-out images from mixed, shuffled and noise
            images made of them.
        data: labelled images with a training and a validation part; None: those of the run. Without such parts, one
            half of the images is used as training images.
        undo: remove the rule instead.

    Returns:
        The `KnownImages`: the rule, the share of false alarms that it promises, and that of the run's test images.

    Raises:
        CallError: with too few images, or an argument out of range.

    Example:
        >>> kerasimg.known("runs/photos-1", undo=True).rule is None
        True
    """
    file = model_file(run)
    classifier = Classifier.open(run)
    if undo:
        RunFolder(file.parent).known_file.unlink(missing_ok=True)
        set_decisions(file, replace(classifier, known=None))
        return KnownImages.of({"rule": None})
    if not 0 < share <= LARGEST_SHARE:
        raise CallError(f"share: expected a share above 0 and at most {LARGEST_SHARE}, got {share:g}")
    if method not in ("auto", *METHODS):
        raise CallError(f"no method '{method}'{nearest(method, METHODS)} (methods: auto, {', '.join(METHODS)})")
    trained, held = _parts(classifier, data)
    if len(held.indices) < least_images(share):
        raise CallError(
            f"known: a share of {share:g} needs {counted(least_images(share), 'held-out image')}, and there are "
            f"{len(held.indices)}; {_possible_share(len(held.indices))}give more images (--data)"
        )
    warn_of_trained(classifier, held, data)
    fitted, content = fit_known(classifier, trained, held, share, method)
    changed = replace(classifier, known=fitted)
    test = held_out(classifier, held, data)
    if test is not None:
        truth, answer = test.source.label_ids(test.indices), answered(changed, test.source, test.indices)
        content["parts"][test.part] = false_alarms(truth, answer.p_values, share, classifier.classes)
    write_json(RunFolder(file.parent).known_file, content)
    set_decisions(file, changed)
    return KnownImages.of(content)


def known_by_default(
    classifier: Classifier, source: Source, parts: Mapping[Any, np.ndarray], passes: Passes | None = None
) -> tuple[Known, dict[str, Any]] | None:
    """The rule of a run that was just trained, and its record; None with too few images for one.

    passes: as for `fit_known`.
    """
    held, train = parts.get("validation"), parts["train"]
    if held is None or len(held) < least_images(SHARE):
        return None
    if classifier.head is None or classifier.head.width > WIDEST:
        return None
    trained, unseen = Chosen(source, train, "train"), Chosen(source, held, "validation")
    return fit_known(classifier, trained, unseen, SHARE, "auto", passes)


def images_of_rule(train: int, held: int, classes: int) -> int:
    """How many images `known_by_default` asks the model about, by the numbers of training and held-out images."""
    if held < least_images(SHARE):
        return 0
    tried = _tried(held)
    return min(train, _fitted(classes)) + (1 + len(FOREIGN)) * tried + min(held - tried, SET)


def _fitted(classes: int) -> int:
    """The largest number of training images from which a rule is computed."""
    return min(max(FITTED, PER_CLASS * classes), MOST_FITTED)


def _tried(held: int) -> int:
    """The number of held-out images on which the score is chosen."""
    return min(TRIED, held // 5)


def fit_known(
    classifier: Classifier, trained: Chosen, held: Chosen, share: float, method: str, passes: Passes | None = None
) -> tuple[Known, dict[str, Any]]:
    """The rule and its record.

    trained: images that the model was fitted to.  held: images that it was not fitted to, which set the limit.
    passes: None: `own_passes`. The draft is enough to choose the method, and for its means and directions.
    """
    plain = _without_flips(classifier)
    if plain.head is None:
        raise CallError("known: the model has no last layer with weights and a single input")
    random = np.random.default_rng(0)
    chosen = _sample(trained, _fitted(len(classifier.classes)), random)
    passes = passes or own_passes(classifier)
    values = HeadValues(plain.head, passes.draft(Chosen(trained.source, chosen, trained.part)))
    rules = _fit(values, _one_label(trained.source.label_ids(chosen)), share, random)
    order = random.permutation(held.indices)
    count = _tried(len(order)) if method == "auto" else 0
    tried, rest = order[:count], np.sort(order[count : count + SET])
    content: dict[str, Any] = {"methods": {}}
    if method == "auto":
        content["methods"] = _try(rules, plain, passes, held.source, tried, random)
        method = max(rules, key=lambda name: float(np.mean(list(content["methods"][name].values()))))
    if method not in rules:
        raise CallError("known: the energy needs a last layer Dense with several outputs; choose another method")
    rule = rules[method]
    exact = passes.exact(Chosen(held.source, rest, held.part))
    own = HeadValues(plain.head, exact.required_features()).scores(rule)
    result = Known(rule.rule, {**rule.arrays, "scores": np.sort(own)})
    low, high = promise(len(own), share)
    return result, {
        "rule": rule.rule.model_dump(),
        "chosen_on": {"data": held.source.where, "part": held.part, "n": len(own), "tried_on": len(tried)},
        "expected": [low, high],
        **content,
        "parts": {},
        "model": {"weights": classifier.identity()["weights"]},
    }


def own_passes(classifier: Classifier, cache: Any = "auto") -> Passes:
    """Returns those of the whole model, without a flip.

    cache: of decoded images, as for `kerasimg.train`.
    """
    plain = _without_flips(classifier)

    def exact(images: Chosen) -> Values:
        return plain.values(image_batches(plain, images.source, images.indices))

    def draft(images: Chosen | np.ndarray) -> np.ndarray:
        given: Any = images
        if isinstance(images, Chosen):
            given = image_batches(plain, images.source, images.indices, exact=False, cache=cache)
        return plain.values(given, draft=True).required_features()

    return Passes(exact, draft)


def _without_flips(classifier: Classifier) -> Classifier:
    """The features of a rule are of the image as it is."""
    return replace(classifier, flips=False)


def false_alarms(truth: np.ndarray | None, p_values: Any, share: float, classes: Sequence[str]) -> dict[str, Any]:
    """The share of images that is flagged as unknown, with its interval, and that of each class, the largest first.

    truth: what `label_ids` of a source returns; None: unknown. Classes are counted where an image has one label.
    """
    away = ~are_known(p_values, share)
    rows, labels = [], None if truth is None else _one_label(truth)
    for number, name in enumerate(classes if labels is not None else ()):
        own = away[labels == number]
        if len(own):
            low, high = wilson(float(own.mean()), len(own))
            rows.append({"class": name, "n": len(own), "unknown": float(own.mean()), "interval": [low, high]})
    return {
        "n": len(away),
        "unknown": float(away.mean()),
        "interval": list(wilson(float(away.mean()), len(away))),
        "classes": sorted(rows, key=lambda row: -cast(float, row["unknown"])),
    }


class HeadValues:
    """The features (N, d) of images, and the logits that a head makes of them."""

    def __init__(self, head: Head, features: np.ndarray) -> None:
        self.features, self.logits = features, head.logits(features)

    def scores(self, known: Known) -> np.ndarray:
        """(N,) float32."""
        values = self.features if known.rule.method != "energy" or self.logits is None else self.logits
        parts = [
            score(part, known.rule, known.arrays) for part in np.array_split(values, -(-len(self.features) // 512))
        ]
        return np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])[:, 0]


def _one_label(truth: np.ndarray) -> np.ndarray | None:
    """(N,) class numbers; None where an image may have several."""
    truth = np.asarray(truth)
    return truth.astype(int) if truth.ndim == 1 else truth[:, 0].astype(int) if truth.shape[1] == 1 else None


def _sample(trained: Chosen, count: int, random: np.random.Generator) -> np.ndarray:
    indices = np.asarray(trained.indices)
    return indices if len(indices) <= count else np.sort(random.choice(indices, count, replace=False))


def _fit(values: HeadValues, truth: np.ndarray | None, share: float, random: np.random.Generator) -> dict[str, Known]:
    """A rule for each method that the model allows, without the scores that set the limit."""
    features = values.features.astype(np.float64)
    groups = np.zeros(len(features), int) if truth is None else truth
    mean = features.mean(axis=0)
    names, of_class = np.unique(groups, return_inverse=True)
    means = np.stack([features[of_class == number].mean(axis=0) for number in range(len(names))])
    within = features - means[of_class]
    size = features.shape[1]
    # The directions in which images of one class differ most, and the classes from one another.
    count = max(1, min(DIRECTIONS, DIRECTION_VALUES // size, size, len(features) - 1))
    scale = max(float(within.var(axis=0).mean()), 1e-12)
    spectrum, directions = main_directions(within / np.sqrt(scale), count)
    variances = spectrum[:count] + FLOOR
    left = max(float(spectrum[count:].sum()) / max(size - count, 1), FLOOR)
    # In units of `scale`: features are divided by its root inside of `directions` and `rest`.
    arrays = {
        "mean": mean,
        "directions": directions / np.sqrt(variances * scale),
        "variances": variances * scale,
        "rest": np.array([0.0 if count == size else 1 / (left * scale)]),
    }

    def make(method: str, centres: np.ndarray | None, neighbour: int = 1) -> Known:
        rule = KnownRule(method=method, share=share, neighbour=neighbour)  # type: ignore[arg-type]  # a name in METHODS
        content = {} if centres is None else {**arrays, "centres": (centres - mean) @ arrays["directions"]}
        return Known(rule, {name: np.asarray(array, np.float32) for name, array in content.items()})

    some = _balanced(of_class, CENTRES, random)
    neighbour = NEIGHBOUR if len(some) >= 10 * len(names) and len(some) >= NEIGHBOUR else 1
    rules = {"mahalanobis": make("mahalanobis", means), "distance": make("distance", features[some], neighbour)}
    if values.logits is not None and truth is not None:
        rules["energy"] = make("energy", None)
    return rules


FLOOR = 1e-3
"""Added to variances, as a share of the mean variance."""


def main_directions(values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The variances of centred values (n, d), largest first, and the first `count` directions (d, count), orthonormal.

    By the smaller of the two products of the matrix with itself, which takes a fraction of the time of its SVD. Their
    rounding is far below FLOOR.
    """
    wide = values.shape[1] > values.shape[0]
    squares, vectors = np.linalg.eigh(values @ values.T if wide else values.T @ values)
    squares, vectors = np.maximum(squares[::-1], 0), vectors[:, ::-1]
    directions = vectors[:, :count]
    if wide:  # also where a variance is zero: any direction at right angles to the others will do
        directions = np.linalg.qr(values.T @ directions)[0]
    return squares / len(values), directions


def _balanced(of_class: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """At most `count` places, the classes in turn."""
    order = random.permutation(len(of_class))
    turns = np.zeros(len(order), int)
    for number in np.unique(of_class):
        own = of_class[order] == number
        turns[own] = np.arange(own.sum())
    return order[np.argsort(turns, kind="stable")][:count]


def _try(
    rules: Mapping[str, Known],
    classifier: Classifier,
    passes: Passes,
    source: Source,
    indices: np.ndarray,
    random: np.random.Generator,
) -> dict[str, dict[str, float]]:
    """Method -> kind of foreign image -> the area under the ROC curve against held-out images."""
    indices = np.sort(indices)
    batches = image_batches(classifier, source, indices)
    pixels = np.concatenate([keras.ops.convert_to_numpy(batch[0]).astype(np.uint8) for batch in batches])
    truth = _one_label(source.label_ids(indices))
    images = [pixels, *(make(pixels, truth, random) for make in FOREIGN.values())]
    values = HeadValues(cast(Head, classifier.head), passes.draft(np.concatenate(images)))
    foreign = np.repeat([0, 1], len(pixels))
    found: dict[str, dict[str, float]] = {}
    for name, rule in rules.items():
        own, *others = np.split(values.scores(rule), len(images))
        scores = zip(FOREIGN, others, strict=True)
        found[name] = {kind: roc_auc(foreign, np.concatenate([own, some])) for kind, some in scores}
    return found


def _mixed(pixels: np.ndarray, truth: np.ndarray | None, random: np.random.Generator) -> np.ndarray:
    """The means of two images, of different classes where there are several."""
    others = random.permutation(len(pixels))
    if truth is not None:
        for place in np.flatnonzero(truth == truth[others]):
            apart = np.flatnonzero(truth != truth[place])
            if len(apart):
                others[place] = random.choice(apart)
    return np.asarray((pixels.astype(np.uint16) + pixels[others] + 1) // 2, np.uint8)


def _shuffled(pixels: np.ndarray, truth: np.ndarray | None, random: np.random.Generator) -> np.ndarray:
    """The images cut into 4 x 4 tiles, which change their places; what is left over at the edge stays."""
    height, width = pixels.shape[1] // TILES, pixels.shape[2] // TILES
    result = pixels.copy()
    if height == 0 or width == 0:
        return np.asarray(pixels[:, ::-1, ::-1])
    for image, source in zip(result, pixels, strict=True):
        for to, place in enumerate(random.permutation(TILES * TILES)):
            (y, x), (v, u) = divmod(to, TILES), divmod(int(place), TILES)
            image[y * height : (y + 1) * height, x * width : (x + 1) * width] = source[
                v * height : (v + 1) * height, u * width : (u + 1) * width
            ]
    return result


def _noise(pixels: np.ndarray, truth: np.ndarray | None, random: np.random.Generator) -> np.ndarray:
    return random.integers(0, 256, pixels.shape, np.uint8)


TILES = 4
FOREIGN: Final[dict[str, Callable[[np.ndarray, np.ndarray | None, np.random.Generator], np.ndarray]]] = {
    "mixed": _mixed,
    "shuffled": _shuffled,
    "noise": _noise,
}
"""Kind -> foreign images made of held-out ones, (N, H, W, C) uint8, by which the score is chosen."""


def _parts(classifier: Classifier, data: Data | None) -> tuple[Chosen, Chosen]:
    """Training images, and held-out images."""
    if data is None:
        return choose_images(classifier, None, "train"), choose_images(classifier, None, None, otherwise="validation")
    source = open_source(data, classifier.spec.task, classes=classifier.classes)
    train, held = (np.flatnonzero(source.parts == PART_NAMES.index(name)) for name in ("train", "validation"))
    if len(train) and len(held):
        return Chosen(source, train, "train"), Chosen(source, held, "validation")
    order = np.random.default_rng(0).permutation(len(source))
    half = len(order) // 2
    return Chosen(source, np.sort(order[:half]), "all"), Chosen(source, np.sort(order[half:]), "all")
