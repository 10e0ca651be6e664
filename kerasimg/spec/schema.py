"""The JSON Schema (2020-12) of a spec, made from the sections, the layer table and the grammar of nodes.

It is for editors: it completes keys, layer names and each layer's arguments, and marks what is misspelt. The
loader decides; whatever it accepts, the schema accepts too. `python -m kerasimg.spec.schema` writes it.
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from kerasimg.spec import arguments
from kerasimg.spec.document import FORMAT_VERSION, KEYS, SECTIONS, Task
from kerasimg.spec.expand import MAX_REPEAT
from kerasimg.spec.expressions import MAX_LENGTH
from kerasimg.spec.inheritance import ZOO
from kerasimg.spec.locations import NODE_KINDS
from kerasimg.spec.nodes import ARGUMENT_NAME, CONTROL_KEYS, NAME, RESERVED_NAMES
from kerasimg.spec.search import MAX_OPTIONS
from kerasimg.spec.values import TAKEN

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


GROUPS = ("activations", "initializers", "regularizers", "constraints", "schedules", "optimizers", "losses", "metrics")
WEIGHTS_PATTERN = r"^(?!/)(?!(.*/)?\.\.(/|$))[^\\:]+\.weights\.h5$"
_NODE_KEYS = {*NODE_KINDS, *CONTROL_KEYS}


def node_schemas() -> Schema:
    """The schemas of nodes, of the nodes of `augment`, and of blocks."""
    kinds: list[Schema] = [{"required": [kind]} for kind in NODE_KINDS]
    pairs: list[Schema] = [
        {"required": [one, other]} for index, one in enumerate(NODE_KINDS) for other in NODE_KINDS[:index]
    ]
    node: Schema = {
        "type": "object",
        # The kinds stand here, too, for an editor to offer in a node that is still empty.
        "properties": {
            **{kind: {"$ref": f"#/$defs/{kind}_node/properties/{kind}"} for kind in NODE_KINDS},
            **_control_keys(),
        },
        "patternProperties": COMMENTS,
        "allOf": [
            {"not": {"anyOf": pairs}},
            *(_when_given(kind, {"$ref": f"#/$defs/{kind}_node"}) for kind in NODE_KINDS),
            {
                "if": {"required": ["table"]},
                "then": {"if": {"not": {"anyOf": kinds}}, "then": {"additionalProperties": {"$ref": "#/$defs/value"}}},
                "else": {"anyOf": kinds},
            },
        ],
        "unevaluatedProperties": False,
    }
    return {
        "node": unless_search(node),
        "augmentation": {
            "allOf": [{"$ref": "#/$defs/node"}],
            "properties": {
                "layer": or_search({"enum": arguments.augmentations()}),
                "backbone": False,
                "reuse": False,
            },
        },
        "block_node": _open_node("block", "A block of this spec, with its arguments."),
        "reuse_node": {
            "properties": {"reuse": or_search(_name("An earlier node, called again with the same weights."))}
        },
        "blocks": {
            "type": "object",
            "patternProperties": {**COMMENTS, whole(NAME.pattern): unless_search({"$ref": "#/$defs/block"})},
            "additionalProperties": False,
            "description": "Macros by name.",
        },
        "block": {
            "type": "object",
            "properties": {
                "args": unless_search(named_values("Arguments with defaults; null: must be given.", _NODE_KEYS)),
                "let": unless_search(named_values("Local names, in order.", _NODE_KEYS)),
                "nodes": unless_search(list_of("node", "The body; its last node is the output.", minItems=1)),
            },
            "patternProperties": COMMENTS,
            "additionalProperties": False,
            "required": ["nodes"],
        },
    }


def _control_keys() -> Schema:
    names = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    named = {"type": "object", "patternProperties": COMMENTS, "additionalProperties": {"type": "string"}}
    own = {"type": ["string", "null"], "pattern": whole(NAME.pattern), "not": {"enum": list(RESERVED_NAMES)}}
    header = {"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": True}
    rows = {"type": "array", "items": {"$ref": "#/$defs/value"}}
    return {
        "name": or_search({**own, "description": "By which later nodes, edits and the search know it."}),
        "inputs": unless_search(
            {
                "description": "The nodes that it takes; left out, the node before. 'in': what entered the block.",
                "anyOf": [{"type": ["string", "null"]}, names, {**named, "minProperties": 1}],
            }
        ),
        "when": dynamic({"type": "boolean", "description": "false skips the node."}),
        "repeat": dynamic(
            {
                "type": ["integer", "null"],
                "minimum": 0,
                "maximum": MAX_REPEAT,
                "description": "How often; inside, i counts from 0 to n - 1.",
            }
        ),
        "table": unless_search(
            {
                "description": "A header row of argument names and rows of values: the node runs once per row.",
                "type": "array",
                "minItems": 2,
                "prefixItems": [header],
                "items": rows,
            },
            or_expression=True,
        ),
    }


def _open_node(kind: str, description: str) -> Schema:
    """A node whose arguments only the spec itself defines."""
    return {
        "properties": {kind: dynamic(_name(description))},
        "additionalProperties": {"$ref": "#/$defs/value"},
    }


def layer_schemas() -> Schema:
    """`layer_node` and `backbone_node`, and one definition with the arguments of each class."""
    weights = {
        "description": 'null, "imagenet", a .weights.h5 file beside the spec, or hf://owner/name@commit.',
        "anyOf": [
            {"enum": [None, "imagenet"]},
            {"type": "string", "pattern": r"^hf://[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+@[0-9a-f]{40}$"},
            {"type": "string", "pattern": WEIGHTS_PATTERN},
            {
                "type": "object",
                "properties": {
                    "file": dynamic({"type": "string", "pattern": WEIGHTS_PATTERN}),
                    "sha256": dynamic({"type": ["string", "null"], "pattern": "^[0-9a-f]{64}$"}),
                },
                "patternProperties": COMMENTS,
                "additionalProperties": False,
                "required": ["file"],
            },
        ],
    }
    maps = {"type": "array", "items": dynamic({"type": "string"}), "minItems": 1, "uniqueItems": True}
    maps["description"] = "Nodes of the backbone whose outputs later nodes take as NAME.node; the last is its own."
    trained = {"weights": dynamic(weights), "trainable": dynamic({"type": "boolean"}), "features": dynamic(maps)}
    layers, backbones = arguments.known("layers"), arguments.known("backbones")
    file: Schema = {"type": "string", "pattern": "\\.json$"}
    of_file = {"additionalProperties": {"$ref": "#/$defs/value"}, "properties": trained}
    return {
        "layer_node": _by_name("layer", layers, "A class of keras.layers or kerasimg.layers."),
        **{f"layer.{name}": _arguments("layers", name) for name in layers},
        "backbone_node": {
            **_by_name("backbone", backbones, "A constructor of keras.applications, or a spec file.", file),
            "if": {"properties": {"backbone": file}},
            "then": of_file,
        },
        **{f"backbone.{name}": _arguments("backbones", name, trained) for name in backbones},
    }


def _by_name(key: str, names: Iterable[str], description: str, other: Schema | None = None) -> Schema:
    """An object whose other keys depend on the name at `key`."""
    known: Schema = {"enum": list(names)}
    cases = [
        {"if": {"properties": {key: {"const": name}}}, "then": {"$ref": f"#/$defs/{key}.{name}"}}
        for name in known["enum"]
    ]
    chosen = {"if": {"properties": {key: {"type": "object"}}}, "then": {"additionalProperties": True}}
    takes = {"anyOf": [known, other]} if other else known
    return {"properties": {key: or_search({**takes, "description": description})}, "allOf": [*cases, chosen]}


def _arguments(group: str, name: str, also: Schema | None = None) -> Schema:
    """The schema of the arguments of a layer or a backbone; a table may give the required ones."""
    found = arguments.entry(group, name) or {"args": {}}
    made: Schema = {"description": found.get("doc", ""), "properties": _argument_schemas(found) | (also or {})}
    if required := _required(found):
        made |= {"if": {"not": {"required": ["table"]}}, "then": {"required": required}}
    return made


def _argument_schemas(entry: Mapping[str, Any]) -> Schema:
    made = {}
    for key, argument in entry["args"].items():
        made[key] = {"$ref": f"#/$defs/{_kind_name(argument['kind'])}"}
        if "default" in argument:
            made[key]["default"] = argument["default"]
    return made


def kind_schemas() -> Schema:
    """One definition for each kind of argument."""
    entries = (arguments.entry(group, name) for group in arguments.MODULES for name in arguments.known(group))
    kinds = {argument["kind"] for entry in entries if entry for argument in entry["args"].values()}
    return {_kind_name(kind): dynamic(loosened(arguments.schema(kind))) for kind in sorted(kinds)}


def _kind_name(kind: str) -> str:
    """A kind as a part of a URI: "int>0|[2 int>0]" -> "kind.int_gt0_or_list_2_int_gt0"."""
    kind = re.sub(r"\[(?=[^,\]]*[a-z])", "list ", kind)
    for sign, word in ((">=", "_ge"), (">", "_gt"), ("|", "_or_"), ("(", "_above_"), (")", "_below")):
        kind = kind.replace(sign, word)
    return "kind." + re.sub(r"[^\w.-]+", "_", kind).strip("_")


def _required(entry: Mapping[str, Any]) -> list[str]:
    return [key for key, argument in entry["args"].items() if argument.get("required")]


def group_schemas() -> Schema:
    """For each group, `<group>`: a name or an object with its `type`; and `<group>_object`, without need of it."""
    made: Schema = {}
    for group in (*GROUPS, "callbacks"):
        names = [*arguments.known(group), *arguments.synonyms(group)]
        entries = {name: arguments.entry(group, name) or {"args": {}} for name in names}
        bare = [name for name, entry in entries.items() if not _required(entry)]
        cases = [
            {
                "if": {"required": ["type"], "properties": {"type": {"const": name}}},
                "then": {"properties": _argument_schemas(entry), "required": _required(entry)},
            }
            for name, entry in entries.items()
            if entry["args"]
        ]
        untyped = {"if": {"not": {"required": ["type"]}}, "then": {"additionalProperties": True}}
        made[f"{group}_object"] = {
            "type": "object",
            "properties": {"type": dynamic({"enum": names})},
            "patternProperties": COMMENTS,
            "allOf": [*cases, untyped, _when_type_is_dynamic()],
            "unevaluatedProperties": False,
        }
        whole = {"$ref": f"#/$defs/{group}_object", "required": ["type"]}
        made[group] = {"anyOf": [{"enum": bare}, whole]}
    return made


def _when_type_is_dynamic() -> Schema:
    dynamic = {"required": ["type"], "properties": {"type": {"$ref": "#/$defs/dynamic"}}}
    return {"if": dynamic, "then": {"additionalProperties": True}}


def _when_given(key: str, schema: Schema) -> Schema:
    return {"if": {"required": [key]}, "then": schema}


def _name(description: str) -> Schema:
    return {"type": "string", "minLength": 1, "description": description}


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
    print(f"wrote {FILE}")
