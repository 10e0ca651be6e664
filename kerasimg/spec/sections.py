"""A section's values -> its pydantic model, with pydantic's errors in the terms of the spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from kerasimg.errors import counted, nearest
from kerasimg.spec.arguments import check_named
from kerasimg.spec.document import Named, Section
from kerasimg.spec.locations import Path, Report
from kerasimg.spec.reader import kind_of, shown
from kerasimg.spec.settings import meant

_BOUNDS = {
    "greater_than": ("gt", "> {}"),
    "greater_than_equal": ("ge", ">= {}"),
    "less_than": ("lt", "< {}"),
    "less_than_equal": ("le", "<= {}"),
}
_SECTIONS = {section.__name__: section for section in Section.__subclasses__()}
_LENGTHS = ("list_type", "too_short", "too_long")
_TYPES = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a string",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "none_required": "null",
}


def validate(
    section: type[Section], value: Any, report: Report, unknown: frozenset[Path] = frozenset()
) -> Section | None:
    """The section that `value` is; None, and every fault reported by its path, when it is none.

    unknown: paths whose values are not known yet; nothing is said of them.
    """
    faults = list(_faults(section, value))
    named: dict[Path, Any] = {}
    for path, group in _named_fields(section, value):
        named[path] = check_named(group.group, _at(value, path), _below(path, faults), also=group.also)
    faults = [(path, message) for path, message in faults if not unknown.intersection(_starts(path))]
    for path, message in faults:
        report(path, message)
    if faults or unknown:
        return None
    return section.model_validate(_with(value, named))


def _below(path: Path, faults: list[tuple[Path, str]]) -> Report:
    return lambda rest, message: faults.append((path + rest, message))


def _faults(section: type[BaseModel], value: Any) -> Iterator[tuple[Path, str]]:
    try:
        section.model_validate(value)
    except ValidationError as error:
        grouped: dict[Path, list[Mapping[str, Any]]] = {}
        for item in error.errors(include_url=False):
            grouped.setdefault(_real_path(value, item), []).append(item)
        above = {start for path in grouped for start in _starts(path[:-1])} if len(grouped) > 1 else set()
        for path, items in grouped.items():
            if path not in above:  # a union reports each alternative; the one that went deepest was meant
                yield path, _message(section, path, items)


def _starts(path: Path) -> set[Path]:
    """A path and all that it is below."""
    return {path[:length] for length in range(len(path) + 1)}


def _real_path(value: Any, item: Mapping[str, Any]) -> Path:
    """The error's location without the tags that pydantic puts in for the members of a union."""
    path: Path = ()
    location = item["loc"]
    for index, step in enumerate(location):
        last = index == len(location) - 1
        if isinstance(value, dict) and (step in value or (last and item["type"] in ("missing", "extra_forbidden"))):
            value, path = value.get(step), (*path, step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value, path = value[step], (*path, step)
    return path


def _message(section: type[BaseModel], path: Path, items: list[Mapping[str, Any]]) -> str:
    first = items[0]
    if first["type"] == "extra_forbidden":
        known = _fields_at(section, path[:-1])
        name = str(path[-1])
        hint = nearest(name, known) or meant(".".join(map(str, (section.__name__.lower(), *path))), {})
        return f"no such key{hint} (known: {', '.join(known)})"
    if first["type"] == "missing":
        return "missing"
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    count = _count_at(section, path) if first["type"] in _LENGTHS else ""
    expected = list(dict.fromkeys(count or _expected(item) for item in items))
    options = [str(option) for item in items if item["type"] == "literal_error" for option in _quoted(item)]
    found = first["input"]
    hint = nearest(found, options) if isinstance(found, str) else ""
    shown_found = f"{kind_of(found)} without items" if found in ([], {}) else shown(found)
    return f"expected {' or '.join(expected)}, got {shown_found}{hint}"


def _expected(item: Mapping[str, Any]) -> str:
    kind = item["type"]
    context = item.get("ctx", {})
    if kind == "literal_error":
        return str(context["expected"])
    if kind in _BOUNDS:
        key, text = _BOUNDS[kind]
        number = "an integer" if isinstance(context[key], int) and isinstance(item["input"], int) else "a number"
        return f"{number} {text.format(f'{context[key]:g}')}"
    if kind == "model_type":
        known = _SECTIONS[context["class_name"]].model_fields
        return f'an object such as {{"{next(iter(known))}": ...}}'
    if kind == "too_short":
        return f"a list of at least {counted(context['min_length'], 'item')}"
    return _TYPES.get(kind, item["msg"])


def _quoted(item: Mapping[str, Any]) -> list[str]:
    return [part.strip("'") for part in item["ctx"]["expected"].replace(" or ", ", ").split(", ")]


def _fields_at(section: type[BaseModel], path: Path) -> list[str]:
    model: Any = section
    for step in path:
        annotation = model.model_fields[step].annotation if isinstance(step, str) else model
        model = next(_models(annotation), model)
    return list(model.model_fields)


def _count_at(section: type[BaseModel], path: Path) -> str:
    """Words for what a field takes that wants a certain number of items; none for any other field."""
    field = section.model_fields.get(str(path[0])) if len(path) == 1 else None
    bounds = {
        getattr(limit, name, None)
        for limit in (field.metadata if field else ())
        for name in ("min_length", "max_length")
    } - {None}
    return f"a list of {bounds.pop()} items" if field and len(field.metadata) > 1 and len(bounds) == 1 else ""


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _named_fields(section: type[BaseModel], value: Any) -> Iterator[tuple[Path, Named]]:
    """The places of `value` that hold a name from a closed group."""
    if not isinstance(value, dict):
        return
    for name, field in section.model_fields.items():
        if name not in value or (value[name] is None and type(None) in get_args(field.annotation)):
            continue
        direct = next((item for item in field.metadata if isinstance(item, Named)), None)
        yield from _named_in(field.annotation, value[name], (name,), direct)


def _named_in(annotation: Any, value: Any, path: Path, named: Named | None) -> Iterator[tuple[Path, Named]]:
    named = named or next(_named_of(annotation), None)
    model = next(_models(annotation), None)
    if get_origin(annotation) is list:
        for index, item in enumerate(value if isinstance(value, list) else ()):
            if named:
                yield (*path, index), named
            elif model:
                yield from (((*path, index, *rest), group) for rest, group in _named_fields(model, item))
    elif named:
        yield path, named
    elif model:
        yield from (((*path, *rest), group) for rest, group in _named_fields(model, value))


def _named_of(annotation: Any) -> Iterator[Named]:
    yield from (item for item in getattr(annotation, "__metadata__", ()) if isinstance(item, Named))
    if get_origin(annotation) is not None:
        for argument in get_args(annotation):
            yield from _named_of(argument)


def _at(value: Any, path: Path) -> Any:
    for step in path:
        value = value[step]
    return value


def _with(value: Any, replacements: Mapping[Path, Any], path: Path = ()) -> Any:
    if path in replacements:
        return replacements[path]
    if isinstance(value, dict):
        return {key: _with(item, replacements, (*path, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_with(item, replacements, (*path, index)) for index, item in enumerate(value)]
    return value
