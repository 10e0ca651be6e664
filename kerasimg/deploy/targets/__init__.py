"""What a run can be exported for: a module each, imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kerasimg.deploy.manifest import ModelFile, Precision
from kerasimg.errors import CallError, nearest

if TYPE_CHECKING:
    from kerasimg.deploy.export_context import Exporting

Write = Callable[["Exporting", Path], list[ModelFile]]


class Target(NamedTuple):
    """Something to export for."""

    about: str
    """One line for the user."""
    precisions: tuple[Precision, ...]
    """Those that it can be written in."""
    default: tuple[Precision, ...]
    """Those that are written where none is asked for."""
    packages: tuple[str, ...] = ()
    """What is imported to write and to run it, besides TensorFlow."""
    extra: str = ""
    """What to install where one is missing."""
    batch: int | None = None
    """Images at a time where the caller says nothing; None: any number."""

    def missing(self) -> list[str]:
        """Those that are not installed."""
        return [package for package in self.packages if find_spec(package) is None]

    def require(self, name: str) -> None:
        """CallError that says what to install, where something is missing."""
        if missing := self.missing():
            raise CallError(f'{name} needs {", ".join(missing)}: pip install "kerasimg[{self.extra}]"')

    def writer(self, name: str) -> Write:
        """Its function `write(exporting, folder)`: writes the model files and says what they are."""
        found: Write = import_module(f"{__name__}.{name}").write
        return found


TARGETS: dict[str, Target] = {
    "savedmodel": Target("TensorFlow's SavedModel, for TensorFlow Serving", ("float32",), ("float32",)),
    "litert": Target(
        "a .tflite file, for LiteRT on servers, phones and boards",
        ("float32", "float16", "dynamic", "int8"),
        ("float32",),
        ("ai_edge_litert",),
        "litert",
    ),
    "onnx": Target(
        "an .onnx file, for ONNX Runtime",
        ("float32",),
        ("float32",),
        ("onnx", "tf2onnx", "onnxruntime"),
        "onnx",
    ),
    "openvino": Target(
        "an .xml and a .bin file, for OpenVINO", ("float32", "float16"), ("float32",), ("openvino",), "openvino"
    ),
    "keras": Target("model.keras as it is, for Keras on any backend", ("float32",), ("float32",)),
    "web": Target(
        "a folder and one page that run in the browser",
        ("float32", "float16", "dynamic", "int8"),
        ("float32",),
        batch=1,
    ),
    "embedded": Target(
        "C sources with an int8 model, for microcontrollers",
        ("int8",),
        ("int8",),
        ("tflite_micro",),
        "embedded",
        batch=1,
    ),
}
"""Name -> target; of each, a module of this package has `write`."""


def target(name: str) -> Target:
    """The target of a name; CallError says which there are."""
    if name not in TARGETS:
        raise CallError(f"no target '{name}'{nearest(name, TARGETS)} (targets: {', '.join(TARGETS)})")
    return TARGETS[name]
