"""The JSON Schema (2020-12) of a spec, made from the sections, the layer table and the grammar of nodes.

It is for editors: it completes keys, layer names and each layer's arguments, and marks what is misspelt. The
loader decides; whatever it accepts, the schema accepts too. `python -m kerasimg.spec.schema` writes it.
"""

from __future__ import annotations

import json
import keyword
from typing import get_args

from kerasimg.spec.document import FORMAT_VERSION, KEYS, SECTIONS, Task
from kerasimg.spec.expressions import MAX_LENGTH
from kerasimg.spec.inheritance import ZOO
from kerasimg.spec.nodes import NAME
from kerasimg.spec.schema_forms import (
    COMMENTS,
    Schema,
    list_of,
    loosened,
    named_values,
    or_search,
    unless_search,
    whole,
)
from kerasimg.spec.schema_nodes import group_schemas, kind_schemas, layer_schemas, node_schemas
from kerasimg.spec.search import MAX_OPTIONS
from kerasimg.spec.values import TAKEN

FILE = ZOO / f"kerasimg-{FORMAT_VERSION}.schema.json"


def make_schema() -> Schema:
    """The schema. Layers that the program has registered are in it; in the file that ships, there are none."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A kerasimg spec, version {FORMAT_VERSION}",
        "description": "How an image becomes a prediction, and how the model that does it is trained and searched. "
        "A layer registered from Python is not known here; to make_schema() in that program it is.",
        "type": "object",
        "properties": _top_level(),
        "patternProperties": COMMENTS,
        "additionalProperties": False,
        "required": ["kerasimg"],
        "if": {"required": ["extends"], "properties": {"extends": {"type": "string"}}},
        "else": {"required": ["model"], "properties": {"compile": _types_given("optimizer", "loss")}},
        "$defs": {**_values(), **_sections(), **node_schemas(), **layer_schemas(), **group_schemas(), **kind_schemas()},
    }


def _top_level() -> Schema:
    name = {"type": ["string", "null"], "pattern": whole(NAME.pattern)}
    own: Schema = {
        "$schema": {"type": "string", "description": "This schema, for editors."},
        "kerasimg": {"const": FORMAT_VERSION, "description": "The version of the format."},
        "name": {**name, "description": "What the model is called."},
        "about": {"type": "string", "description": "What it is, in a sentence."},
        "extends": {"type": ["string", "null"], "description": "The parent: a file beside this one, or a zoo name."},
        "set": {
            "type": "object",
            "additionalProperties": True,
            "description": 'Edits by path, list items by node name or index: {"model.hidden.units": 64}.',
        },
        "params": unless_search(
            named_values("Named values, each with its default; null: must be given.", {*TAKEN, *keyword.kwlist})
        ),
        "variants": unless_search(
            {
                "type": "object",
                "patternProperties": COMMENTS,
                "additionalProperties": named_values("A variant: values of params, by name.", ["variant"]),
                "description": "The members of a family by name; the param `variant` chooses one.",
            }
        ),
        "blocks": unless_search({"$ref": "#/$defs/blocks"}),
        "task": or_search({"enum": list(get_args(Task)), "default": "multiclass"}),
        "positive_class": {
            "type": ["string", "null"],
            "description": "The class that a binary model's output is the probability of; null: the second by name.",
        },
        "augment": unless_search(list_of("augmentation", "What happens to training images only.")),
        "model": unless_search(list_of("node", "The nodes; the last one is the output.", minItems=1)),
        "features": or_search({"type": ["string", "null"], "description": "The node at which the head begins."}),
    }
    sections = {key: {"$ref": f"#/$defs/{section.__name__}"} for key, section in SECTIONS.items()}
    return {key: (own | sections)[key] for key in KEYS}


def _values() -> Schema:
    number: Schema = {"type": "number"}
    return {
        "expression": {
            "type": "string",
            "pattern": "^=",
            "maxLength": MAX_LENGTH,
            "description": 'Arithmetic on params and block arguments: "=round8(c * alpha)".',
        },
        "search": {
            "description": "A value that a search may set; without a search, its default is used.",
            "anyOf": [
                _search("$choice", _choices()),
                _search("$int", _range("integer"), default={"type": "integer"}, step={"type": "integer"}),
                _search("$float", _range("number"), default=number, step=number),
            ],
        },
        "dynamic": {"anyOf": [{"$ref": "#/$defs/expression"}, {"$ref": "#/$defs/search"}]},
        "with_dollar": {"type": "object", "not": {"propertyNames": {"not": {"pattern": "^\\$"}}}},
        "value": {
            "description": "Any value, an expression, or a search value.",
            "if": {"$ref": "#/$defs/with_dollar"},
            "then": {"$ref": "#/$defs/search"},
            "else": {
                "items": {"$ref": "#/$defs/value"},
                "patternProperties": COMMENTS,
                "additionalProperties": {"$ref": "#/$defs/value"},
            },
        },
    }


def _choices() -> Schema:
    scalar = {"not": {"type": ["array", "object"]}}
    values = {"type": "array", "items": scalar, "minItems": 1, "maxItems": MAX_OPTIONS, "uniqueItems": True}
    labelled = {"type": "object", "patternProperties": COMMENTS, "additionalProperties": {"$ref": "#/$defs/value"}}
    return {"anyOf": [values, {**labelled, "minProperties": 1, "maxProperties": MAX_OPTIONS}]}


def _range(kind: str) -> Schema:
    return {"type": "array", "items": {"type": kind}, "minItems": 2, "maxItems": 2}


def _search(key: str, takes: Schema, default: Schema | None = None, step: Schema | None = None) -> Schema:
    ranged = {"step": {**step, "exclusiveMinimum": 0}, "log": {"type": "boolean"}} if step else {}
    return {
        "type": "object",
        "properties": {key: takes, "default": default or {"not": {"type": ["array", "object"]}}, **ranged},
        "patternProperties": COMMENTS,
        "additionalProperties": False,
        "required": [key, "default"],
    }


def _sections() -> Schema:
    found: Schema = {}
    for section in SECTIONS.values():
        made = section.model_json_schema()
        for name, part in (made.pop("$defs", {}) | {section.__name__: made}).items():
            found[name] = unless_search(loosened(part), or_expression=True)
    return found


def _types_given(*keys: str) -> Schema:
    whole = {"if": {"type": "object", "not": {"$ref": "#/$defs/with_dollar"}}, "then": {"required": ["type"]}}
    return {"properties": dict.fromkeys(keys, whole)}


def text() -> str:
    """The text of the schema's file: one line for each definition."""
    schema = make_schema()
    definitions = schema.pop("$defs")
    head = json.dumps(schema, indent=1, ensure_ascii=False).removesuffix("\n}")
    lines = (f"  {json.dumps(name)}: {json.dumps(part, ensure_ascii=False)}" for name, part in definitions.items())
    return f'{head},\n "$defs": {{\n' + ",\n".join(lines) + "\n }\n}\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
