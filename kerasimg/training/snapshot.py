"""What a training stands at, as facts and arrays, and back: variables, and what callbacks remember.

A callback may say what it remembers: `get_state()` gives a dict of plain values (numbers, strings, arrays, lists and
dicts of them, None), and `set_state(state)` takes it back, after `on_train_begin`. Without these methods its plain
attributes are kept, but for those that are named like an argument of its constructor.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kerasimg.errors import KerasimgError
from kerasimg.keras_internals import CALLBACK_ATTRIBUTES

Arrays = dict[str, np.ndarray]

NOTHING = object()


def take(variables: Iterable[Any], prefix: str) -> Arrays:
    """The values of variables, by their place."""
    return {f"{prefix}/{place}": keras.ops.convert_to_numpy(one) for place, one in enumerate(variables)}


def give(variables: Sequence[Any], arrays: Mapping[str, np.ndarray], prefix: str) -> None:
    """Give variables the values that `take` found; KerasimgError where they are others."""
    names = [name for name in arrays if name.startswith(f"{prefix}/")]
    shapes = [tuple(variable.shape) for variable in variables]
    if shapes != [arrays[name].shape for name in names]:
        raise KerasimgError(
            f"the checkpoint does not fit: its {len(names)} variables ({prefix}) have another number or other shapes "
            f"than the {len(variables)} that were built; is this another version of Keras, or of a layer of your own?"
        )
    for variable, name in zip(variables, names, strict=True):
        variable.assign(arrays[name])


def beside_weights(model: Any) -> list[Any]:
    """The variables of a model that are no weights: states of its random generators."""
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def take_backend() -> Arrays:
    """The states of the backend's own random generators, where Keras draws from them: PyTorch's, for Dropout."""
    if keras.backend.backend() != "torch":
        return {}
    import torch

    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]
    return {f"backend/{place}": one.numpy() for place, one in enumerate(states)}


def give_backend(arrays: Mapping[str, np.ndarray]) -> None:
    """Give the backend's random generators the states that `take_backend` found."""
    if keras.backend.backend() != "torch" or "backend/0" not in arrays:
        return
    import torch

    states = [torch.from_numpy(array.copy()) for name, array in arrays.items() if name.startswith("backend/")]
    torch.set_rng_state(states[0])
    if torch.cuda.is_available() and len(states) == 1 + torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states[1:])


def remember(callbacks: Iterable[Any], arrays: Arrays) -> list[dict[str, Any]]:
    """What callbacks remember, ready for JSON; arrays are put into `arrays`."""
    told = []
    for place, callback in enumerate(callbacks):
        if hasattr(callback, "get_state"):
            found = callback.get_state()
        else:
            given = inspect.signature(type(callback).__init__).parameters
            found = {key: value for key, value in vars(callback).items() if key not in (*CALLBACK_ATTRIBUTES, *given)}
        plain = {key: _plain(value, f"callbacks/{place}/{key}", arrays) for key, value in found.items()}
        kept = {key: value for key, value in plain.items() if value is not NOTHING}
        told.append({"class": type(callback).__name__, "state": kept})
    return told


def remind(callbacks: Iterable[Any], told: Sequence[Mapping[str, Any]], arrays: Mapping[str, np.ndarray]) -> None:
    """Give callbacks back what they remembered."""
    for callback, one in zip(callbacks, told, strict=False):
        if one["class"] != type(callback).__name__:
            continue
        state = {key: _back(value, arrays) for key, value in one["state"].items()}
        if hasattr(callback, "set_state"):
            callback.set_state(state)
        else:
            vars(callback).update(state)


def _plain(value: Any, name: str, arrays: Arrays) -> Any:
    """A value as JSON has it; NOTHING where it is none that can be kept."""
    if value is None or isinstance(value, bool | int | float | str):
        return float(value) if isinstance(value, np.floating) else value
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        arrays[name] = np.asarray(value)
        return {"array": name}
    if isinstance(value, list | tuple):
        items = [_plain(item, f"{name}/{place}", arrays) for place, item in enumerate(value)]
        kind = "tuple" if isinstance(value, tuple) else "list"
        return NOTHING if any(item is NOTHING for item in items) else {kind: items}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        inner = {key: _plain(item, f"{name}/{key}", arrays) for key, item in value.items()}
        return NOTHING if any(item is NOTHING for item in inner.values()) else {"dict": inner}
    return NOTHING


def _back(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "array":
        return np.array(arrays[inner])
    if kind == "dict":
        return {key: _back(item, arrays) for key, item in inner.items()}
    items = [_back(item, arrays) for item in inner]
    return tuple(items) if kind == "tuple" else items
