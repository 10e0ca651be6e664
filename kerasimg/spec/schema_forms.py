"""Forms that the JSON Schema of a spec is put together from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kerasimg.spec.nodes import ARGUMENT_NAME

Schema = dict[str, Any]

COMMENTS: Schema = {"^//": True}


def dynamic(schema: Schema) -> Schema:
    """The schema, or an expression, or a search value."""
    return _or(schema, "dynamic")


def or_search(schema: Schema) -> Schema:
    """The schema, or a search value."""
    return _or(schema, "search")


def _or(schema: Schema, definition: str) -> Schema:
    labels: Schema = {key: schema[key] for key in ("description", "default") if key in schema}
    rest: Schema = {key: value for key, value in schema.items() if key not in labels}
    options = rest["anyOf"] if rest.keys() == {"anyOf"} else [rest]
    return {**labels, "anyOf": [*options, {"$ref": f"#/$defs/{definition}"}]}


def unless_search(schema: Schema, or_expression: bool = False) -> Schema:
    """The schema of what is no search value (nor, if `or_expression`, an expression); faults show where they are."""
    found: Schema = {"$ref": "#/$defs/with_dollar"}
    if or_expression:
        found = {"anyOf": [found, {"type": "string", "pattern": "^="}]}
    return {"if": found, "then": {"$ref": "#/$defs/dynamic"}, "else": schema}


def list_of(definition: str, description: str, **bounds: int) -> Schema:
    """A list of what a definition of the schema describes."""
    return {"description": description, "type": "array", "items": {"$ref": f"#/$defs/{definition}"}, **bounds}


def named_values(description: str, taken: Iterable[str]) -> Schema:
    """An object of any values by names, of which some are taken."""
    return {
        "description": description,
        "type": "object",
        "patternProperties": {**COMMENTS, whole(ARGUMENT_NAME.pattern): {"$ref": "#/$defs/value"}},
        "additionalProperties": False,
        "propertyNames": {"not": {"enum": sorted(taken)}},
    }


def whole(pattern: str) -> str:
    """A pattern that must match from start to end."""
    return f"^{pattern}$"


def loosened(schema: Schema) -> Schema:
    """A section's schema, in which each value may also be an expression or a search value."""
    if "named" in schema:
        schema = {**{key: value for key, value in schema.items() if key != "named"}, **_named(schema["named"])}
    made: Schema = {key: value for key, value in schema.items() if key not in ("title", "$defs")}
    if "properties" in made:
        made["properties"] = {key: dynamic(loosened(value)) for key, value in made["properties"].items()}
    if made.get("type") == "object":
        made["patternProperties"] = COMMENTS
    for key in ("items", "additionalProperties"):
        if isinstance(made.get(key), dict):
            made[key] = dynamic(loosened(made[key]))
    if "anyOf" in made:
        made["anyOf"] = [loosened(option) for option in made["anyOf"]]
    return made


def _named(named: Mapping[str, Any]) -> Schema:
    group, also = named["group"], named["also"]
    options: list[Schema] = [{"enum": list(also)}] if also else []
    if group == "schedules":
        options.append({"type": "number", "exclusiveMinimum": 0})
    mergeable = {"$ref": f"#/$defs/{group}_object"}  # a child may leave out the `type` that its parent gives
    return {"anyOf": [*options, {"$ref": f"#/$defs/{group}"}, *([mergeable] if named["mergeable"] else [])]}
