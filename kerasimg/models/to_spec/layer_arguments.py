"""A Keras layer -> its form in a spec: the class and the fewest arguments that make the same layer again.

The layer is made again from these arguments, and an argument is left out only if the layer is the same without it. So
what a spec cannot express is found here, and not when the spec is built.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import keras

from kerasimg import keras_internals
from kerasimg.errors import listed
from kerasimg.objects import find, make_layer
from kerasimg.spec import arguments, kinds
from kerasimg.spec.expressions import is_expression

Described = tuple[str, dict[str, Any]]
"""The class of a layer as a spec names it, and its arguments."""


class Inexpressible(Exception):
    """Something that a spec cannot express; the message says why, and what to do."""


SUBSTITUTES: Mapping[str, Callable[[Mapping[str, Any]], Described]] = {
    "convnext.LayerScale": lambda config: ("LayerScale", {"initial_value": config["init_values"]}),
    "convnext.StochasticDepth": lambda config: ("DropPath", {"rate": config["drop_path_rate"]}),
}
"""Layers that keras.applications keeps to itself, by module and name: from their config to the layer that does the
same, with the same weights."""


class LayerReader:
    """Describes layers; layers with the same config are examined once."""

    def __init__(self) -> None:
        self._described: dict[str, Described] = {}

    def describe(self, layer: keras.layers.Layer, rank: int, bare: bool = False) -> Described:
        """The class and the arguments of a layer; Inexpressible if a spec cannot express it.

        rank: of its first input, with the batch; an axis that is the last is left out.  bare: without its activation.
        """
        if bare:
            attributes = vars(layer)
            own, attributes["activation"] = attributes["activation"], keras.activations.linear
            try:
                return self.describe(layer, rank)
            finally:
                attributes["activation"] = own
        target, given = self._described_as(layer)
        takes = (arguments.entry("layers", target) or {"args": {}})["args"]
        if given.get("axis") in (rank - 1, [rank - 1], -1, [-1]) and takes["axis"].get("default") == -1:
            given = {key: value for key, value in given.items() if key != "axis"}
        return target, given

    def _described_as(self, layer: keras.layers.Layer) -> Described:
        cls = type(layer)
        if substitute := SUBSTITUTES.get(keras_internals.application_class(cls) or ""):
            config = _config(layer)
            target, given = substitute(config)
            return self._shortest(target, {**given, **_base(config)}, layer.name, None)
        if not isinstance(layer, keras.layers.Layer) or isinstance(layer, keras.Model):
            raise Inexpressible(f"is a subclassed model ({cls.__name__}): rewrite it as a functional model")
        name = known_name(cls)
        config = _one_axis(name, _config(layer))
        key = json.dumps([name, config], sort_keys=True, default=str)
        if key not in self._described:
            self._described[key] = self._shortest(name, _written(name, config), layer.name, config)
        return self._described[key]

    def _shortest(
        self, name: str, given: dict[str, Any], layer_name: str, config: Mapping[str, Any] | None
    ) -> Described:
        """The fewest and shortest arguments that make the layer with this config; None: that `given` makes."""
        made = _made(name, given, layer_name)
        if config is None:
            config = made
        if differs := [key for key in config if not _equal(made.get(key), config[key])]:
            _refuse_argument(name, differs, config)
        config = made
        entry = arguments.entry("layers", name) or {"args": {}}
        for key in reversed(list(given)):
            required = entry["args"][key].get("required")
            rest = {other: value for other, value in given.items() if other != key}
            if not required and _makes(name, rest, layer_name, config):
                given = rest
                continue
            for shorter in _shorter(given[key]):
                if _makes(name, {**given, key: shorter}, layer_name, config):
                    given = {**given, key: shorter}
                    break
        return name, given


def default_value(name: str, argument: str) -> Any:
    """The default of an argument of a layer as a spec writes it; KeyError if the argument is required."""
    entry = arguments.entry("layers", name) or {"args": {}}
    default = entry["args"][argument]["default"]
    return next(iter([*_shorter(default), default])) if isinstance(default, list | float) else default


def known_name(cls: type) -> str:
    """The name of exactly this class in a spec."""
    for name in (cls.__name__, *arguments.known("layers")):
        if arguments.entry("layers", name) is not None and find("layers", name) is cls:
            return name
    reason = arguments.unknown_name("layers", cls.__name__)
    if "cannot stand in a spec" in reason:
        raise Inexpressible(f"{reason}; rewrite it as layers that a spec knows")
    raise Inexpressible(
        f"is a {cls.__name__}, which is no layer of Keras or kerasimg: "
        f"make it known with kerasimg.register({cls.__name__}), or rewrite it as layers that a spec knows"
    )


def _written(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a layer as a spec would write it, without defaults."""
    takes = (arguments.entry("layers", name) or {"args": {}})["args"]
    written = {}
    for key, argument in takes.items():
        if key not in config:
            continue
        value = _value(argument["kind"], config[key], key)
        if argument.get("required") or not _same(value, argument.get("default")):
            written[key] = value
    return written


def _value(kind: str, value: Any, key: str) -> Any:
    """An argument as a spec writes it."""
    if key == "dtype":
        return _dtype(value)
    objects = (option for option in kinds.options(kinds.parse(kind)) if isinstance(option, kinds.Object))
    group = next((option.group for option in objects), None)
    if group and isinstance(value, Mapping):
        return _object(group, value, key)
    if is_expression(value):
        raise Inexpressible(f"has {key} = {value!r}, which a spec would read as an expression")
    return value


def _object(group: str, value: Mapping[str, Any], key: str) -> Any:
    """A serialized object as a name, or {"type": name, argument: value}, without its defaults."""
    name, config = value.get("class_name"), value.get("config")
    if name == "function" and isinstance(config, str) and arguments.entry(group, config) is not None:
        return arguments.canonical(group, config)  # as Keras serializes keras.activations.relu
    entry = arguments.entry(group, name) if isinstance(name, str) else None
    if entry is None or not isinstance(config, Mapping):
        label = config if isinstance(config, str) else name
        label = "a lambda" if label in (None, "__lambda__") else f"'{label}'"
        raise Inexpressible(
            f"has {'an' if key[0] in 'aeiou' else 'a'} {key} of its own, {label}, which is not in keras.{group}: "
            "use one of those, or write it as a layer and make that known with kerasimg.register"
        )
    takes = entry["args"]
    given = {
        argument: next(iter([*_shorter(item), _value(takes[argument]["kind"], item, argument)]))
        for argument, item in config.items()
        if argument in takes and not _same(item, takes[argument].get("default"))
    }
    named = arguments.canonical(group, str(name))
    return {"type": named, **given} if given else named


def _dtype(value: Any) -> Any:
    """The dtype policy of a layer; None if it is the global one."""
    name = value["config"].get("name") if isinstance(value, Mapping) else value
    return None if name == keras.config.dtype_policy().name else name


def _base(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that every layer has."""
    said = {"trainable": config.get("trainable", True), "dtype": _dtype(config.get("dtype"))}
    return {key: value for key, value in said.items() if value not in (True, None)}


def _one_axis(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """The config with a single axis as a number; RMSNormalization has it in a list once it is built."""
    entry = arguments.entry("layers", name) or {"args": {}}
    axis = config.get("axis")
    if isinstance(axis, list) and len(axis) == 1 and entry["args"].get("axis", {}).get("kind") == "int":
        return {**config, "axis": axis[0]}
    return config


def _same(value: Any, default: Any) -> bool:
    """Whether a value equals the default, in any spelling ("zeros", "Zeros")."""
    if isinstance(value, str) and isinstance(default, str) and value != default:
        groups = ("initializers", "regularizers", "constraints", "activations")
        return any(arguments.canonical(group, default) == value for group in groups)
    return type(value) is type(default) and value == default


def _equal(value: Any, other: Any) -> bool:
    """Whether two values of configs are the same, or two names of one object ("hard_swish", "hard_silu")."""
    # Of an activation, a layer is given the function.
    value, other = (
        part["config"] if isinstance(part, Mapping) and part.get("class_name") == "function" else part
        for part in (value, other)
    )
    if value == other or not (isinstance(value, str) and isinstance(other, str)):
        return bool(value == other)
    groups = ("initializers", "regularizers", "constraints", "activations")
    # A name that no group knows is its own.
    return any(arguments.canonical(group, value) == arguments.canonical(group, other) for group in groups)


def _made(name: str, given: Mapping[str, Any], layer_name: str) -> dict[str, Any]:
    """The config of the layer that arguments make; Inexpressible when they make none."""
    faults: list[str] = []
    checked = arguments.check_arguments(
        "layers", name, given, lambda path, message: faults.append(".".join(map(str, (*path, message))))
    )
    if faults:
        raise Inexpressible(f"is a {name} with arguments that a spec does not take: {'; '.join(faults)}")
    try:
        return _one_axis(name, _config(make_layer(name, checked, layer_name)))
    except (TypeError, ValueError) as error:
        raise Inexpressible(f"is a {name} that cannot be made again: {str(error).splitlines()[0]}") from None


def _makes(name: str, given: Mapping[str, Any], layer_name: str, config: Mapping[str, Any]) -> bool:
    try:
        return _made(name, given, layer_name) == config
    except Inexpressible:
        return False


def _shorter(value: Any) -> list[Any]:
    """Shorter ways to write a value that may mean the same, the shortest first: [[3, 3], [3, 3]] -> 3, [3, 3]."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return [int(value)]
    if not isinstance(value, list) or not value:
        return []
    found = [[*_shorter(item), item][0] for item in value]
    shorter = (
        [found] if found != value or any(type(a) is not type(b) for a, b in zip(found, value, strict=True)) else []
    )
    if all(item == value[0] for item in value):
        shorter = [*_shorter(value[0]), value[0], *shorter]
    return shorter


def _config(layer: Any) -> dict[str, Any]:
    """The config of a layer, without its name, as JSON has it; Inexpressible when it has none."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*includes a `lambda`")  # it is refused, not serialized
            config = layer.get_config()
    except NotImplementedError:
        raise Inexpressible(
            f"is a {type(layer).__name__} without get_config, which says what it was made with: write one"
        ) from None
    except Exception as error:  # the code of whoever wrote the layer
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise Inexpressible(f"is a {type(layer).__name__} whose get_config fails: {said}") from error
    return {key: plain(value) for key, value in config.items() if key != "name"}


def plain(value: Any) -> Any:
    """A value as JSON has it: lists, numbers, and Keras' objects serialized."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy's numbers and arrays
        return value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return plain(keras.saving.serialize_keras_object(value))


def _refuse_argument(name: str, differs: list[str], config: Mapping[str, Any]) -> NoReturn:
    takes = (arguments.entry("layers", name) or {"args": {}})["args"]
    if unknown := [key for key in differs if key not in takes]:
        raise Inexpressible(
            f"is a {name} whose get_config gives {listed(unknown)}, which its constructor does not take: "
            "Keras cannot make the layer again from that either"
        )
    said = listed(f"{key} = {config[key]!r}" for key in differs)
    raise Inexpressible(
        f"is a {name} with {said[:200]}, which a spec cannot express: leave it at its default, or register a layer of "
        "your own with kerasimg.register"
    )
