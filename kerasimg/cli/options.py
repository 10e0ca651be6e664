"""What the commands share: options, and how `--set` is read."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kerasimg import catalog
from kerasimg.cli.start import keras_loaded as keras_loaded
from kerasimg.errors import CallError

if TYPE_CHECKING:
    from kerasimg.spec.load import Spec

Ref = Annotated[str, typer.Argument(metavar="SPEC", help="A zoo name (mobilenet) or the path of a spec.")]
RunRef = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or a model.keras file.")]
Set = Annotated[
    list[str],
    typer.Option("--set", metavar="NAME=VALUE", help="A param, or an edit by path: fit.stages.0.epochs=3. Repeatable."),
]
Weights = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="none, imagenet, or a .weights.h5 file. Left out: what the spec says."),
]
Limit = Annotated[
    list[str], typer.Option("--limit", metavar="NAME=N", help="Raise a limit: params=N, tensor=N, layers=N.")
]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, for machines.")]
Data = Annotated[
    str,
    typer.Option(
        metavar="DIR",
        help='Folder with a folder per class, .csv, .jsonl, .npz, .tfrecord, .tar, .parquet, "tfds:NAME", or "sample".',
    ),
]

OWN_ARGUMENTS = frozenset(
    {
        "ref",
        "set",
        "chosen",
        "partial",
        "data",
        "out",
        "weights",
        "limits",
        "on_bad_image",
        "cache",
        "report",
        "tensorboard",
        "workers",
        "chief",
        "verbose",
        "say",
    }
)
"""What the verbs take besides a spec's params."""


LONGEST_NUMBER = 18
"""Digits of a number that is taken."""


class OnBadImage(StrEnum):
    """What to do when a picture cannot be read."""

    fail = "fail"
    skip = "skip"


Bad = Annotated[OnBadImage, typer.Option(help="fail names every unreadable picture; skip leaves them out.")]


class CacheKind(StrEnum):
    """Where decoded pictures are kept."""

    auto = "auto"
    memory = "memory"
    disk = "disk"
    off = "off"


CacheOption = Annotated[
    CacheKind,
    typer.Option(
        "--cache",
        help="Keep decoded pictures. auto: in memory when they fit, else on disk; see kerasimg cache.",
    ),
]


def load(ref: str, params: dict[str, Any], edits: dict[str, Any], partial: bool = False) -> Spec:
    """The spec of a reference with its `--set` values."""
    return catalog.load(ref, set=edits, partial=partial, **params)


def assignment(text: str) -> tuple[str, str]:
    """NAME=VALUE as a pair."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise CallError(f"expected NAME=VALUE, got '{text}'")
    return name, value


def assignments(texts: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """`--set` values: the params (a bare name) and the edits (a dotted path). A value is JSON, else a string."""
    params: dict[str, Any] = {}
    edits: dict[str, Any] = {}
    for name, text in map(assignment, texts):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = text
        if name in OWN_ARGUMENTS:
            raise CallError(f"--set {name}: the verbs have an argument of that name; write --set params.{name}={text}")
        (edits if "." in name else params)[name] = value
    return params, edits


def weights_argument(text: str | None) -> dict[str, Any]:
    """`--weights` as the keyword of `build` and `train`: nothing where it was left out."""
    if text is None:
        return {}
    return {"weights": None if text.lower() == "none" else text}


def limits_argument(texts: list[str]) -> dict[str, int]:
    """`--limit` values as `limits` takes them."""
    found = {}
    for name, text in map(assignment, texts):
        if not text.isdecimal() or len(text) > LONGEST_NUMBER:
            raise CallError(f"--limit {name}: expected a whole number, got '{text}'")
        found[name] = int(text)
    return found
