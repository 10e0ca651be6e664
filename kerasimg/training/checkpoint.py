"""Save and restore the training state: variables, callbacks, and the checkpoint file.

A file has a line that names its format, a line of JSON (facts; names, types and shapes of the arrays; the CRC-32 of
their bytes) and the bytes. It is written under another name, flushed to the disk and then renamed, so there is always
one complete checkpoint, even if the process or the machine crashes.

A callback may say what its state is: `get_state()` returns a dict of plain values (numbers, strings, arrays, lists and
dicts of them, None), and `set_state(state)` restores it, after `on_train_begin`. Without these methods its plain
attributes are saved, except those named like an argument of its constructor.
"""

from __future__ import annotations

import inspect
import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from kerasimg.errors import KerasimgError, counted
from kerasimg.files import replacing
from kerasimg.keras_internals import CALLBACK_ATTRIBUTES

MAGIC = b"kerasimg checkpoint 1\n"
"""The first bytes of every file; the number changes with the format."""


class Checkpoint(NamedTuple):
    """The state of a training."""

    facts: dict[str, Any]
    """Plain values, stored as JSON."""
    arrays: dict[str, np.ndarray]


def write(path: Path, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Replaces the checkpoint of a file; after an OSError the previous one is still there."""
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    check = 0
    for array in whole.values():
        check = zlib.crc32(_bytes(array), check)
    entries = [[name, array.dtype.name, list(array.shape)] for name, array in whole.items()]
    head = json.dumps({"facts": facts, "arrays": entries, "crc32": check})
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(MAGIC + head.encode() + b"\n")
        for array in whole.values():
            file.write(_bytes(array))
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> Checkpoint | None:
    """Returns the checkpoint of a file; None if there is no file, KerasimgError if it is damaged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return _parse(content)
    except (ValueError, KeyError, TypeError):
        raise KerasimgError(
            f"{path} is damaged, or of another version of kerasimg; remove it, and the run starts from scratch when "
            "it is resumed, with the same data and the same seed"
        ) from None


def with_batch_size(saved: Checkpoint | None, images: int, size: int) -> Checkpoint | None:
    """Returns a checkpoint as if its stage had been trained with batches of `size` from the start.

    The order of the images does not depend on the size of batches, so the same have been seen. Schedules go by the
    optimizer's step count, which `facts["iterations"]` replaces.
    """
    if saved is None or saved.facts["done"] or saved.facts.get("batch_size", size) == size:
        return saved
    step = saved.facts["step"] * saved.facts["batch_size"] // size
    epochs = saved.facts["epoch"] - saved.facts["begin"]
    changed = {"step": step, "batch_size": size, "iterations": epochs * -(-images // size) + step}
    return Checkpoint({**saved.facts, **changed}, saved.arrays)


def read_facts(path: Path) -> dict[str, Any] | None:
    """Returns the facts of a checkpoint alone; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return json.loads(file.readline())["facts"] if file.readline() == MAGIC else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _parse(content: bytes) -> Checkpoint:
    if not content.startswith(MAGIC):
        raise ValueError("another form")
    end = content.index(b"\n", len(MAGIC))
    head = json.loads(content[len(MAGIC) : end])
    body = memoryview(content)[end + 1 :]
    if zlib.crc32(body) != head["crc32"]:
        raise ValueError("damaged")
    arrays, start = {}, 0
    for name, dtype, shape in head["arrays"]:
        size = np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(body[start : start + size], np.dtype(dtype)).reshape(shape)
        start += size
    return Checkpoint(head["facts"], arrays)


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


Arrays = dict[str, np.ndarray]

NOTHING = object()


def variable_values(variables: Iterable[Any], prefix: str) -> Arrays:
    """Returns the values of variables, named by their position."""
    return {f"{prefix}/{place}": keras.ops.convert_to_numpy(variable) for place, variable in enumerate(variables)}


def assign_variables(variables: Sequence[Any], arrays: Mapping[str, np.ndarray], prefix: str) -> None:
    """Assigns the values that `variable_values` returned; KerasimgError if number or shapes differ."""
    names = [name for name in arrays if name.startswith(f"{prefix}/")]
    shapes = [tuple(variable.shape) for variable in variables]
    if shapes != [arrays[name].shape for name in names]:
        raise KerasimgError(
            f"the checkpoint does not fit: its {counted(len(names), 'variable')} ({prefix}) have another number or "
            f"other shapes than the {len(variables)} that were built; is this another version of Keras, or of a "
            "layer of your own?"
        )
    for variable, name in zip(variables, names, strict=True):
        variable.assign(arrays[name])


def non_weight_variables(model: Any) -> list[Any]:
    """Returns the variables of a model that are not weights: the states of its random generators."""
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def backend_random_state() -> Arrays:
    """Returns the states of the backend's random generators if Keras draws from them: those of PyTorch, for Dropout."""
    if keras.backend.backend() != "torch":
        return {}
    import torch

    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]
    return {f"backend/{place}": state.numpy() for place, state in enumerate(states)}


def set_backend_random_state(arrays: Mapping[str, np.ndarray]) -> None:
    """Restores the states that `backend_random_state` returned."""
    if keras.backend.backend() != "torch" or "backend/0" not in arrays:
        return
    import torch

    states = [torch.from_numpy(array.copy()) for name, array in arrays.items() if name.startswith("backend/")]
    torch.set_rng_state(states[0])
    if torch.cuda.is_available() and len(states) == 1 + torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states[1:])


def callback_states(callbacks: Iterable[Any], arrays: Arrays) -> list[dict[str, Any]]:
    """Returns the states of callbacks as plain values for JSON; adds their arrays to `arrays`."""
    states = []
    for place, callback in enumerate(callbacks):
        if hasattr(callback, "get_state"):
            attributes = callback.get_state()
        else:
            parameters = inspect.signature(type(callback).__init__).parameters
            attributes = {
                key: value for key, value in vars(callback).items() if key not in (*CALLBACK_ATTRIBUTES, *parameters)
            }
        plain = {key: _plain(value, f"callbacks/{place}/{key}", arrays) for key, value in attributes.items()}
        storable = {key: value for key, value in plain.items() if value is not NOTHING}
        states.append({"class": type(callback).__name__, "state": storable})
    return states


def restore_callbacks(
    callbacks: Iterable[Any], states: Sequence[Mapping[str, Any]], arrays: Mapping[str, np.ndarray]
) -> None:
    """Restores the states of callbacks that `callback_states` has taken."""
    for callback, saved in zip(callbacks, states, strict=False):
        if saved["class"] != type(callback).__name__:
            continue
        state = {key: _from_plain(value, arrays) for key, value in saved["state"].items()}
        if hasattr(callback, "set_state"):
            callback.set_state(state)
        else:
            vars(callback).update(state)


def _plain(value: Any, name: str, arrays: Arrays) -> Any:
    """Returns a value as JSON has it; NOTHING if it cannot be stored."""
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


def _from_plain(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "array":
        return np.array(arrays[inner])
    if kind == "dict":
        return {key: _from_plain(item, arrays) for key, item in inner.items()}
    items = [_from_plain(item, arrays) for item in inner]
    return tuple(items) if kind == "tuple" else items
