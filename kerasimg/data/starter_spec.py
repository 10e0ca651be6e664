"""A spec to begin with, chosen by a look at the images; each choice is told in a comment beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, Final, Literal, NamedTuple, get_args

from kerasimg import catalog, log
from kerasimg.data.parallel import Progress
from kerasimg.data.sources import Data, open_source, task_of
from kerasimg.data.summary import Look, look
from kerasimg.errors import CallError
from kerasimg.spec.document import ResizePolicy, Task
from kerasimg.spec.nodes import NAME
from kerasimg.spec.search import is_search

Recipe = Literal["transfer", "finetune", "from_scratch", "tiny_device"]

TINY_PX: Final = 64
"""Shorter side up to which a network that was trained on photographs has little to say."""
LARGE: Final = 300
"""Images of the median class from which on all of the backbone is trained. With fewer, a head on frozen features
is as good and takes seconds (docs/recipes.md)."""
UNEQUAL: Final = 4.0
"""Images of the largest class for each one of the smallest from which on rare classes weigh more."""
SAME_SHAPE: Final = 1.25
"""Widest aspect for each one of the narrowest up to which images are of one shape."""
DEVICE_PX: Final = 96
RESIZES: Final[tuple[ResizePolicy, ...]] = get_args(ResizePolicy)

ABOUT: Final[dict[str, str]] = {
    "transfer": "a head on a frozen EfficientNet-Lite0, which knows photographs already",
    "finetune": "EfficientNet-Lite0, first its head, then all of it",
    "from_scratch": "six convolutions trained from nothing",
    "tiny_device": "a network of 48,610 parameters, for a microcontroller",
}
"""What a recipe is, in half a sentence."""


class Wish(NamedTuple):
    """What a person answered; None: the program chooses."""

    recipe: Recipe | None = None
    size_px: int | None = None
    """Height and width of what the model sees."""
    resize: ResizePolicy | None = None
    mirror: bool = True
    """Whether a mirrored image is still of its class, as letters are not."""
    rare_matter: bool | None = None
    """Whether rare classes count as much as frequent ones."""
    task: Task | None = None
    """None: as the labels are."""


def spec_for(
    data: Data,
    task: Task | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The spec that `kerasimg init` writes for these images, as a document, for training without a spec.

    Args:
        data: labelled images, as for `kerasimg.train`.
        task: what the labels mean; None: as they are, see `task_of`.
        progress: called with how many images were looked at, and of how many.
    """
    seen = look_at(data, task, progress)
    for line in describe(seen):
        log.info(line)
    document = first_spec(name_of(data), seen, Wish(task=task))
    recipe = document["extends"]
    log.info(f"no spec given; using {recipe}: {document['// extends'].partition('. `')[0]}")
    return document


def look_at(data: Data, task: Task | None = None, progress: Progress | None = None) -> Look:
    """A first look at labelled images, as `kerasimg init` takes it."""
    return look(open_source(data, task or task_of(data)), progress)


def describe(seen: Look) -> Iterator[str]:
    """What a first look found, in lines for the user."""
    classes = list(seen.classes.items())
    yield (
        f"{seen.images:,} images of {len(classes)} classes, {classes[0][1]:,} of '{classes[0][0]}' "
        f"to {classes[-1][1]:,} of '{classes[-1][0]}'; {seen.width}x{seen.height} px in the median, "
        f"{'without colours' if seen.grey else 'in colour'}"
    )
    if seen.unreadable:
        yield f"{seen.unreadable} of the {seen.looked_at} looked at cannot be read; `kerasimg data check` lists them"


def file_beside(data: str) -> Path:
    """The file of a spec for these images: photos.json beside photos/; for what is not a path, in this folder."""
    path = Path(data)
    if path.is_dir():
        path = path.resolve() if path.name in ("", "..") else path
        return path.with_name(f"{path.name}.json")
    return Path(f"{path.stem.replace(':', '_') or 'first'}.json")


def name_of(data: Data) -> str:
    """A name for the spec of these images: that of their folder or file, "images" where they have none."""
    return file_beside(str(data)).stem if isinstance(data, (str, PurePath)) else "images"


def first_spec(name: str, seen: Look, wish: Wish = Wish()) -> dict[str, Any]:  # noqa: B008 - it cannot be changed
    """A document of the spec language for these images: it extends a recipe, and comments say why.

    name: of the spec; made fit where it is none.
    """
    recipe, why = _recipe(seen) if wish.recipe is None else (wish.recipe, "as was asked for")
    size, why_size = _size(recipe, seen) if wish.size_px is None else (wish.size_px, "as was asked for")
    resize, why_resize = _resize(seen) if wish.resize is None else (wish.resize, "as was asked for")
    parent = catalog.read_zoo(f"recipes/{recipe}")
    document: dict[str, Any] = {
        "kerasimg": 1,
        "name": _named(name),
        "about": f"{seen.images:,} images of {len(seen.classes)} classes: {ABOUT[recipe]}.",
        "// extends": f"{why}. `kerasimg spec show recipes/{recipe}` prints it whole",
        "extends": f"recipes/{recipe}",
        **_task(wish.task or seen.task, seen),
        "params": {
            "// num_classes": _classes(seen),
            "num_classes": len(seen.classes),
            "// size": f"height and width in px that the model sees: {why_size}",
            "size": size,
            **(_channels(seen) if recipe in ("from_scratch", "tiny_device") else {}),
            "// search": "`kerasimg tune` tries values between these; without it, the defaults hold",
            **{key: value for key, value in parent["params"].items() if is_search(value)},
        },
        "image": {"// resize": why_resize, "resize": resize},
    }
    if not wish.mirror:
        document["// augment"] = "as the recipe has it, but not mirrored, since that would make another class of it"
        document["augment"] = [node for node in parent["augment"] if node["layer"] != "RandomFlip"]
    rare = seen.imbalance >= UNEQUAL if wish.rare_matter is None else wish.rare_matter
    document["compile"] = {"// metrics": "f1 is the mean over the classes: rare ones count as much", "metrics": METRICS}
    if rare:
        document["fit"] = {"// class_weight": _unequal(seen), "class_weight": "balanced"}
    document["tune"] = {
        "// objective": "what the search makes as good as it can",
        "objective": "val_f1" if rare else "val_accuracy",
        "tuner": "bayesian",
        "max_trials": 20,
    }
    return document


def _task(task: Task, seen: Look) -> dict[str, Any]:
    if task == "multiclass":
        return {}
    if task == "multilabel":
        return {"// task": "an image may have several labels, or none", "task": task}
    return {
        "// task": 'two classes: one output, the probability of the positive class; "multiclass" has one for each',
        "task": task,
        "// positive_class": "the class that is looked for: precision, recall and thresholds are of it",
        "positive_class": max(seen.classes),
    }


METRICS: Final = ["accuracy", "f1"]


def _recipe(seen: Look) -> tuple[Recipe, str]:
    if seen.shorter_side <= TINY_PX:
        return "from_scratch", f"the images are tiny ({seen.width}x{seen.height} px): a small network of their own"
    if seen.per_class >= LARGE:
        return "finetune", f"{seen.per_class:,.0f} images of a class are enough to train a whole network further"
    return "transfer", f"{seen.per_class:,.0f} images of a class are few: what ImageNet taught is kept as it is"


def _size(recipe: Recipe, seen: Look) -> tuple[int, str]:
    if recipe == "tiny_device":
        return min(DEVICE_PX, max(32, _multiple(seen.shorter_side, 8))), "what a microcontroller has memory for"
    if recipe == "from_scratch":
        return max(16, _multiple(min(seen.shorter_side, TINY_PX), 4)), "that of the images"
    if seen.shorter_side >= 224:
        return 224, "what the backbone was trained on"
    found = max(96, _multiple(seen.shorter_side, 32))
    return found, f"the images have no more ({seen.width}x{seen.height} px), and less is faster"


def _resize(seen: Look) -> tuple[ResizePolicy, str]:
    narrow, wide = seen.aspects
    if wide <= SAME_SHAPE * narrow:
        return "stretch", "the images are of one shape, so all are stretched alike"
    return "pad", (
        f"the images are of many shapes ({narrow:.2f} to {wide:.2f} wide for 1 high): "
        "nothing is bent, nothing cut off; 'crop' takes the middle instead"
    )


def _channels(seen: Look) -> dict[str, Any]:
    why = "none of the images has colours" if seen.grey else "the images have colours"
    return {"// channels": why, "channels": 1 if seen.grey else 3}


def _classes(seen: Look) -> str:
    names = list(seen.classes)
    return f"from {seen.classes[names[0]]:,} images of '{names[0]}' to {seen.classes[names[-1]]:,} of '{names[-1]}'"


def _unequal(seen: Look) -> str:
    return f"an image of a rare class weighs more; the largest has {seen.imbalance:.1f} times the smallest's images"


def _multiple(value: int, of: int) -> int:
    return max(of, round(value / of) * of)


def _named(name: str) -> str:
    """A name of the spec language that is nearest to a folder's."""
    stem = PurePath(name).name
    made = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "_-") else "_" for letter in stem)
    made = made if made[:1].isalpha() else f"_{made}"
    if not NAME.fullmatch(made[:64]):
        raise CallError(f"no name for a spec can be made of '{name}'")
    return made[:64]
