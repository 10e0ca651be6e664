"""Arguments and options that commands share. Each means one thing everywhere and is defined once, here."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kerasimg.cli.startup import keras_loaded as keras_loaded
from kerasimg.errors import CallError
from kerasimg.files import read_object
from kerasimg.run_folder import RunFolder

if TYPE_CHECKING:
    from kerasimg.catalog import Reference
    from kerasimg.spec.load import Spec

SPEC_HELP = "A zoo name (mobilenet), a recipe (finetune), or the path of a spec."
DATA_HELP = (
    "Labelled images: a folder with one folder per class, a file (.csv, .zip, .npz, .tfrecord, .tar, .parquet; all "
    'are in docs/data.md), "tfds:NAME", or "sample".'
)
RUN_HELP = (
    "A trained classifier: the folder of a run, or of an auto or a search, whose best run is used. Where the model is "
    "enough, also its model.keras, a .kerasimg pack, or a zoo name that has weights."
)
ON_BAD_IMAGE_HELP = "When an image cannot be read. fail: list every such image. skip: leave them out."

SpecArgument = Annotated[str, typer.Argument(metavar="SPEC", help=SPEC_HELP)]


def best_run(run: Path) -> Path:
    """A run as it is; of the folder of an `auto` or a search, its best run."""
    from kerasimg.run_folder import AUTO, SEARCH
    from kerasimg.tuning.journal import AUTO_RESULT, WINNER

    for mark, result in ((AUTO, AUTO_RESULT), (SEARCH, WINNER)):
        if (run / mark).is_file() and (run / result).is_file() and (name := read_object(run / result).get("run")):
            return run / name
    return run


RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help=RUN_HELP, callback=best_run)]
DataArgument = Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP)]
Images = Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")]

Data = Annotated[str, typer.Option("--data", metavar="DATA", help=DATA_HELP)]
TrainData = Annotated[str | None, typer.Option("--data", metavar="DATA", help=DATA_HELP)]
RunData = Annotated[
    str | None, typer.Option("--data", metavar="DATA", help=f"{DATA_HELP} Default: the images of the run.")
]
Set = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Set a param or one of epochs, size, batch_size, lr, task, trials, minutes by name, anything else by its "
        "path: fit.seed=3. Repeatable.",
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        "--epochs", min=1, help="Epochs in all. Several stages share them as the spec does, at least one each."
    ),
]
Size = Annotated[
    int | None, typer.Option("--size", metavar="PX", min=1, help="Height and width of the image that the model sees.")
]
BatchSize = Annotated[str | None, typer.Option("--batch-size", metavar="N", help='Images per step, or "auto".')]
LearningRate = Annotated[
    float | None, typer.Option("--lr", help="Learning rate of the first stage; rates computed from it follow.")
]


class TaskName(StrEnum):
    """Kinds of labels."""

    multiclass = "multiclass"
    binary = "binary"
    multilabel = "multilabel"


class DeviceName(StrEnum):
    """What a model is exported for by `auto`."""

    phone = "phone"
    browser = "browser"
    server = "server"
    microcontroller = "microcontroller"


Task = Annotated[
    TaskName | None,
    typer.Option(
        "--task",
        help="multiclass: one of several classes per image. binary: one of two. multilabel: any number of them. "
        "Default: what the spec says; without a spec, as the labels are.",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights", metavar="FILE", help="none, imagenet, or a .weights.h5 file. Default: what the spec says."
    ),
]
QUIET_CLIENT = ("HF_HUB_VERBOSITY", "error")
"""The client of the Hub logs each of its retries; only the last result matters."""

Limit = Annotated[
    list[str],
    typer.Option(
        "--limit",
        metavar="NAME=N",
        help="Raise a safety limit on the size of the model: params=N, tensor=N, layers=N. Repeatable.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print the result, but no progress.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def out_option(what: str, default: str) -> Any:
    """`--out`: the path to which a command writes its result, what is written there, and where it goes without."""
    return typer.Option("--out", metavar="PATH", help=f"Write the result to this path: {what}. Default: {default}.")


def top_option(what: str) -> Any:
    """`--top`: the most entries of a list, and what they are."""
    return typer.Option("--top", metavar="N", min=1, help=f"Largest number of entries: {what}.")


def part_option(default: str) -> Any:
    """`--part`: the split of the data that a command uses, and which one without it."""
    return typer.Option("--part", help=f"The split to use: train, validation, test or all. Default: {default}.")


class OnBadImage(StrEnum):
    """The action for an image that cannot be read."""

    fail = "fail"
    skip = "skip"


Bad = Annotated[OnBadImage, typer.Option("--on-bad-image", help=ON_BAD_IMAGE_HELP)]


class CacheKind(StrEnum):
    """Where decoded images are cached."""

    auto = "auto"
    memory = "memory"
    disk = "disk"
    off = "off"


CacheOption = Annotated[
    CacheKind,
    typer.Option(
        "--cache", help="Where decoded images are cached. auto: in memory when they fit, else on disk (kerasimg cache)."
    ),
]

OWN_ARGUMENTS = frozenset(
    {
        "ref",
        "overrides",
        "chosen",
        "partial",
        "data",
        "out",
        "weights",
        "limits",
        "on_bad_image",
        "on_finished",
        "on_trained",
        "warm_start",
        "deadline",
        "began",
        "cache",
        "report",
        "first_spec",
        "tensorboard",
        "track",
        "workers",
        "token",
        "chief",
        "verbose",
    }
)
"""Arguments of the verbs besides a spec's params."""

MAX_DIGITS = 18
"""Digits of the longest number that `--limit` takes."""


def load(ref: Reference, params: dict[str, Any], edits: dict[str, Any], partial: bool = False) -> Spec:
    """The spec of a reference with its `--set` values."""
    from kerasimg import catalog

    return catalog.load(ref, overrides=edits, partial=partial, **params)


def assignment(text: str) -> tuple[str, str]:
    """NAME=VALUE as a pair."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise CallError(f"expected NAME=VALUE, got '{text}'")
    return name, value


def assignments(texts: list[str], **named: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """`--set` values: the params (a bare name) and the edits (a dotted path). A value is JSON, else a string.

    named: the options that set a value by name, as in `epochs=3`; None where the option was left out.
    """
    params: dict[str, Any] = {}
    edits: dict[str, Any] = {}
    for name, text in map(assignment, texts):
        if name in OWN_ARGUMENTS:
            option = "--" + name.replace("_", "-")
            raise CallError(
                f"--set {name}: that is an option of its own: {option} {text}; a param of that name is --set "
                f"params.{name}={text}"
            )
        (edits if "." in name else params)[name] = _value(text)
    for name, value in named.items():
        if value is None:
            continue
        if name in params:
            option = "--" + name.replace("_", "-")
            raise CallError(f"{option} and --set {name} set the same value; give one of them")
        params[name] = _value(value) if isinstance(value, str) else value
    return params, edits


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return str(text)


def weights_argument(text: str | None) -> dict[str, Any]:
    """`--weights` as the keyword of `build` and `train`: nothing where it was left out."""
    if text is None:
        return {}
    return {"weights": None if text.lower() == "none" else text}


def without_none(**options: Any) -> dict[str, Any]:
    """The options that were given, as keywords; the others have the defaults of the function that is called."""
    return {name: value for name, value in options.items() if value is not None}


def repeated(
    on_bad_image: OnBadImage = OnBadImage.fail,
    assign: Sequence[str] = (),
    weights: str | None = None,
    limit: Sequence[str] = (),
) -> list[str]:
    """The options of a command that the next step needs, too, as words of a command line."""
    words = [word for text in assign for word in ("--set", text)]
    words += [] if weights is None else ["--weights", weights]
    words += [word for text in limit for word in ("--limit", text)]
    return words + ([] if on_bad_image is OnBadImage.fail else ["--on-bad-image", on_bad_image.value])


def images_of(run: Path, data: str | None) -> list[str]:
    """`--data` for a next step with a model that has no images of its own, as words of a command line."""
    from kerasimg.data.sources import is_in_memory
    from kerasimg.spec.pack import is_pack

    record = None if is_pack(run) else RunFolder.of(run).data()
    own = is_pack(run) or (record is not None and not is_in_memory(record["where"]))
    return [] if own else ["--data", data or "DATA"]


def image_paths(run: Path | None, data: str | None) -> Callable[[str], str]:
    """What makes of the name of an image, in --data or else in the data of a run, a path for the next command."""
    from kerasimg.data.sources import image_path
    from kerasimg.spec.pack import is_pack

    record = None if data or run is None or is_pack(run) else RunFolder.of(run).data()
    where = data or (record["where"] if record else "")
    return partial(image_path, where)


def to_export(run: Path, data: str | None) -> list[str]:
    """The options without which an export of this model fails: images, and a folder where it is in none of a run."""
    return images_of(run, data) + ([] if run.is_dir() else ["--out", "export"])


def export_step(run: Path, data: str | None) -> tuple[list[str], dict[str, Path]]:
    """The options and names of the step after a look at a model: its export, or a check of one that is up to date."""
    from kerasimg.staleness import bundles, stale_bundle

    if data is None and not run.exists():
        return [], {}  # a pretrained model of the zoo, for whose classes a user rarely has images
    up_to_date = next((folder for folder in bundles(run) if stale_bundle(folder) is None), None)
    return (to_export(run, data), {"run": run}) if up_to_date is None else ([], {"bundle": up_to_date})


def limits_argument(texts: list[str]) -> dict[str, int]:
    """`--limit` values as `limits` takes them."""
    limits = {}
    for name, text in map(assignment, texts):
        if not text.isdecimal() or len(text) > MAX_DIGITS:
            raise CallError(f"--limit {name}: expected a whole number, got '{text}'")
        limits[name] = int(text)
    return limits
