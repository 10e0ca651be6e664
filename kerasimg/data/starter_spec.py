"""A starter spec for a data set, with a comment beside each choice."""

from __future__ import annotations

import unicodedata
from pathlib import Path, PurePath
from typing import Any, Final, Literal, NamedTuple, get_args

from kerasimg import catalog, log
from kerasimg.data.items import in_order
from kerasimg.data.parallel import Progress
from kerasimg.data.sources import Data, open_source, task_of
from kerasimg.data.summary import Summary, summarize
from kerasimg.errors import CallError, counted
from kerasimg.spec.document import ResizePolicy, Task
from kerasimg.spec.nodes import NAME
from kerasimg.spec.search import is_search

Recipe = Literal["transfer", "finetune", "from_scratch", "tiny_device"]

TINY_PX: Final = 64
"""Shorter side up to which a network pretrained on photographs helps little."""
LARGE: Final = 300
"""Images of the median class from which the whole backbone is trained. With fewer, a head on frozen features is as
good and trains in seconds (docs/recipes.md)."""
UNEQUAL: Final = 4.0
"""Ratio of the largest to the smallest class from which rare classes get a larger weight."""
SAME_SHAPE: Final = 1.25
"""Ratio of the widest to the narrowest aspect up to which images count as of one shape."""
DEVICE_PX: Final = 96
RESIZES: Final[tuple[ResizePolicy, ...]] = get_args(ResizePolicy)

ABOUT: Final[dict[str, str]] = {
    "transfer": "a head on a frozen, pretrained EfficientNet-Lite0",
    "finetune": "EfficientNet-Lite0, first its head, then all of it",
    "from_scratch": "six convolutions trained from scratch",
    "tiny_device": "a network of 48,610 parameters, for a microcontroller",
}
"""Recipe -> short description."""


class Choices(NamedTuple):
    """The user's choices; None: chosen from the images."""

    recipe: Recipe | None = None
    size_px: int | None = None
    """Height and width of the model's input."""
    resize: ResizePolicy | None = None
    mirror: bool = True
    """Whether a mirrored image is still of its class (letters are not)."""
    rare_matter: bool | None = None
    """Whether rare classes count as much as frequent ones."""
    task: Task | None = None
    """None: the task that fits the labels."""


def starter_spec(
    data: Data,
    task: Task | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Returns the spec that `kerasimg init` would write for these images, for training without a spec.

    Args:
        data: labelled images, as for `kerasimg.train`.
        task: the task; None: the one that fits the labels, see `task_of`.
        progress: called with the number of images read and the total.
    """
    source = open_source(data, task or task_of(data))
    log.once(source.describe())
    summary = summarize(source, progress)
    log.info(_sizes(summary))
    document = make_spec(name_of(data), summary, Choices(task=task))
    recipe = document["extends"]
    log.info(f"no spec given; using {recipe}: {document['// extends'].partition('. `')[0]}")
    return document


def summarize_data(data: Data, task: Task | None = None, progress: Progress | None = None) -> Summary:
    """Summarizes labelled images, as `kerasimg init` does."""
    return summarize(open_source(data, task or task_of(data)), progress)


def describe(summary: Summary) -> str:
    """The summary in one line for the user."""
    return f"{counted(summary.readable, 'image')} of {counted(len(summary.classes), 'class')}, {_sizes(summary)}"


def _sizes(summary: Summary) -> str:
    (largest, most), (smallest, least) = next(iter(summary.classes.items())), list(summary.classes.items())[-1]
    return (
        f"{most:,} of '{largest}' to {least:,} of '{smallest}'; {summary.sizes}, "
        f"{'without colours' if summary.grey else 'in colour'}"
    )


def file_beside(data: str) -> Path:
    """The path of the spec: photos.json beside photos/ or photos.csv; in the current folder if data is no path."""
    path, name = Path(data), name_of(data)
    if not path.exists():
        return Path(f"{name}.json")
    path = path.resolve() if path.name in ("", "..") else path
    beside = path.with_name(f"{name}.json")
    return path.with_name(f"{name}-spec.json") if beside == path else beside


def name_of(data: Data) -> str:
    """A name for the spec of these images: that of their folder or file, else "images"."""
    if not isinstance(data, (str, PurePath)):
        return "images"
    path = Path(data)
    if path.is_dir():
        return (path.resolve() if path.name in ("", "..") else path).name
    return path.stem.replace(":", "_") or "first"


def make_spec(name: str, summary: Summary, choices: Choices = Choices()) -> dict[str, Any]:  # noqa: B008 - it cannot be changed
    """Makes a spec document for these images, which extends a recipe; comments explain the choices.

    name: of the spec; invalid characters are replaced.
    """
    recipe, why = _recipe(summary) if choices.recipe is None else (choices.recipe, "as requested")
    size, why_size = _size(recipe, summary) if choices.size_px is None else (choices.size_px, "as requested")
    resize, why_resize = _resize(summary) if choices.resize is None else (choices.resize, "as requested")
    parent = catalog.read_zoo(f"recipes/{recipe}")
    document: dict[str, Any] = {
        "kerasimg": 1,
        "name": valid_name(name),
        "about": f"{counted(summary.readable, 'image')} of {counted(len(summary.classes), 'class')}: {ABOUT[recipe]}.",
        "// extends": f"{why}. `kerasimg spec show recipes/{recipe}` prints all of it",
        "extends": f"recipes/{recipe}",
        **_task(choices.task or summary.task, summary),
        "params": {
            "// num_classes": _classes(summary),
            "num_classes": len(summary.classes),
            "// size": f"height and width of the model's input in px: {why_size}",
            "size": size,
            **(_channels(summary) if recipe in ("from_scratch", "tiny_device") else {}),
            "// search": "`kerasimg tune` searches these values; `kerasimg train` uses the defaults",
            **{key: value for key, value in parent["params"].items() if is_search(value)},
        },
        "image": {"// resize": why_resize, "resize": resize},
    }
    if not choices.mirror:
        document["// augment"] = "the recipe's layers without mirroring, which would change the class"
        document["augment"] = [node for node in parent["augment"] if node["layer"] != "RandomFlip"]
    rare = summary.imbalance >= UNEQUAL if choices.rare_matter is None else choices.rare_matter
    document["compile"] = {
        "// metrics": "f1 is the mean over the classes, so rare classes count equally",
        "metrics": METRICS,
    }
    if rare:
        document["fit"] = {"// class_weight": _unequal(summary), "class_weight": "balanced"}
    document["tune"] = {
        "// objective": "the metric that the search optimizes",
        "objective": "val_f1" if rare else "val_accuracy",
        "tuner": "bayesian",
        "max_trials": 20,
    }
    return document


def _task(task: Task, summary: Summary) -> dict[str, Any]:
    if task == "multiclass":
        return {}
    if task == "multilabel":
        return {"// task": "an image may have several labels, or none", "task": task}
    return {
        "// task": 'two classes: one output, the probability of the positive class; "multiclass" has one for each',
        "task": task,
        "// positive_class": "precision, recall and thresholds are for this class",
        "positive_class": in_order(summary.classes)[-1],
    }


METRICS: Final = ["accuracy", "f1"]


def _recipe(summary: Summary) -> tuple[Recipe, str]:
    if summary.shorter_side <= TINY_PX:
        return (
            "from_scratch",
            f"the images are tiny ({summary.width} x {summary.height} px): a small network from scratch",
        )
    if summary.per_class >= LARGE:
        return (
            "finetune",
            f"the median class has {counted(round(summary.per_class), 'image')}, enough to fine-tune the whole network",
        )
    return (
        "transfer",
        f"the median class has {counted(round(summary.per_class), 'image')}, which is few: the backbone stays frozen",
    )


def _size(recipe: Recipe, summary: Summary) -> tuple[int, str]:
    if recipe == "tiny_device":
        return min(
            DEVICE_PX, max(32, _multiple(summary.shorter_side, 8))
        ), "what fits into the memory of a microcontroller"
    if recipe == "from_scratch":
        return max(16, _multiple(min(summary.shorter_side, TINY_PX), 4)), "the size of the images"
    if summary.shorter_side >= 224:
        return 224, "what the backbone was trained on"
    size = max(96, _multiple(summary.shorter_side, 32))
    return size, f"the median image has {summary.width} x {summary.height} px, and smaller than 224 is faster"


def _resize(summary: Summary) -> tuple[ResizePolicy, str]:
    narrow, wide = summary.aspects
    if wide <= SAME_SHAPE * narrow:
        return "stretch", "the images have similar aspect ratios, so stretching is harmless"
    return "pad", (
        f"the aspect ratios differ (80 % are {narrow:.2f} to {wide:.2f}): padding neither distorts nor cuts off "
        "anything; 'crop' takes the centre instead"
    )


def _channels(summary: Summary) -> dict[str, Any]:
    why = "all images are grey" if summary.grey else "the images are in colour"
    return {"// channels": why, "channels": 1 if summary.grey else 3}


def _classes(summary: Summary) -> str:
    names = list(summary.classes)
    first, last = names[0], names[-1]
    return f"from {counted(summary.classes[first], 'image')} of '{first}' to {summary.classes[last]:,} of '{last}'"


def _unequal(summary: Summary) -> str:
    return f"rare classes get a larger weight; the largest class is {summary.imbalance:.1f} times the smallest"


def _multiple(value: int, of: int) -> int:
    return max(of, round(value / of) * of)


def valid_name(name: str) -> str:
    """A valid spec name that is close to the name of a folder."""
    stem = unicodedata.normalize("NFKD", PurePath(name).name.replace("ß", "ss"))
    stem = "".join(letter for letter in stem if not unicodedata.combining(letter))  # "für" becomes "fur"
    made = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "_-") else "_" for letter in stem)
    made = made if made[:1].isalpha() else f"_{made}"
    if not NAME.fullmatch(made[:64]):
        raise CallError(f"cannot make a spec name from '{name}'")
    return made[:64]
