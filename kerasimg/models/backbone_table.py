"""The part of the Keras table about `keras.applications`: arguments, sizes, scaling, and the ImageNet files.

Nothing is downloaded and no weight is allocated: each constructor runs up to where it would fetch its file.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final
from unittest import mock

import keras
import numpy as np

from kerasimg import keras_internals
from kerasimg.models.budget import no_variables
from kerasimg.models.keras_kinds import KINDS

ARGUMENTS: Final = ("alpha", "depth_multiplier", "dropout", "dropout_rate", "minimalistic", "pooling")
"""The arguments of a constructor that a spec may give; the rest follows from the spec."""

_MOBILENET_V3: Final = [
    {"alpha": 0.75, "minimalistic": False},
    {"alpha": 1.0, "minimalistic": False},
    {"alpha": 1.0, "minimalistic": True},
]

VARIANTS: Final[dict[str, list[dict[str, Any]]]] = {
    "MobileNet": [
        {"alpha": alpha, "rows": rows}
        for alpha, rows in itertools.product((0.25, 0.5, 0.75, 1.0), (128, 160, 192, 224))
    ],
    "MobileNetV2": [
        {"alpha": alpha, "rows": rows}
        for alpha, rows in itertools.product((0.35, 0.5, 0.75, 1.0, 1.3, 1.4), (96, 128, 160, 192, 224))
    ],
    "MobileNetV3Large": _MOBILENET_V3,
    "MobileNetV3Small": _MOBILENET_V3,
}
"""The backbones with several ImageNet files, and the arguments of each; `rows` is the height of the input."""

SIZES: Final = {"MobileNetV3Large": (32, 224), "MobileNetV3Small": (32, 224)}
"""Smallest and default size of the constructors that do not ask `obtain_input_shape`."""

SCALES: Final[dict[str, Callable[[Any], Any]]] = {
    "none": lambda pixels: pixels,
    "symmetric": lambda pixels: pixels / 127.5 - 1,
    "caffe": lambda pixels: pixels[..., ::-1] - [103.939, 116.779, 123.68],
    "imagenet": lambda pixels: (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
}
"""The scalings of the section `image` that a backbone can ask for, as functions of RGB pixels in 0-255."""


class _Reached(Exception):
    """Stops a constructor at the call of interest; carries that call's arguments."""

    def __init__(self, positional: tuple[Any, ...], named: dict[str, Any]):
        super().__init__()
        self.positional, self.named = positional, named


def make_backbones() -> dict[str, Any]:
    """Make the entries of all constructors."""
    return {
        name: {
            **describe(name),
            "imagenet": list(weight_files(name)),
            "imagenet_top": list(weight_files(name, top=True)),
        }
        for name in names()
    }


def names() -> list[str]:
    """Name the constructors of keras.applications."""
    return sorted(name for name, thing in vars(keras.applications).items() if inspect.isfunction(thing))


def describe(name: str) -> dict[str, Any]:
    """Make the entry of one constructor, without its ImageNet files."""
    constructor = getattr(keras.applications, name)
    parameters = inspect.signature(constructor).parameters
    smallest, default = sizes(name)
    entry = {
        "args": {argument: _argument(parameters[argument]) for argument in ARGUMENTS if argument in parameters},
        "doc": f"{name}, as keras.applications builds it, without its top.",
        "scale": scale(name),
        "min_size": smallest,
        "default_size": default,
    }
    return entry | ({"include_preprocessing": True} if "include_preprocessing" in parameters else {})


def _argument(parameter: inspect.Parameter) -> dict[str, Any]:
    kind = KINDS.get(parameter.name, "bool")
    return {"kind": f"{kind}|null" if parameter.default is None else kind, "default": parameter.default}


def sizes(name: str) -> tuple[int, int]:
    """Give the smallest height and width that a backbone takes without its top, and the default ones."""
    if name in SIZES:
        return SIZES[name]
    constructor = getattr(keras.applications, name)
    shapes, _ = keras_internals.applications_modules()
    asked = _reach(shapes, "obtain_input_shape", constructor, weights=None, include_top=False)
    return asked.named["min_size"], asked.named["default_size"]


def scale(name: str) -> str:
    """Find the scaling that a backbone's ImageNet weights expect: what `preprocess_input` does to pixels."""
    preprocess = importlib.import_module(getattr(keras.applications, name).__module__).preprocess_input
    pixels = np.array([[[[0.0, 100.0, 255.0], [17.0, 255.0, 0.0]]]])
    done = preprocess(pixels.copy())
    return next(scaling for scaling, function in SCALES.items() if np.allclose(done, function(pixels), atol=1e-3))


def weight_files(
    name: str, variants: list[dict[str, Any]] | None = None, *, top: bool = False
) -> Iterator[dict[str, Any]]:
    """Learn which file of ImageNet weights, with or without the top, Keras fetches for each variant of a backbone."""
    constructor = getattr(keras.applications, name)
    _, files = keras_internals.applications_modules()
    for variant in variants or VARIANTS.get(name, [{}]):
        arguments = dict(variant)
        rows = arguments.pop("rows", sizes(name)[1])
        asked = _reach(
            files,
            "get_file",
            constructor,
            weights="imagenet",
            include_top=top,
            input_shape=(rows, rows, 3),
            **arguments,
        )
        file, url = asked.positional[:2]
        yield {"file": file, "url": url, "hash": asked.named.get("file_hash"), **variant}


def _reach(module: Any, function: str, constructor: Callable[..., Any], **arguments: Any) -> _Reached:
    """Run a constructor until it calls `module.function`, and give the arguments of that call."""

    def stop(*positional: Any, **named: Any) -> None:
        raise _Reached(positional, named)

    with mock.patch.object(module, function, stop), no_variables():
        try:
            constructor(**arguments)
        except _Reached as reached:
            return reached
    raise ValueError(f"{constructor.__name__} never called {function}")
