"""Classes that a program, or an installed package, adds to what a spec may name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, TypeVar, overload

import keras

from kerasimg.errors import CallError, nearest
from kerasimg.models.keras_table import TYPES, describe
from kerasimg.spec import arguments

PLUGINS: Final = "kerasimg.plugins"
"""The group of entry points by which a package announces what it brings."""

BASES: Final[Mapping[str, type]] = {
    "layers": keras.layers.Layer,
    "metrics": keras.metrics.Metric,
    "callbacks": keras.callbacks.Callback,
    "losses": keras.losses.Loss,
    "optimizers": keras.optimizers.Optimizer,
    "schedules": keras.optimizers.schedules.LearningRateSchedule,
    "initializers": keras.initializers.Initializer,
    "regularizers": keras.regularizers.Regularizer,
    "constraints": keras.constraints.Constraint,
}
"""Group -> the base of its classes."""

CONFIG_KIND: Final = "bool|int|float|str|[int]|[float]|[str]|[[int]]|[[float]]|null"
"""The kind of an argument that only `get_config` knows: anything that JSON can hold, except other objects."""

Class = TypeVar("Class", bound=type)


@overload
def register(
    cls: Class, *, group: str | None = ..., argument_kinds: Mapping[str, str] | None = ..., replace: bool = ...
) -> Class: ...


@overload
def register(
    cls: None = ..., *, group: str | None = ..., argument_kinds: Mapping[str, str] | None = ..., replace: bool = ...
) -> Callable[[Class], Class]: ...


def register(
    cls: Any = None,
    *,
    group: str | None = None,
    argument_kinds: Mapping[str, str] | None = None,
    replace: bool = False,
) -> Any:
    """Register a class of your own, so that specs can name it. Also usable as a decorator.

    It is registered for this process only: whoever builds the spec registers first. To load `.keras` files, Keras asks
    for `keras.saving.register_keras_serializable` too.

    Args:
        cls: a subclass of Keras' Layer, Metric, Callback, Loss, ... whose arguments a spec can give.
        group: "layers", "metrics", "callbacks", ...; None: by the base class.
        argument_kinds: argument -> what it takes, "int>0", "float[0,1]|null", where neither a type nor a default says
            so; stored in the attribute `argument_kinds` of the class, which can have it from the start. An argument
            without any of these takes numbers, strings and lists of them if the class has a `get_config`.
        replace: whether the name may be one that specs have already.

    Returns:
        The class, or a decorator where none is given.

    Raises:
        CallError: if it is no such class, its name is taken, or what an argument takes is not known.

    Example:
        >>> import keras
        >>> @kerasimg.register
        ... class Halve(keras.layers.Layer):
        ...     def call(self, inputs):
        ...         return inputs / 2
        >>> kerasimg.build({"kerasimg": 1, "image": {"size": [8, 8]}, "model": [{"layer": "Halve"}]}).output_shape
        (None, 8, 8, 3)
    """
    if cls is None:
        return lambda named: register(named, group=group, argument_kinds=argument_kinds, replace=replace)
    if not inspect.isclass(cls):
        raise CallError(f"register: expected a class, got {cls!r}")
    group = _group(cls, group)
    name = cls.__name__
    taken = arguments.entry(group, name)
    if taken and not replace and not _same(cls, taken.get("object")):
        raise CallError(f"register: {group} have a '{name}' already; rename the class, or say replace=True")
    try:
        kinds = {**_kinds_by_type(cls), **getattr(cls, "argument_kinds", {}), **(argument_kinds or {})}
        if kinds:
            setattr(cls, "argument_kinds", kinds)  # noqa: B010
        entry = describe(group, cls, CONFIG_KIND if _has_config(cls, BASES[group]) else None)
    except (ValueError, NameError) as error:
        raise CallError(
            f'register: {error}; say what they take, argument_kinds={{name: "int>0", ...}}, '
            "or give the class a get_config"
        ) from None
    arguments.register_entry(group, name, {**entry, "object": cls})
    return cls


def load_plugins(names: Sequence[str] | None = None) -> list[str]:
    """Load the plugins that installed packages offer as entry points of the group `kerasimg.plugins`.

    An entry point is a function without arguments, which registers the classes of the package, or a module, which
    registers them when it is imported. kerasimg never calls this itself: a spec cannot load code.

    Args:
        names: of entry points; None: all.

    Returns:
        The names that were loaded.

    Raises:
        CallError: if there is no such plugin, or it fails.

    Example:
        >>> kerasimg.load_plugins([])
        []
    """
    found = {point.name: point for point in entry_points(group=PLUGINS)}
    for name in names or ():
        if name not in found:
            raise CallError(
                f"no plugin '{name}'{nearest(name, found)} (installed: {', '.join(sorted(found)) or 'none'})"
            )
    wanted = list(found) if names is None else list(dict.fromkeys(names))
    for name in wanted:
        _load(found[name])
    return wanted


def _has_config(cls: type, base: type) -> bool:
    """Whether a class has a config of its own."""
    method = getattr(cls, "get_config", None)
    return method is not None and method is not getattr(base, "get_config", None)


def _group(cls: type, group: str | None) -> str:
    """The group of a class, by its base."""
    if group is None:
        group = next((name for name, base in BASES.items() if issubclass(cls, base)), None)
        if group is None:
            raise CallError(f"register: {cls.__name__} is no {', '.join(base.__name__ for base in BASES.values())}")
    if group not in BASES:
        raise CallError(f"register: no group '{group}'{nearest(group, BASES)} (there are: {', '.join(BASES)})")
    if not issubclass(cls, BASES[group]):
        raise CallError(f"register: {cls.__name__} is no {BASES[group].__name__}, as '{group}' are")
    return group


def _kinds_by_type(cls: type) -> dict[str, str]:
    """Argument -> kind, where a type or a default tells it; what a name means in Keras says nothing of this class."""
    if cls.__init__.__module__.startswith("keras."):  # type: ignore[misc]
        return {}
    kinds = {}
    for parameter in inspect.signature(cls, eval_str=True).parameters.values():
        hint = type(parameter.default) if parameter.annotation is parameter.empty else parameter.annotation
        if hint in TYPES:
            kinds[parameter.name] = TYPES[hint]
    return kinds


def _same(cls: type, other: Any) -> bool:
    """Whether a class is another one, or what a cell of a notebook made of it when it ran again."""
    return inspect.isclass(other) and (cls.__module__, cls.__qualname__) == (other.__module__, other.__qualname__)


def _load(point: EntryPoint) -> None:
    try:
        loaded = point.load()
        if callable(loaded):
            loaded()
    except Exception as error:
        raise CallError(f"plugin '{point.name}' ({point.value}): {type(error).__name__}: {error}") from error
