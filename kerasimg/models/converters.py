"""Converters: tables that turn a PyTorch checkpoint into the params and the weights of a zoo spec.

`zoo/converters/*.json` has a table for each family, and adding a family needs no Python. A table says which
architectures it knows, which params they have, and which array of the checkpoint belongs to which layer of ours:

    "encoder{i}_mlp_dense": "blocks.{i}.mlp.fc1"

`{i}` on the left is the number that a repeated name ends with: `_3`, or nothing for the first, which is 0. On
the right it may be an expression of the spec language. `[0/3]` is the first of three equal parts of the rows, `0` is
zeros, and a list is joined. What `weight` and `bias` are called in Keras, and the order of axes, is the same for all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from kerasimg.boundary import Bytes, Tensor
from kerasimg.catalog import ZOO
from kerasimg.errors import CallError, WeightsError, listed, nearest
from kerasimg.files import read_object
from kerasimg.models.weights import array_of, fit_to
from kerasimg.spec.expressions import ExpressionError, evaluate, is_expression, parse

FOLDER = ZOO / "converters"

LEAVES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
"""Name of a variable in Keras -> in PyTorch."""

NEVER_USED = (r".*\.num_batches_tracked", r".*relative_position_index", r".*attn_mask")
"""Arrays of PyTorch modules that are no weights."""

IGNORED_ARGUMENTS = frozenset(
    {"drop_path_rate", "drop_rate", "proj_drop_rate", "attn_drop_rate", "pos_drop_rate", "patch_drop_rate"}
    | {"num_classes", "in_chans", "img_size", "dynamic_img_size", "always_partition", "strict_img_size", "pretrained"}
)
"""Arguments of timm's models that do not change what they compute for an image of the size of the checkpoint."""

MAX_SHOWN = 5


@dataclass(frozen=True)
class Recipe:
    """What a checkpoint becomes: a zoo spec with params, and the table of its layers."""

    family: str
    """Name of the converter."""
    spec: str
    """File of the zoo."""
    params: Mapping[str, Any]
    layers: Mapping[str, Any]
    names: Mapping[str, Any]
    """Further names that expressions in `layers` may use; an object has a value for each variant."""
    unused: Sequence[str]
    prefix: str = ""
    """Before the names of most arrays of a checkpoint of Hugging Face; the table leaves it out."""


def families() -> list[str]:
    """The names of the converters."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


@cache
def table(family: str) -> dict[str, Any]:
    """The table of a family, with the entries of the one that it extends."""
    content = read_object(FOLDER / f"{family}.json")
    if (parent := content.get("extends")) is None:
        return content
    inherited = {key: value for key, value in table(parent).items() if key != "transformers"}
    own = content.get("layers", {})
    further = {left: right for left, right in inherited["layers"].items() if left not in own}
    return {**inherited, **content, "layers": {**own, **further}}


def for_timm(config: Mapping[str, Any], classes: int, size: Sequence[int]) -> Recipe:
    """The recipe of a checkpoint with timm's `config.json`.

    Args:
        config: the content of the file.
        classes: of the head; 0 for none.
        size: of the image, (height, width).

    Raises:
        CallError: if no converter knows the architecture, or it has arguments that the converter does not know.
    """
    name = str(config["architecture"]).partition(".")[0]
    arguments = config.get("model_args") or {}
    if not isinstance(arguments, dict):
        raise CallError("config.json: model_args: expected an object")
    known: list[str] = []
    for family in families():
        for pattern, params in table(family).get("architectures", {}).items():
            known.append(pattern)
            if match := re.fullmatch(pattern, name):
                given = {key: _expanded(match, value) for key, value in params.items()}
                return _recipe(family, given, arguments, classes, size)
    raise CallError(
        f"config.json: architecture '{name[:80]}': no converter knows it{nearest(name, known)} "
        f"(families: {', '.join(families())})"
    )


def for_transformers(config: Mapping[str, Any], classes: int, size: Sequence[int]) -> Recipe:
    """The recipe of a checkpoint with Hugging Face's `config.json`, as `for_timm`."""
    kind = str(config["model_type"])
    known: list[str] = []
    for family in families():
        form = table(family).get("transformers", {})
        known += form.get("model_types", ())
        if kind in form.get("model_types", ()):
            content = {**table(family), **form}
            names = {**form.get("defaults", {}), **config, **(config.get("vision_config") or {})}
            params = {**form.get("params", {}), **_arguments(family, form.get("arguments", {}), names)}
            for key, wanted in form.get("requires", {}).items():
                if key in names and names[key] not in wanted:
                    allowed = " or ".join(map(repr, wanted))
                    raise CallError(f"config.json: {key}: expected {allowed}, got {str(names[key])[:80]!r}")
            params |= _sized(params, classes, size)
            return Recipe(
                family,
                str(content["spec"]),
                params,
                content["layers"],
                content.get("names", {}),
                content.get("unused", ()),
                str(form.get("prefix", "")),
            )
    raise CallError(
        f"config.json: model_type '{kind[:80]}': no converter knows it{nearest(kind, known)} (known: {listed(known)})"
    )


def _expanded(match: re.Match[str], value: Any) -> Any:
    """A param of an architecture: with what its name says put in, and evaluated where it is an expression."""
    if not isinstance(value, str):
        return value
    text = match.expand(value)
    return evaluate(parse(text), {}) if is_expression(text) else text


def _recipe(
    family: str, given: dict[str, Any], arguments: Mapping[str, Any], classes: int, size: Sequence[int]
) -> Recipe:
    content = table(family)
    spec = given.pop("spec", content.get("spec"))
    rows = content.get("arguments", {})
    used = {name for text in rows.values() for name in parse(text).names}
    if unknown := sorted(arguments.keys() - used - IGNORED_ARGUMENTS):
        raise CallError(
            f"config.json: model_args.{unknown[0]}: the converter '{family}' does not know it "
            f"(known: {listed(sorted(used))})"
        )
    params = {**content.get("params", {}), **given, **_arguments(family, rows, arguments)}
    return Recipe(
        family,
        str(spec),
        {**params, **_sized(params, classes, size)},
        content["layers"],
        content.get("names", {}),
        content.get("unused", ()),
    )


def _arguments(family: str, rows: Mapping[str, str], names: Mapping[str, Any]) -> dict[str, Any]:
    """The params that arguments of the checkpoint give: those of which every name has a value."""
    params = {}
    for name, text in rows.items():
        expression = parse(text)
        if expression.names <= names.keys():
            try:
                params[name] = evaluate(expression, names)
            except ExpressionError as error:
                raise CallError(f"config.json: {text[1:]} (for the param {name}): {error}") from None
    return params


def _sized(params: Mapping[str, Any], classes: int, size: Sequence[int]) -> dict[str, Any]:
    found: dict[str, Any] = {"num_classes": classes or 1}
    if size[0] == size[1] and params.get("size", 0) is not None:
        found["size"] = size[0]
    return found


class Part(NamedTuple):
    """An array of a checkpoint, or one of equal parts of its rows; the name "0" is zeros like the part before it."""

    name: str
    place: int = 0
    parts: int = 1


class Assignment(NamedTuple):
    """A variable and the parts that make its value."""

    variable: Any
    parts: tuple[Part, ...]


def assign_arrays(
    variables: Sequence[Any], recipe: Recipe, params: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> list[Assignment]:
    """Which arrays make each variable. Only names and shapes are looked at; the variables need no values.

    Args:
        variables: of the model.
        recipe: its table of layers.
        params: every param of its spec.
        tensors: the header of the checkpoint.

    Raises:
        WeightsError: where an array is missing, left over or has another shape; it lists them.
    """
    rows = [(_pattern(left), right) for left, right in recipe.layers.items()]
    variant = params.get("variant")
    names = {key: value.get(variant) if isinstance(value, dict) else value for key, value in recipe.names.items()}
    names |= params
    faults: list[str] = []
    assignments = []
    used: set[str] = set()
    for variable in variables:
        parts = _find_parts(variable.path, rows, tensors, names)
        if parts is None:
            faults.append(f"{variable.path}: the converter '{recipe.family}' has no row for it")
            continue
        missing = [part.name for part in parts if part.name != "0" and part.name not in tensors]
        used.update(part.name for part in parts)
        if missing:
            faults.append(f"{missing[0]}: missing; it is {variable.path}")
            continue
        if (reason := _misfit(variable, parts, tensors)) is not None:
            faults.append(reason)
        assignments.append(Assignment(variable, parts))
    unused = re.compile("|".join(f"(?:{pattern})" for pattern in (*NEVER_USED, *recipe.unused)))
    extra = sorted(name for name in tensors.keys() - used if not unused.fullmatch(name))
    faults += [f"{name[:80]}: the model has no place for it" for name in extra]
    if faults:
        more = f"\n  and {len(faults) - MAX_SHOWN:,} more" if len(faults) > MAX_SHOWN else ""
        raise WeightsError(
            f"the arrays do not fit zoo/{recipe.spec} with {listed_params(recipe)}:\n  "
            + "\n  ".join(faults[:MAX_SHOWN])
            + more
        )
    return assignments


def read_values(content: Bytes, assignment: Assignment, tensors: Mapping[str, Tensor]) -> np.ndarray:
    """The value of a variable, in its own axes."""
    arrays: list[np.ndarray] = []
    for part in assignment.parts:
        if part.name == "0":
            arrays.append(np.zeros_like(arrays[-1]))
            continue
        values = array_of(content, tensors[part.name])
        rows = len(values) // part.parts if part.parts > 1 else 0
        arrays.append(values[part.place * rows : (part.place + 1) * rows] if rows else values)
    values = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=_join_axis(arrays[0].shape))
    variable = assignment.variable
    axes = _axes(values.shape, tuple(variable.shape), variable.path)
    if axes is None:
        raise ValueError(f"{variable.path}: expected shape {tuple(variable.shape)}, found {values.shape}")
    return fit_to(values.transpose(axes).reshape(variable.shape), variable)


def _find_parts(
    path: str, rows: Sequence[tuple[re.Pattern[str], Any]], tensors: Mapping[str, Tensor], params: Mapping[str, Any]
) -> tuple[Part, ...] | None:
    """The parts of a variable: of the first row whose arrays exist, else of the first that matches."""
    module, _, leaf = path.rpartition("/")
    first = None
    for text, suffix in ((path, ""), (module, f".{LEAVES.get(leaf, leaf)}")):
        for pattern, right in rows:
            if match := pattern.fullmatch(text):
                numbers = {name: int(value or 0) for name, value in match.groupdict().items()}
                parts = tuple(_part(item, {**params, **numbers}, suffix) for item in _listed(right))
                if all(part.name in tensors or part.name == "0" for part in parts):
                    return parts
                first = first or parts
    return first


def _part(text: str, names: Mapping[str, Any], suffix: str) -> Part:
    if text == "0":
        return Part("0")
    filled = re.sub(r"\{(.+?)\}", lambda found: str(evaluate(parse(f"={found[1]}"), names)), text)
    name, bracket, part = filled.partition("[")
    index, _, count = part.rstrip("]").partition("/")
    return Part(name + suffix, int(index), int(count)) if bracket else Part(name + suffix)


def _misfit(variable: Any, parts: Sequence[Part], tensors: Mapping[str, Tensor]) -> str | None:
    """Why parts do not make a variable; None if they do."""
    shapes: list[tuple[int, ...]] = []
    for part in parts:
        shape = shapes[-1] if part.name == "0" else tensors[part.name].shape
        if part.parts > 1 and (not shape or shape[0] % part.parts):
            return f"{part.name}: shape {shape} has no {part.parts} equal parts"
        shapes.append((shape[0] // part.parts, *shape[1:]) if part.parts > 1 else shape)
    shape = shapes[0]
    if len(shapes) > 1:
        axis = _join_axis(shape)
        if any(len(other) != len(shape) for other in shapes):
            return f"{parts[1].name}: shape {shapes[1]} cannot be joined to {shape}"
        shape = (*shape[:axis], sum(other[axis] for other in shapes), *shape[axis + 1 :])
    if _axes(shape, tuple(variable.shape), variable.path) is None:
        return f"{parts[0].name}: shape {shape} does not fit {variable.path} of shape {tuple(variable.shape)}"
    return None


def _axes(shape: tuple[int, ...], wanted: tuple[int, ...], path: str) -> tuple[int, ...] | None:
    """The order of the axes of an array after which it only needs to be reshaped; None if it does not fit.

    PyTorch has the outputs first: convolutions (O, I, h, w), depthwise ones (C, 1, h, w), dense layers (O, I). Keras
    has them last, a depthwise one has (h, w, C, 1), and attention parts one side in heads. A 1x1 convolution is a
    dense layer.
    """
    if math.prod(shape) != math.prod(wanted):
        return None
    same = tuple(range(len(shape)))
    if not path.endswith("kernel") or len(shape) not in (2, 4):
        fits = _long(shape) == _long(wanted) or (len(shape) == 1 and path.endswith("bias"))
        return same if fits else None
    if len(shape) == 4:
        for axes in ((2, 3, 1, 0), (2, 3, 0, 1)):
            turned = tuple(shape[axis] for axis in axes)
            if turned == wanted:
                return axes
        if shape[2:] != (1, 1):
            return (2, 3, 1, 0) if wanted == (math.prod(shape[1:]), shape[0]) else None
    outputs, inputs = shape[:2]
    if len(wanted) == 4:
        return (1, 0) if wanted == (1, 1, inputs, outputs) else None
    return (1, 0, 2, 3)[: len(shape)] if wanted[0] == inputs or wanted[-1] == outputs else None


def _long(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the axes of length 1."""
    return tuple(side for side in shape if side != 1)


def _join_axis(shape: tuple[int, ...]) -> int:
    """Where a list of arrays is joined: tokens (1, T, C) along T, rows along the first axis."""
    return 1 if len(shape) == 3 else 0


def _listed(right: Any) -> list[str]:
    return [right] if isinstance(right, str) else list(right)


def _pattern(left: str) -> re.Pattern[str]:
    """The regular expression of the left side of a row."""
    pieces = re.split(r"\{(\w+)\}", left)
    return re.compile("".join(_pieces(pieces)))


def _pieces(pieces: Sequence[str]) -> Iterator[str]:
    for place, piece in enumerate(pieces):
        yield rf"(?:_(?P<{piece}>\d+))?" if place % 2 else re.escape(piece)


def listed_params(recipe: Recipe) -> str:
    """The params of a recipe, for an error."""
    return ", ".join(f"{name}={value}" for name, value in recipe.params.items())
