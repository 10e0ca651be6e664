"""The table of what a spec may name from Keras, made by looking at the installed Keras.

`python -m kerasimg.models.keras_table` writes it to `kerasimg/spec/keras_table.json`, from which specs are
checked without Keras: group -> name -> {"args": {argument: {"kind": ..., "default": ...}}, "doc": ...}, with
"required": true in place of a default. Beside the groups stand the `synonyms` that are accepted, other names
of a class that are not (`renamed`), and what is `refused`, with the reason.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pathlib
import re
import typing
from typing import Any, Final

import keras

from kerasimg import keras_internals
from kerasimg.models.backbone_table import make_backbones
from kerasimg.models.keras_kinds import KINDS, LEFT_OUT, REFUSED, one_of
from kerasimg.spec import kinds
from kerasimg.spec.arguments import MODULES, TABLE_FILE

CLASSES: Final = (
    "layers",
    "initializers",
    "regularizers",
    "constraints",
    "optimizers",
    "schedules",
    "losses",
    "metrics",
    "callbacks",
)
"""The groups that consist of classes; `activations` and `backbones` are functions."""

OWN: Final = {
    "layers": keras.layers.Layer,
    "metrics": keras.metrics.Metric,
    "callbacks": keras.callbacks.Callback,
    "optimizers": keras.optimizers.Optimizer,
}
"""The groups to which kerasimg adds classes, and their base."""

NO_AUGMENTATION: Final = {"Resizing", "CenterCrop"}
"""Image layers that change no image at random."""

TAKES_A_LIST: Final = {"Attention", "AdditiveAttention"}
"""Layers that take their inputs as one list, though they are no merging layers."""

TYPES: Final = {bool: "bool", int: "int", float: "float"}
"""Kinds by the type of an argument's annotation or default. The type of a string says too little."""

_IMAGE_LAYER = keras_internals.image_layer_class()
_MERGE_LAYER = keras_internals.merge_layer_class()
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_BASE_ARGUMENTS = {
    "trainable": {"kind": "bool", "default": True},
    "dtype": {"kind": "dtype|null", "default": None},
}


def make_table() -> dict[str, Any]:
    """Make the whole table; takes half a minute, since each backbone is built, if without weights."""
    return {**make_classes(), "backbones": make_backbones()}


def make_classes() -> dict[str, Any]:
    """Make the table without the backbones."""
    synonyms: dict[str, dict[str, str]] = {}
    renamed: dict[str, dict[str, str]] = {}
    table: dict[str, Any] = {"keras": keras.__version__}
    for group in CLASSES:
        exported = _exported(group)
        table[group] = {name: describe(group, cls) for name, cls in exported.items()} | _own(group)
        others = _other_names(group, exported)
        (renamed if group == "layers" else synonyms)[group] = others
    table["activations"], synonyms["activations"] = _activations()
    return {**table, "synonyms": synonyms, "renamed": renamed, "refused": REFUSED}


def describe(group: str, cls: type, otherwise: str | None = None) -> dict[str, Any]:
    """Make the entry of a class, Keras' or anyone's; a ValueError names every argument of unknown kind.

    A class says what its arguments take in a class attribute `argument_kinds`, {argument: kind}.

    otherwise: the kind of an argument that nothing tells the kind of, or whose default is not of that kind.
    """
    entry: dict[str, Any] = {"args": _arguments(group, cls, otherwise), "doc": first_sentence(cls)}
    if group != "layers":
        return entry
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in _parameters(cls)):
        entry["args"] |= _BASE_ARGUMENTS
    if issubclass(cls, _IMAGE_LAYER) and cls.__name__ not in NO_AUGMENTATION:
        entry["augment"] = True
    if issubclass(cls, _MERGE_LAYER) or cls.__name__ in TAKES_A_LIST:
        entry["merge"] = True
    if len(inputs := _call_inputs(cls)) > 1:
        entry["inputs"] = inputs
    return entry


def first_sentence(thing: object) -> str:
    """Give the first sentence of a docstring, in one line."""
    paragraph = (inspect.getdoc(thing) or "").split("\n\n")[0]
    return re.split(r"(?<!a\.k\.a)(?<!et al\.)(?<=\.) ", " ".join(paragraph.split()))[0].replace("..", ".")


def write(table: dict[str, Any], path: pathlib.Path = TABLE_FILE) -> None:
    """Write the table as JSON, one line a name."""
    path.write_text(dumps(table), encoding="utf-8")


def dumps(table: dict[str, Any]) -> str:
    """Give the table as JSON, one line a name, in the order of their names."""
    lines = [f"{json.dumps(key)}: {_section(value)}" for key, value in sorted(table.items())]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _section(value: object) -> str:
    if not isinstance(value, dict):
        return json.dumps(value)
    lines = [f" {json.dumps(key)}: {json.dumps(item)}" for key, item in sorted(value.items())]
    return "{\n" + ",\n".join(lines) + "\n}"


def _exported(group: str) -> dict[str, type]:
    """Find the classes of a group of Keras that a spec may name, each under one name."""
    public = {
        name: thing
        for name, thing in vars(importlib.import_module(MODULES[group])).items()
        if inspect.isclass(thing) and not name.startswith("_")
    }
    found: dict[str, type] = {}
    for name, cls in sorted(public.items()):
        if public.get(cls.__name__, cls) is cls and cls not in found.values():
            found[cls.__name__ if cls.__name__ in public else name] = cls
    return {name: cls for name, cls in sorted(found.items()) if name not in REFUSED[group]}


def _own(group: str) -> dict[str, Any]:
    """Describe the classes that kerasimg adds to a group, except those with `in_specs = False`."""
    if group not in OWN:
        return {}
    module = importlib.import_module(f"kerasimg.{group}")
    return {
        name: {**describe(group, cls), "module": module.__name__}
        for name, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, OWN[group]) and cls.__module__.startswith("kerasimg.") and getattr(cls, "in_specs", True)
    }


def _arguments(group: str, cls: type, otherwise: str | None) -> dict[str, dict[str, Any]]:
    described, unknown = {}, []
    for parameter in _parameters(cls):
        if parameter.kind in _VARIADIC or _left_out(group, parameter.name):
            continue
        kind = _kind(group, cls, parameter, otherwise)
        required = parameter.default is parameter.empty
        rest = {"required": True} if required else {"default": _plain(parameter.default)}
        if kind is None:
            unknown.append(f"{cls.__name__}.{parameter.name}")
        described[parameter.name] = {"kind": kind, **rest}
    if unknown:
        raise ValueError(f"{group}: {', '.join(unknown)}: of unknown kind")
    return described


def _parameters(cls: type) -> list[inspect.Parameter]:
    return list(inspect.signature(cls, eval_str=True).parameters.values())


def _left_out(group: str, argument: str) -> bool:
    scoped = f"{group}.{argument}"
    return scoped in LEFT_OUT or (argument in LEFT_OUT and scoped not in KINDS)


def _kind(group: str, cls: type, parameter: inspect.Parameter, otherwise: str | None) -> str | None:
    """Find the kind of an argument: by the class, the table, its ending or its type; None if none of them knows it."""
    name, default = parameter.name, parameter.default
    hint = type(default) if parameter.annotation is parameter.empty else parameter.annotation
    keys = (f"{cls.__name__}.{name}", f"{group}.{name}", name)
    candidates = (
        getattr(cls, "argument_kinds", {}).get(name),
        one_of(*typing.get_args(hint)) if typing.get_origin(hint) is typing.Literal else None,
        *(KINDS.get(key) for key in keys),
        *(kind for kind in kinds.GROUPS if name.endswith(kind)),
        TYPES.get(hint),
    )
    kind = next((candidate for candidate in candidates if candidate), None)
    if kind is None:
        kind = otherwise
    if kind is None:
        return None
    if rank := re.search(r"(\d)D", cls.__name__):
        kind = kind.replace("@", rank[1])
    kind = kind.replace("@ ", "")  # of a class whose name does not say how many dimensions it has
    if default is None and kinds.PLAIN["null"] not in kinds.options(kinds.parse(kind)):
        kind += "|null"
    fits = kinds.parse(kind).match(_plain(default)) is not kinds.MISMATCH
    objects = any(isinstance(option, kinds.Object) for option in kinds.options(kinds.parse(kind)))
    declared = name in getattr(cls, "argument_kinds", {}) or objects
    if otherwise and not declared and not (fits and default is not None):
        return otherwise  # Keras' argument of the same name may mean something else
    return kind


def _plain(default: object) -> object:
    return [_plain(item) for item in default] if isinstance(default, tuple | list) else default


def _call_inputs(cls: type) -> list[str]:
    """Name the tensors that `call` takes: its leading arguments, up to the masks and switches."""
    names: list[str] = []
    for parameter in list(inspect.signature(cls.call).parameters.values())[1:]:  # type: ignore[attr-defined]
        switch = parameter.default not in (parameter.empty, None)
        if parameter.kind in _VARIADIC or switch or parameter.name.endswith(("mask", "training")):
            break
        names.append(parameter.name)
    return names


def _other_names(group: str, exported: dict[str, type]) -> dict[str, str]:
    """Find the further names of classes: exported ones, and those that Keras' `get` takes."""
    known = dict(vars(importlib.import_module(MODULES[group])))
    if group not in ("layers", "schedules", "callbacks"):
        known |= keras_internals.names_known_to_get(group)
    if group == "optimizers":
        known |= {name.lower(): cls for name, cls in exported.items()}
    by_class = {cls: name for name, cls in exported.items()}
    by_spelling = {_spelling(name): name for name in exported}
    names = {}
    for other, thing in known.items():
        # A loss or a metric may be known by its function only.
        spelled = by_spelling.get(_spelling(thing.__name__)) if inspect.isfunction(thing) else None
        name = by_class.get(thing) if inspect.isclass(thing) else spelled
        if name and name != other:
            names[other] = name
    return dict(sorted(names.items()))


def _spelling(name: str) -> str:
    return name.replace("_", "").lower()


def _activations() -> tuple[dict[str, Any], dict[str, str]]:
    entries, synonyms = {}, {}
    for name, function in inspect.getmembers(keras.activations, inspect.isfunction):
        if name in ("get", "serialize", "deserialize") or name in REFUSED["activations"]:
            continue
        if name == function.__name__:
            entries[name] = {"args": {}, "doc": first_sentence(function)}
        else:
            synonyms[name] = function.__name__
    return entries, synonyms


if __name__ == "__main__":
    write(make_table())
    print(f"wrote {TABLE_FILE}")
